"""Training the DiT that draws digits, as rectified flow: from noise to image on a straight line, at constant speed.

A pair of image x_1 and noise z is joined by x_t = (1 - t) x_1 + t z; the network learns the velocity z - x_1 from x_t,
t and the label. Sampling walks back from t = 1 to 0 (``workbench.models.diffusion``).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.models.dit import DIGITS, DiT, DiTConfig

WITHOUT_LABEL = 0.1  # share of the examples whose label is dropped: what guidance needs
TIME_SCALE = 1000.0  # the network's times run from 0 to 1000, as in models trained on noise


@dataclass(frozen=True)
class DiffusionLap:
    """Where the training stands after ``step`` of ``steps``.

    ``loss`` is the mean squared error of the velocity since the last lap. ``model`` is the moving average of the
    weights, the one to sample from; it goes on changing while the training runs.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    model: DiT


def train_dit(
    images: Tensor,
    labels: Tensor,
    *,
    config: DiTConfig = DIGITS,
    steps: int = 1000,
    batch: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    lap: int = 50,
) -> Iterator[DiffusionLap]:
    """Train a DiT on ``images`` (n, channels, side, side) in [-1, 1] with ``labels`` (n,); yield laps as they end.

    Times are drawn as the sigmoid of a normal number, most of them in the middle. AdamW, one cycle with a tenth of it
    warm-up, gradients clipped to norm 1; the averaged weights have decay 0.99, and 0.995 from half of the steps on.
    1000 steps take about a minute on one core, 2500 draw well. Close the generator to stop; nothing is left behind.

    Raises ``ValueError`` for numbers below 1 and for images that are not the network's.
    """
    for name, value in {"steps": steps, "batch": batch, "lap": lap}.items():
        if value < 1:
            raise ValueError(f"{name} = {value} is not allowed: at least 1 is needed.")
    expected = (config.channels, config.image, config.image)
    if tuple(images.shape[1:]) != expected or len(images) != len(labels):
        raise ValueError(
            f"images must be (n, {', '.join(map(str, expected))}) with n labels, not {tuple(images.shape)} with "
            f"{len(labels)}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DiT(config).to(device)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.1)
    random = torch.Generator().manual_seed(seed)
    begun, total = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        chosen = torch.randint(len(images), (batch,), generator=random)
        loss = _loss(model, images[chosen], labels[chosen], random, device)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        _follow(average, model, keep=0.99 if 2 * step <= steps else 0.995)
        total += loss.item()
        if step % lap == 0 or step == steps:
            since = step % lap or lap
            yield DiffusionLap(step, steps, total / since, time.perf_counter() - begun, average)
            total = 0.0


def _loss(model: DiT, images: Tensor, labels: Tensor, random: torch.Generator, device: str) -> Tensor:
    noise = torch.randn(images.shape, generator=random)
    where = torch.randn(len(images), generator=random).sigmoid()
    dropped = torch.rand(len(images), generator=random) < WITHOUT_LABEL
    labels = torch.where(dropped, model.config.classes, labels)
    images, noise, where, labels = (each.to(device) for each in (images, noise, where, labels))
    line = torch.lerp(images, noise, where[:, None, None, None])
    return (model(line, TIME_SCALE * where, labels) - (noise - images)).square().mean()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
