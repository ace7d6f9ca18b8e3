"""The gate in one pass over its rows, and the block around it."""

from jaxtyping import Float
from torch import Tensor, nn

from workbench.feedforward.activator.inputs import (
    Epsilon,
    Gate,
    GatedRows,
    OfHidden,
    Rows,
    Tokens,
    check_block,
    check_gate,
    weights_like_x,
)
from workbench.feedforward.activator.vit import norm_fast
from workbench.paper import kernel_or_cpu


def normalised_gate(
    x: GatedRows, weight: OfHidden, bias: OfHidden, *, activation: Gate = "gelu", eps: Epsilon = 1e-5
) -> Rows:
    """Both branches in one pass over x: a Triton kernel on CUDA, rows in cache-sized pieces on a CPU.

    Arguments and errors as ``reference``. The arithmetic is float32 (float64 for float64 input) and is rounded once.
    The backward pass keeps x and four numbers a row, and is deterministic.
    """
    check_gate(x, weight, bias)
    from workbench_kernels.activation.gated_norm import gated_norm

    return gated_norm(x, weight, bias, activation, eps)


@weights_like_x
def activator_block(
    x: Tokens,
    norm_weight: Float[Tensor, " width"],
    norm_bias: Float[Tensor, " width"],
    up_weight: Float[Tensor, "two_hidden width"],
    up_bias: Float[Tensor, " two_hidden"],
    weight: OfHidden,
    bias: OfHidden,
    down_weight: Float[Tensor, "width hidden"],
    down_bias: Float[Tensor, " width"],
    *,
    activation: Gate = "gelu",
    eps: Epsilon = 1e-5,
) -> Tokens:
    """A layer norm in one pass, and two matrix products with the fused gate between them. Arguments and errors as
    ``reference``."""
    check_block(x, up_weight, down_weight.mT)
    z = nn.functional.linear(norm_fast(x, norm_weight, norm_bias, eps), up_weight, up_bias)
    gated = normalised_gate(z, weight, bias, activation=activation, eps=eps)
    return x + nn.functional.linear(gated, down_weight, down_bias)


def why_not(x: Tensor, *inputs: Tensor, **options: object) -> list[str]:
    """Why the fused gate cannot run on x (..., 2 hidden), in sentences."""
    from workbench_kernels.activation import gated_norm

    return kernel_or_cpu(x, gated_norm.why_not, x.shape[-1] // 2, x.dtype)


def why_not_block(x: Tensor, *weights: Tensor, **options: object) -> list[str]:
    """Why the fused gate cannot run inside of a block, in sentences."""
    from workbench_kernels.activation import gated_norm

    return kernel_or_cpu(x, gated_norm.why_not, weights[2].shape[0] // 2, x.dtype)
