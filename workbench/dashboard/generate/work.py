"""What the page Generate computes: the same noise turned into digits with and without caching. No Panel here.

Each side is walked once, step by step, so that a strip can fill while it runs; then the three walks (A, B, and without
a cache) are repeated in turn for their times. What was walked is kept by its full configuration.
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from workbench import catalog, claims, measure
from workbench.controls import Knob, Range
from workbench.dashboard.shell.jobs import Cache, Cancelled, Progress
from workbench.dashboard.shell.toggles import NONE, Configuration
from workbench.dashboard.train.work import one_thread
from workbench.models import diffusion, dit
from workbench.models.caching import strategies
from workbench.paper import Method
from workbench.writing import duration

SIDES = ("a", "b")
UNCACHED = "uncached"
LARGE = "DiT-XL/2"
DIGITS = ("all", *map(str, range(10)))
COUNTS = (10, 20, 50, 100, 200)
JUDGED = 50  # samples from which on the Fréchet distance of 32 features says something
SWITCHED = 3  # with "switch" a digit becomes the one three further on
TURN_S = 0.03  # so long a walk keeps the device, and a step longer
SETTLE_S = 0.25
ROUNDS, BUDGET_S = 3, 12.0  # the walks are repeated so often for their times, unless that would take longer

cache = Cache(limit=64 * 2**20)

GUIDANCE = Knob("guidance", "float", 1.0, "Above 1: digits exaggerated.", Range(1.0, 5.0))
STEPS = Knob("steps", "int", 50, "", Range(10, 200, log=True))
SEED = Knob("seed", "int", 0, "", Range(0, 99))


@dataclass(frozen=True)
class Setting:
    """What both sides share: a digit or "all" in turn, and how the noise becomes an image.

    ``switch``: half way, every sample is told to become another digit. Then its path bends at a known step.
    """

    digit: str = "all"
    guidance: float = GUIDANCE.default
    steps: int = STEPS.default
    seed: int = SEED.default
    count: int = 20
    switch: bool = False

    def noise(self) -> torch.Tensor:
        config = dit.DIGITS
        shape = (self.count, config.channels, config.image, config.image)
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))

    def first_labels(self) -> torch.Tensor:
        """The digits that the walk begins with, (count,)."""
        if self.digit != "all":
            return torch.full((self.count,), int(self.digit))
        return torch.arange(self.count) % 10

    def labels(self) -> torch.Tensor:
        """The digits that are wanted in the end, (count,)."""
        return (self.first_labels() + SWITCHED * self.switch) % 10

    def all_labels(self) -> torch.Tensor:
        """The digits at every step, (steps, count)."""
        late = torch.arange(self.steps)[:, None] >= self.steps // 2
        return torch.where(late, self.labels(), self.first_labels())


@dataclass(frozen=True)
class Request:
    """What is on the screen: a setting, and the caching of both sides."""

    setting: Setting
    sides: Mapping[str, Configuration]

    @property
    def walks(self) -> dict[str, Configuration]:
        """The three walks; the one without a cache is what the others are compared with."""
        return {**self.sides, UNCACHED: OFF}


OFF = Configuration({"caching": NONE})


@dataclass(frozen=True)
class Going:
    """A walk under way: for which part of the samples each step so far was computed, the gate's estimate of its error
    (None: no gate), and the images as they are now."""

    side: str
    shares: tuple[float, ...]
    errors: tuple[float | None, ...]
    samples: np.ndarray


@dataclass(frozen=True)
class Walk:
    """A walk that arrived.

    ``samples`` (n, side, side) float32; ``path`` (steps, n, side, side) float16, every step's images (none of a walk
    that was kept in a file); ``blocks`` of the network that were computed for a sample, on average; ``cache_bytes``;
    ``milliseconds`` of all steps together.
    """

    side: str
    shares: tuple[float, ...]
    errors: tuple[float | None, ...]
    samples: np.ndarray
    path: np.ndarray
    blocks: float
    cache_bytes: int
    milliseconds: float

    @property
    def bytes(self) -> int:
        return self.samples.nbytes + self.path.nbytes


@dataclass(frozen=True)
class Judgement:
    """How good a side's samples are: likeness to those without a cache, and what a classifier says.

    ``far``: how far from the walk without a cache it was after every step, relative to the length of that one's images.
    """

    side: str
    psnr_db: float
    frechet: float | None
    accuracy: float
    far: tuple[float, ...]


@dataclass(frozen=True)
class Times:
    """What a whole walk takes, by side; all sides were run in turn."""

    timings: Mapping[str, measure.Timing]
    machine: str


def knobs_of(toggle: str, method: Method) -> dict[str, Knob]:
    return dict(method.knobs)


def why_not(caching: str) -> str:
    """Why the sampler cannot use a caching method, in one sentence; empty when it can."""
    return "" if caching in strategies() else "The sampler of this page has no such cache."


def compute(request: Request, device: str) -> Callable[[Cancelled], Iterator[Any]]:
    """The job: yields ``Going`` and a ``Walk`` for each side, what they are worth, then ``Times``; ``Progress``
    between."""

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        setting = request.setting
        yield Progress(0, 1, "sampling")
        walks: dict[str, Walk] = {}
        for side, configuration in request.walks.items():
            if (found := cache.get(_key(setting, configuration))) is None:
                for part in _walk(side, setting, configuration, device):
                    if isinstance(part, Walk):
                        found = part
                        cache.put(_key(setting, configuration), found, found.bytes)
                    else:
                        yield part
                        yield Progress(len(walks), 4, "sampling")
            walks[side] = replace(found, side=side)
            yield walks[side]
        for side, configuration in request.walks.items():
            key = ("judged", *_key(setting, configuration))
            if (judged := cache.get(key)) is None:
                with one_thread(device):
                    judged = judge(walks[side], walks[UNCACHED], setting)
                cache.put(key, judged, 50 * setting.steps)
            yield replace(judged, side=side)
        # Whoever drags a knob wants the next pictures, not these ones' times.
        yield Progress(3, 4, "measuring", alone=True, pause_s=SETTLE_S)
        key = ("times", setting, *(each.key for each in request.sides.values()))
        if (times := cache.get(key)) is None:
            yield from (times := _Clock(request, walks, device)).rounds()
            times = times.result()
            cache.put(key, times, 1000)
        yield times

    return steps


def known(request: Request) -> Iterator[Walk | Judgement | Times]:
    """What the cache holds of a request already: it can be drawn without a job."""
    setting = request.setting
    for kind in ((), ("judged",)):
        for side, configuration in request.walks.items():
            if (found := cache.get((*kind, *_key(setting, configuration)))) is not None:
                yield replace(found, side=side)
    if (times := cache.get(("times", setting, *(each.key for each in request.sides.values())))) is not None:
        yield times


def _key(setting: Setting, configuration: Configuration) -> tuple:
    return (setting, configuration.key)


@functools.cache
def model(device: str) -> dit.DiT:
    """The trained network, one for all requests."""
    return dit.pretrained().to(device)


def _sample(setting: Setting, configuration: Configuration, device: str) -> Iterator[diffusion.Step]:
    return diffusion.sample(
        model(device), setting.noise().to(device), setting.all_labels().to(device), steps=setting.steps,
        guidance=setting.guidance, caching=configuration.methods["caching"], options=configuration.options("caching"),
    )  # fmt: skip


def _walk(side: str, setting: Setting, configuration: Configuration, device: str) -> Iterator[Going | Walk]:
    shares: list[float] = []
    errors: list[float | None] = []
    path: list[np.ndarray] = []
    most, spent, turn = 0, 0.0, time.perf_counter()
    walking = _sample(setting, configuration, device)
    try:
        while True:
            with one_thread(device):
                step = next(walking, None)
            if step is None:
                break
            images = step.sample[:, 0].float().cpu().numpy()
            shares.append(step.share)
            errors.append(step.error)
            path.append(images.astype(np.float16))
            most, spent = max(most, step.cache_bytes), spent + step.milliseconds
            if time.perf_counter() - turn > TURN_S:
                yield Going(side, tuple(shares), tuple(errors), images)
                turn = time.perf_counter()
    finally:
        walking.close()
    blocks = blocks_of(shares, configuration.methods["caching"])
    yield Walk(side, tuple(shares), tuple(errors), images, np.stack(path), blocks, most, spent)


def blocks_of(shares: Sequence[float], caching: str) -> float:
    """Blocks that ran for a sample: all of them in a computed step, in a forecast one the first, where a gate looks."""
    depth, gate = dit.DIGITS.depth, int(strategies()[caching].waits)
    return sum(share * depth + (1 - share) * gate for share in shares)


def judge(walk: Walk, uncached: Walk, setting: Setting) -> Judgement:
    """PSNR, Fréchet distance and accuracy of a walk's samples; the distance only of enough samples to say something."""
    as_tensors = (torch.from_numpy(each.samples)[:, None] for each in (walk, uncached))
    samples, reference = as_tensors
    quality = diffusion.quality(samples, setting.labels(), reference)
    frechet = quality.frechet if setting.count >= JUDGED and setting.digit == "all" else None
    return Judgement(walk.side, quality.psnr_db, frechet, quality.accuracy, distance(walk, uncached))


def distance(walk: Walk, uncached: Walk) -> tuple[float, ...]:
    """``far`` of a judgement: one number a step."""
    difference = (walk.path.astype(np.float32) - uncached.path).reshape(len(walk.path), -1)
    length = np.linalg.norm(uncached.path.astype(np.float32).reshape(len(walk.path), -1), axis=1)
    return tuple((np.linalg.norm(difference, axis=1) / length).tolist())


class _Clock:
    """Repeats the walks in turn, and remembers how long each took."""

    def __init__(self, request: Request, walks: Mapping[str, Walk], device: str) -> None:
        self.request, self.device = request, device
        self.spent: dict[tuple, list[float]] = {}
        distinct = {configuration.key: walks[side] for side, configuration in request.walks.items()}
        once = sum(walk.milliseconds for walk in distinct.values()) / 1000
        self.count = max(1, min(ROUNDS, int(BUDGET_S / max(once, 1e-3))))

    def rounds(self) -> Iterator[Progress]:
        configurations = {each.key: each for each in self.request.walks.values()}
        for number in range(self.count):
            for key, configuration in configurations.items():
                spent, turn = 0.0, time.perf_counter()
                with contextlib.closing(_sample(self.request.setting, configuration, self.device)) as walking:
                    while True:
                        with one_thread(self.device):
                            step = next(walking, None)
                        if step is None:
                            break
                        spent += step.milliseconds
                        if time.perf_counter() - turn > TURN_S:
                            yield Progress(3, 4, f"measuring, {number + 1} of {self.count}")
                            turn = time.perf_counter()
                self.spent.setdefault(key, []).append(spent)

    def result(self) -> Times:
        timings = {side: _timing(self.spent[configuration.key]) for side, configuration in self.request.walks.items()}
        return Times(timings, measure.machine_line(measure.machine(self.device)))


def _timing(milliseconds: list[float]) -> measure.Timing:
    return measure.Timing(statistics.median(milliseconds), min(milliseconds), max(milliseconds), len(milliseconds))


# --- recorded elsewhere, and words ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """One line of what was recorded on a GPU for a network of the papers' size; ``reported`` is the paper's figure."""

    what: str
    reported: str
    measured: str
    source: str


def recorded() -> list[Recorded]:
    """Claims that were settled on DiT-XL/2, and sweeps of its kernels; empty as long as nothing was recorded."""
    lines = []
    for slug in (paper.slug for paper in catalog.papers() if any(each.toggle == "caching" for each in paper.methods)):
        for row in claims.table(slug).to_dict("records"):
            if row["source"].startswith("recorded") and LARGE in row["measured"]:
                lines.append(Recorded(row["statement"], row["reported"], row["measured"], row["source"]))
        table = measure.recorded(slug)
        if table is not None:
            lines += _sweeps(table)
    return lines


def _sweeps(table: pd.DataFrame) -> Iterator[Recorded]:
    """The smallest size of every recorded setting that names the network: the equations and the fast way."""
    rows = table[table["group"].str.contains(LARGE, regex=False) & (table["status"] == "ok")]
    where = "recorded: " + measure.machine_line(table.attrs["provenance"])
    for (group, method), part in rows.groupby(["group", "method"], sort=False):
        size = part["size"].min()
        times = part[part["size"] == size].set_index("implementation")["median_ms"]
        words = ", ".join(f"{name.replace('_', ' ')} {duration(each)}" for name, each in times.items())
        yield Recorded(f"{catalog.method(method).title}, {group}, {size:,} tokens", "", words, where)


def decibels(value: float) -> str:
    return "identical" if math.isinf(value) else f"{value:.1f} dB"


def python_lines(request: Request, device: str) -> str:
    """The lines that compute what is on the screen."""
    setting = request.setting
    shape = (setting.count, dit.DIGITS.channels, dit.DIGITS.image, dit.DIGITS.image)
    labels = (f"torch.arange({setting.count}) % 10" if setting.digit == "all"
              else f"torch.full(({setting.count},), {setting.digit})")  # fmt: skip
    half = setting.steps // 2
    switched = f"torch.stack({half} * [labels] + {setting.steps - half} * [(labels + {SWITCHED}) % 10])"
    lines = [
        "import torch",
        "from workbench.models import diffusion, dit",
        "",
        f"model = dit.pretrained().to({device!r})",
        f"noise = torch.randn({shape}, generator=torch.Generator().manual_seed({setting.seed})).to({device!r})",
        f"labels = ({labels}).to({device!r})",
        *([f"labels = {switched}  # another digit half way"] if setting.switch else []),
        f"common = dict(steps={setting.steps}, guidance={setting.guidance})",
        "caching = {",
    ]
    for side, configuration in request.walks.items():
        given = {"caching": configuration.methods["caching"], "options": configuration.options("caching")}
        lines.append(f"    {side!r}: {given!r},")
    lines += [
        "}",
        "walks = {side: list(diffusion.sample(model, noise, labels, **common, **given)) "
        "for side, given in caching.items()}",
        "samples = {side: steps[-1].sample for side, steps in walks.items()}",
        "computed = {side: [step.share for step in steps] for side, steps in walks.items()}",
        f"wanted = {'labels[-1]' if setting.switch else 'labels'}",
        f"quality = {{side: diffusion.quality(each, wanted, samples[{UNCACHED!r}]) for side, each in samples.items()}}",
    ]
    return "\n".join(lines)
