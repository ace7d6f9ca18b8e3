"""The roofline of this machine, measured."""

import functools
from dataclasses import dataclass

import torch

from workbench.measure.timing import time_call


@dataclass(frozen=True)
class Ceilings:
    """What this machine reaches at best: bytes read and written by a large copy, FLOPs of a large matrix product."""

    device: str
    dtype: str
    bytes_per_s: float
    flops_per_s: float

    def floor_ms(self, flops: float, moved: float) -> float:
        """The least time for so many FLOPs and bytes, if everything overlaps."""
        return 1e3 * max(flops / self.flops_per_s, moved / self.bytes_per_s)


@functools.cache
def ceilings(device: str, dtype: str) -> Ceilings:
    """Measured here, once per process: under half a second on two CPU cores. A ceiling is what is reached at good
    moments, so it is made of the 20th percentile of the times.

    Data that is small enough to stay in a CPU's cache moves faster than the copy says: there a fraction of the roofline
    may exceed 1.
    """
    return Ceilings(device, dtype, _copy_rate(device), _matrix_rate(device, dtype))


@functools.cache
def _copy_rate(device: str) -> float:
    size = (512 if device == "cuda" else 128) * 2**20  # several times any cache
    source = torch.ones(size, dtype=torch.uint8, device=device)  # zeros might be one page, mapped many times
    target = torch.ones_like(source)
    return 2 * size / time_call(lambda: target.copy_(source), device, budget_s=0.1).low_ms * 1e3


def _matrix_rate(device: str, dtype: str) -> float:
    # Grown until one product takes long enough to count: the rate of a dtype may be 10 GFLOP/s or 1 PFLOP/s.
    largest, best = 8192 if device == "cuda" else 2048, 0.0
    size, generator = 256, torch.Generator(device).manual_seed(0)
    while size <= largest:
        # Random numbers: a GPU multiplies ones faster, since they take less power.
        square = torch.randn(size, size, generator=generator, dtype=getattr(torch, dtype), device=device)
        low_ms = time_call(lambda square=square: square @ square, device, budget_s=0.02).low_ms
        best = max(best, 2 * size**3 / low_ms * 1e3)
        if low_ms > 10:
            break
        size *= 2
    return best
