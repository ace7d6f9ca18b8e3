"""What CG-Taylor's methods take: examples, costs, memory, and the errors for what does not fit."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.controls import Range
from workbench.generation.forecasting import taylor_weights
from workbench.generation.trajectories import Batch, Tokens, Width, trajectories
from workbench.paper import Cost, Example, standard_normal

Order = Annotated[int, Range(0, 4), "Highest derivative that is kept."]
Blocks = Float[Tensor, "batch blocks steps tokens width"]
Threshold = Annotated[
    float, Range(0.0, 1.0), "Relative error of the first block's forecast from which on it is refused."
]
Change = Annotated[
    float, Range(0.0, 1.0), "Relative change of what the first block adds from which on all is computed."
]
Warmup = Annotated[int, Range(0, 12), "Steps up to this one are full."]
Scope = Annotated[Literal["batch", "sample"], "One decision for the batch, or one for each sample."]


def blocks_example(blocks: int) -> Callable[..., Example]:
    """The ``example`` of a method that takes so many trajectories: the input or the first block, ..., the last one."""

    def example(
        steps: int,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        seed: int = 0,
        batch: Batch = 2,
        tokens: Tokens = 16,
        width: Width = 48,
    ) -> Example:
        """Smooth curves (batch, blocks, steps, tokens, width): a few slow waves of drawn strength, a little noise."""
        return Example({"features": trajectories((batch, blocks, steps, tokens, width), device, dtype, seed)})

    return example


def blocks_misfits(example: Example) -> dict[str, tuple[Tensor, ...]]:
    """What are not the trajectories of so many blocks."""
    features = example.inputs["features"]
    return {
        "a single sample": (features[0],),
        "a block too few": (features[:, 1:],),
        "no steps": (features[:, :, :0],),
    }


def gate_example(
    tokens: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Batch = 2,
    order: Order = 1,
    width: Width = 48,
) -> Example:
    """A standard-normal first block and differences; Taylor weights of one, two, ... steps' distance."""
    stack = standard_normal((batch, order + 1, tokens, width), device=device, dtype=dtype, seed=seed + 1)
    factors = [taylor_weights(1 + sample % 3, order + 1) for sample in range(batch)]
    return Example(
        {
            "hidden": standard_normal((batch, tokens, width), device=device, dtype=dtype, seed=seed),
            "derivatives": stack,
            "weights": torch.tensor(factors, device=device, dtype=stack.dtype),
        }
    )


def gate_misfits(example: Example) -> dict[str, tuple[Tensor, ...]]:
    """Tensors that do not fit together."""
    hidden, derivatives, weights = example.inputs.values()
    return {
        "fewer weights than entries": (hidden, derivatives, weights[:, 1:]),
        "another width": (hidden[..., 1:], derivatives, weights),
        "one entry, without its axis": (hidden, derivatives[:, 0], weights),
    }


def blocks_cost(features: Tensor, **options: object) -> Cost:
    """Some operations for each number: a forecast, a comparison, a difference."""
    flops = 4 * features.numel()
    moved = features.nbytes + features[:, 0].numel() * features.element_size()
    return Cost(flops, moved, flops, moved)


def gate_cost(hidden: Tensor, derivatives: Tensor, weights: Tensor) -> Cost:
    """2 operations for each number of the differences, as PyTorch counts the reference's sum over entries."""
    moved = hidden.nbytes + derivatives.nbytes + weights.nbytes + 2 * len(hidden) * hidden.element_size()
    return Cost(2 * derivatives.numel(), moved, 4 * derivatives.numel(), moved + hidden.nbytes + derivatives.nbytes)


def blocks_workspace(implementation: str, features: Tensor, **options: object) -> int:
    """Reference: forecasts before they are stacked, and the differences. Fast on CUDA: tables and the sums of tiles; on
    a CPU the square of the steps, for every sample at most, the outputs that are used, and 16-bit numbers in 32."""
    batch, _, steps, *_ = features.shape
    wider = 1 if features.element_size() >= 4 else 3
    one = features[:, 0].nbytes
    if implementation == "reference":
        return one + 12 * wider * one // steps
    groups = batch if options.get("scope") == "sample" else 1
    if features.is_cuda and features.element_size() < 8:
        return 128 * steps * groups + one // steps // 64
    squares = max(4, features.element_size()) * steps**2 * groups
    return squares + 6 * wider * one // steps + (one if wider == 1 else 5 * one)


def cache_workspace(implementation: str, features: Tensor, **options: object) -> int:
    """Reference: forecasts before they are stacked, and what is used again. Fast: a few trajectories."""
    one = features[:, 0].nbytes
    wider = 1 if features.element_size() >= 4 else 3
    if implementation == "reference":
        return wider * (one + 6 * one // features.shape[2])
    return 3 * one if wider == 1 else 14 * one


def gate_workspace(implementation: str, hidden: Tensor, derivatives: Tensor, weights: Tensor) -> int:
    """A few tensors like the hidden one; 16-bit differences in 32."""
    widened = 2 * derivatives.nbytes if hidden.element_size() < 4 else 0
    return (
        widened + 3 * hidden.numel() * max(4, hidden.element_size())
        if implementation != "fast" or hidden.is_cpu
        else 64
    )


def check_blocks(name: str, features: Tensor, count: int) -> None:
    """Raise ``ValueError`` unless the second axis has ``count`` trajectories."""
    if features.shape[1] != count:
        what = "first and last block" if count == 2 else "the input, first and last block"
        raise ValueError(f"{name} takes {count} trajectories, of {what}, not {features.shape[1]}.")


def check_gate(hidden: Tensor, derivatives: Tensor, weights: Tensor) -> None:
    shapes = [tuple(each.shape) for each in (hidden, derivatives, weights)]
    fits = derivatives.ndim == 4 and shapes[1][1] and shapes[0] == (shapes[1][0], *shapes[1][2:])
    if not fits or shapes[2] != shapes[1][:2]:
        raise ValueError(
            "gate_error takes hidden (batch, tokens, width), derivatives (batch, entries, tokens, width) and weights "
            f"(batch, entries), not {', '.join(map(str, shapes))}."
        )
    if not all(each.is_floating_point() for each in (hidden, derivatives, weights)):
        raise ValueError("gate_error takes floating-point numbers only.")
