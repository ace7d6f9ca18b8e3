"""What the page Measure computes: a sweep over sizes, estimated before it runs. No Panel here."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from workbench import catalog, measure
from workbench.controls import Knob
from workbench.dashboard.shell import toggles
from workbench.dashboard.shell.jobs import Cache, Cancelled, Progress
from workbench.measure.memory import in_words
from workbench.paper import Method

BUDGET_S = 0.2
ROW_S = 0.7  # what a row takes in all: the check, the timing, the peak
CALL_S = 1.0  # one call may not take longer: nothing can be cancelled inside it
MOST_ROWS = 120
DTYPES = ("float32", "bfloat16", "float16", "float64")
DIRECTIONS = ("forward", "backward")
LOWEST, HIGHEST = 4, 17  # powers of two

cache = Cache(limit=16 * 2**20)


def families() -> dict[str, dict[str, Method]]:
    """What can be measured on one axis: the methods of each toggle, and those of a paper that belong to none."""
    found = {toggle: methods for toggle in toggles.TOGGLES if (methods := toggles.methods(toggle))}
    for paper in catalog.papers():
        alone = {method.name: method for method in paper.methods if method.toggle is None}
        if alone:
            found[paper.slug] = alone
    return found


def axis(family: str) -> str:
    """What size means in a family: the name of the first argument of its examples."""
    first = next(iter(families()[family].values()))
    return next(iter(inspect.signature(first.example).parameters))


@dataclass(frozen=True)
class Request:
    """One sweep. ``chosen`` are (method, implementation) by name, ``low`` and ``high`` powers of two."""

    family: str
    chosen: tuple[tuple[str, str], ...]
    low: int
    high: int
    dtype: str = "float32"
    directions: tuple[str, ...] = ("forward",)
    shape: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        return [2**power for power in range(self.low, self.high + 1)]

    @property
    def key(self) -> tuple:
        plain = (self.family, self.chosen, self.low, self.high, self.dtype, self.directions)
        return (*plain, *sorted(self.shape.items()), *sorted(self.options.items()))

    @property
    def methods(self) -> list[Method]:
        return [catalog.method(name) for name in dict.fromkeys(name for name, _ in self.chosen)]


def shape_knobs(family: str) -> dict[str, Knob]:
    return {name: knob for method in families()[family].values() for name, knob in method.shape_knobs.items()}


def option_knobs(request: Request) -> dict[str, Knob]:
    """The knobs of the chosen methods; each method takes those that it has."""
    return {name: knob for method in request.methods for name, knob in method.knobs.items()}


@functools.cache
def why_not(method: str, implementation: str, device: str, dtype: str) -> str:
    """Why an implementation cannot run on this machine, in one sentence; empty when it can."""
    made = catalog.method(method)
    try:
        example = made.example(8, device=device, dtype=dtype, seed=0)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return " ".join(made.why_not(implementation, *example.inputs.values(), **example.options))


@dataclass(frozen=True)
class Estimate:
    """What a sweep would take, before it runs. ``refused`` is one sentence; empty: it may run."""

    rows: int
    too_large: int
    seconds: float
    most_bytes: int
    limit: int
    refused: str = ""

    @property
    def words(self) -> str:
        if self.refused:
            return self.refused
        most = in_words(self.most_bytes)
        text = f"{self.rows} measurements, about {_duration(self.seconds)}, at most {most} (estimate)."
        if self.too_large:
            text += (
                f" {self.too_large} more would need over {in_words(self.limit)}, the limit here, and will not run: "
                "their rows say which size would fit."
            )
        return text


def estimate(request: Request, device: str) -> Estimate:
    """Estimated rows, time and memory, from the methods' own formulas; nothing runs."""
    limit = measure.memory_limit(device)
    needed: list[int] = []
    try:
        for name, implementation in request.chosen:
            method = catalog.method(name)
            for size in request.sizes:
                if method.largest is not None and size > method.largest:
                    continue  # its row says so
                shape = tuple(_known(request.shape, method.shape_knobs).items())
                options = tuple(_known(request.options, method.knobs).items())
                needed += [_needed(name, implementation, size, request.dtype, shape, options, direction)
                           for direction in request.directions]  # fmt: skip
    except ValueError as error:
        return Estimate(0, 0, 0.0, 0, limit, str(error))
    fits = [count for count in needed if count <= limit]
    refused = ""
    if not request.chosen or not request.directions:
        refused = "Choose at least one implementation and one direction."
    elif len(needed) > MOST_ROWS:
        refused = f"{len(needed)} measurements are more than the {MOST_ROWS} of one run: choose fewer of them."
    elif not fits:
        refused = (
            f"Even the smallest size needs {in_words(min(needed))} (estimate), and {in_words(limit)} are allowed: "
            "choose smaller sizes, or a smaller shape."
        )
    return Estimate(len(fits), len(needed) - len(fits), ROW_S * len(fits), max(fits, default=0), limit, refused)


@functools.lru_cache(maxsize=4096)
def _needed(name: str, implementation: str, size: int, dtype: str, shape: tuple, options: tuple, direction: str) -> int:
    """Estimated bytes of one call; a knob that is turned changes some of a sweep's rows, and the page asks for all."""
    method = catalog.method(name)
    example = method.example(size, device="meta", dtype=dtype, **dict(shape))
    sized = type(example)(example.inputs, {**example.options, **dict(options)})
    return measure.estimate_bytes(method, implementation, sized, direction)


def compute(request: Request, device: str, seen: threading.Event | None = None) -> Callable[[Cancelled], Iterator[Any]]:
    """The job: yields the machine's ``Ceilings``, then rows (dictionaries) as they are measured.

    ``seen`` is cleared before a row is handed out; the next one is measured when the caller has set it, or after two
    seconds. So the drawing of one row does not disturb the timing of the next.
    """

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        total = len(request.chosen) * len(request.sizes) * len(request.directions)
        yield Progress(0, total, "measuring the machine's limits")
        ceilings = measure.ceilings(device, request.dtype)
        yield ceilings
        rows = measure.sweep(
            [(catalog.method(name), implementation) for name, implementation in request.chosen],
            request.sizes,
            device=device,
            dtype=request.dtype,
            shape=request.shape,
            options=request.options,
            directions=request.directions,
            budget_s=BUDGET_S,
            time_limit_s=CALL_S,
            cancelled=cancelled,
        )
        done = []
        for row in rows:
            done.append(row)
            if seen is not None:
                seen.clear()
            yield row
            yield Progress(len(done), total, f"{len(done)} of {total} measured")
            for _ in range(50):
                if seen is None or seen.wait(0.04):
                    break
                yield Progress(len(done), total, f"{len(done)} of {total} measured")
        cache.put(request.key, (tuple(done), ceilings), 1000 * len(done))

    return steps


def known(request: Request) -> tuple[list[dict], Any]:
    """The rows and ceilings of a sweep that ran before, or ([], None)."""
    rows, ceilings = cache.get(request.key) or ((), None)
    return list(rows), ceilings


# --- recorded elsewhere ---


@dataclass(frozen=True)
class Recorded:
    """Measurements that ship with the workbench: one recorded setting (``group``) out of several, and their machine.

    ``what`` says which rows of all those recorded they are.
    """

    table: pd.DataFrame
    group: str
    groups: tuple[str, ...]
    machine: str
    what: tuple


def recorded(request: Request, group: str = "") -> Recorded | None:
    """What was recorded for the chosen methods; None when there is nothing.

    Without a ``group`` it takes the one that agrees with the request in most settings.
    """
    papers = [paper for paper in catalog.papers() if any(method in request.methods for method in paper.methods)]
    tables = [table for paper in papers if (table := _read(paper.slug)) is not None]
    names = [method.name for method in request.methods]
    kept = [
        table[table["method"].isin(names) & table["direction"].isin(request.directions) & (table["status"] == "ok")]
        for table in tables
    ]
    if not any(map(len, kept)):
        return None
    table = pd.concat(kept, ignore_index=True)
    knobs = {**shape_knobs(request.family), **option_knobs(request)}
    asked = {"dtype": request.dtype} | {name: knob.default for name, knob in knobs.items()}
    asked |= {**request.shape, **request.options}
    agree = {
        name: sum(_same(first[setting], value) for setting, value in asked.items() if setting in first)
        for name, first in table.groupby("group", sort=False).first().iterrows()
    }
    if group not in agree:
        group = max(agree, key=agree.get)
    machines = dict.fromkeys(measure.machine_line(each.attrs["provenance"]) for each in tables)
    what = (tuple(names), request.directions, group)
    return Recorded(table[table["group"] == group], group, tuple(agree), "; ".join(machines), what)


@functools.cache
def _read(slug: str) -> pd.DataFrame | None:
    return measure.recorded(slug)


def _same(one: Any, other: Any) -> bool:
    return (pd.isna(one) and other is None) or one == other


# --- words and lines ---


def python_lines(request: Request, device: str) -> str:
    """The lines that compute what is on the screen."""
    chosen = ", ".join(f"(catalog.method({name!r}), {implementation!r})" for name, implementation in request.chosen)
    return "\n".join([
        "from workbench import catalog, measure",
        "",
        f"choices = [{chosen}]",
        "rows = measure.sweep(",
        f"    choices, {request.sizes}, device={device!r}, dtype={request.dtype!r},",
        f"    shape={dict(request.shape)!r}, options={dict(request.options)!r}, directions={request.directions!r},",
        f"    budget_s={BUDGET_S}, time_limit_s={CALL_S},",
        ")",
        "table = measure.frame(rows)",
    ])  # fmt: skip


def _known(given: Mapping[str, Any], knobs: Mapping[str, Knob]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in knobs}


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
