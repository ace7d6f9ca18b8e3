"""Uniform quantisers: numbers as whole multiples of a step, with few bits.

A code q stands for the value ``scale (q - zero)``. A symmetric quantiser has codes on both sides of zero and ``zero``
0: with 8 bits -127 to 127, with 4 bits -7 to 7, with 2 bits -1 to 1 (ternary). An asymmetric one has all codes of b
bits, -2^(b-1) to 2^(b-1) - 1, and moves them to where the numbers are.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from workbench.controls import Range

Bits = Annotated[int, Range(2, 16), "Bits of a code."]
Scheme = Annotated[Literal["symmetric", "asymmetric"], "Whether zero lies in the middle of the codes, or anywhere."]
Per = Annotated[Literal["tensor", "channel", "group"], "What has a scale of its own: all, a row, a part of a row."]
Group = Annotated[int, Range(2, 1024, log=True), "How many numbers of the last axis share a scale, per group."]
Percentile = Annotated[float, Range(80.0, 100.0, 0.1), "The share of the numbers (%) that the codes reach; 100: all."]
HoldsZero = Annotated[bool, "An asymmetric range is widened to hold zero, so that its zero point is never clipped."]
Rounding = Literal["nearest", "stochastic"]


@dataclass(frozen=True)
class Quantiser:
    """Codes from ``low`` to ``high``; ``scale`` and ``zero`` (parts, 1), one a part of the numbers.

    The numbers of a tensor are cut into the parts in their order: rows, or groups of a row.
    """

    scale: Tensor
    zero: Tensor
    low: int
    high: int

    @property
    def parts(self) -> int:
        return len(self.scale)

    @property
    def levels(self) -> Tensor:
        """The values that there are (parts, high - low + 1)."""
        codes = torch.arange(self.low, self.high + 1, dtype=self.scale.dtype, device=self.scale.device)
        return self.scale * (codes - self.zero)

    def codes(self, x: Tensor, *, rounding: Rounding = "nearest", generator: torch.Generator | None = None) -> Tensor:
        """The codes (parts, numbers) of x, as int32. Rounded to the nearest, halves to the even one; or, stochastic, up
        with the probability that makes it right on average. What lies beyond the last code becomes that one. Raises
        ``ValueError`` for NaN."""
        position = self._rows(x) / self.scale
        if position.isnan().any():
            raise ValueError("A NaN has no code.")
        if rounding == "nearest":
            whole = position.round()
        else:
            chance = torch.rand(position.shape, generator=generator, dtype=position.dtype, device=position.device)
            whole = (position + chance).floor()
        return (whole + self.zero).clamp(self.low, self.high).to(torch.int32)

    def values(self, codes: Tensor, like: Tensor) -> Tensor:
        """What the codes stand for, in the shape and dtype of ``like``."""
        return (self.scale * (codes - self.zero)).reshape(like.shape).to(like.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """x as it comes back: rounded to the nearest level, and clipped."""
        return self.values(self.codes(x), x)

    def clipped(self, x: Tensor) -> float:
        """The share of the numbers (0 to 1) that lie beyond the outer levels by more than half a step."""
        rows, levels, half = self._rows(x), self.levels, self.scale / 2
        beyond = (rows < levels[:, :1] - half) | (rows > levels[:, -1:] + half)
        return float(beyond.double().mean()) if beyond.numel() else 0.0

    def bits_per_number(self, x: Tensor, *, scale_bits: int = 16) -> float:
        """Bits stored for each number of x, its share of the scales (and of zero points, if there are any) included."""
        codes = (self.high - self.low).bit_length()
        zero_bits = codes if self.zero.any() else 0
        return codes + self.parts * (scale_bits + zero_bits) / x.numel()

    def _rows(self, x: Tensor) -> Tensor:
        if not x.is_floating_point() or x.numel() % self.parts:
            raise ValueError(f"{tuple(x.shape)} {x.dtype} cannot be cut into {self.parts} parts of real numbers.")
        return x.to(self.scale.dtype).reshape(self.parts, -1)


def fit(
    x: Tensor,
    *,
    bits: Bits = 8,
    scheme: Scheme = "symmetric",
    per: Per = "tensor",
    group: Group = 64,
    percentile: Percentile = 100.0,
    holds_zero: HoldsZero = True,
) -> Quantiser:
    """A quantiser for x (rows, ...): the codes reach as far as ``percentile`` per cent of the numbers of a part do.

    A channel is a row: of a weight (out, in) an output. Raises ``ValueError`` for x without numbers, with NaN or
    infinity, and for parts that it cannot be cut into evenly.
    """
    if not x.is_floating_point() or not x.numel() or not x.isfinite().all():
        raise ValueError("A quantiser is fitted to finite floating-point numbers, one or more.")
    rows = _parts(x.detach(), per, group)
    symmetric, high = scheme == "symmetric", 2 ** (bits - 1) - 1
    low = -high if symmetric else -high - 1
    if symmetric:
        reach = _largest(rows.abs(), percentile)
        scale, zero = reach / high, torch.zeros_like(reach)
    else:
        least, most = -_largest(-rows, percentile), _largest(rows, percentile)
        if holds_zero:
            least, most = least.clamp(max=0), most.clamp(min=0)
        scale = (most - least) / (high - low)
        zero = (low - least / torch.where(scale > 0, scale, 1)).round().clamp(low, high)
    return Quantiser(torch.where(scale > 0, scale, torch.ones_like(scale)), zero, low, high)


def signal_to_noise(x: Tensor, back: Tensor) -> float:
    """How far the error of ``back`` lies below the signal x, in dB: 10 log10 of the ratio of their squares. Infinite
    where there is no error. Each bit more halves the error, which makes 6.02 dB."""
    noise = (x.double() - back.double()).square().sum()
    return float(10 * torch.log10(x.double().square().sum() / noise)) if noise else float("inf")


def _largest(rows: Tensor, percentile: float) -> Tensor:
    """Of each row the number that ``percentile`` per cent do not exceed."""
    if percentile == 100:
        return rows.amax(1, keepdim=True)  # ``quantile`` takes 16 million numbers at most
    return torch.quantile(rows, percentile / 100, dim=1, keepdim=True)


def _parts(x: Tensor, per: str, group: int) -> Tensor:
    """x as (parts, numbers), in float32 at least."""
    x = x if x.dtype == torch.float64 else x.float()
    if per == "tensor":
        return x.reshape(1, -1)
    if per == "channel":
        if x.ndim < 2:
            raise ValueError(f"A scale per channel needs rows: two axes or more, not {tuple(x.shape)}.")
        return x.flatten(1)
    if not x.ndim or x.shape[-1] % group:
        raise ValueError(f"The last axis of {tuple(x.shape)} cannot be cut into groups of {group}.")
    return x.reshape(-1, group)
