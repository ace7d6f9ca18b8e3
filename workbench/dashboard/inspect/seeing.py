"""What the page Inspect computes alike for a text and an image: knobs that count, trees, sums, costs. No Panel here."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from workbench import measure
from workbench.controls import Knob, Range
from workbench.dashboard.shell import toggles
from workbench.dashboard.shell.jobs import Cache, Cancelled, Progress
from workbench.dashboard.shell.toggles import Configuration
from workbench.paper import Method
from workbench.writing import ratio

if TYPE_CHECKING:
    from workbench.attention.trees import Tree

SIDES = ("a", "b")
USES = ("attention", "hierarchy", "doubly_stochastic", "activation")  # the toggles that trained weights can take
BUDGET_S = 0.25
FRESH_S = 60.0  # so long measured times are shown to who asks again
SETTLE_S = 0.3
STEPS = 4  # of a request: maps, what they mean, times, memory

ORDER = Knob("order", "int", 3, "Highest power of the polynomial; its coefficients are fitted to GELU.", Range(2, 4))
LAYERS = Knob(
    "swapped_layers", "choice", "all", "Which layers it takes over; the others keep softmax attention.",
    choices=("all", "later half", "every second", "last"),
)  # fmt: skip
TREE = Knob(
    "tree", "choice", "natural", "Natural: words in phrases, or rows of patches. Windows: groups of equal size.",
    choices=("natural", "windows"),
)  # fmt: skip
OURS = (LAYERS.name, TREE.name)  # knobs that say how a method is put in, and that it does not have itself
OF_WINDOWS = ("block", "levels")

cache = Cache(limit=256 * 2**20)

Group = tuple[int, int, int]  # the first token, the token after the last, the height: 1 for a group of tokens


@dataclass(frozen=True)
class Maps:
    """One side, seen from inside: maps (layers, heads, tokens, tokens) and what came out, both float32.

    ``vector`` is the sentence vector (384,) of a text, or the probabilities (classes,) of an image. ``groups`` are
    those of the tree that the mixer used, from the root down; none where it used no tree.
    """

    side: str
    tokens: list[str]
    maps: np.ndarray
    vector: np.ndarray
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True)
class Sums:
    """How far one head's map is from doubly stochastic, see ``attention.doubly_stochastic.diagnostics``."""

    side: str
    row_error: float
    column_error: float
    distance: float
    entropy: float
    most: float  # the entropy of a map that looks everywhere alike


@dataclass(frozen=True)
class Figures:
    """What one forward pass costs, both sides measured in turns; ``at`` is when, in seconds as ``time.time`` counts;
    ``same``: A and B are one configuration."""

    timings: Mapping[str, measure.Timing]
    peaks: Mapping[str, int]
    machine: str
    at: float = 0.0
    same: bool = False


# --- knobs ------------------------------------------------------------------------------------------------------------


def knobs_of(toggle: str, method: Method) -> dict[str, Knob]:
    """The knobs that trained weights can take: the mixer's own and how it is put in, the order of a polynomial."""
    if toggle == "activation":
        return {"order": ORDER} if method.slot.polynomial else {}
    if toggle not in toggles.REPLACING:
        return dict(method.knobs)
    ours = [LAYERS, TREE] if takes_tree(method) else [LAYERS]
    return {knob.name: knob for knob in ours} | dict(method.knobs)


def takes_tree(method: Method) -> bool:
    return "tree" in inspect.signature(method.reference).parameters


def uses_natural_tree(configuration: Configuration) -> bool:
    """Whether the mixer takes a tree, and not one of equal windows."""
    return takes_tree(configuration.mixer) and configuration.mixer_options.get("tree", TREE.default) == "natural"


def idle(configuration: Configuration, source: str = "text") -> set[tuple[str, str]]:
    """The (toggle, knob) that make no difference as things stand, on a text or an image: the network that looks at
    images says itself that every patch sees all others."""
    found = {("activation", ORDER.name), (configuration.mixing, "is_causal")} if source == "image" else set()
    if configuration.mixing != "attention":
        found |= {("attention", name) for name in configuration.method("attention").knobs}
    if uses_natural_tree(configuration):
        found |= {(configuration.mixing, name) for name in OF_WINDOWS}
    return found


def mixer_options(configuration: Configuration, source: str = "text") -> dict[str, Any]:
    """The knobs of the mixer itself that differ from their defaults and make a difference."""
    without = idle(configuration, source)
    return {
        name: value
        for name, value in configuration.mixer_options.items()
        if name not in OURS and (configuration.mixing, name) not in without
    }


def layers_of(configuration: Configuration, depth: int) -> tuple[int, ...] | None:
    """The layers that the mixer takes over; None: all."""
    chosen = configuration.mixer_options.get(LAYERS.name, LAYERS.default)
    return {
        "all": None,
        "later half": tuple(range(depth // 2, depth)),
        "every second": tuple(range(1, depth, 2)),
        "last": (depth - 1,),
    }[chosen]


def check_simulated(method: Method, tokens: int, device: str) -> None:
    """Raise ``ValueError`` for a method that is simulated and would keep everybody waiting for many seconds."""
    most = 2 * method.largest if method.largest else tokens
    if tokens > most and device == "cpu":
        raise ValueError(
            f"{method.title} is simulated step by step: at most {most} tokens here, and there are {tokens}."
        )


# --- trees ------------------------------------------------------------------------------------------------------------


def groups_of(tree: Tree) -> tuple[Group, ...]:
    """The groups of a tree with two tokens or more, from the root down."""
    height: dict[int, int] = {}
    for node, children in reversed(list(tree.families())):
        height[node] = 1 + max(height.get(child, 0) for child in children)
    return tuple((tree.first[node], tree.last[node], height[node]) for node in sorted(height))


def uniform_groups(given: Mapping[str, Any], method: Method, tokens: int) -> tuple[Group, ...]:
    """The groups of equal size that a method makes by itself with the knobs ``given``."""
    from workbench.attention.trees import Tree

    return groups_of(Tree.uniform(tokens, *(given.get(name, method.knobs[name].default) for name in OF_WINDOWS)))


# --- sums, costs ------------------------------------------------------------------------------------------------------


def sums(maps: Mapping[str, Maps], layer: int, head: int) -> Callable[[Cancelled], Iterator[Sums]]:
    """A job that says of one head how far each side's map is from doubly stochastic."""

    def steps(cancelled: Cancelled) -> Iterator[Sums]:
        from workbench.attention.doubly_stochastic import diagnostics

        for side, found in maps.items():
            shown = np.ascontiguousarray(found.maps[layer, head])
            key = ("sums", shown.shape, hashlib.blake2b(shown).digest())
            if (sums := cache.get(key)) is None:
                with one_thread():
                    told = diagnostics(torch.from_numpy(shown))
                sums = Sums(
                    side,
                    *(float(each) for each in (told.row_error, told.column_error, told.distance, told.entropy)),
                    most=float(np.log(len(found.tokens))),
                )
                cache.put(key, sums, 300)
            yield replace(sums, side=side)

    return steps


def settle(note: str) -> Iterator[Progress]:
    """Whoever drags a knob wants the next map, not this one's costs; and while a browser draws, times are disturbed."""
    yield Progress(1, STEPS, note, pause_s=SETTLE_S)


def costs(
    key: tuple,
    calls: Mapping[str, Callable[[], Callable[[], Any]]],
    device: str,
    cancelled: Cancelled,
    *,
    same: bool = False,
) -> Iterator[Progress | Figures]:
    """Time and peak memory of what each side's ``calls`` makes, as ``Figures``, unless they are known by ``key``."""
    yield Progress(2, STEPS, "measuring", alone=True)
    if (figures := fresh(key)) is None:
        timings, peaks = {}, {}
        made = {side: make() for side, make in calls.items()}
        for timings in measure.time_in_turns(made, device, budget_s=BUDGET_S, cancelled=cancelled):  # noqa: B007
            yield Progress(2, STEPS, "measuring")
        for side, make in calls.items():
            if cancelled():
                return
            peaks[side] = measure.peak_bytes(make(), device)
            yield Progress(3, STEPS, "measuring")
        figures = Figures(timings, peaks, measure.machine_line(measure.machine(device)), time.time(), same)
        cache.put(key, figures, 1000)
    yield figures


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sentences are small: one thread is as fast, and never waits for a core on which somebody's browser draws.

    Times are not taken in here: those belong to the threads that PyTorch uses by itself.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fresh(key: tuple) -> Figures | None:
    """What was measured a short while ago; older times say nothing of the machine as it is now."""
    figures = cache.get(key)
    return figures if figures is not None and time.time() - figures.at < FRESH_S else None


def compared(timings: Mapping[str, measure.Timing], same: bool = False) -> tuple[str, str]:
    """The ratio B / A of the medians, and what to make of it, see ``measure.verdict``; no ratio where A is B."""
    a, b = timings["a"], timings["b"]
    said = measure.verdict(a, b, same=same)
    return ("" if same else ratio(b.median_ms / a.median_ms)), said


def written(given: Mapping[str, Any]) -> str:
    """Keyword arguments as Python, without those at "auto"."""
    return ", ".join(f"{name}={value!r}" for name, value in given.items() if value != "auto")
