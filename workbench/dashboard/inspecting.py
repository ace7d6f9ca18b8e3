"""What the page Inspect computes: maps of two configurations on one text, then what they cost. No Panel here.

The steps are those of a job: the maps come first, one side at a time, because they are what somebody who turns a knob
waits for; similarity, time and memory follow.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from workbench import measure
from workbench.controls import Knob, Range
from workbench.dashboard import toggles
from workbench.dashboard.jobs import Cache, Cancelled, Progress
from workbench.dashboard.toggles import Configuration
from workbench.models import pretrained
from workbench.paper import Method
from workbench.tasks import sentences

MOST_TOKENS = 160  # 6 x 12 maps of 160 x 160 float32 are 7 MiB; longer texts cannot be read as a picture anyway
MOST_OTHERS = 8
LAYERS, HEADS = 6, 12  # of the pretrained encoder
BUDGET_S = 0.25
SETTLE, SETTLE_S = 8, 0.04
ORDER = Knob("order", "int", 3, "Highest power of the polynomial; its coefficients are fitted to GELU.", Range(2, 4))

cache = Cache(limit=256 * 2**20)


@dataclass(frozen=True)
class Request:
    """What is on the screen: one text, further sentences to compare with, two configurations."""

    text: str
    others: tuple[str, ...]
    sides: Mapping[str, Configuration]


@dataclass(frozen=True)
class Maps:
    """One side, seen from inside: maps (layers, heads, tokens, tokens) and the sentence vector (384,), float32."""

    side: str
    tokens: list[str]
    maps: np.ndarray
    vector: np.ndarray


@dataclass(frozen=True)
class Similarity:
    """Cosines between the text and the other sentences, (n, n), for one side."""

    side: str
    texts: tuple[str, ...]
    cosines: np.ndarray


@dataclass(frozen=True)
class Figures:
    """What one forward pass costs, both sides measured one right after the other."""

    timings: Mapping[str, measure.Timing]
    peaks: Mapping[str, int]
    machine: str


def knobs_of(toggle: str, method: Method) -> dict[str, Knob]:
    """The knobs that the pretrained encoder can take: the attention's own, and the order of a polynomial activation."""
    if toggle == "attention":
        return dict(method.knobs)
    return {"order": ORDER} if "order" in method.shape_knobs else {}


def options(configuration: Configuration) -> dict[str, Any]:
    """A configuration as the keyword arguments of ``Encoder.inspect`` and ``Encoder.encode``."""
    chosen = {
        "attention": configuration.methods["attention"],
        "activation": configuration.methods["activation"],
        "implementation": configuration.implementation,
    }
    if knobs := configuration.options("attention"):
        chosen["attention_options"] = knobs
    if "order" in configuration.options("activation"):
        chosen["activation_order"] = configuration.options("activation")["order"]
    return chosen


def check(text: str, others: Sequence[str] = ()) -> None:
    """Raise ``ValueError`` for texts that are empty or too long, in one sentence."""
    sentences.check_text(text)
    if len(others) > MOST_OTHERS:
        raise ValueError(f"There are {len(others)} sentences to compare with: at most {MOST_OTHERS} are allowed.")
    for other in others:
        sentences.check_text(other)


def compute(request: Request, device: str) -> Callable[[Cancelled], Iterator[Any]]:
    """The job for a request: yields ``Maps``, ``Similarity`` and ``Figures``, with ``Progress`` between."""

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        check(request.text, request.others)
        yield Progress(0, 4, "computing maps")
        encoder = pretrained.load(device)
        count = len(encoder.tokens(request.text))
        if count > MOST_TOKENS:
            raise ValueError(f"The text has {count} tokens: Inspect draws at most {MOST_TOKENS}, so shorten it.")
        for side, configuration in request.sides.items():
            yield _maps(encoder, request.text, side, configuration)
        # Whoever drags a knob wants the next map, not this one's costs; and while a browser draws, times are disturbed.
        for _ in range(SETTLE):
            time.sleep(SETTLE_S)
            yield Progress(1, 4, "comparing sentences")
        if request.others:
            yield Progress(1, 4, "comparing sentences")
            for side, configuration in request.sides.items():
                yield _similarity(encoder, (request.text, *request.others), side, configuration)
        yield Progress(2, 4, "measuring")
        key = ("figures", request.text, *(each.key for each in request.sides.values()))
        if (figures := cache.get(key)) is None:
            timings, peaks = {}, {}
            for side, configuration in request.sides.items():
                call = encoder.forward_call(request.text, **options(configuration))
                timings[side] = measure.time_call(call, device, budget_s=BUDGET_S, cancelled=cancelled)
                yield Progress(len(timings) + 1, 4, "measuring")
            for side, configuration in request.sides.items():
                call = encoder.forward_call(request.text, **options(configuration))
                peaks[side] = measure.peak_bytes(call, device)
                yield Progress(3, 4, "measuring")
            figures = Figures(timings, peaks, measure.machine_line(measure.machine(device)))
            cache.put(key, figures, 1000)
        yield figures

    return steps


def warm(device: str) -> Callable[[Cancelled], Iterator[Any]]:
    """A job that runs every attention and activation once; what that makes is kept by the encoder."""

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        if pretrained.why_not():
            return
        encoder = pretrained.load(device)
        for attention in toggles.methods("attention"):
            for activation in toggles.methods("activation"):
                if not encoder.why_not(attention=attention, activation=activation):
                    with _one_thread():
                        encoder.encode("Ready.", attention=attention, activation=activation)
                yield Progress(0, 1)

    return steps


def known(request: Request) -> Iterator[Maps | Similarity | Figures]:
    """What the cache holds of a request already: it can be drawn without a job."""
    for side, configuration in request.sides.items():
        for kind, text in (("maps", request.text), ("similarity", (request.text, *request.others))):
            if (found := cache.get((kind, text, configuration.key))) is not None:
                yield replace(found, side=side)
    if (figures := cache.get(("figures", request.text, *(each.key for each in request.sides.values())))) is not None:
        yield figures


def _maps(encoder: pretrained.Encoder, text: str, side: str, configuration: Configuration) -> Maps:
    key = ("maps", text, configuration.key)
    if (found := cache.get(key)) is None:
        with _one_thread():
            seen = encoder.inspect(text, **options(configuration))
        found = Maps(side, seen.tokens, seen.maps.numpy(), seen.vector.numpy())
        cache.put(key, found, found.maps.nbytes)
    return replace(found, side=side)


def _similarity(
    encoder: pretrained.Encoder, texts: tuple[str, ...], side: str, configuration: Configuration
) -> Similarity:
    key = ("similarity", texts, configuration.key)
    if (found := cache.get(key)) is None:
        with _one_thread():
            vectors = encoder.encode(texts, **options(configuration)).cpu().numpy()
        found = Similarity(side, texts, vectors @ vectors.T)
        cache.put(key, found, found.cosines.nbytes + sum(map(len, texts)))
    return replace(found, side=side)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sentences are small: one thread is as fast, and never waits for a core on which somebody's browser draws.

    Times are not taken in here: those belong to the threads that PyTorch uses by itself.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# --- what the figures say, in words ---


def compared(timings: Mapping[str, measure.Timing]) -> tuple[str, str]:
    """The ratio B / A of the medians, and what to make of it: a difference inside the spread is no difference."""
    a, b = timings["a"], timings["b"]
    ratio = f"×{b.median_ms / a.median_ms:.2f}"
    if a.low_ms <= b.high_ms and b.low_ms <= a.high_ms:
        return ratio, "within the noise"
    return ratio, "faster" if b.median_ms < a.median_ms else "slower"


def python_lines(request: Request, layer: int, head: int, device: str) -> str:
    """The lines that compute what is on the screen."""

    def call(side: str) -> str:
        given = {name: value for name, value in options(request.sides[side]).items() if value != "auto"}
        return ", ".join(f"{name}={value!r}" for name, value in given.items())

    lines = [
        "from workbench import measure",
        "from workbench.models import pretrained",
        "",
        f"encoder = pretrained.load({device!r})",
        f"text = {request.text!r}",
        f"a = dict({call('a')})",
        f"b = dict({call('b')})",
        "inspected = {'a': encoder.inspect(text, **a), 'b': encoder.inspect(text, **b)}",
        f"maps = {{side: seen.maps[{layer}, {head}] for side, seen in inspected.items()}}  # query rows, key columns",
        "cosine = inspected['a'].vector @ inspected['b'].vector",
        "calls = {'a': encoder.forward_call(text, **a), 'b': encoder.forward_call(text, **b)}",
        f"times = {{side: measure.time_call(call, {device!r}) for side, call in calls.items()}}",
        f"peaks = {{side: measure.peak_bytes(call, {device!r}) for side, call in calls.items()}}",
    ]
    if request.others:
        lines += [
            f"texts = [text, *{list(request.others)!r}]",
            "vectors = {'a': encoder.encode(texts, **a), 'b': encoder.encode(texts, **b)}",
            "cosines = {side: each @ each.T for side, each in vectors.items()}",
        ]
    return "\n".join(lines)
