"""Small language models racing each other: same data, same number of parameters, another activation.

``race`` trains them side by side and reports after every few steps, so that a notebook can draw the curves while they
grow, and stop them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workbench.models import training
from workbench.models.transformer import Transformer, TransformerConfig
from workbench.tasks import grammar


@functools.cache
def small() -> TransformerConfig:
    """The shape of the racers: about 200 000 parameters."""
    return TransformerConfig(len(grammar.ALPHABET), width=64, depth=4, heads=4, tokens=64, normalisation="rms_norm")


@dataclass(frozen=True)
class Lap:
    """Where one racer stands after ``step`` steps.

    ``loss`` is its mean training loss since the last lap, ``validation`` its loss on held-out text after the last step
    (None before), both in nats a character; ``tasks.grammar`` knows the lowest loss there is. ``model`` is the racer
    itself: its weights go on changing while the race runs.
    """

    activation: str
    seed: int
    step: int
    loss: float
    validation: float | None
    model: Transformer


def race(
    activations: Sequence[str],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 200,
    lap: int = 20,
    batch: int = 4,
    learning_rate: float = 3e-3,
    config: TransformerConfig | None = None,
    device: str = "cpu",
) -> Iterator[Lap]:
    """``training.train`` of one small causal language model for each activation and seed; yield laps as they end.

    Racers of one seed start from the same random numbers and see the same batches, so their difference is the
    activation's. ``config`` is their shape, None: ``small()``. Gated activations get two thirds of the feed-forward
    width, and so as many parameters as the others.

    Raises ``ValueError`` for numbers below 1. Close the generator to stop the race; nothing is left behind.
    """
    racers = {name: dataclasses.replace(config or small(), activation=name) for name in activations}
    how = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "device": device, "lap": lap}
    runs = [training.train(racers, "grammar", seed=seed, **how) for seed in seeds]
    for laps in zip(*runs, strict=True):
        for seed, each in zip(seeds, laps, strict=True):
            yield Lap(each.name, seed, each.step, each.loss, each.validation, each.model)
