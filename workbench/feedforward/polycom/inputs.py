"""What the activations of this chapter share: shapes, checks, examples, costs, and how a method is put together."""

from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from workbench.controls import Range
from workbench.feedforward.compiled import compiled
from workbench.paper import Activation, Baseline, Cost, Example, Method, kernel_or_cpu, standard_normal

Rows = Float[Tensor, "*rows hidden"]
GatedRows = Float[Tensor, "*rows two_hidden"]
PLAIN = Activation()
Hidden = Annotated[int, Range(2, 65536, log=True), "Width of the feed-forward block's inside."]


def check_rows(name: str, x: Tensor) -> None:
    """Raise ``ValueError`` unless x is a floating tensor (..., hidden); there may be no rows, but not no columns."""
    if not x.is_floating_point():
        raise ValueError(f"{name} takes floating-point numbers, not {str(x.dtype)[6:]}.")
    if x.ndim == 0 or not x.shape[-1]:
        raise ValueError(f"{name} takes x (..., hidden) with at least one column, not {tuple(x.shape)}.")


def halves(name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of x (..., 2 hidden): gate, value."""
    check_rows(name, x)
    if x.shape[-1] % 2:
        raise ValueError(f"{name} takes x (..., 2 hidden), gate first: the last axis must be even, not {x.shape[-1]}.")
    gate, value = x.chunk(2, dim=-1)
    return gate, value


def plain_example(
    rows: int, *, device: str = "cpu", dtype: str = "float32", seed: int = 0, hidden: Hidden = 1024
) -> Example:
    """Standard-normal rows (rows, hidden)."""
    return Example({"x": standard_normal((rows, hidden), device=device, dtype=dtype, seed=seed)})


def gated_example(
    rows: int, *, device: str = "cpu", dtype: str = "float32", seed: int = 0, hidden: Hidden = 1024
) -> Example:
    """Standard-normal rows (rows, 2 hidden): gate, then value."""
    return Example({"x": standard_normal((rows, 2 * hidden), device=device, dtype=dtype, seed=seed)})


def cost(forward: int, backward: int, x: Tensor, output: Tensor, coefficients: int = 0) -> Cost:
    """Operations are given for one number of the output. Forward reads x and writes the output; backward reads x and
    the gradient of the output and writes the gradient of x. Coefficients are read, and their gradients written."""
    numbers = output.numel()
    moved = x.nbytes + output.nbytes + coefficients
    return Cost(forward * numbers, moved, backward * numbers, moved + x.nbytes + coefficients)


def plain_cost(forward: int, backward: int) -> Callable[..., Cost]:
    """Operations for one number; an exponential, an error function or a division counts as one."""
    return lambda x, **options: cost(forward, backward, x, x)


def gated_cost(forward: int, backward: int) -> Callable[..., Cost]:
    """As ``plain_cost``, for one number of the output, which is half as wide as x."""
    return lambda x, **options: cost(forward, backward, x, x[..., : x.shape[-1] // 2])


def workspace(reference: int, pieces: int = 0) -> Callable[..., int]:
    """Bytes beside input and output at the peak of a forward call that needs no gradients, an upper bound.

    The equations hold ``reference`` tensors like x, and so does whatever is not ``fast``. Fast holds the scales of the
    rows and, on a CPU, ``pieces`` pieces of 2^16 numbers a core.
    """

    def workspace(implementation: str, x: Tensor, *inputs: Tensor, **options: object) -> int:
        if implementation != "fast":
            return reference * x.nbytes
        size = 8 if x.dtype == torch.float64 else 4
        on_cpu = pieces * size * min(x.numel(), 2**16 * torch.get_num_threads()) if x.is_cpu else 0
        return on_cpu + size * sum(len(each) for each in inputs) * x[..., 0].numel()

    return workspace


def why_not_fast(x: Tensor, *inputs: Tensor, **options: object) -> list[str]:
    """Why the fused kernels cannot run on these inputs, in sentences."""
    from workbench_kernels import tiles

    return kernel_or_cpu(x, tiles.why_not, x.dtype)


def checkpointed(function: Callable[..., Tensor]) -> Baseline:
    """What the official code does against the memory of its eager formula: keep x, and compute everything again."""

    def run(*inputs: Tensor, **options: object) -> Tensor:
        return checkpoint(function, *inputs, use_reentrant=False, **options)

    return Baseline(run)


def activation(
    name: str,
    title: str,
    idea: str,
    *,
    reference: Callable[..., Tensor],
    eager: Callable[..., Tensor] | None = None,
    slot: Activation = PLAIN,
    recomputed: bool = False,
    **settings: object,
) -> Method:
    """What the methods of this module share. ``eager`` is PyTorch's own one or two calls, where there are some;
    ``recomputed``: the official code computes the formula again in the backward pass, so that is a baseline."""
    baselines = {"eager": Baseline(eager)} if eager else {}
    if recomputed:
        baselines["checkpointed"] = checkpointed(reference)
    return Method(
        name=name,
        title=title,
        idea=idea,
        slot=slot,
        reference=reference,
        tolerance={"float64": 1e-12, "float32": 1e-5},
        baselines={**baselines, "torch_compile": compiled(reference)},
        **settings,
    )
