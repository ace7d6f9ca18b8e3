"""How a sampler gets through one step of its walk: by computing the network, or from what it kept of earlier steps.

A strategy works on a ``Stage``, whose tensors stay where they are, and cuts its work into parts without a decision in
them: each part can be captured as a CUDA graph, and which one is played is decided on the host. Without graphs the same
parts are simply called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.generation.taylorseer import Clock, full_steps, tables
from workbench.models.dit import DiT, Modulation
from workbench_kernels import forecast as kernels

Play = Callable[[str], None]
HEAD_COLUMNS = 2  # of the stage's numbers: what multiplies image and network output in the sampler's update


class Stage:
    """The network and one run's state, on fixed addresses.

    ``images`` (batch, channels, side, side) in float32 or float64; ``rows``, the step's modulation for every row of the
    network's batch (twice as many with guidance); ``numbers``, the step's factors: two of the sampler's update, then
    those that the strategy asked for.
    """

    def __init__(self, model: DiT, images: Tensor, guidance: float, columns: int) -> None:
        self.model, self.images, self.guidance = model, images, guidance
        self.dtype, self.device = model.label.weight.dtype, images.device
        self.batch = len(images) * (2 if guidance != 1 else 1)
        self.rows = torch.zeros(self.batch, model.modulate.out_features, dtype=self.dtype, device=self.device)
        self.numbers = torch.zeros(HEAD_COLUMNS + columns, dtype=images.dtype, device=self.device)

    @property
    def modulation(self) -> Modulation:
        return self.model.split(self.rows)

    @property
    def own(self) -> Tensor:
        """The strategy's part of ``numbers``."""
        return self.numbers[HEAD_COLUMNS:]

    def empty(self, *shape: int) -> Tensor:
        """Zeros for each row of the batch, in the network's type: a cache (one that is not filled has to be finite)."""
        return torch.zeros(self.batch, *shape, dtype=self.dtype, device=self.device)

    def tokens(self) -> Tensor:
        """The images as tokens, for every row of the batch."""
        images = self.images.to(self.dtype)
        return self.model.embed(images if self.guidance == 1 else torch.cat((images, images)))

    def finish(self, tokens: Tensor) -> None:
        """Head, guidance and the sampler's update, in place."""
        output = self.model.head(tokens, self.modulation)[:, : self.images.shape[1]].to(self.images.dtype)
        if self.guidance != 1:
            conditional, free = output.chunk(2)
            output = torch.lerp(free, conditional, self.guidance)
        self.images.mul_(self.numbers[0]).addcmul_(output, self.numbers[1])


def plain(module: int, tokens: Tensor, output: Tensor, gate: Tensor) -> Tensor:
    """The residual sum that every strategy uses, cached or not: so they agree to the last bit."""
    return kernels.add_gated(tokens, output, gate)


@dataclass(frozen=True)
class Outcome:
    """What a step did: the share of the batch's rows that were computed in full, and the errors it knows of, relative:
    its own estimate, and (recorded on demand) those of the last block's output and of every module's."""

    share: float = 1.0
    error: float | None = None
    true_error: float | None = None
    module_errors: Tensor | None = None


class Strategy:
    """Every step in full: the uncached sampler, and what the others refine."""

    waits = False  # whether a step's decision waits for the device

    def __init__(self, stage: Stage, steps: int) -> None:
        self.stage, self.steps = stage, steps
        self.parts: dict[str, Callable[[], None]] = {"full": self.full}

    @classmethod
    def columns(cls, steps: int, **options: Any) -> Tensor:
        """The numbers that a step needs, known beforehand: (steps, any)."""
        return torch.zeros(steps, 0)

    def full(self) -> None:
        stage = self.stage
        stage.finish(stage.model.run(stage.tokens(), stage.modulation, add=plain))

    def start(self) -> None:
        """Forget the last run."""
        for cache in self.caches:
            cache.zero_()

    def go(self, step: int, play: Play, record: bool) -> Outcome:
        play("full")
        return Outcome()

    @property
    def caches(self) -> tuple[Tensor, ...]:
        return ()


class Scheduled(Strategy):
    """Steps are full on a fixed schedule; ``numbers`` of a step are the forecast's weights, then the refresh's rate."""

    def __init__(self, stage: Stage, steps: int, *, interval: int, order: int, first_full: int, weights: str) -> None:
        super().__init__(stage, steps)
        self.schedule = full_steps(steps, interval, first_full)
        self.entries = order + 1
        self.parts["forecast"] = self.forecast

    @classmethod
    def columns(cls, steps: int, *, interval: int, order: int, first_full: int, weights: str) -> Tensor:
        factors, rates = tables(full_steps(steps, interval, first_full), order, weights)
        return torch.cat((factors, rates[:, None]), dim=1)

    @property
    def weights(self) -> Tensor:
        return self.stage.own[: self.entries].expand(self.stage.batch, -1)

    @property
    def rates(self) -> Tensor:
        return self.stage.own[self.entries :].expand(self.stage.batch)

    def forecast(self) -> None:
        raise NotImplementedError

    def go(self, step: int, play: Play, record: bool) -> Outcome:
        if self.schedule[step]:
            play("full")
            return Outcome()
        recorded = self.compare() if record else {}
        play("forecast")
        return Outcome(share=0.0, error=recorded.get("true_error"), **recorded)

    def compare(self) -> dict[str, Any]:
        raise NotImplementedError


class ModuleCache(Scheduled):
    """TaylorSeer, and reuse as its order 0: the differences of every module's output, in one tensor."""

    def __init__(self, stage: Stage, steps: int, **options: Any) -> None:
        super().__init__(stage, steps, **options)
        config = stage.model.config
        self.stack = stage.empty(config.modules, self.entries, config.tokens, config.width)

    @property
    def caches(self) -> tuple[Tensor, ...]:
        return (self.stack,)

    def full(self) -> None:
        stage, rates = self.stage, self.rates

        def add(module: int, tokens: Tensor, output: Tensor, gate: Tensor) -> Tensor:
            return kernels.add_gated(tokens, output, gate, self.stack[:, module], rates)

        stage.finish(stage.model.run(stage.tokens(), stage.modulation, add=add))

    def forecast(self) -> None:
        self.stage.finish(self.forecast_tokens())

    def forecast_tokens(self) -> Tensor:
        stage = self.stage
        return kernels.forecast_modules(stage.tokens(), self.stack, stage.modulation.gates, self.weights)

    def compare(self) -> dict[str, Any]:
        """What the network would have computed now, beside the forecasts, which are used all the same."""
        stage, errors = self.stage, []

        def add(module: int, tokens: Tensor, output: Tensor, gate: Tensor) -> Tensor:
            errors.append(distance(kernels.forecast(self.stack[:, module], self.weights), output))
            return plain(module, tokens, output, gate)

        truth = stage.model.run(stage.tokens(), stage.modulation, add=add)
        return {"true_error": distance(self.forecast_tokens(), truth), "module_errors": torch.tensor(errors)}


class LastBlockCache(Scheduled):
    """The forecast of the last block's output alone, on a fixed schedule: one trajectory instead of 2 L."""

    def __init__(self, stage: Stage, steps: int, **options: Any) -> None:
        super().__init__(stage, steps, **options)
        self.stack = stage.empty(self.entries, stage.model.config.tokens, stage.model.config.width)

    @property
    def caches(self) -> tuple[Tensor, ...]:
        return (self.stack,)

    def full(self) -> None:
        stage = self.stage
        last = stage.model.run(stage.tokens(), stage.modulation, add=plain)
        kernels.refresh_(last, self.stack, self.rates)
        stage.finish(last)

    def forecast(self) -> None:
        self.stage.finish(kernels.forecast(self.stack, self.weights))

    def compare(self) -> dict[str, Any]:
        truth = self.stage.model.run(self.stage.tokens(), self.stage.modulation, add=plain)
        return {"true_error": distance(kernels.forecast(self.stack, self.weights), truth)}


class Mailbox:
    """A small tensor that the host fills for the device: pinned there, so that sending it does not wait."""

    def __init__(self, stage: Stage, *shape: int) -> None:
        self.there = torch.zeros(*shape, dtype=stage.images.dtype, device=stage.device)
        self.here = torch.zeros(*shape, dtype=stage.images.dtype, pin_memory=stage.device.type == "cuda")

    def send(self, values: np.ndarray) -> None:
        self.here.copy_(torch.from_numpy(values))
        self.there.copy_(self.here, non_blocking=True)


class Gated(Strategy):
    """What decides at the first block, which is always computed: parts "begin", "full" and "forecast"."""

    waits = True

    def __init__(self, stage: Stage, steps: int) -> None:
        super().__init__(stage, steps)
        shape = (stage.model.config.tokens, stage.model.config.width)
        self.first = stage.empty(*shape)
        self.sums = torch.zeros(stage.batch, 2, dtype=stage.images.dtype, device=stage.device)
        self.seen = torch.zeros(stage.batch, 2, dtype=stage.images.dtype, pin_memory=stage.device.type == "cuda")
        self.parts |= {"begin": self.begin, "forecast": self.forecast}

    def begin(self) -> None:
        raise NotImplementedError

    def forecast(self) -> None:
        raise NotImplementedError

    def look(self) -> np.ndarray:
        """The two sums of every row, once the device has them: the one moment at which the host waits."""
        self.seen.copy_(self.sums, non_blocking=True)
        if self.sums.is_cuda:
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
        self.weights = [Mailbox(stage, stage.batch, order + 1) for order in self.orders]
        self.rates = [Mailbox(stage, stage.batch) for _ in self.orders]
        self.start()

    @property
    def caches(self) -> tuple[Tensor, ...]:
        return (self.first_stack, self.last_stack)

    def start(self) -> None:
        super().start()
        self.clocks = [Clock(self.stage.batch, order) for order in self.orders]

    def begin(self) -> None:
        stage = self.stage
        self.first.copy_(stage.model.run(stage.tokens(), stage.modulation, 0, 1, add=plain))
        self.sums.copy_(kernels.error_sums(self.first, self.first_stack, self.weights[0].there))

    def full(self) -> None:
        stage = self.stage
        kernels.refresh_(self.first, self.first_stack, self.rates[0].there)
        last = stage.model.run(self.first, stage.modulation, 1, add=plain)
        kernels.refresh_(last, self.last_stack, self.rates[1].there)
        stage.finish(last)

    def forecast(self) -> None:
        self.stage.finish(kernels.forecast(self.last_stack, self.weights[1].there))

    def go(self, step: int, play: Play, record: bool) -> Outcome:
        first_clock, last_clock = self.clocks
        self.weights[0].send(first_clock.weights(step))
        play("begin")
        confident, error = np.zeros(self.stage.batch, dtype=bool), None
        if step > self.warmup and step > 0:
            sums = self.look()
            if self.scope == "batch":
                sums = np.broadcast_to(sums.sum(0), sums.shape)
            errors = sums[:, 0] / sums[:, 1]
            confident, error = errors < self.threshold, float(errors.mean())
        # The first block's stack is refreshed where the gate said so, and only there: else the gate would judge a
        # younger forecast than the one that is used. What "full" does to it at the last step, nobody reads.
        first_clock.advance(step, ~confident)
        full = ~confident | (step in (0, self.steps - 1))
        last_clock.advance(step, full)
        self.rates[0].send(first_clock.rates())
        self.rates[1].send(last_clock.rates())
        self.weights[1].send(last_clock.weights(step))
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
        for number, (feature, stack) in enumerate(((first, self.first_stack), (last, self.last_stack))):
            mine = stack[chosen]
            kernels.refresh_(feature, mine, self.rates[number].there[chosen])
            stack[chosen] = mine
        tokens = kernels.forecast(self.last_stack, self.weights[1].there)
        tokens[chosen] = last
        stage.finish(tokens)

    def compare(self) -> float:
        truth = self.stage.model.run(self.first, self.stage.modulation, 1, add=plain)
        return distance(kernels.forecast(self.last_stack, self.weights[1].there), truth)


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
        self.added[:, 0] = self.first - tokens
        self.sums.copy_(kernels.error_sums(self.added_before, self.added, self.one))

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


def distance(found: Tensor, truth: Tensor) -> float:
    """||found - truth|| / ||truth||, over everything."""
    return (torch.linalg.vector_norm(found - truth) / torch.linalg.vector_norm(truth)).item()


STRATEGIES: Mapping[str, type[Strategy]] = {
    "none": Strategy,
    "feature_reuse": ModuleCache,
    "taylorseer": ModuleCache,
    "last_block_forecast": LastBlockCache,
    "first_block_cache": FirstBlockCache,
    "confidence_gated_taylor": GatedCache,
}
ALSO = {"feature_reuse": {"order": 0, "weights": "taylor"}}  # options that a method fixes
