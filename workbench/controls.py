"""Knobs, read from a function's signature.

A knob is a keyword-only parameter whose annotation carries its bounds and a line of help::

    def sinkhorn(query, key, value, *,
                 iterations: Annotated[int, Range(1, 50), "Row and column normalisations."] = 5): ...

That one line is what the notebooks' widgets, the dashboard's widgets, the command line's flags and the
validation are made of. A parameter without ``Annotated`` is no knob: a caller may pass it, nobody is shown it.

This module imports nothing of ours, and nothing heavy.
"""

import functools
import inspect
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Range:
    """Closed interval ``[low, high]``. ``step`` is a hint for sliders; ``log`` asks for a doubling scale."""

    low: float
    high: float
    step: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Knob:
    """One setting of a method.

    ``kind`` is ``"int"``, ``"float"``, ``"flag"`` or ``"choice"``. ``range`` is set for numbers, ``choices`` for
    choices. ``optional`` says that ``None`` is allowed too (the method then chooses by itself).
    """

    name: str
    kind: Literal["int", "float", "flag", "choice"]
    default: Any
    help: str = ""
    range: Range | None = None
    choices: tuple = ()
    optional: bool = False

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")

    def check(self, value: Any) -> Any:
        """``value`` as the method will see it, or a ``ValueError`` naming the knob, the value and what is allowed.

        Numbers of numpy and tensors of one number are taken for the number that they hold (a tensor on a GPU is waited
        for). A tensor that requires a gradient is refused: no gradient goes through a knob.
        """
        if value is None and self.optional:
            return None
        number = self._plain(value)
        if self.kind == "flag" and isinstance(number, bool):
            return number
        # True == 1 == 1.0, so equality alone would let one choice pass for another.
        if self.kind == "choice" and any(type(number) is type(choice) and number == choice for choice in self.choices):
            return number
        is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
        if self.kind in ("int", "float") and is_number and self.range.low <= number <= self.range.high:  # NaN is not
            if self.kind == "float":
                return float(number)
            if number == int(number):
                return int(number)
        raise ValueError(f"{self.name} = {reprlib.repr(value)} is not allowed: choose {self.allowed}.")

    def quick_check(self) -> Callable[[Any], Any]:
        """``check``, with the usual case (a plain value of the knob's own type, in bounds) answered first."""
        check, kind, range = self.check, self.kind, self.range
        if kind == "flag":
            return lambda value: value if value is True or value is False else check(value)
        if kind == "choice" and all(type(choice) is str for choice in self.choices):
            choices = self.choices
            return lambda value: value if type(value) is str and value in choices else check(value)
        if kind in ("int", "float"):
            own, low, high = {"int": int, "float": float}[kind], range.low, range.high
            return lambda value: value if type(value) is own and low <= value <= high else check(value)
        return check

    def _plain(self, value: Any) -> Any:
        """The plain Python value in a number of numpy or a tensor without axes; anything else as it is."""
        if not hasattr(value, "item") or getattr(value, "ndim", 0):
            return value
        if getattr(value, "requires_grad", False):
            raise ValueError(
                f"{self.name} is a tensor that requires a gradient, which is not allowed, for no gradient goes through "
                f"a knob: choose {self.allowed}, or detach the tensor."
            )
        return value if getattr(value, "is_meta", False) else value.item()

    def parse(self, text: str) -> Any:
        """The value that ``text`` (a command line's flag, a part of a URL) stands for, checked."""
        if self.optional and text.lower() in ("", "none"):
            return None
        try:
            if self.kind == "flag":
                value = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            elif self.kind == "choice":
                value = next(choice for choice in self.choices if str(choice) == text)
            else:
                value = int(text) if text.lstrip("+-").isdecimal() else float(text)
        except (ValueError, KeyError, StopIteration):
            value = text
        return self.check(value)

    @property
    def allowed(self) -> str:
        """What may be given, in words."""
        if self.kind == "flag":
            words = "True or False"
        elif self.kind == "choice":
            words = "one of " + ", ".join(map(repr, self.choices))
        elif self.kind == "int":
            words = f"a whole number from {int(self.range.low)} to {int(self.range.high)}"
        else:
            words = f"a number from {self.range.low:g} to {self.range.high:g}"
        return words + (" (or None)" if self.optional else "")


@functools.cache
def knobs(function: Callable) -> Mapping[str, Knob]:
    """The knobs of ``function`` by name, in the order of its signature. Raises ``TypeError`` for one without bounds."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        if parameter.kind is parameter.KEYWORD_ONLY and typing.get_origin(hint) is Annotated:
            found[parameter.name] = _knob(parameter, hint)
    return types.MappingProxyType(found)


def validate(function: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with every knob of ``function`` checked. Options that are no knobs pass through.

    Raises ``ValueError`` for a knob out of bounds and ``TypeError`` for a name the function does not know.
    """
    return signature(function).validate(options)


class Signature:
    """What a function takes, read once: ``inputs``, the parameters that may be given by place, ``required`` of them
    without a default, and ``checks`` of everything that may be given by name.

    A call is bound and checked with lookups alone: no reflection, and nothing that ``torch.compile`` cannot follow.
    """

    def __init__(self, function: Callable, name: str) -> None:
        parameters = inspect.signature(function).parameters.values()
        by_place = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        self.name = name
        self.inputs = tuple(each.name for each in by_place)
        self.required = sum(each.default is each.empty for each in by_place)
        self.defaults = {each.name: each.default for each in by_place if each.default is not each.empty}
        self.any_inputs = any(each.kind is each.VAR_POSITIONAL for each in parameters)
        self.any_options = any(each.kind is each.VAR_KEYWORD for each in parameters)
        self.lengths = range(self.required, len(self.inputs) + 1)
        known = knobs(function)
        self.checks = {
            each.name: known[each.name].quick_check() if each.name in known else None
            for each in parameters
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        }
        self._quick = {name: check or _as_it_is for name, check in self.checks.items() if name not in self.inputs}
        self._knobs = ", ".join(known) or "none"

    def check(self, options: dict[str, Any]) -> bool:
        """Check options in place, where all of them are keywords of the function; False: ``bind`` has to look."""
        for name, value in options.items():
            check = self._quick.get(name)
            if check is None:
                return False
            checked = check(value)
            if checked is not value:
                options[name] = checked
        return True

    def validate(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """``options``, every knob checked and as the function is to see it. Errors as ``controls.validate``."""
        checked = {}
        for name, value in options.items():
            if name in self.checks:
                check = self.checks[name]
                checked[name] = value if check is None else check(value)
            elif self.any_options:
                checked[name] = value
            else:
                raise TypeError(f"{self.name} has no option {name!r}: its knobs are {self._knobs}.")
        return checked

    def bind(self, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call with all inputs by place and the options checked.

        Raises ``TypeError`` for inputs that are missing, too many or given twice, beside what ``validate`` raises.
        """
        options = self.validate(options)
        if len(inputs) > len(self.inputs) and not self.any_inputs:
            raise TypeError(
                f"{self.name} takes {', '.join(self.inputs) or 'nothing'} by place and everything else by name; "
                f"{len(inputs)} were given by place."
            )
        for name in self.inputs[: len(inputs)]:
            if name in options:
                raise TypeError(f"{self.name} was given {name} twice: by place and by name.")
        rest = self.inputs[len(inputs) :]
        while rest and rest[-1] not in options and rest[-1] in self.defaults:
            rest = rest[:-1]
        if missing := [name for name in rest if name not in options and name not in self.defaults]:
            raise TypeError(f"{self.name} needs {', '.join(missing)} too: it takes {', '.join(self.inputs)}.")
        named = tuple([options.pop(name) if name in options else self.defaults[name] for name in rest])
        return (*inputs, *named), options


def _as_it_is(value: Any) -> Any:
    return value


@functools.cache
def signature(function: Callable, name: str | None = None) -> Signature:
    """What ``function`` takes; errors call it ``name``, or what it calls itself."""
    return Signature(function, name or getattr(function, "__name__", repr(function)))


def _knob(parameter: inspect.Parameter, hint: Any) -> Knob:
    kind, *notes = typing.get_args(hint)
    optional = type(None) in typing.get_args(kind)
    if optional:
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
    help = next((note for note in notes if isinstance(note, str)), "")
    range = next((note for note in notes if isinstance(note, Range)), None)
    common = {"name": parameter.name, "default": parameter.default, "help": help, "optional": optional}
    if kind is bool:
        return Knob(kind="flag", **common)
    if typing.get_origin(kind) is Literal:
        return Knob(kind="choice", choices=typing.get_args(kind), **common)
    if kind in (int, float) and range is not None:
        return Knob(kind=kind.__name__, range=range, **common)
    raise TypeError(
        f"{parameter.name}: a knob is Annotated[int or float, Range(...), help], Annotated[bool, help] "
        f"or Annotated[Literal[...], help], not {hint!r}."
    )
