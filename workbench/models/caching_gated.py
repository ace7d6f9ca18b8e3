"""Caches that look at the first block's output, which is always computed, before they decide about the others."""

from __future__ import annotations

import abc
import copy

import numpy as np
import torch
from torch import Tensor

from workbench.generation.taylorseer import Clock
from workbench.models.caching_strategy import Outcome, Play, Strategy, distance, plain
from workbench.models.dit import Modulation
from workbench.models.stage import Stage
from workbench_kernels import forecast as kernels


class Mailbox:
    """A small tensor that the host fills for the device, once a step. Its copies here are pinned, so that sending does
    not wait, and one for each step, so that none is overwritten before it was sent."""

    def __init__(self, stage: Stage, steps: int, *shape: int) -> None:
        self.there = torch.zeros(*shape, dtype=stage.images.dtype, device=stage.device)
        self.here = torch.zeros(steps, *shape, dtype=stage.images.dtype, pin_memory=stage.device.type == "cuda")

    def send(self, step: int, values: np.ndarray) -> None:
        self.here[step] = torch.from_numpy(values)
        self.there.copy_(self.here[step], non_blocking=True)


class Gated(Strategy, abc.ABC):
    """What decides at the first block, after "begin", between "full" and "forecast"."""

    parts = (*Strategy.parts, "begin", "forecast")
    waits = True

    def __init__(self, stage: Stage, steps: int) -> None:
        super().__init__(stage, steps)
        shape = (stage.model.config.tokens, stage.model.config.width)
        self.first = stage.empty(*shape)
        self.counts = torch.zeros(stage.batch, 2, dtype=stage.images.dtype, device=stage.device)
        self.seen = torch.zeros(stage.batch, 2, dtype=stage.images.dtype, pin_memory=stage.device.type == "cuda")

    @abc.abstractmethod
    def begin(self) -> None:
        """The first block, and the sums by which its forecast is judged."""

    @abc.abstractmethod
    def forecast(self) -> None:
        """The other blocks, from what was kept of them."""

    def look(self) -> np.ndarray:
        """The two sums of every row, once the device has them: the one moment at which the host waits."""
        self.seen.copy_(self.counts, non_blocking=True)
        if self.counts.is_cuda:
            event = torch.cuda.Event()
            event.record()
            event.synchronize()
        return self.seen.double().numpy()


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
        # What each row needs to know in a step: the rates if it is refreshed, the weights if it is not.
        parts = (1, 1, order_first + 1, order_last + 1)
        self.known = torch.zeros(stage.batch, sum(parts), dtype=stage.images.dtype, device=stage.device)
        first_rate, last_rate, self.first_weights, self.last_weights = self.known.split(parts, dim=1)
        self.first_rate, self.last_rate = first_rate[:, 0], last_rate[:, 0]
        # The same for the next step, if the row is refreshed now, and if not: sent before that is decided.
        self.mail = Mailbox(stage, steps, 2, *self.known.shape)
        self.start()

    @property
    def caches(self) -> tuple[Tensor, ...]:
        return (self.first_stack, self.last_stack)

    def start(self) -> None:
        super().start()
        self.clocks = [Clock(self.stage.batch, order) for order in self.orders]
        self.known.zero_()

    def begin(self) -> None:
        stage = self.stage
        self.first.copy_(stage.model.run(stage.tokens(), stage.modulation, 0, 1, add=plain))
        self.counts.copy_(kernels.error_sums(self.first, self.first_stack, self.first_weights))

    def full(self) -> None:
        stage = self.stage
        kernels.refresh_(self.first, self.first_stack, self.first_rate)
        last = stage.model.run(self.first, stage.modulation, 1, add=plain)
        kernels.refresh_(last, self.last_stack, self.last_rate)
        self.known.copy_(self.mail.there[0])
        stage.finish(last)

    def forecast(self) -> None:
        tokens = kernels.forecast(self.last_stack, self.last_weights)
        self.known.copy_(self.mail.there[1])
        self.stage.finish(tokens)

    def go(self, step: int, play: Play, record: bool) -> Outcome:
        play("begin")
        self.mail.send(step, self._messages(step))  # while the device is busy with the first block
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
        for clock in self.clocks:
            clock.advance(step, full)
        return Outcome(float(full.mean()), error, true_error)

    def _messages(self, step: int) -> np.ndarray:
        """What to know in the next step, by row: (2, batch, parts), if the row is refreshed now, and if not."""
        messages = []
        for clocks in ([_refreshed(clock, step) for clock in self.clocks], self.clocks):
            rates = [_refreshed(clock, step + 1).rates() for clock in clocks]
            messages.append(np.column_stack(rates + [clock.weights(step + 1) for clock in clocks]))
        return np.stack(messages)

    def partly(self, rows: np.ndarray) -> None:
        """The full step for some rows, gathered into a smaller batch, and the forecast for the others."""
        stage, chosen = self.stage, torch.from_numpy(rows).to(self.stage.device)
        first, modulation = self.first[chosen], Modulation(*(part[chosen] for part in stage.modulation))
        last = stage.model.run(first, modulation, 1, add=plain)
        stacks = ((first, self.first_stack, self.first_rate), (last, self.last_stack, self.last_rate))
        for feature, stack, rate in stacks:
            mine = stack[chosen]
            kernels.refresh_(feature, mine, rate[chosen])
            stack[chosen] = mine
        tokens = kernels.forecast(self.last_stack, self.last_weights)
        tokens[chosen] = last
        self.known.copy_(self.mail.there[1])
        self.known[chosen] = self.mail.there[0, chosen]
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
        self.counts.copy_(kernels.error_sums(self.added_before, self.added, self.one))

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


def _refreshed(clock: Clock, step: int) -> Clock:
    """The clock as it will be if every row is refreshed at ``step``."""
    after = copy.copy(clock)
    after.last, after.gap, after.entries = clock.last.copy(), clock.gap.copy(), clock.entries.copy()
    after.advance(step, np.ones(len(clock.last), dtype=bool))
    return after
