"""What the methods of this chapter share: the features of a whole sampling run, step by step, and their knobs."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.controls import Range
from workbench.paper import Method, standard_normal

Features = Float[Tensor, "batch steps tokens width"]

Interval = Annotated[int, Range(1, 12), "Every so many steps the network is computed; in between it is forecast."]
FirstFull = Annotated[int, Range(1, 12), "Steps at the start that are all computed."]
Weights = Annotated[
    Literal["taylor", "newton"], "x^i / i! of the paper, or Newton's, exact for polynomials on an even grid."
]

Batch = Annotated[int, Range(1, 1024, log=True), "Samples drawn at once; with guidance each counts twice."]
Tokens = Annotated[int, Range(1, 65536, log=True), "Tokens of an image."]
Width = Annotated[int, Range(1, 16384, log=True), "Numbers of a token."]


def method(name: str, title: str, idea: str, **settings: object) -> Method:
    """A method of this chapter, with what all of them share."""
    return Method(name=name, title=title, idea=idea, tolerance={"float64": 1e-12, "float32": 1e-5}, **settings)


def check_features(name: str, features: Tensor, axes: int) -> None:
    """Raise ``ValueError`` unless features is a floating tensor of so many axes, with a step at least."""
    if not features.is_floating_point():
        raise ValueError(f"{name} takes floating-point numbers, not {str(features.dtype)[6:]}.")
    if features.ndim != axes or not features.shape[-3]:
        before = "batch, " if axes == 4 else "batch, blocks, "
        raise ValueError(
            f"{name} takes features ({before}steps, tokens, width) with one step at least, not {tuple(features.shape)}."
        )


def working_type(x: Tensor) -> torch.dtype:
    """What numbers like x are computed in: float64 stays, everything else is float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def wide(x: Tensor) -> Tensor:
    """x in its working type."""
    return x.to(working_type(x))


def trajectories(shape: tuple[int, ...], device: str, dtype: str, seed: int) -> Tensor:
    """Smooth curves over the steps, the third axis from the end: three slow waves of drawn strength, a little noise."""
    steps, rest = shape[-3], (*shape[:-3], 1, *shape[-2:])
    if device == "meta":
        return torch.empty(shape, device=device, dtype=getattr(torch, dtype))
    time = torch.arange(steps, device=device).div(50)[:, None, None]
    curve = 0.01 * standard_normal(shape, device=device, dtype="float32", seed=seed)
    for wave in range(3):
        strength = standard_normal(rest, device=device, dtype="float32", seed=seed + 1 + wave)
        curve = curve + strength * torch.cos((1 + wave) * time + wave)
    return curve.to(getattr(torch, dtype))
