r"""PolyCom: a feed-forward activation that is a learnable polynomial.

Zhijian Zhuo et al., *Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models*,
arXiv 2411.03884, ICLR 2025.

Idea. A feed-forward block is ``down(activation(up(x)))``. ReLU and GELU let pre-activations interact to first order,
SwiGLU to second. PolyCom learns a polynomial of low order instead: three coefficients and a bias for a whole layer. A
bare polynomial would explode, so it is composed with a tame function :math:`\rho`, in one of two orders (Eq. 1):

.. math:: \text{type I: } \sum_{i=0}^r a_i\, \rho(x)^i \qquad \text{type II: } \sum_{i=0}^r a_i\, \rho(x^i)

**PolyReLU** (Eq. 2) is type I with :math:`\rho = \mathrm{ReLU}`; **PolyNorm** (Eq. 3) is type II with :math:`\rho` the
normalisation of a row to unit root mean square, so its output stays bounded however large x is.

Notation:

==================  ==================  =============================================================================
paper               here                shape
==================  ==================  =============================================================================
:math:`x`           x                   (..., D); D = ``hidden``, the width of the feed-forward block's inside
:math:`a_1..a_r`    weight              (r,), **ascending**: ``weight[p - 1]`` multiplies the p-th power
:math:`a_0`         bias                (1,)
:math:`r`           order               3 in the paper
:math:`r_p`         row scale           (..., 1), :math:`(\frac1D \sum_j x_j^{2p} + \varepsilon)^{-1/2}`
:math:`g, u`        gate, value         the two halves of a gated activation's input, gate first
==================  ==================  =============================================================================

The text of the paper divides by the L2 norm; its code, and this module, divide by the root mean square: coefficients
differ by :math:`\sqrt D`. The official code stores the cubic coefficient first: ``from_official_order`` converts.

What makes it fast: once the r row scales are known, PolyNorm is *one polynomial per row*,
:math:`y = ((c_3 x + c_2) x + c_1) x + b` with :math:`c_p = a_p r_p`. One read of x, one write of y; and for the
backward pass x and r + 1 numbers a row are all that has to be kept (the last is the power of two that a row is
divided by first, so that no power of x overflows).
"""

from collections.abc import Callable, Iterator
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.controls import Range
from workbench.feedforward.polycom.claims import CLAIMS
from workbench.feedforward.polycom.comparison import geglu, gelu, reglu, relu, relu_squared, swiglu
from workbench.feedforward.polycom.inputs import (
    Hidden,
    Rows,
    activation,
    check_rows,
    cost,
    why_not_fast,
    workspace,
)
from workbench.feedforward.polycom.studies import STUDIES
from workbench.feedforward.polycom.theory import (
    effective_rank,
    identity_errors,
    order_errors,
    piecewise_linear_error,
    rate,
    sawtooth_error,
    sawtooth_square,
    spline_error,
)
from workbench.models.feed_forward import FeedForward, equal_parameter_hidden, fit_coefficients
from workbench.paper import Cost, Example, Paper, Recording, standard_normal

__all__ = [
    "PAPER",
    "FeedForward",
    "PolyNorm",
    "PolyReLU",
    "effective_rank",
    "equal_parameter_hidden",
    "fit_coefficients",
    "from_official_order",
    "geglu",
    "gelu",
    "identity_errors",
    "order_errors",
    "piecewise_linear_error",
    "poly_norm",
    "poly_relu",
    "rate",
    "reglu",
    "relu",
    "relu_squared",
    "sawtooth_error",
    "sawtooth_square",
    "spline_error",
    "swiglu",
    "type_one",
    "type_two",
]

Weight = Float[Tensor, " order"]
Bias = Float[Tensor, "1"]
Epsilon = Annotated[float, Range(0.0, 0.01), "Added to the mean of the squared power; small rows fade below its root."]

MAX_ORDER = 4


# --- the reference: Eq. 1 to 3 ---------------------------------------------------------------------------------------


def powers(x: Tensor, order: int) -> Iterator[Tensor]:
    """x, x^2, ..., x^order, each from the one before."""
    power = x
    yield power
    for _ in range(order - 1):
        power = power * x
        yield power


def type_one(x: Rows, rho: Callable[[Tensor], Tensor], weight: Weight, bias: Bias) -> Rows:
    """Eq. 1, left: the polynomial of rho(x)."""
    terms = powers(rho(x), len(weight))
    return sum(a * term for a, term in zip(weight, terms, strict=True)) + bias[0]


def type_two(x: Rows, rho: Callable[[Tensor], Tensor], weight: Weight, bias: Bias) -> Rows:
    """Eq. 1, right: the sum of rho of the powers."""
    terms = map(rho, powers(x, len(weight)))
    return sum(a * term for a, term in zip(weight, terms, strict=True)) + bias[0]


def normalise(x: Rows, eps: float) -> Rows:
    """Each row divided by its root mean square; eps is inside the root. A row of zeros stays one, eps = 0 or not."""
    mean = x.square().mean(-1, keepdim=True) + eps
    return x * torch.rsqrt(mean.masked_fill(mean == 0, torch.inf))


def poly_relu_reference(x: Rows, weight: Weight, bias: Bias) -> Rows:
    """PolyReLU, Eq. 2: a_0 + a_1 x_+ + a_2 x_+^2 + a_3 x_+^3. The constant stands outside the ReLU.

    x (..., hidden), weight (order,) ascending with 1 to 4 coefficients, bias (1,). Any floating dtype; the output has
    x's. Raises ``ValueError`` for what does not fit together. O(order) operations a number; grows like x^order.
    """
    _check_polynomial("poly_relu", x, weight, bias)
    return type_one(x, torch.relu, weight, bias)


def poly_norm_reference(x: Rows, weight: Weight, bias: Bias, *, eps: Epsilon = 1e-6) -> Rows:
    """PolyNorm, Eq. 3, in the form of the official code: each power of a row is divided by its root mean square.

    x (..., hidden): rows are normalised over the last axis. weight (order,) ascending with 1 to 4 coefficients, bias
    (1,). Any floating dtype; the output has x's. A row of zeros gives the bias. Raises ``ValueError`` for what does not
    fit together. O(order) operations a number.

    The squares of the powers must be numbers of that dtype, or the power fades: with order 3 in float16 |x| must stay
    below 6.35, in float32 and bfloat16 below 2.6e6, with order 4 below 65536; ``fast`` has no such limit.
    """
    _check_polynomial("poly_norm", x, weight, bias)
    return type_two(x, lambda power: normalise(power, eps), weight, bias)


# --- fast: one read, one write, float32 arithmetic inside ------------------------------------------------------------


def poly_norm_fast(x: Rows, weight: Weight, bias: Bias, *, eps: Epsilon = 1e-6) -> Rows:
    """PolyNorm in one pass over x: a Triton kernel on CUDA, rows in cache-sized pieces on a CPU.

    Arguments and errors as ``reference``. Powers, sums and polynomial are float32 (float64 for float64 input) and are
    rounded once; numbers of any size are right, for a row is first divided by a power of two, which rounds nothing. The
    backward pass keeps x and ``order`` + 1 numbers a row, and is deterministic.
    """
    _check_polynomial("poly_norm", x, weight, bias)
    from workbench_kernels.activation.poly_norm import poly_norm

    return poly_norm(x, weight, bias, eps)


def poly_relu_fast(x: Rows, weight: Weight, bias: Bias) -> Rows:
    """PolyReLU in one pass over x, as ``poly_norm``'s; the backward pass keeps x alone, and is deterministic."""
    _check_polynomial("poly_relu", x, weight, bias)
    from workbench_kernels.activation.poly_relu import poly_relu

    return poly_relu(x, weight, bias)


# --- layers: they hold weights, nothing else -------------------------------------------------------------------------


class _Polynomial(nn.Module):
    """Coefficients of one layer, all powers alike at the start as in the paper: 1/order each, and no bias."""

    def __init__(self, order: int = 3, implementation: str = "auto") -> None:
        super().__init__()
        if not 1 <= order <= MAX_ORDER:
            raise ValueError(f"order = {order} is not allowed: choose a whole number from 1 to {MAX_ORDER}.")
        self.weight = nn.Parameter(torch.full((order,), 1 / order))
        self.bias = nn.Parameter(torch.zeros(1))
        self.implementation = implementation

    def extra_repr(self) -> str:
        return f"order={len(self.weight)}, implementation={self.implementation!r}"


class PolyNorm(_Polynomial):
    """PolyNorm with its coefficients: (..., hidden) to (..., hidden). ``order`` 1 to 4; ``eps`` as in ``poly_norm``."""

    def __init__(self, order: int = 3, eps: float = 1e-6, implementation: str = "auto") -> None:
        super().__init__(order, implementation)
        self.eps = eps

    def forward(self, x: Rows) -> Rows:
        return poly_norm(x, self.weight, self.bias, eps=self.eps, implementation=self.implementation)


class PolyReLU(_Polynomial):
    """PolyReLU with its coefficients: (..., hidden) to (..., hidden). ``order`` is 1 to 4."""

    def forward(self, x: Rows) -> Rows:
        return poly_relu(x, self.weight, self.bias, implementation=self.implementation)


# --- coefficients ----------------------------------------------------------------------------------------------------


def from_official_order(weight: Weight) -> Weight:
    """Coefficients in the official code's order (cubic, square, linear) in ours (linear, square, cubic), or back."""
    return weight.flip(0)


# --- inputs and cost -------------------------------------------------------------------------------------------------

Order = Annotated[int, Range(1, MAX_ORDER), "Degree of the polynomial; 3 in the paper."]


def polynomial_example(
    rows: int, *, device: str = "cpu", dtype: str = "float32", seed: int = 0, hidden: Hidden = 1024, order: Order = 3
) -> Example:
    """Standard-normal rows (rows, hidden); coefficients 1/order and no bias, as at the start of training."""
    placed = {"device": device, "dtype": getattr(torch, dtype)}
    x = standard_normal((rows, hidden), device=device, dtype=dtype, seed=seed)
    return Example({"x": x, "weight": torch.full((order,), 1 / order, **placed), "bias": torch.zeros(1, **placed)})


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


# --- the methods -----------------------------------------------------------------------------------------------------


poly_relu = activation(
    "poly_relu",
    "PolyReLU",
    "A learned polynomial of ReLU; contains ReLU and ReLU² exactly.",
    reference=poly_relu_reference,
    fast=poly_relu_fast,
    why_not_fast=why_not_fast,
    example=polynomial_example,
    cost=poly_relu_cost,
    workspace=workspace(reference=4, pieces=4),
    recomputed=True,
)

poly_norm = activation(
    "poly_norm",
    "PolyNorm",
    "A learned mixture of x, x² and x³, each normalised over the row, so that it stays bounded.",
    reference=poly_norm_reference,
    fast=poly_norm_fast,
    why_not_fast=why_not_fast,
    example=polynomial_example,
    cost=poly_norm_cost,
    workspace=workspace(reference=4, pieces=5),
    recomputed=True,
)


PAPER = Paper(
    slug="polycom",
    title="Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models",
    authors="Zhijian Zhuo, Ya Wang, Yutao Zeng, Xiaoqing Li, Xun Zhou, Jinwen Ma",
    arxiv="2411.03884",
    year=2024,
    chapter="feedforward",
    idea="A polynomial of low order with learned coefficients, kept tame by ReLU or by normalisation.",
    methods=(relu, gelu, relu_squared, swiglu, geglu, reglu, poly_relu, poly_norm),
    layers={
        "poly_relu": lambda hidden, *, order=3, implementation="auto": PolyReLU(order, implementation),
        "poly_norm": lambda hidden, *, order=3, eps=1e-6, implementation="auto": PolyNorm(order, eps, implementation),
    },
    studies=STUDIES,
    claims=CLAIMS,
    recordings=tuple(
        Recording(group=f"hidden {hidden}", methods=methods, sizes=sizes, shape={"hidden": hidden})
        for hidden, sizes, methods in (
            (8192, (256, 1024, 4096, 16384), ("poly_norm", "swiglu")),
            (8192, (16384,), ("poly_relu", "relu_squared", "geglu", "reglu", "gelu", "relu")),
            (8256, (16384,), ("poly_norm",)),
        )
    ),
)


# --- checks ----------------------------------------------------------------------------------------------------------


def _check_polynomial(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    check_rows(name, x)
    if weight.ndim != 1 or not 1 <= weight.shape[0] <= MAX_ORDER:
        raise ValueError(f"{name} takes 1 to {MAX_ORDER} coefficients, weight (order,), not {tuple(weight.shape)}.")
    if bias.shape != (1,):
        raise ValueError(f"{name} takes one bias, (1,), not {tuple(bias.shape)}.")
    if not (weight.is_floating_point() and bias.is_floating_point()):
        raise ValueError(f"{name} takes floating-point coefficients, not {weight.dtype} and {bias.dtype}.")
    if not x.device == weight.device == bias.device:
        raise ValueError(f"{name} needs one device, not {x.device}, {weight.device} and {bias.device}.")
