"""What the page Train computes: two small models trained side by side, lap by lap. No Panel here.

A lap is a few steps of one side, so that another visitor's click is answered between two of them, and a stop counts at
once. What was drawn stays; a race that ended is kept by its full configuration.
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from workbench import measure
from workbench.dashboard.shell import toggles
from workbench.dashboard.shell.jobs import Cache, Cancelled, Progress
from workbench.dashboard.train.racers import GRAMMAR, HEADS, SIDES, STEPS, Request, check, config, mixer_of
from workbench.measure.memory import in_words
from workbench.models import training
from workbench.models.transformer import TransformerConfig
from workbench.models.vit import ViTConfig
from workbench.tasks import images

MOST_SECONDS = 900.0
MOST_STEP_S = 1.0  # of one step: whoever stops it has the device back after that at the latest
MOST_BYTES_PART = 0.5  # of the device's memory limit
TURN_S = 0.03  # so long a race keeps the device, and a step longer
END = object()
TRIED = 32  # examples with which a mixer is timed
MOST_SCORED = 1000  # held-out images are classified after every lap, at most
FORWARD = 0.3  # of a training step is the way there

cache = Cache(limit=8 * 2**20)


@dataclass(frozen=True)
class Start:
    """The race begins: the number of weights of each side, and where it runs (empty: times were not kept)."""

    parameters: Mapping[str, int]
    machine: str


@dataclass(frozen=True)
class Point:
    """Where one side stands.

    ``loss`` is the mean training loss since the last point, in nats; ``score`` was taken on held-out data (accuracy
    from 0 to 1 of images, a loss in nats of the language; None where it was not taken); ``step_ms`` is milliseconds a
    step since the last point.
    """

    side: str
    step: int
    loss: float
    score: float | None
    step_ms: float


@dataclass(frozen=True)
class Result:
    """A race that ran to its end."""

    start: Start
    points: tuple[Point, ...]


# --- what it would take ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a race would take, before it runs. ``refused`` is one sentence; empty: it may run."""

    parameters: Mapping[str, int]
    seconds: float
    bytes: int
    refused: str = ""

    @property
    def words(self) -> str:
        if self.refused:
            return self.refused
        return f"About {_duration(self.seconds)} and {in_words(self.bytes)} (estimate)."


_pace: dict[str, float] = {}  # device -> how much longer a step took here than the estimate said, learned from races


def estimate(request: Request, device: str) -> Estimate:
    """Weights, time and memory of a race, estimated; nothing runs."""
    try:
        check(request)
        counts = {side: _parameters(_Key(config(request, side))) for side in SIDES}
    except (ValueError, TypeError) as error:
        return Estimate({}, 0.0, 0, str(error))
    sizes = request.full_shape
    tokens = config(request, "a").tokens
    pace = _pace.get(device, 1.0)
    each = [_step_seconds(request, side, counts[side], tokens, device) for side in SIDES]
    step = sum(each)
    longest = pace * max(each) * max(1.0, FORWARD * training.PART / sizes["batch"])
    looks = 0 if request.task == GRAMMAR else request.steps / request.lap * scored(request.task) / sizes["batch"]
    seconds = step * (request.steps + FORWARD * looks) * pace
    activations = 2 * 4 * sizes["batch"] * sizes["depth"] * tokens * (16 * sizes["width"] + 4 * HEADS * tokens)
    needed = 16 * sum(counts.values()) + activations
    limit = int(MOST_BYTES_PART * measure.memory_limit(device))
    refused = ""
    if longest > MOST_STEP_S:
        refused = (
            f"One step would take about {longest:.2g} s (estimate), and {MOST_STEP_S:g} s are allowed, since others "
            "wait for it: choose a smaller width, depth or batch."
        )
    elif seconds > MOST_SECONDS:
        fits = max(STEPS.range.low, int(request.steps * MOST_SECONDS / seconds))
        refused = (
            f"This would take about {_duration(seconds)} (estimate), and {_duration(MOST_SECONDS)} are allowed: choose "
            f"at most {fits:,.0f} steps, or a smaller model."
        )
    elif needed > limit:
        refused = (
            f"This would need {in_words(needed)} (estimate), and {in_words(limit)} are allowed: choose a smaller batch "
            "or width."
        )
    return Estimate(counts, seconds, needed, refused)


def scored(task: str) -> int:
    return min(MOST_SCORED, len(images.load(task).test))


def _step_seconds(request: Request, side: str, parameters: int, tokens: int, device: str) -> float:
    """Three parts: what every operation costs to be started, the arithmetic, and what a slow mixer adds."""
    start, rate = (3e-4, 2e13) if device == "cuda" else (8e-4, 5e10)
    sizes = request.full_shape
    flops = 6 * sizes["batch"] * tokens * (parameters + 2 * sizes["depth"] * sizes["width"] * tokens)
    mixer = mixer_seconds.get((mixer_of(request, side), tokens), 0.0) * sizes["batch"] / TRIED
    return start * (2 + sizes["depth"]) + flops / rate + sizes["depth"] * mixer


mixer_seconds: dict[tuple[str, int], float] = {}  # (method, tokens) -> of ``TRIED`` examples there and back, one layer


def try_mixers(device: str) -> Callable[[Cancelled], Iterator[Any]]:
    """A job that times every mixer once, there and back, so that estimates know which are slow."""

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        for toggle in ("attention", *toggles.REPLACING):
            for name, method in toggles.methods(toggle).items():
                yield Progress(0, 1)
                with contextlib.suppress(ValueError, RuntimeError), one_thread(device):
                    given = torch.rand(3, TRIED, HEADS, 16, 8, device=device).requires_grad_()
                    for _ in range(2):  # the first time, there is much to load
                        start = time.perf_counter()
                        method(*given).sum().backward()
                        mixer_seconds[name, 16] = time.perf_counter() - start

    return steps


class _Key:
    """A configuration as the key of a cache: its fields hold dictionaries."""

    def __init__(self, made: ViTConfig | TransformerConfig) -> None:
        self.made, self.words = made, repr(made)

    def __hash__(self) -> int:
        return hash(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.words == other.words


@functools.lru_cache(maxsize=256)
def _parameters(key: _Key) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in training.build(key.made).parameters())


# --- the race --------------------------------------------------------------------------------------------------------


def compute(request: Request, device: str) -> Callable[[Cancelled], Iterator[Any]]:
    """The job: yields ``Start``, then a ``Point`` a lap of each side, with ``Progress`` between; ``Result`` at last."""

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        check(request)
        yield Progress(0, 1, "preparing")
        guess = estimate(request, device)
        if guess.refused:
            raise ValueError(guess.refused)
        start = Start(guess.parameters, measure.machine_line(measure.machine(device)))
        yield start
        sizes = request.full_shape
        laps = training.train(
            {side: config(request, side) for side in SIDES}, request.task, steps=request.steps, batch=sizes["batch"],
            learning_rate=sizes["learning_rate"], seed=request.seed, device=device, lap=request.lap,
            ticks=True,
        )  # fmt: skip
        points: list[Point] = []
        spent = dict.fromkeys(SIDES, 0.0)
        reached, since = dict.fromkeys(SIDES, 0), 0  # steps up to a side's last lap, steps since then
        busy, turn = 0.0, 0.0
        try:
            while True:
                began = time.perf_counter()
                with one_thread(device):
                    lap = next(laps, END)
                busy += (took := time.perf_counter() - began)
                turn += took
                if lap is END:
                    break
                if lap is not None:
                    points.append(_point(lap, spent, request.lap))
                    yield points[-1]
                    reached[lap.name], since = lap.step, 0
                else:
                    since = min(since + 1, request.lap)  # then come the parts of the held-out data
                if lap is not None or turn > TURN_S:
                    done = sum(reached.values()) + since
                    left = busy * (len(SIDES) * request.steps / max(1, done) - 1)
                    step = -(-done // len(SIDES))
                    yield Progress(step, request.steps, f"step {step:,} of {request.steps:,}, {_duration(left)} left")
                    turn = 0.0
        finally:
            laps.close()
        _learn_pace(guess.seconds, busy, device)
        result = Result(start, tuple(points))
        cache.put(request.key, result, 200 * len(points))
        yield result

    return steps


def _point(lap: training.Lap, spent: dict[str, float], length: int) -> Point:
    steps = lap.step % length or length
    step_ms = 1000 * (lap.seconds - spent[lap.name]) / steps
    spent[lap.name] = lap.seconds
    if not math.isfinite(lap.loss):
        raise ValueError(
            f"The loss of {lap.name.upper()} is no number any more (step {lap.step}): choose a smaller learning rate."
        )
    score = lap.accuracy if lap.accuracy is not None else lap.validation
    return Point(lap.name, lap.step, lap.loss, score, step_ms)


def _learn_pace(guess: float, took: float, device: str) -> None:
    pace = _pace.get(device, 1.0)
    _pace[device] = min(20.0, max(0.05, pace * took / guess)) if guess else pace


@contextlib.contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Small models are as fast with one thread, and leave the other cores to whoever clicks."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def known(request: Request) -> Result | None:
    """A race that ran before."""
    return cache.get(request.key)


# --- in words --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """Milliseconds a step: the median of the laps, and where the middle 60 % of them lie."""

    median: float
    low: float
    high: float
    laps: int


def pace(points: Iterable[Point], side: str) -> Pace | None:
    """How fast a side trains; None where no times were taken. The first lap, in which everything is done for the first
    time, does not count where there are others."""
    times = [point.step_ms for point in points if point.side == side and point.step_ms > 0]
    times = sorted(times[1:] or times)
    if not times:
        return None
    low, high = times[int(0.2 * len(times))], times[min(len(times) - 1, int(0.8 * len(times)))]
    return Pace(statistics.median(times), low, high, len(times))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
