"""What PolyCom is compared with: ReLU, GELU, ReLU squared and the gated SwiGLU, GEGLU, ReGLU."""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from workbench.feedforward.polycom.inputs import (
    GatedRows,
    Rows,
    check_rows,
    gated_cost,
    gated_example,
    gated_misfits,
    halves,
    plain_cost,
    plain_example,
    why_not_fast,
    workspace,
)
from workbench.feedforward.polycom.methods import activation
from workbench.paper import Activation

Approximate = Annotated[Literal["none", "tanh"], "The exact error function, or its tanh approximation."]

# --- the equations ---------------------------------------------------------------------------------------------------


def relu_reference(x: Rows) -> Rows:
    """ReLU, max(x, 0); its derivative at 0 is 0."""
    check_rows("relu", x)
    return torch.relu(x)


def gelu_reference(x: Rows, *, approximate: Approximate = "none") -> Rows:
    """GELU, x Phi(x) with the normal distribution function Phi; ``"tanh"`` is the approximation older code uses."""
    check_rows("gelu", x)
    if approximate == "tanh":
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def relu_squared_reference(x: Rows) -> Rows:
    """ReLU squared, max(x, 0)^2 (Primer)."""
    check_rows("relu_squared", x)
    return torch.relu(x).square()


def swiglu_reference(x: GatedRows) -> Rows:
    """SwiGLU: g sigmoid(g) * u, where (g, u) are the halves of x (..., 2 hidden), gate first. Returns (..., hidden)."""
    gate, value = halves("swiglu", x)
    return gate * torch.sigmoid(gate) * value


def geglu_reference(x: GatedRows) -> Rows:
    """GEGLU: GELU(g) * u, halves as in ``swiglu``."""
    gate, value = halves("geglu", x)
    return gate * 0.5 * (1 + torch.erf(gate / 2**0.5)) * value


def reglu_reference(x: GatedRows) -> Rows:
    """ReGLU: max(g, 0) * u, halves as in ``swiglu``."""
    gate, value = halves("reglu", x)
    return torch.relu(gate) * value


# --- fast: one read, one write, float32 arithmetic inside ------------------------------------------------------------


def gelu_fast(x: Rows, *, approximate: Approximate = "none") -> Rows:
    """PyTorch's own GELU: one kernel forward, one backward, nothing to gain."""
    check_rows("gelu", x)
    return nn.functional.gelu(x, approximate=approximate)


def relu_squared_fast(x: Rows) -> Rows:
    """ReLU squared in one pass over x; PyTorch takes two."""
    check_rows("relu_squared", x)
    from workbench_kernels.activation.pointwise import relu_squared

    return relu_squared(x)


def swiglu_fast(x: GatedRows) -> Rows:
    """SwiGLU in one pass over x; the backward pass keeps x alone. Arguments as ``reference``."""
    return _gated_fast("swiglu", x)


def geglu_fast(x: GatedRows) -> Rows:
    """GEGLU in one pass over x; the backward pass keeps x alone. Arguments as ``reference``."""
    return _gated_fast("geglu", x)


def reglu_fast(x: GatedRows) -> Rows:
    """ReGLU in one pass over x; the backward pass keeps x alone. Arguments as ``reference``."""
    return _gated_fast("reglu", x)


def _gated_fast(name: str, x: Tensor) -> Tensor:
    halves(name, x)
    from workbench_kernels.activation.gated import gated

    return gated(x, {"swiglu": "silu", "geglu": "gelu", "reglu": "relu"}[name])


# --- the methods -----------------------------------------------------------------------------------------------------

relu = activation(
    "relu",
    "ReLU",
    "Negative numbers become zero.",
    reference=relu_reference,
    fast=relu_reference,
    example=plain_example,
    cost=plain_cost(1, 1),
    workspace=workspace(reference=0),
)

gelu = activation(
    "gelu",
    "GELU",
    "Every number is weighted by the probability that a normal one is smaller.",
    reference=gelu_reference,
    fast=gelu_fast,
    example=plain_example,
    cost=plain_cost(5, 11),
    workspace=workspace(reference=2),
)

relu_squared = activation(
    "relu_squared",
    "ReLU²",
    "ReLU, squared: zero stays zero, large numbers grow faster.",
    reference=relu_squared_reference,
    fast=relu_squared_fast,
    why_not_fast=why_not_fast,
    example=plain_example,
    cost=plain_cost(2, 3),
    workspace=workspace(reference=1),
)

swiglu = activation(
    "swiglu",
    "SwiGLU",
    "Half of the up-projection, through SiLU, gates the other half.",
    reference=swiglu_reference,
    eager=lambda x: nn.functional.silu(halves("swiglu", x)[0]) * halves("swiglu", x)[1],
    fast=swiglu_fast,
    why_not_fast=why_not_fast,
    example=gated_example,
    misfits=gated_misfits,
    cost=gated_cost(5, 11),
    workspace=workspace(reference=1, pieces=2),
    slot=Activation(branches=2),
)

geglu = activation(
    "geglu",
    "GEGLU",
    "Half of the up-projection, through GELU, gates the other half.",
    reference=geglu_reference,
    eager=lambda x: nn.functional.gelu(halves("geglu", x)[0]) * halves("geglu", x)[1],
    fast=geglu_fast,
    why_not_fast=why_not_fast,
    example=gated_example,
    misfits=gated_misfits,
    cost=gated_cost(6, 14),
    workspace=workspace(reference=1, pieces=2),
    slot=Activation(branches=2),
)

reglu = activation(
    "reglu",
    "ReGLU",
    "Half of the up-projection, through ReLU, gates the other half.",
    reference=reglu_reference,
    fast=reglu_fast,
    why_not_fast=why_not_fast,
    example=gated_example,
    misfits=gated_misfits,
    cost=gated_cost(2, 4),
    workspace=workspace(reference=1, pieces=2),
    slot=Activation(branches=2),
)
