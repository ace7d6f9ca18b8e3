"""Small language models racing each other: same data, same number of parameters, one part of them different.

``race`` trains them side by side and reports after every few steps, so that a notebook or a dashboard can draw the
curves while they grow, and stop them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.models.transformer import Transformer, TransformerConfig
from workbench.tasks import grammar

SMALL = TransformerConfig(len(grammar.ALPHABET), width=64, depth=4, heads=4, tokens=64, normalisation="rms_norm")
"""The shape of the racers: about 200 000 parameters."""

CHARACTERS = 200_000
HELD_OUT = 8_000


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
    config: TransformerConfig = SMALL,
    device: str = "cpu",
) -> Iterator[Lap]:
    """Train one small causal language model for each activation and seed on ``tasks.grammar``; yield laps as they end.

    All racers run ``lap`` steps, then each reports, and so on until ``steps``. Racers of one seed start from the same
    random numbers and see the same batches, so their difference is the activation's. Gated activations get two thirds
    of the feed-forward width, and so as many parameters as the others. The optimiser is AdamW, with a warm-up over the
    first tenth of the steps and a linear descent to zero.

    Raises ``ValueError`` for numbers below 1. Close the generator to stop the race; nothing is left behind.
    """
    for name, value in {"steps": steps, "lap": lap, "batch": batch}.items():
        if value < 1:
            raise ValueError(f"{name} = {value} is not allowed: at least 1 is needed.")
    text = grammar.encode(grammar.write(CHARACTERS).characters).to(device)
    held_out = windows(text[-HELD_OUT:], config.tokens)
    text = text[:-HELD_OUT]
    racers = [
        _Racer(dataclasses.replace(config, activation=activation), seed, steps, learning_rate, device)
        for seed in seeds
        for activation in activations
    ]
    for start in range(0, steps, lap):
        end = min(start + lap, steps)
        for racer in racers:
            loss = sum(racer.step(text, batch) for _ in range(start, end)) / (end - start)
            validation = racer.validate(held_out) if end == steps else None
            yield Lap(racer.model.config.activation, racer.seed, end, loss, validation, racer.model)


def windows(text: Tensor, length: int) -> Tensor:
    """``text`` (n,) cut into pieces (pieces, length + 1), each starting with the last token of the one before."""
    return text.unfold(0, length + 1, length)


class _Racer:
    """A model, its optimiser and its own stream of random batches."""

    def __init__(self, config: TransformerConfig, seed: int, steps: int, learning_rate: float, device: str) -> None:
        self.seed = seed
        self.batches = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Transformer(config).to(device)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), learning_rate, betas=(0.9, 0.95), fused=True)
        warm_up = max(1, steps // 10)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up), 1.0)
        )

    def step(self, text: Tensor, batch: int) -> float:
        length = self.model.config.tokens
        starts = torch.randint(len(text) - length - 1, (batch, 1), generator=self.batches)
        loss = self._loss(text[(starts + torch.arange(length + 1)).to(text.device)])
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        return loss.item()

    @torch.no_grad()
    def validate(self, pieces: Tensor) -> float:
        return self._loss(pieces).item()

    def _loss(self, pieces: Tensor) -> Tensor:
        logits = self.model(pieces[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())
