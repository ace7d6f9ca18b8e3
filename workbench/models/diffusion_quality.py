"""How good are drawn digits: near to what no cache would have drawn, distributed like real ones, recognised?"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from workbench.tasks import images as image_sets

WEIGHTS = Path(__file__).parent / "weights" / "digit_classifier.safetensors"


@dataclass(frozen=True)
class Quality:
    """psnr_db   nearness to the uncached samples, mean over samples; infinite when they are equal
    frechet   Fréchet distance to the real digits in a classifier's features; compare at equal numbers of samples only
    accuracy  share of the samples that the classifier takes for their label"""

    psnr_db: float
    frechet: float
    accuracy: float


class DigitClassifier(nn.Module):
    """Digits (batch, 1, 8, 8) to 10 logits; ``features`` are the 32 numbers before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 32),
        )
        self.last = nn.Linear(32, 10)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(nn.functional.relu(self.features(images)))


def train_classifier(steps: int = 500, batch: int = 128, seed: int = 0) -> Iterator[tuple[int, float, DigitClassifier]]:
    """Train the classifier on noisy digits, with Adam; yields (step, test accuracy, classifier) every 100 steps."""
    digits = image_sets.load("digits")
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitClassifier()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(1, steps + 1):
        chosen = torch.randint(len(digits.train), (batch,), generator=random)
        noisy = digits.train[chosen] + 0.1 * torch.randn(batch, 1, 8, 8, generator=random)
        loss = nn.functional.cross_entropy(model(noisy), digits.train_labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0 or step == steps:
            with torch.no_grad():
                right = model(digits.test).argmax(1) == digits.test_labels
            yield step, right.double().mean().item(), model


@functools.cache
def classifier() -> DigitClassifier:
    """The classifier that ships here, trained; one for all callers, frozen."""
    from safetensors.torch import load_file

    with torch.inference_mode(False):  # it is kept: a later caller may want gradients through it
        model = DigitClassifier()
        model.load_state_dict(load_file(WEIGHTS))
    return model.requires_grad_(False).eval()


def quality(samples: Tensor, labels: Tensor, uncached: Tensor) -> Quality:
    """Judge digits (batch, 1, 8, 8) drawn for ``labels`` (batch,), beside those drawn ``uncached`` from the same noise.

    Images are clipped to [-1, 1] first. Raises ``ValueError`` for shapes that do not fit. Milliseconds on a CPU.
    """
    if samples.shape[1:] != (1, 8, 8) or samples.shape != uncached.shape or labels.shape != samples.shape[:1]:
        raise ValueError(
            f"quality takes digits (batch, 1, 8, 8), their labels (batch,) and the uncached ones, not "
            f"{tuple(samples.shape)}, {tuple(labels.shape)} and {tuple(uncached.shape)}."
        )
    samples, uncached = (each.detach().cpu().float().clamp(-1, 1) for each in (samples, uncached))
    judge = classifier()
    right = judge(samples).argmax(1) == labels.cpu()
    return Quality(psnr_db(samples, uncached), frechet(samples), right.double().mean().item())


def psnr_db(samples: Tensor, uncached: Tensor) -> float:
    """10 log10 (4 / mean squared difference) of images from -1 to 1, mean over the samples; infinity for no difference.

    A sample that is equal counts 150 dB among others that are not.
    """
    error = (samples.double() - uncached.double()).square().flatten(1).mean(1)
    if not error.any():
        return math.inf
    return (10 * torch.log10(4 / error.clamp(min=4e-15))).mean().item()


def frechet(samples: Tensor) -> float:
    """Fréchet distance between the samples and all digits that the DiT was trained on, in the classifier's features."""
    return frechet_distance(classifier().features(samples), _real_features())


@functools.cache
def _real_features() -> Tensor:
    with torch.inference_mode(False):
        return classifier().features(image_sets.load("digits").train)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """||mean a - mean b||^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two sets of features (n, width), n > 1 each.

    The trace of the root is the sum of the roots of the product's eigenvalues, clipped at zero. float64. NaN for fewer
    than two rows.
    """
    if min(len(a), len(b)) < 2:
        return math.nan
    a, b = a.double(), b.double()
    product = torch.cov(a.mT) @ torch.cov(b.mT)
    roots = torch.linalg.eigvals(product).real.clamp(min=0).sqrt().sum()
    spread = torch.cov(a.mT).trace() + torch.cov(b.mT).trace() - 2 * roots
    return ((a.mean(0) - b.mean(0)).square().sum() + spread).item()
