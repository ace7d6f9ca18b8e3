"""What a check is, what it is told, and how all of them are run on a method.

A check is a plain function ``check(method, context)``: it returns where the method keeps the promise that its docstring
states, and raises ``AssertionError`` where it does not. ``DoesNotApply`` says that nothing is asked of this method,
``CannotRunHere`` that this machine cannot ask.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch

from workbench.conformance.poison import poisoned_memory
from workbench.paper import Example, Method

Result = Literal["ran", "exempt", "cannot run here", "failed"]


class DoesNotApply(Exception):
    """The check asks nothing of this method: it is of another kind, or a trait exempts it; the message says why."""


class CannotRunHere(Exception):
    """This machine, or this installation, lacks what the check needs; the message says what."""


@dataclass
class Context:
    """What a check is told beside the method, and where it leaves what it could not try.

    device  "cpu" or "cuda"
    tried   how many cases ran
    notes   why other cases did not, in sentences
    """

    device: str = "cpu"
    tried: int = 0
    notes: list[str] = field(default_factory=list)

    def runs(self, method: Method, implementation: str, example: Example) -> bool:
        """Whether this implementation takes this call; where it does not, its own reasons are noted."""
        sentences = method.why_not(implementation, *example.inputs.values(), **example.options)
        self.tried += not sentences
        self.notes += [each for each in sentences if each not in self.notes]
        return not sentences

    @contextlib.contextmanager
    def case(self, label: object) -> Iterator[None]:
        """What fails in here says in which case."""
        try:
            yield
        except (DoesNotApply, CannotRunHere):
            raise
        except Exception as error:
            error.add_note(f"Case: {label}")
            raise


CheckFunction = Callable[[Method, Context], None]


@dataclass(frozen=True)
class Check:
    """A check as it is listed: its function, the topic (file) it stands in, and where it is run.

    devices  on which it asks something
    costly   takes seconds of a compiler's time: over the catalog it runs for one method a slot on a CPU
    """

    function: CheckFunction
    topic: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    costly: bool = False

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def contract(self) -> str:
        """What a method must do to pass, as its author reads it."""
        return self.function.__doc__


@dataclass(frozen=True)
class Outcome:
    """What became of one check of one method: the sentences say why it did not run, or what is wrong."""

    check: str
    method: str
    device: str
    result: Result
    sentence: str = ""
    cpu_seconds: float = 0.0


CHECKS: dict[str, Check] = {}


def check(function: CheckFunction | None = None, **settings: object):
    """Enter a function into ``CHECKS``: ``@check``, or ``@check(devices=("cuda",))``."""

    def enter(function: CheckFunction) -> CheckFunction:
        assert function.__doc__, f"{function.__name__} does not say what it asks"
        CHECKS[function.__name__] = Check(function, function.__module__.rpartition(".")[2], **settings)
        return function

    return enter if function is None else enter(function)


def run_check(check: Check, method: Method, device: str = "cpu") -> tuple[Result, str]:
    """Run one check, uninitialised memory being NaN: what became of it, and the sentences. Failures are raised."""
    context = Context(device)
    try:
        if device not in check.devices:
            raise DoesNotApply(f"It is asked on {' and '.join(check.devices)} only.")
        with poisoned_memory(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            check.function(method, context)
    except DoesNotApply as reason:
        return "exempt", str(reason)
    except CannotRunHere as reason:
        return "cannot run here", str(reason)
    sentences = " ".join(context.notes)
    return ("cannot run here" if context.notes and not context.tried else "ran"), sentences


def conform(method: Method, device: str = "cpu", checks: Iterable[Check] | None = None) -> Iterator[Outcome]:
    """Run all checks (or these) on a method of the catalog's or of one's own; one outcome after the other."""
    for each in CHECKS.values() if checks is None else checks:
        start = time.process_time()
        try:
            result, sentence = run_check(each, method, device)
        except Exception as error:  # whatever a method raises that it should not is its failure, not ours
            result, sentence = "failed", in_a_sentence(error)
        yield Outcome(each.name, method.name, device, result, sentence, time.process_time() - start)


def in_a_sentence(error: BaseException) -> str:
    """An exception with its notes on one line; what is no ``AssertionError`` is named."""
    kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    return kind + " ".join(" ".join([str(error), *getattr(error, "__notes__", [])]).split())
