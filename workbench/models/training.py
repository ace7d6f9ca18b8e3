"""Small models trained side by side: the same data in the same order, one part of them different.

``train`` reports after every few steps, so that a notebook or a dashboard can draw the curves while they grow, and stop
them. Vision transformers learn images, causal transformers a small language.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workbench.models.transformer import Transformer, TransformerConfig
from workbench.models.vit import ViT, ViTConfig, pretrained_config
from workbench.tasks import grammar
from workbench.tasks.images import Images
from workbench.tasks.images import load as load_images

Config = ViTConfig | TransformerConfig

CHARACTERS = 200_000  # of the language, in all
HELD_OUT = 8_000  # of them that nobody trains on
PART = 50  # held-out images, or pieces of text, that are looked at together


@dataclass(frozen=True)
class Lap:
    """Where one model stands after ``step`` of ``steps`` steps.

    name        its key in the configurations
    loss        mean training loss since its last lap, in nats (a character, or an image)
    validation  loss on held-out data, in nats; of a language model after the last step only, and None before
    accuracy    part of the held-out images that it classifies rightly; None for a language model
    seconds     that this model has trained so far, without the pauses for validation
    model       the model itself: its weights go on changing while the training runs
    """

    name: str
    step: int
    steps: int
    loss: float
    validation: float | None
    accuracy: float | None
    seconds: float
    model: nn.Module


def train(
    configs: Mapping[str, Config],
    task: str | Images,
    *,
    steps: int = 300,
    batch: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
    device: str = "cpu",
    lap: int = 20,
    ticks: bool = False,
) -> Iterator[Lap | None]:
    """Train one model for each configuration; yield laps as they end, and with ``ticks`` None after every step and
    between the parts of the held-out data, so that a caller can stop there.

    All models run ``lap`` steps, then each reports, and so on until ``steps``. They start from the same random numbers
    and see the same batches, so their difference is the configurations'. The optimiser is AdamW, with a warm-up over
    the first tenth of the steps and a linear descent to zero.

    ``task`` is "digits", "fashion_mnist" or a set of ``tasks.images.Images`` for ``ViTConfig``, and "grammar" for
    ``TransformerConfig``. Raises ``ValueError`` for numbers below 1 and for configurations that do not fit the task,
    before anything is trained. Close the generator to stop; nothing is left behind.
    """
    for name, value in {"steps": steps, "lap": lap, "batch": batch}.items():
        if value < 1:
            raise ValueError(f"{name} = {value} is not allowed: at least 1 is needed.")
    learned = _Language(device) if task == "grammar" else _Pictures(task, device)
    for config in configs.values():
        learned.check(config)
    return _run(configs, learned, steps, batch, learning_rate, seed, device, lap, ticks)


def _run(
    configs: Mapping[str, Config],
    task: _Language | _Pictures,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    device: str,
    lap: int,
    ticks: bool,
) -> Iterator[Lap | None]:
    racers = {name: _Racer(config, task, seed, steps, learning_rate, device) for name, config in configs.items()}
    for start in range(0, steps, lap):
        end = min(start + lap, steps)
        for name, racer in racers.items():
            for _ in range(start, end):
                racer.step(batch)
                if ticks:
                    yield None
            loss = racer.mean_loss()
            validation, accuracy = yield from task.score(racer.model, end == steps, ticks)
            yield Lap(name, end, steps, loss, validation, accuracy, racer.seconds, racer.model)


def build(config: Config) -> nn.Module:
    """The model that a configuration describes, with fresh weights."""
    return Transformer(config) if isinstance(config, TransformerConfig) else ViT(config)


def train_shipped(*, steps: int = 4000, seed: int = 0, device: str = "cpu") -> Iterator[Lap]:
    """Train the digits model that is shipped (``vit.pretrained``), about 70 seconds on one core; yield its laps.

    It learns from each image and from the same image moved by a pixel to each side. To ship what came out::

        *_, last = training.train_shipped()
        vit.ship(last.model)
    """
    digits = load_images("digits")
    more = [digits.train]
    for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        padded = nn.functional.pad(digits.train, (1, 1, 1, 1), value=-1.0)
        more.append(padded.roll(shift, (-2, -1))[..., 1:-1, 1:-1])
    moved = dataclasses.replace(digits, train=torch.cat(more), train_labels=digits.train_labels.repeat(len(more)))
    return train({"vit": pretrained_config()}, moved, steps=steps, batch=64, seed=seed, device=device, lap=100)


class _Racer:
    """A model, its optimiser and its own stream of random batches."""

    def __init__(
        self, config: Config, task: _Language | _Pictures, seed: int, steps: int, learning_rate: float, device: str
    ) -> None:
        self.task, self.seconds = task, 0.0
        self.losses: list[Tensor] = []
        self.batches = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = build(config).to(device)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), learning_rate, betas=(0.9, 0.95), fused=True)
        warm_up = max(1, steps // 10)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up), 1.0)
        )

    def step(self, batch: int) -> None:
        start = time.perf_counter()
        loss = self.task.loss(self.model, self.task.draw(self.model, batch, self.batches))
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.losses.append(loss.detach())
        self.seconds += time.perf_counter() - start

    def mean_loss(self) -> float:
        """The mean loss since this was asked last. A GPU is waited for here, and here only."""
        start = time.perf_counter()
        mean = torch.stack(self.losses).mean().item()
        self.losses.clear()
        self.seconds += time.perf_counter() - start
        return mean


class _Pictures:
    """Images to classify."""

    def __init__(self, task: str | Images, device: str) -> None:
        images = task if isinstance(task, Images) else load_images(task)
        self.images = images
        self.train, self.train_labels = images.train.to(device), images.train_labels.to(device)
        self.test, self.test_labels = images.test.to(device), images.test_labels.to(device)

    def check(self, config: Config) -> None:
        if not isinstance(config, ViTConfig):
            raise ValueError(f"{self.images.name} are images: they need a ViTConfig, not a {type(config).__name__}.")
        wanted = (self.train.shape[1], self.images.size, len(self.images.classes))
        given = (config.channels, config.image, config.classes)
        if given != wanted:
            raise ValueError(
                f"{self.images.name} needs (channels, image, classes) = {wanted}, and the configuration has {given}."
            )

    def draw(self, model: nn.Module, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(self.train), (batch,), generator=generator).to(self.train.device)
        return self.train[chosen], self.train_labels[chosen]

    def loss(self, model: nn.Module, drawn: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = drawn
        return cross_entropy(model(images), labels)

    def score(self, model: nn.Module, last: bool, ticks: bool) -> Generator[None, None, tuple[float, float]]:
        """Loss and accuracy on the held-out images, 1000 of them at most unless it is the last time."""
        many = None if last else 1000
        labels = self.test_labels[:many]
        logits = torch.cat((yield from _forward(model, self.test[:many], ticks)))
        return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


class _Language:
    """The text of ``tasks.grammar``: predict every character from those before it."""

    def __init__(self, device: str) -> None:
        text = grammar.encode(grammar.write(CHARACTERS).characters).to(device)
        self.text, self.held_out = text[:-HELD_OUT], text[-HELD_OUT:]

    def check(self, config: Config) -> None:
        if not isinstance(config, TransformerConfig):
            raise ValueError(f"The grammar is text: it needs a TransformerConfig, not a {type(config).__name__}.")
        if config.vocabulary != len(grammar.ALPHABET) or not config.is_causal:
            raise ValueError(
                f"The grammar needs vocabulary = {len(grammar.ALPHABET)} and is_causal = True, and the configuration "
                f"has {config.vocabulary} and {config.is_causal}."
            )

    def draw(self, model: nn.Module, batch: int, generator: torch.Generator) -> Tensor:
        length = model.config.tokens
        starts = torch.randint(len(self.text) - length - 1, (batch, 1), generator=generator)
        return self.text[(starts + torch.arange(length + 1)).to(self.text.device)]

    def loss(self, model: nn.Module, pieces: Tensor) -> Tensor:
        return cross_entropy(model(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())

    def score(self, model: nn.Module, last: bool, ticks: bool) -> Generator[None, None, tuple[float | None, None]]:
        """Loss on the held-out text, the last time; None before."""
        if not last:
            return None, None
        pieces = windows(self.held_out, model.config.tokens)
        logits = torch.cat((yield from _forward(model, pieces[:, :-1], ticks)))
        return cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten()).item(), None


def _forward(model: nn.Module, given: Tensor, ticks: bool) -> Generator[None, None, list[Tensor]]:
    """What the model makes of each ``PART`` of ``given``."""
    found = []
    for part in given.split(PART):
        with torch.no_grad():
            found.append(model(part))
        if ticks:
            yield None
    return found


def windows(text: Tensor, length: int) -> Tensor:
    """``text`` (n,) cut into pieces (pieces, length + 1), each starting with the last token of the one before."""
    return text.unfold(0, length + 1, length)
