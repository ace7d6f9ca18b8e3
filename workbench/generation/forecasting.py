"""What the forecasts of this chapter share: the schedule, the weights of a forecast, and a stack of differences."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench_kernels.forecast.trajectory import Combination

Stack = Float[Tensor, "batch entries tokens width"]
Feature = Float[Tensor, "batch tokens width"]


def full_steps(steps: int, interval: int, first_full: int = 2) -> list[bool]:
    """Whether each of ``steps`` steps is computed in full: the first ``first_full`` are, then every ``interval``-th.

    So 0, ..., e - 1, then e - 1 + N, e - 1 + 2 N, ... Raises ``ValueError`` for numbers below 1 (``first_full``: 0; the
    first step is full all the same, since there is nothing to forecast from).
    """
    for name, value, least in (("steps", steps, 1), ("interval", interval, 1), ("first_full", first_full, 0)):
        if value < least:
            raise ValueError(f"{name} = {value} is not allowed: a whole number from {least} on is needed.")
    first_full = max(first_full, 1)
    return [step < first_full or (step - first_full + 1) % interval == 0 for step in range(steps)]


def schedule(steps: int, interval: int, first_full: int = 2) -> Bool[Tensor, " steps"]:
    """``full_steps`` as a tensor."""
    return torch.tensor(full_steps(steps, interval, first_full))


def full_count(steps: int, interval: int, first_full: int = 2) -> int:
    """How many of the steps are full: min(e, S) + floor(max(S - e, 0) / N)."""
    first_full = max(first_full, 1)
    return min(first_full, steps) + max(steps - first_full, 0) // interval


def taylor_weights(distance: float, entries: int) -> list[float]:
    """x^i / i! for i < ``entries``: what multiplies the i-th divided difference, ``distance`` steps after it."""
    return [distance**i / math.factorial(i) for i in range(entries)]


def newton_weights(distance: float, gap: float, entries: int) -> list[float]:
    """The product over q < i of (x + q N) / (q + 1): Newton's backward interpolation, exact for polynomials of degree
    below ``entries`` when all gaps are ``gap``. Same differences, other weights; an addition to the paper."""
    weights = [1.0]
    for q in range(entries - 1):
        weights.append(weights[-1] * (distance + q * gap) / (q + 1))
    return weights


def reuse_weights(entries: int) -> list[float]:
    """(1, 0, ..., 0): the last value, as it was."""
    return [1.0] + [0.0] * (entries - 1)


def forecast_weights(distance: float, gap: float, entries: int, weights: str) -> list[float]:
    """The weights by name: "taylor", "newton" or "reuse"."""
    if weights == "newton":
        return newton_weights(distance, gap, entries)
    return taylor_weights(distance, entries) if weights == "taylor" else reuse_weights(entries)


def refreshed(stack: Sequence[Tensor], feature: Tensor, gap: float, order: int) -> list[Tensor]:
    """The differences after a new feature, ``gap`` steps after the last: one more than before, at most order + 1.

    D^(0) = F and D^(i+1) = (D^(i) - old D^(i)) / gap. The same last gap divides all orders.
    """
    new = [feature]
    for old in stack[:order]:
        new.append((new[-1] - old) / gap)
    return new


class DerivativeCache:
    """The differences of one trajectory, refreshed at full steps and asked for forecasts in between.

    ``order`` is the highest derivative kept, ``steps`` the steps at which it was refreshed, ``stack`` the differences:
    one after the first refresh, and one more after each until there are order + 1.
    """

    def __init__(self, order: int) -> None:
        if order < 0:
            raise ValueError(f"order = {order} is not allowed: a whole number from 0 on is needed.")
        self.order = order
        self.steps: list[int] = []
        self.stack: list[Tensor] = []

    @property
    def gap(self) -> int:
        """Steps between the last two refreshes; 1 before there are two."""
        return self.steps[-1] - self.steps[-2] if len(self.steps) > 1 else 1

    def refresh(self, step: int, feature: Tensor) -> None:
        """Take the feature that was computed at ``step``."""
        self.steps.append(step)
        self.stack = refreshed(self.stack, feature, self.gap, self.order)

    def forecast(self, step: int, weights: str = "taylor") -> Tensor:
        """The feature at ``step``, from the differences. Raises ``ValueError`` before the first refresh."""
        if not self.steps:
            raise ValueError("Nothing can be forecast before the first feature was taken.")
        factors = forecast_weights(step - self.steps[-1], self.gap, len(self.stack), weights)
        return sum(factor * entry for factor, entry in zip(factors, self.stack, strict=True))


def tables(full: Sequence[bool], order: int, weights: str) -> tuple[Tensor, Tensor]:
    """For every step of a schedule: the weights of a forecast (steps, order + 1) and the rate of a refresh (steps,).

    A forecast's weights are zero where an entry does not exist yet, a full step's are not used. The rate is one over
    the gap, and zero at the first refresh, so that no difference arises from nothing. float64.
    """
    factors = torch.zeros(len(full), order + 1, dtype=torch.float64)
    rates = torch.zeros(len(full), dtype=torch.float64)
    done: list[int] = []
    for step, computed in enumerate(full):
        if computed:
            done.append(step)
        gap = done[-1] - done[-2] if len(done) > 1 else 1
        if computed and len(done) > 1:
            rates[step] = 1 / gap
        entries = min(len(done), order + 1)
        found = forecast_weights(step - done[-1], gap, entries, weights)
        factors[step, :entries] = torch.tensor(found, dtype=torch.float64)
    return factors, rates


def factors_by_age(steps: int, *orders: int) -> Float[Tensor, "ages refreshes numbers"]:
    """What stacks of these orders need when a gate decides at which steps they are refreshed: by age, the steps since
    the last refresh (0 to ``steps``), and by the number of refreshes (0 to that which fills the highest stack).

    The numbers are the rate of a refresh, one over the age and zero where there was none before, so that no difference
    arises from nothing; then Taylor's weights for every stack, zero for entries that mean nothing yet. float64.
    """
    filled = max(orders) + 1
    found = torch.zeros(steps + 1, filled + 1, 1 + sum(order + 1 for order in orders), dtype=torch.float64)
    for age in range(steps + 1):
        for refreshes in range(1, filled + 1):
            stacks = [taylor_weights(age, order + 1) for order in orders]
            known = [weight * (place < refreshes) for stack in stacks for place, weight in enumerate(stack)]
            found[age, refreshes] = torch.tensor([1 / age if age else 0, *known], dtype=torch.float64)
    return found


_TABLES: dict[tuple, tuple[Tensor, Tensor]] = {}
MOST_TABLES = 256  # that are remembered


@torch.compiler.assume_constant_result
def seen_tables(
    steps: int,
    interval: int,
    first_full: int,
    order: int,
    weights: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> tuple[Int[Tensor, "one steps entries"], Float[Tensor, "one steps entries"]]:
    """Of every step of a schedule the features that its forecast is a sum of, and how much of each: steps, and factors
    in ``dtype``. At a full step the feature itself. What ``workbench_kernels.forecast.trajectory`` takes.

    They are kept: do not write into them. A second call sends nothing to the device, so it can be captured in a graph.
    """
    key = (steps, interval, first_full, order, weights, device, dtype)
    if (found := _TABLES.get(key)) is None:
        with torch.inference_mode(False):
            chosen, factors = map(torch.from_numpy, _seen_tables(*key[:5]))
            found = chosen.to(device), factors.to(device, dtype)
        if all(type(table) is Tensor for table in found):  # and not a tracer's stand-in
            if len(_TABLES) >= MOST_TABLES:
                _TABLES.clear()
            _TABLES[key] = found
    return found


def _seen_tables(steps: int, interval: int, first_full: int, order: int, weights: str) -> tuple[np.ndarray, np.ndarray]:
    known, rows = Combination(order), []
    for step, full in enumerate(full_steps(steps, interval, first_full)):
        if full:
            known.refresh(step)
        found = forecast_weights(step - known.steps[0], known.gap, len(known.differences), weights)
        rows.append(known.forecast(found))
    chosen, factors = zip(*rows, strict=True)
    return np.array([chosen], dtype=np.int64), np.array([factors], dtype=np.float64)
