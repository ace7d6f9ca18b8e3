"""How a sampler gets through one step of its walk: by computing the network, or from what it kept of earlier steps.

A ``Strategy`` is what a sampler asks: parts without a decision in them, and a choice of parts for every step. The class
here computes every step; the methods of the catalog that can stand in the slot of caching bring their own, each a
subclass: ``strategies`` has them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench import catalog
from workbench.models.stage import Stage
from workbench_kernels.forecast import differences as kernels

Play = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a step did: the share of the batch's rows that were computed in full, and the errors it knows of, relative:
    its own estimate, and (recorded on demand) those of the last block's output and of every module's."""

    share: float = 1.0
    error: float | None = None
    true_error: float | None = None
    module_errors: Tensor | None = None


class Strategy:
    """Every step in full: the uncached sampler, and what the others refine.

    A strategy is made for a stage and a number of steps, with every knob of its method by name; ``columns`` and
    ``reach`` get the same knobs. ``parts`` names the methods that hold no decision: each can be captured as a CUDA
    graph, and which one is played is decided on the host, in ``go``. Without graphs the same methods are simply called.
    What a part needs to know of its step it reads from the stage's tables, so the host sends nothing.
    """

    parts: tuple[str, ...] = ("look_ahead", "full")
    waits = False  # whether a step's decision waits for the device

    def __init__(self, stage: Stage, steps: int) -> None:
        self.stage, self.steps = stage, steps

    @classmethod
    def columns(cls, steps: int, **options: Any) -> Tensor:
        """The numbers that a step needs, known beforehand: (steps, any)."""
        return torch.zeros(steps, 0)

    @classmethod
    def reach(cls, steps: int, **options: Any) -> list[int]:
        """How many steps beyond itself each step looks, in the stage's tables."""
        return [0] * steps

    def look_ahead(self) -> None:
        self.stage.look_ahead()

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
        """What is kept from one full step to the next."""
        return ()

    @property
    def sums(self) -> tuple[Tensor, ...]:
        """What is kept besides for the steps between: made of the caches."""
        return ()


def strategies() -> dict[str, type[Strategy]]:
    """Every way through a walk by the name of its method; "none" computes every step."""
    found = {name: method.slot.strategy for name, method in catalog.methods("caching").items() if method.slot.strategy}
    return {"none": Strategy, **found}


def plain(module: int, tokens: Tensor, output: Tensor, gate: Tensor) -> Tensor:
    """The residual sum that every strategy uses, cached or not: so they agree to the last bit."""
    return kernels.add_gated(tokens, output, gate)


def distance(found: Tensor, truth: Tensor) -> float:
    """||found - truth|| / ||truth||, over everything."""
    return (torch.linalg.vector_norm(found - truth) / torch.linalg.vector_norm(truth)).item()
