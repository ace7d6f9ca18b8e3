"""PolyCom's equations, Eq. 1 to 3."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from workbench.feedforward.polycom.inputs import Bias, Epsilon, Rows, Weight, check_polynomial


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


def poly_relu(x: Rows, weight: Weight, bias: Bias) -> Rows:
    """PolyReLU, Eq. 2: a_0 + a_1 x_+ + a_2 x_+^2 + a_3 x_+^3. The constant stands outside the ReLU.

    x (..., hidden), weight (order,) ascending with 1 to 4 coefficients, bias (1,). Any floating dtype; the output has
    x's. Raises ``ValueError`` for what does not fit together. O(order) operations a number; grows like x^order.
    """
    check_polynomial("poly_relu", x, weight, bias)
    return type_one(x, torch.relu, weight, bias)


def poly_norm(x: Rows, weight: Weight, bias: Bias, *, eps: Epsilon = 1e-6) -> Rows:
    """PolyNorm, Eq. 3, in the form of the official code: each power of a row is divided by its root mean square.

    x (..., hidden): rows are normalised over the last axis. weight (order,) ascending with 1 to 4 coefficients, bias
    (1,). Any floating dtype; the output has x's. A row of zeros gives the bias. Raises ``ValueError`` for what does not
    fit together. O(order) operations a number.

    The squares of the powers must be numbers of that dtype, or the power fades: with order 3 in float16 |x| must stay
    below 6.35, in float32 and bfloat16 below 2.6e6, with order 4 below 65536; ``fast`` has no such limit.
    """
    check_polynomial("poly_norm", x, weight, bias)
    return type_two(x, lambda power: normalise(power, eps), weight, bias)


def from_official_order(weight: Weight) -> Weight:
    """Coefficients in the official code's order (cubic, square, linear) in ours (linear, square, cubic), or back."""
    return weight.flip(0)
