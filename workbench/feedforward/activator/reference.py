"""The Activator's equations, Eq. 1 to 4."""

import torch
from jaxtyping import Float
from torch import Tensor

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


def activate(x: Tensor, activation: str) -> Tensor:
    """The activation of the gate's branch. GELU is the exact one, x Phi(x)."""
    if activation == "gelu":
        return x * 0.5 * (1 + torch.erf(x / 2**0.5))
    if activation == "silu":
        return x * torch.sigmoid(x)
    return torch.relu(x) if activation == "relu" else x


def layer_norm(x: Rows, weight: OfHidden, bias: OfHidden, eps: float) -> Rows:
    """Each row less its mean, divided by its (biased) standard deviation; then weight and bias. Of x's dtype."""
    centred = x - x.mean(-1, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return (normal * weight + bias).to(x.dtype)


def branches(x: GatedRows, weight: OfHidden, bias: OfHidden, activation: str, eps: float) -> tuple[Rows, Rows]:
    """Eq. 2: u and v from z_1 and z_2, the halves of x."""
    gate, value = x.chunk(2, dim=-1)
    return layer_norm(activate(gate, activation), weight, bias, eps), layer_norm(value, weight, bias, eps)


def normalised_gate(
    x: GatedRows, weight: OfHidden, bias: OfHidden, *, activation: Gate = "gelu", eps: Epsilon = 1e-5
) -> Rows:
    """Eq. 2 and the product of Eq. 3: LN(activation(z_1)) * LN(z_2), one LN for both.

    x (..., 2 hidden) holds z_1, then z_2; weight and bias (hidden,). Returns (..., hidden) of x's dtype. Raises
    ``ValueError`` for what does not fit together. O(hidden) operations a row.
    """
    check_gate(x, weight, bias)
    u, v = branches(x, weight, bias, activation, eps)
    return u * v


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
    """Eq. 4, a block of variant B: x + AGU(LN_d(x)). Every token for itself.

    Linear weights are stored (out, in), as in ``nn.Linear``; ``up_weight`` is W_1 above W_2. Returns x's shape and
    dtype. Raises ``ValueError`` for what does not fit together. 3 width hidden multiply-adds a token.
    """
    check_block(x, up_weight, down_weight.mT)
    z = layer_norm(x, norm_weight, norm_bias, eps) @ up_weight.mT + up_bias
    u, v = branches(z, weight, bias, activation, eps)
    return x + (u * v) @ down_weight.mT + down_bias
