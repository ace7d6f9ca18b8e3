"""Many rows: methods side by side over growing sizes, each guarded before it runs."""

import inspect
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench import controls
from workbench.measure import memory
from workbench.measure.correctness import Check, Direction
from workbench.measure.roofline import ceilings
from workbench.measure.rows import empty_row, estimate_bytes, is_out_of_memory, measure, why_not, work
from workbench.measure.timing import Stop, stop_if
from workbench.paper import Example, Method

CHECK_LIMIT_S = 1.0  # for the reference in float64; where it would take longer a smaller size is checked
SMALL_MS = 0.2  # a call that a perfect machine does in this time is small enough to check whatever it takes


def sweep(
    choices: Sequence[tuple[Method, str]],
    sizes: Sequence[int],
    *,
    device: str,
    dtype: str = "float32",
    shape: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    directions: Sequence[Direction] = ("forward",),
    budget_s: float = 0.3,
    memory_limit: int | None = None,
    time_limit_s: float | None = None,
    replayed: bool = False,
    cancelled: Stop = None,
) -> Iterator[dict[str, Any]]:
    """Measure every (method, implementation) of ``choices`` at every size, side by side; yields a row at a time.

    ``shape`` are knobs of the methods' ``example``, ``options`` knobs of the methods; each method takes those it has.
    A row over ``memory_limit`` bytes (default: ``measure.memory_limit``), or one whose single call would take more than
    ``time_limit_s`` (scaled from the previous size), is not run: status ``"too large"``, the reason with the estimate.
    Where the reference takes too long at a size, the check is made at the largest half, quarter, ... at which it does
    not, and ``reason`` says so. ``replayed`` times CUDA graphs of the calls, as ``time_call`` does.

    Raises ``ValueError`` at once for settings that are not allowed, ``Cancelled`` while it runs.
    """
    if any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes):
        raise ValueError(f"Sizes are whole numbers from 1 on, not {list(sizes)}.")
    plan = _Plan(
        device, dtype, shape or {}, options or {}, memory_limit or memory.memory_limit(device),
        time_limit_s or math.inf, replayed,
    )  # fmt: skip
    for method, implementation in choices:
        method.function(implementation)
        controls.validate(method.example, plan.shape_of(method))
        controls.validate(method.reference, plan.options_of(method))
    plan.refuse_unknown([method for method, _ in choices])
    return _rows(plan, choices, sizes, directions, budget_s, cancelled)


def _rows(plan, choices, sizes, directions, budget_s, cancelled) -> Iterator[dict[str, Any]]:
    for size in sizes:
        plan.forget_examples()
        for direction in directions:
            for method, implementation in choices:
                stop_if(cancelled)
                yield plan.row(method, implementation, size, direction, budget_s, cancelled)


@dataclass(frozen=True)
class _Spent:
    """What one check of the reference took; larger ones are predicted from it."""

    work: float
    seconds: float
    peak_bytes: int


@dataclass
class _Plan:
    """The settings of a sweep and what it has learnt so far."""

    device: str
    dtype: str
    shape: Mapping[str, Any]
    options: Mapping[str, Any]
    memory_limit: int
    time_limit_s: float
    replayed: bool
    examples: dict[tuple, Example] = field(default_factory=dict)
    checks: dict[tuple, tuple[int, Check]] = field(default_factory=dict)
    spent: dict[tuple, _Spent] = field(default_factory=dict)
    failed_at: dict[tuple, int] = field(default_factory=dict)  # sizes at which the reference ran out of memory
    timed: dict[tuple, list[tuple[float, float]]] = field(default_factory=dict)

    def row(self, method, implementation, size, direction, budget_s, cancelled) -> dict[str, Any]:
        shape = {name: knob.default for name, knob in method.shape_knobs.items()} | self.shape_of(method)
        labels = {"size": size, **shape}
        if reason := self.too_large(method, implementation, size, direction):
            return self.refused(method, implementation, size, direction, reason) | labels
        example = self.example(method, size)
        note, check = "", True
        if not why_not(method, implementation, example, direction):
            checked_size, check = self.check(method, size, direction, cancelled)
            if checked_size != size:
                note = f"Checked at size {checked_size}: the float64 reference takes too long at {size}."
            self.try_out(method, implementation, size, direction, cancelled)
            # Now it is known how much the reference takes, and how long a call.
            if reason := self.too_large(method, implementation, size, direction):
                return self.refused(method, implementation, size, direction, reason) | labels
        settings = {"direction": direction, "budget_s": budget_s, "check": check, "cancelled": cancelled}
        settings["replayed"] = self.replayed
        row = measure(method, implementation, example, **settings)
        if row["status"] == "ok":
            row["reason"] = note
            known = self.timed.setdefault((method.name, implementation, direction), [])
            known.append((row["floor_ms"], row["low_ms"]))
        return row | labels

    def refused(self, method, implementation, size, direction, reason) -> dict[str, Any]:
        sketch = self.example(method, size, device="meta")
        row = empty_row(
            method, implementation, sketch, direction=direction, device=self.device, replayed=self.replayed
        )
        return row | {"status": "too large", "reason": reason}

    # --- inputs ---

    def example(self, method: Method, size: int, *, device: str | None = None, dtype: str | None = None) -> Example:
        device, dtype = device or self.device, dtype or self.dtype
        key = (method.name, size, device, dtype)
        if key not in self.examples:
            example = method.example(size, device=device, dtype=dtype, seed=0, **self.shape_of(method))
            self.examples[key] = Example(example.inputs, {**example.options, **self.options_of(method)})
        return self.examples[key]

    def forget_examples(self) -> None:
        self.examples.clear()

    def shape_of(self, method: Method) -> dict[str, Any]:
        return {name: value for name, value in self.shape.items() if name in method.shape_knobs}

    def options_of(self, method: Method) -> dict[str, Any]:
        known = inspect.signature(method.reference).parameters
        return {name: value for name, value in self.options.items() if name in known}

    def refuse_unknown(self, methods: Sequence[Method]) -> None:
        for word, given, taken, knobs in (
            ("shape", self.shape, self.shape_of, "shape_knobs"),
            ("option", self.options, self.options_of, "knobs"),
        ):
            unknown = set(given).difference(*(taken(method) for method in methods))
            if unknown:
                known = dict.fromkeys(name for method in methods for name in getattr(method, knobs))
                raise ValueError(
                    f"No {word} {', '.join(sorted(unknown))} in {', '.join(method.name for method in methods)}: "
                    f"there is {', '.join(known) or 'none'}."
                )

    # --- guards ---

    def too_large(self, method: Method, implementation: str, size: int, direction: Direction) -> str:
        """Why this row is not run, with an estimate and a size that would fit; empty when it is run."""
        if method.largest and size > method.largest:
            return f"{method.name} is measured up to size {method.largest}: its work grows too fast."
        needed = self.needed_bytes(method, implementation, size, direction)
        if needed > self.memory_limit:
            fits = next(
                (half for half in _halves(size) if self.needed_bytes(method, implementation, half, direction)
                 <= self.memory_limit), None,
            )  # fmt: skip
            return (
                f"Needs about {memory.in_words(needed)} (estimate); {memory.in_words(self.memory_limit)} are allowed."
                + (f" Size {fits} would fit." if fits else "")
            )
        predicted_s = self.predicted_s(method, implementation, size, direction)
        if predicted_s > self.time_limit_s:
            predicted = f"{predicted_s:,.0f}" if predicted_s > 10 else f"{predicted_s:.2g}"
            return f"One call would take about {predicted} s (estimate); {self.time_limit_s:g} s are allowed."
        return ""

    def needed_bytes(self, method: Method, implementation: str, size: int, direction: Direction) -> int:
        sketch = self.example(method, size, device="meta")
        needed = estimate_bytes(method, implementation, sketch, direction)
        known = self.spent.get((method.name, direction))
        if direction == "backward" and implementation == "reference" and known:
            # Autograd keeps what the equations make along the way; no formula of the method counts that.
            needed = max(needed, int(known.peak_bytes * self.work(method, size, direction) / known.work))
        return needed

    def work(self, method: Method, size: int, direction: Direction) -> float:
        return sum(work(method, self.example(method, size, device="meta"), direction))

    def floor_ms(self, method: Method, size: int, direction: Direction) -> float:
        return ceilings(self.device, self.dtype).floor_ms(
            *work(method, self.example(method, size, device="meta"), direction)
        )

    # --- single calls, so that none is begun of which nobody knows how long it takes ---

    def predicted_s(self, method: Method, implementation: str, size: int, direction: Direction) -> float:
        known = self.timed.get((method.name, implementation, direction), [])
        return _predicted(known, self.floor_ms(method, size, direction)) / 1e3

    def try_out(self, method: Method, implementation: str, size: int, direction: Direction, cancelled: Stop) -> None:
        """Where nothing was timed yet and the size is not small: calls, each as large as the one before it says that it
        may be, until one says whether ``size`` may be. Their times guard the row, and are not shown."""
        known = self.timed.setdefault((method.name, implementation, direction), [])
        if known or math.isinf(self.time_limit_s):
            return
        tried = 0
        while True:
            largest = next((half for half in _halves(size) if self.may_try(method, implementation, half, direction)), 1)
            if largest in (tried, size):
                return
            check = Check(method, self.example(method, largest), direction)
            for _ in range(2):  # the first is slow for reasons of its own
                stop_if(cancelled)
                start = time.perf_counter()
                memory.peak_bytes(lambda check=check: check.results(implementation, check.dtype), self.device)
                seconds = time.perf_counter() - start
            known.append((self.floor_ms(method, largest, direction), 1e3 * seconds))
            tried = largest

    def may_try(self, method: Method, implementation: str, size: int, direction: Direction) -> bool:
        if self.timed[method.name, implementation, direction]:
            return self.predicted_s(method, implementation, size, direction) <= self.time_limit_s
        return self.floor_ms(method, size, direction) <= SMALL_MS

    # --- the check, as large as it can be afforded ---

    def check(self, method: Method, size: int, direction: Direction, cancelled: Stop = None) -> tuple[int, Check]:
        key = (method.name, direction)
        # A small run is mostly overhead, so what it predicts is too slow: climb, and predict anew from every step.
        while True:
            largest = next((half for half in _halves(size) if self.affordable(method, half, direction)), 1)
            if key in self.checks and largest <= self.checks[key][0] <= size:
                return self.checks[key]
            self.run_check(method, largest, direction, cancelled)

    def affordable(self, method: Method, size: int, direction: Direction) -> bool:
        """Whether the reference can run in float64 at this size: it surely can where little is to be done; elsewhere
        its last run predicts it."""
        if size >= self.failed_at.get((method.name, direction), math.inf):
            return False
        exact = self.example(method, size, device="meta", dtype="float64")
        sketch = self.example(method, size, device="meta")
        needed = max(
            estimate_bytes(method, "reference", exact, direction),
            estimate_bytes(method, method.ordinary, sketch, direction),
        )
        known = self.spent.get((method.name, direction))
        growth = self.work(method, size, direction) / known.work if known else 0.0
        if known:
            needed = max(needed, int(known.peak_bytes * growth))
        small = self.floor_ms(method, size, direction) <= SMALL_MS
        quick = known is not None and known.seconds * growth <= CHECK_LIMIT_S
        return needed <= self.memory_limit and (small or quick)

    def run_check(self, method: Method, size: int, direction: Direction, cancelled: Stop) -> None:
        stop_if(cancelled)
        if (method.name, direction) not in self.spent:
            Check(method, self.example(method, 1), direction).truth  # noqa: B018 - what is slow the first time only
            stop_if(cancelled)
        check = Check(method, self.example(method, size), direction)
        done, start = self.work(method, size, direction), time.perf_counter()
        try:
            peak = memory.peak_bytes(lambda: check.truth, self.device)
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            self.failed_at[method.name, direction] = size
            return
        self.spent[method.name, direction] = _Spent(done, time.perf_counter() - start, peak)
        self.checks[method.name, direction] = (size, check)


def _predicted(known: Sequence[tuple[float, float]], floor: float) -> float:
    """The time of a call whose least time is ``floor``, from (least, measured) times of other sizes.

    Two of them tell overhead, which does not grow, from work, which does; one is scaled; none leaves the least time.
    """
    if not known:
        return floor
    last_floor, last = known[-1]
    if len(known) > 1 and known[-2][0] < last_floor:
        slope = (last - known[-2][1]) / (last_floor - known[-2][0])
        return last + max(slope, 0.0) * (floor - last_floor)
    return last * floor / last_floor


def _halves(size: int) -> list[int]:
    """``size``, its half, quarter, ... down to 1."""
    return [size >> shift for shift in range(size.bit_length())]
