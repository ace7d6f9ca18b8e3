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

from workbench.feedforward.polycom.claims import CLAIMS, RECORDINGS
from workbench.feedforward.polycom.comparison import geglu, gelu, reglu, relu, relu_squared, swiglu
from workbench.feedforward.polycom.layers import PolyNorm, PolyReLU
from workbench.feedforward.polycom.methods import poly_norm, poly_relu
from workbench.feedforward.polycom.reference import from_official_order, normalise, powers, type_one, type_two
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
from workbench.paper import Paper

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
    "normalise",
    "order_errors",
    "piecewise_linear_error",
    "poly_norm",
    "poly_relu",
    "powers",
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
    recordings=RECORDINGS,
    take_when=(
        "A language model is trained anew and its feed-forward blocks may have one branch in place of SwiGLU's "
        "two, at as many parameters; many rows at a time, where the fused PolyNorm reads and writes once and "
        "keeps little more than its input."
    ),
    leave_when=(
        "A trained model is to be kept as it is, rows are few (a compiled formula serves as well there), or "
        "activations must be cheap on a CPU: GELU and ReLU are."
    ),
)
