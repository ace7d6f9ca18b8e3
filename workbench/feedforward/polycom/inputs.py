"""What the activations share: shapes, knobs, checks, examples, costs."""

from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.controls import Range
from workbench.paper import Cost, Example, kernel_or_cpu, standard_normal

Rows = Float[Tensor, "*rows hidden"]
GatedRows = Float[Tensor, "*rows two_hidden"]
Weight = Float[Tensor, " order"]
Bias = Float[Tensor, "1"]

MAX_ORDER = 4

Hidden = Annotated[int, Range(2, 65536, log=True), "Width of the feed-forward block's inside."]
Order = Annotated[int, Range(1, MAX_ORDER), "Degree of the polynomial; 3 in the paper."]
Epsilon = Annotated[float, Range(0.0, 0.01), "Added to the mean of the squared power; small rows fade below its root."]


def check_rows(name: str, x: Tensor) -> None:
    """Raise ``ValueError`` unless x is a floating tensor (..., hidden); there may be no rows, but not no columns."""
    if not x.is_floating_point():
        raise ValueError(f"{name} takes floating-point numbers, not {str(x.dtype)[6:]}.")
    if x.ndim == 0 or not x.shape[-1]:
        raise ValueError(f"{name} takes x (..., hidden) with at least one column, not {tuple(x.shape)}.")


def check_polynomial(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise ``ValueError`` unless x is floating (..., hidden), weight (1 to 4,) and bias (1,), all on one device."""
    check_rows(name, x)
    if weight.ndim != 1 or not 1 <= weight.shape[0] <= MAX_ORDER:
        raise ValueError(f"{name} takes 1 to {MAX_ORDER} coefficients, weight (order,), not {tuple(weight.shape)}.")
    if bias.shape != (1,):
        raise ValueError(f"{name} takes one bias, (1,), not {tuple(bias.shape)}.")
    if not (weight.is_floating_point() and bias.is_floating_point()):
        raise ValueError(f"{name} takes floating-point coefficients, not {weight.dtype} and {bias.dtype}.")
    if not x.device == weight.device == bias.device:
        raise ValueError(f"{name} needs one device, not {x.device}, {weight.device} and {bias.device}.")


def halves(name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of x (..., 2 hidden): gate, value."""
    check_rows(name, x)
    if x.shape[-1] % 2:
        raise ValueError(f"{name} takes x (..., 2 hidden), gate first: the last axis must be even, not {x.shape[-1]}.")
    gate, value = x.chunk(2, dim=-1)
    return gate, value


def polynomial_example(
    rows: int, *, device: str = "cpu", dtype: str = "float32", seed: int = 0, hidden: Hidden = 1024, order: Order = 3
) -> Example:
    """Standard-normal rows (rows, hidden); coefficients 1/order and no bias, as at the start of training."""
    placed = {"device": device, "dtype": getattr(torch, dtype)}
    x = standard_normal((rows, hidden), device=device, dtype=dtype, seed=seed)
    return Example({"x": x, "weight": torch.full((order,), 1 / order, **placed), "bias": torch.zeros(1, **placed)})


def polynomial_misfits(example: Example) -> dict[str, tuple[Tensor, ...]]:
    """What a polynomial cannot take."""
    x, weight, bias = example.inputs.values()
    return {
        "no coefficients": (x, weight[:0], bias),
        "five coefficients": (x, weight[:1].repeat(5), bias),
        "two biases": (x, weight, bias.repeat(2)),
        "no columns": (x[:, :0], weight, bias),
    }


def plain_example(
    rows: int, *, device: str = "cpu", dtype: str = "float32", seed: int = 0, hidden: Hidden = 1024
) -> Example:
    """Standard-normal rows (rows, hidden)."""
    return Example({"x": standard_normal((rows, hidden), device=device, dtype=dtype, seed=seed)})


def gated_misfits(example: Example) -> dict[str, tuple[Tensor, ...]]:
    """What has no two halves."""
    x = example.inputs["x"]
    return {"an odd width": (x[:, 1:],), "no columns": (x[:, :0],)}


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


def poly_norm_cost(x: Tensor, weight: Tensor, bias: Tensor, **options: object) -> Cost:
    """5 r - 2 operations a number forward: r - 1 powers, r sums of squares (x^2 is a power already), r steps of Horner.

    Backward 7 r - 1: r - 1 powers, r sums of g x^p and one of g, and two polynomials of degree r - 1.
    """
    order = len(weight)
    forward, backward = 5 * order - 2 + (order == 1), 7 * order - 1
    return cost(forward, backward, x, x, weight.nbytes + bias.nbytes)


def poly_relu_cost(x: Tensor, weight: Tensor, bias: Tensor) -> Cost:
    """2 r + 1 operations a number forward (Horner, the maximum); backward 2 r + 1 for x, 3 r for the coefficients."""
    order = len(weight)
    return cost(2 * order + 1, 5 * order + 1, x, x, weight.nbytes + bias.nbytes)


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
