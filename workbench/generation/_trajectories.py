"""What the methods of this chapter take: the features of a whole sampling run, step by step."""

import torch
from jaxtyping import Float
from torch import Tensor

Features = Float[Tensor, "batch steps tokens width"]


def check_features(name: str, features: Tensor, axes: int) -> None:
    """Raise ``ValueError`` unless features is a floating tensor of so many axes with something in it."""
    if not features.is_floating_point():
        raise ValueError(f"{name} takes floating-point numbers, not {str(features.dtype)[6:]}.")
    if features.ndim != axes or 0 in features.shape:
        before = "batch, " if axes == 4 else "batch, blocks, "
        raise ValueError(
            f"{name} takes features ({before}steps, tokens, width) with something in each, not {tuple(features.shape)}."
        )


def working_type(x: Tensor) -> torch.dtype:
    """What numbers like x are computed in: float64 stays, everything else is float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def wide(x: Tensor) -> Tensor:
    """x in its working type."""
    return x.to(working_type(x))


def normal(shape: tuple[int, ...], device: str, dtype: str, seed: int) -> Tensor:
    """Standard-normal numbers."""
    generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device, dtype=getattr(torch, dtype))


def trajectories(shape: tuple[int, ...], device: str, dtype: str, seed: int) -> Tensor:
    """Smooth curves over the steps, the third axis from the end: three slow waves of drawn strength, a little noise."""
    steps, rest = shape[-3], (*shape[:-3], 1, *shape[-2:])
    if device == "meta":
        return torch.empty(shape, device=device, dtype=getattr(torch, dtype))
    time = torch.arange(steps, device=device).div(50)[:, None, None]
    curve = 0.01 * normal(shape, device, "float32", seed)
    for wave in range(3):
        curve = curve + normal(rest, device, "float32", seed + 1 + wave) * torch.cos((1 + wave) * time + wave)
    return curve.to(getattr(torch, dtype))
