"""How a sampler caches the last block alone: on a fixed schedule, or after a look at the first block's output.

What a gate costs beside full steps and forecasts is the first block in every step, and the device's wait until the host
has seen two sums a row and launched the next part: on an H100 about 0.04 ms a step, as long as half of a block of
DiT-XL/2 takes for two images.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.generation.forecasting import factors_by_age, full_steps, tables
from workbench.generation.taylorseer import Scheduled
from workbench.models.caching import Outcome, Play, Strategy, distance, plain
from workbench.models.dit import Modulation
from workbench.models.stage import Stage
from workbench_kernels.forecast import differences as kernels
from workbench_kernels.forecast.errors import error_sums


class LastBlockCache(Scheduled):
    """The forecast of the last block's output alone, on a fixed schedule: one trajectory instead of 2 L."""

    def __init__(self, stage: Stage, steps: int, **options: Any) -> None:
        super().__init__(stage, steps, **options)
        self.stack = stage.empty(self.entries, stage.model.config.tokens, stage.model.config.width)

    @classmethod
    def columns(cls, steps: int, *, interval: int, order: int, first_full: int, weights: str) -> Tensor:
        """Of each step the refresh's rate and the forecast's weights."""
        factors, rates = tables(full_steps(steps, interval, first_full), order, weights)
        return torch.cat((rates[:, None], factors), dim=1)

    @property
    def caches(self) -> tuple[Tensor, ...]:
        return (self.stack,)

    def full(self) -> None:
        stage = self.stage
        last = stage.model.run(stage.tokens(), stage.modulation, add=plain)
        kernels.refresh_(last, self.stack, stage.own[0].expand(stage.batch))
        stage.finish(last)

    def forecast(self) -> None:
        self.stage.finish(kernels.forecast(self.stack, self.weights))

    def compare(self) -> dict[str, Any]:
        truth = self.stage.model.run(self.stage.tokens(), self.stage.modulation, add=plain)
        return {"true_error": distance(kernels.forecast(self.stack, self.weights), truth)}


class Gated(Strategy, abc.ABC):
    """What decides at the first block, after "begin", between "full" and "forecast"."""

    parts = (*Strategy.parts, "begin", "forecast")
    waits = True

    def __init__(self, stage: Stage, steps: int) -> None:
        super().__init__(stage, steps)
        shape = (stage.model.config.tokens, stage.model.config.width)
        self.first = stage.empty(*shape)
        self.sums_here = torch.zeros(stage.batch, 2, dtype=stage.images.dtype, pin_memory=stage.device.type == "cuda")
        self.arrived = torch.cuda.Event() if stage.device.type == "cuda" else None

    @abc.abstractmethod
    def begin(self) -> None:
        """The first block; the sums by which its forecast is judged are sent to the host, into ``sums_here``."""

    @abc.abstractmethod
    def forecast(self) -> None:
        """The other blocks, from what was kept of them."""

    def look(self) -> np.ndarray:
        """The two sums of every row, once the device has them: the one moment at which the host waits."""
        if self.arrived is not None:
            self.arrived.record()
            self.arrived.synchronize()
        return self.sums_here.numpy().astype(np.float64)


class GatedCache(Gated):
    """CG-Taylor: forecast the last block's output, unless the forecast of the first block's was bad."""

    def __init__(
        self,
        stage: Stage,
        steps: int,
        *,
        threshold: float,
        warmup: int,
        order_first: int,
        order_last: int,
        scope: str,
    ) -> None:
        super().__init__(stage, steps)
        self.threshold, self.warmup, self.scope = threshold, warmup, scope
        shape = self.first.shape[1:]
        self.orders = (order_first, order_last)
        self.first_stack, self.last_stack = (stage.empty(order + 1, *shape) for order in self.orders)
        # Rows are refreshed at different steps. Each counts its steps since the last refresh and its refreshes; what
        # follows from that stands in a table, so that the host sends nothing.
        self.age, self.refreshes = torch.zeros(2, stage.batch, dtype=torch.int64, device=stage.device)
        self.table = factors_by_age(steps, *self.orders).to(stage.images)
        self.factors = torch.zeros(stage.batch, self.table.shape[2], dtype=stage.images.dtype, device=stage.device)
        rate, self.first_weights, self.last_weights = self.factors.split((1, order_first + 1, order_last + 1), dim=1)
        self.rate = rate[:, 0]
        self.start()

    @property
    def caches(self) -> tuple[Tensor, ...]:
        return (self.first_stack, self.last_stack)

    def start(self) -> None:
        super().start()
        self.age.zero_()
        self.refreshes.zero_()

    def begin(self) -> None:
        stage = self.stage
        self.factors.copy_(self.table[self.age, self.refreshes.clamp(max=max(self.orders) + 1)])
        self.first.copy_(stage.model.run(stage.tokens(), stage.modulation, 0, 1, add=plain))
        self.sums_here.copy_(error_sums(self.first, self.first_stack, self.first_weights), non_blocking=True)

    def full(self) -> None:
        stage = self.stage
        kernels.refresh_(self.first, self.first_stack, self.rate)
        last = stage.model.run(self.first, stage.modulation, 1, add=plain)
        kernels.refresh_(last, self.last_stack, self.rate)
        self.age.fill_(1)
        self.refreshes += 1
        stage.finish(last)

    def forecast(self) -> None:
        tokens = kernels.forecast(self.last_stack, self.last_weights)
        self.age += 1
        self.stage.finish(tokens)

    def go(self, step: int, play: Play, record: bool) -> Outcome:
        play("begin")
        confident, error = np.zeros(self.stage.batch, dtype=bool), None
        if step > self.warmup and step > 0:
            sums = self.look()
            if self.scope == "batch":
                sums = np.broadcast_to(sums.sum(0), sums.shape)
            errors = sums[:, 0] / sums[:, 1]
            confident, error = errors < self.threshold, float(errors.mean())
        # The first block's stack is refreshed where the last block's is, and only there: else the gate would judge a
        # younger forecast than the one that is used.
        full = ~confident | (step in (0, self.steps - 1))
        true_error = self.compare() if record and not full.any() else None
        if full.all():
            play("full")
        elif full.any():
            self.partly(np.flatnonzero(full))
        else:
            play("forecast")
        return Outcome(float(full.mean()), error, true_error)

    def partly(self, rows: np.ndarray) -> None:
        """The full step for some rows, gathered into a smaller batch, and the forecast for the others."""
        stage, chosen = self.stage, torch.from_numpy(rows).to(self.stage.device)
        first, modulation = self.first[chosen], Modulation(*(part[chosen] for part in stage.modulation))
        last = stage.model.run(first, modulation, 1, add=plain)
        for feature, stack in ((first, self.first_stack), (last, self.last_stack)):
            mine = stack[chosen]
            kernels.refresh_(feature, mine, self.rate[chosen])
            stack[chosen] = mine
        tokens = kernels.forecast(self.last_stack, self.last_weights)
        tokens[chosen] = last
        self.age += 1
        self.age[chosen] = 1
        self.refreshes[chosen] += 1
        stage.finish(tokens)

    def compare(self) -> float:
        truth = self.stage.model.run(self.first, self.stage.modulation, 1, add=plain)
        return distance(kernels.forecast(self.last_stack, self.last_weights), truth)


class FirstBlockCache(Gated):
    """First-block cache: what the other blocks added is used again while the first block adds nearly the same."""

    def __init__(self, stage: Stage, steps: int, *, threshold: float) -> None:
        super().__init__(stage, steps)
        self.threshold = threshold
        shape = self.first.shape[1:]
        self.added = stage.empty(1, *shape)  # by the first block, now; a stack of one entry
        self.added_before, self.rest = stage.empty(*shape), stage.empty(*shape)
        self.one = torch.ones(stage.batch, 1, dtype=stage.images.dtype, device=stage.device)

    @property
    def caches(self) -> tuple[Tensor, ...]:
        return (self.added_before, self.rest)

    def begin(self) -> None:
        stage = self.stage
        tokens = stage.tokens()
        self.first.copy_(stage.model.run(tokens, stage.modulation, 0, 1, add=plain))
        torch.sub(self.first, tokens, out=self.added[:, 0])
        self.sums_here.copy_(error_sums(self.added_before, self.added, self.one), non_blocking=True)

    def full(self) -> None:
        stage = self.stage
        last = stage.model.run(self.first, stage.modulation, 1, add=plain)
        self.added_before.copy_(self.added[:, 0])
        torch.sub(last, self.first, out=self.rest)
        stage.finish(last)

    def forecast(self) -> None:
        self.stage.finish(self.first + self.rest)

    def go(self, step: int, play: Play, record: bool) -> Outcome:
        play("begin")
        error = None
        if step > 0:
            changed, before = self.look().sum(0)
            error = float(changed / before)
        if step in (0, self.steps - 1) or not error < self.threshold:
            play("full")
            return Outcome(1.0, error)
        true_error = None
        if record:
            truth = self.stage.model.run(self.first, self.stage.modulation, 1, add=plain)
            true_error = distance(self.first + self.rest, truth)
        play("forecast")
        return Outcome(0.0, error, true_error)
