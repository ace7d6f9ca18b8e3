"""How a sampler caches on a schedule that is fixed beforehand: here the output of every module."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor

from workbench.generation.forecasting import full_steps, tables
from workbench.models.caching import Outcome, Play, Strategy, distance, plain
from workbench.models.stage import HEAD_COLUMNS, Stage
from workbench_kernels.forecast import differences as kernels
from workbench_kernels.forecast.ahead import refresh_ahead_


class Scheduled(Strategy, abc.ABC):
    """Steps are full on a fixed schedule, and forecast in between."""

    parts = (*Strategy.parts, "forecast")

    def __init__(self, stage: Stage, steps: int, *, interval: int, order: int, first_full: int, weights: str) -> None:
        super().__init__(stage, steps)
        self.schedule = full_steps(steps, interval, first_full)
        self.entries = order + 1

    @property
    def weights(self) -> Tensor:
        """Of the present step's forecast, (batch, entries): the last columns of its numbers."""
        return self.stage.own[-self.entries :].expand(self.stage.batch, -1)

    @abc.abstractmethod
    def forecast(self) -> None:
        """A step in between."""

    def go(self, step: int, play: Play, record: bool) -> Outcome:
        if self.schedule[step]:
            play("full")
            return Outcome()
        recorded = self.compare() if record else {}
        play("forecast")
        return Outcome(share=0.0, error=recorded.get("true_error"), **recorded)

    @abc.abstractmethod
    def compare(self) -> dict[str, Any]:
        """The errors of this step's forecast, as an ``Outcome`` names them."""


class ModuleCache(Scheduled):
    """TaylorSeer: the differences of every module's output, in one tensor.

    A full step ends with one pass over that tensor, which refreshes it and adds up what each step until the next full
    one will need: between two full steps the differences stay as they are, and gates and weights are known. A forecast
    step is the tokens of its image plus one of the sums, and the head.
    """

    def __init__(self, stage: Stage, steps: int, **options: Any) -> None:
        super().__init__(stage, steps, **options)
        config = stage.model.config
        shape = (stage.batch, config.tokens, config.width)
        like = {"dtype": stage.dtype, "device": stage.device}
        self.stack = torch.zeros(self.entries, config.modules, *shape, **like)
        self.ahead = torch.zeros(_ahead(options["interval"]), *shape, **{**like, "dtype": stage.images.dtype})

    @classmethod
    def reach(cls, steps: int, *, interval: int, first_full: int, **options: Any) -> list[int]:
        return [_ahead(interval) if full else 0 for full in full_steps(steps, interval, first_full)]

    @classmethod
    def columns(cls, steps: int, *, interval: int, order: int, first_full: int, weights: str) -> Tensor:
        """Of each step the refresh's rate, the weights of the forecasts that follow it, and those of its own."""
        full = full_steps(steps, interval, first_full)
        factors, rates = tables(full, order, weights)
        ahead = torch.zeros(steps, _ahead(interval), order + 1, dtype=factors.dtype)
        for step in range(steps):
            for place in range(ahead.shape[1]):
                later = step + 1 + place
                if not full[step] or later >= steps or full[later]:
                    break
                ahead[step, place] = factors[later]
        return torch.cat((rates[:, None], ahead.flatten(1), factors), dim=1)

    @property
    def caches(self) -> tuple[Tensor, ...]:
        return (self.stack.permute(2, 1, 0, 3, 4),)

    @property
    def sums(self) -> tuple[Tensor, ...]:
        return (self.ahead,)

    def start(self) -> None:
        """Nothing to forget: the first refresh has a rate of 0, and reads nothing of what was kept."""

    def full(self) -> None:
        stage = self.stage
        # The highest difference is not needed any more: its place takes the outputs.
        last = stage.model.run(stage.tokens(), stage.modulation, add=plain, outputs=self.stack[-1])
        refresh_ahead_(self.stack, stage.table.gates, stage.numbers[:, HEAD_COLUMNS:], stage.at, self.ahead)
        stage.finish(last)

    def forecast(self) -> None:
        self.stage.finish(self.stage.tokens(self.ahead))

    def compare(self) -> dict[str, Any]:
        """What the network would have computed now, beside the forecasts, which are used all the same."""
        stage, weights, errors = self.stage, self.weights, []
        (stack,) = self.caches

        def add(module: int, tokens: Tensor, output: Tensor, gate: Tensor) -> Tensor:
            errors.append(distance(kernels.forecast(stack[:, module], weights), output))
            return plain(module, tokens, output, gate)

        truth = stage.model.run(stage.tokens(), stage.modulation, add=add)
        return {"true_error": distance(stage.tokens(self.ahead), truth), "module_errors": torch.tensor(errors)}


class ReuseCache(ModuleCache):
    """Every module's last output as it was: a forecast of order 0."""

    def __init__(self, stage: Stage, steps: int, **options: Any) -> None:
        super().__init__(stage, steps, **options, order=0, weights="taylor")

    @classmethod
    def columns(cls, steps: int, **options: Any) -> Tensor:
        return super().columns(steps, **options, order=0, weights="taylor")


def _ahead(interval: int) -> int:
    """How many forecasts follow a full step, at most. One where none does: its sum is zero, and nobody asks for it."""
    return max(1, interval - 1)
