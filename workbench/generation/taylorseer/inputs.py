"""What TaylorSeer's methods take: examples, costs, memory, and the errors for what does not fit."""

from typing import Annotated

import torch
from torch import Tensor

from workbench.controls import Range
from workbench.generation.forecasting import full_count, taylor_weights
from workbench.generation.trajectories import Batch, Tokens, Width, trajectories
from workbench.paper import Cost, Example, standard_normal

Order = Annotated[int, Range(0, 4), "Highest derivative that is kept; 0 reuses the last value."]
Derivatives = Annotated[int, Range(1, 4), "Highest derivative that is kept."]
Modules = Annotated[int, Range(1, 1024, log=True), "Attention and feed-forward modules of the network."]


def trajectory_example(
    steps: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Batch = 2,
    tokens: Tokens = 16,
    width: Width = 48,
) -> Example:
    """Smooth curves (batch, steps, tokens, width): a few slow waves of drawn strength, and a little noise."""
    return Example({"features": trajectories((batch, steps, tokens, width), device, dtype, seed)})


def trajectory_misfits(example: Example) -> dict[str, tuple[Tensor, ...]]:
    """What is no trajectory."""
    features = example.inputs["features"]
    return {"a single sample": (features[0],), "no steps": (features[:, :0],)}


def modules_example(
    tokens: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Batch = 2,
    modules: Modules = 12,
    order: Order = 2,
    width: Width = 48,
) -> Example:
    """A standard-normal residual stream, differences and gates; Taylor weights of one and two steps' distance."""
    stack = standard_normal((batch, modules, order + 1, tokens, width), device=device, dtype=dtype, seed=seed + 1)
    factors = [taylor_weights(1 + sample % 2, order + 1) for sample in range(batch)]
    return Example(
        {
            "hidden": standard_normal((batch, tokens, width), device=device, dtype=dtype, seed=seed),
            "derivatives": stack,
            "gates": standard_normal((batch, modules, width), device=device, dtype=dtype, seed=seed + 2),
            "weights": torch.tensor(factors, device=device, dtype=stack.dtype),
        }
    )


def modules_misfits(example: Example) -> dict[str, tuple[Tensor, ...]]:
    """Tensors that do not fit together."""
    hidden, derivatives, gates, weights = example.inputs.values()
    return {
        "fewer gates than modules": (hidden, derivatives, gates[:, 1:], weights),
        "fewer weights than entries": (hidden, derivatives, gates, weights[:, 1:]),
        "another width": (hidden[..., 1:], derivatives, gates, weights),
        "one module, without its axis": (hidden, derivatives[:, 0], gates, weights),
    }


def stack_example(
    tokens: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Batch = 2,
    order: Derivatives = 2,
    width: Width = 48,
) -> Example:
    """A standard-normal feature and differences; gaps of 1, 2, 3, ... steps."""
    feature = standard_normal((batch, tokens, width), device=device, dtype=dtype, seed=seed)
    rates = torch.tensor([1 / (1 + sample % 4) for sample in range(batch)], device=device, dtype=feature.dtype)
    stack = standard_normal((batch, order + 1, tokens, width), device=device, dtype=dtype, seed=seed + 1)
    return Example({"feature": feature, "derivatives": stack, "rates": rates})


def stack_misfits(example: Example) -> dict[str, tuple[Tensor, ...]]:
    """Tensors that do not fit together."""
    feature, derivatives, rates = example.inputs.values()
    return {
        "fewer rates than samples": (feature, derivatives, rates[1:]),
        "another width": (feature[..., 1:], derivatives, rates),
        "one entry, without its axis": (feature, derivatives[:, 0], rates),
    }


def trajectory_cost(
    features: Tensor, *, interval: int = 4, order: int = 2, first_full: int = 2, **options: object
) -> Cost:
    """A multiplication and an addition for each difference of each number, at most. Only what is computed is read."""
    flops = 2 * (order + 1) * features.numel()
    steps = features.shape[1]
    read = features.nbytes * full_count(steps, interval, first_full) // steps
    return Cost(flops, read + features.nbytes, flops, 2 * features.nbytes)


def reuse_cost(features: Tensor, *, interval: int = 4, first_full: int = 1) -> Cost:
    """A copy, one operation for each number. Only what is computed is read."""
    read = features.nbytes * full_count(features.shape[1], interval, first_full) // features.shape[1]
    return Cost(features.numel(), read + features.nbytes, features.numel(), 2 * features.nbytes)


def modules_cost(hidden: Tensor, derivatives: Tensor, gates: Tensor, weights: Tensor) -> Cost:
    """2 operations for each number of the cache and each module of the residual stream; the cache is read once.

    Counted as PyTorch counts the reference's sum over entries, a matrix product.
    """
    flops = 2 * derivatives.numel()
    moved = 2 * hidden.nbytes + derivatives.nbytes + gates.nbytes + weights.nbytes
    return Cost(flops, moved, 3 * flops, moved + derivatives.nbytes + gates.nbytes)


def stack_cost(feature: Tensor, derivatives: Tensor, rates: Tensor) -> Cost:
    """A subtraction and a multiplication for each number of the result."""
    flops = 2 * derivatives.numel()
    moved = feature.nbytes + 2 * derivatives.nbytes + rates.nbytes
    return Cost(flops, moved, 2 * flops, moved + derivatives.nbytes)


def reuse_workspace(implementation: str, features: Tensor, **options: object) -> int:
    """Nothing beside the output."""
    return 0


def trajectory_workspace(
    implementation: str,
    features: Tensor,
    *,
    interval: int = 4,
    order: int = 2,
    first_full: int = 2,
    **options: object,
) -> int:
    """Reference: the forecasts before they are stacked, and two stacks of differences. Fast: nothing on CUDA, the
    computed features on a CPU."""
    batch, steps, *_ = features.shape
    wider = 1 if features.element_size() >= 4 else 3
    one = features.nbytes // steps
    full = full_count(steps, interval, first_full)
    if implementation == "reference":
        return wider * one * (steps - full + 2 * (order + 1) + 3)
    if features.is_cuda and features.element_size() < 8:
        return 64 * steps
    return wider * one * full + (features.nbytes * wider if wider > 1 else 0)


def modules_workspace(implementation: str, hidden: Tensor, derivatives: Tensor, gates: Tensor, weights: Tensor) -> int:
    """A few tensors like the residual stream; the reference widens 16-bit numbers first."""
    widened = 2 * derivatives.nbytes if implementation == "reference" and hidden.element_size() < 4 else 0
    factors = weights.shape[1] * gates.nbytes if implementation == "fast" and not hidden.is_cuda else 0
    return widened + factors + (4 if implementation == "reference" else 1) * hidden.numel() * 8


def stack_workspace(implementation: str, feature: Tensor, derivatives: Tensor, rates: Tensor) -> int:
    """Reference: the new entries before they are stacked. Fast: two of them on a CPU."""
    wider = 1 if feature.element_size() >= 4 else 3
    if implementation == "reference":
        return wider * (derivatives.nbytes + feature.nbytes)
    return 0 if feature.is_cuda else 3 * wider * feature.nbytes


def check_modules(hidden: Tensor, derivatives: Tensor, gates: Tensor, weights: Tensor) -> None:
    """Raise ``ValueError`` unless the four fit together."""
    shapes = [tuple(each.shape) for each in (hidden, derivatives, gates, weights)]
    fits = derivatives.ndim == 5 and shapes[0] == (shapes[1][0], *shapes[1][3:]) and shapes[1][2]
    if not fits or shapes[2] != (*shapes[1][:2], shapes[1][4]) or shapes[3] != (shapes[1][0], shapes[1][2]):
        raise ValueError(
            "forecast_modules takes hidden (batch, tokens, width), derivatives (batch, modules, entries, tokens, "
            f"width), gates (batch, modules, width) and weights (batch, entries), not {', '.join(map(str, shapes))}."
        )
    if not all(each.is_floating_point() for each in (hidden, derivatives, gates, weights)):
        raise ValueError("forecast_modules takes floating-point numbers only.")


def check_stack(feature: Tensor, derivatives: Tensor, rates: Tensor) -> None:
    shapes = [tuple(each.shape) for each in (feature, derivatives, rates)]
    fits = derivatives.ndim == 4 and shapes[1][1] and shapes[0] == (shapes[1][0], *shapes[1][2:])
    if not fits or shapes[2] != shapes[1][:1]:
        raise ValueError(
            "refresh_derivatives takes feature (batch, tokens, width), derivatives (batch, entries, tokens, width) and "
            f"rates (batch,), not {', '.join(map(str, shapes))}."
        )
    if not all(each.is_floating_point() for each in (feature, derivatives, rates)):
        raise ValueError("refresh_derivatives takes floating-point numbers only.")
