r"""The paper's theory (Sec. 3) as numbers that can be computed exactly or fitted in closed form; float64 throughout.

A PolyReLU unit holds polynomials exactly. A ReLU network is piecewise linear: on :math:`x^2` it pays either width, with
an error that falls like pieces^-2, or depth, a quarter of the error for every layer - the :math:`\ln(1/\varepsilon)` of
the theorems. For smooth functions a PolyReLU unit of order 3 gains two orders over a ReLU unit.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def identity_errors(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> dict[str, float]:
    """Largest relative error of three identities that PolyReLU units satisfy exactly (Lemma 1), on pairs (x, y).

    With P_2(x) = x_+^2 and P_3(x) = x_+^3, the PolyReLUs of coefficients (0, 0, 1, 0) and (0, 0, 0, 1):
    x^2 = P_2(x) + P_2(-x), x^3 = P_3(x) - P_3(-x), and x y = ((x + y)^2 - (x - y)^2) / 4, four units. The error of the
    product is taken relative to (|x| + |y|)^2 / 4, the size of what is subtracted.
    """

    def unit(z: Tensor, power: int) -> Tensor:
        return torch.relu(z) ** power

    def square(z: Tensor) -> Tensor:
        return unit(z, 2) + unit(-z, 2)

    x, y = x.double(), y.double()
    tiny = torch.finfo(torch.float64).tiny
    errors = {
        "x^2": (square(x) - x**2) / (x**2 + tiny),
        "x^3": (unit(x, 3) - unit(-x, 3) - x**3) / (x.abs() ** 3 + tiny),
        "x y": ((square(x + y) - square(x - y)) / 4 - x * y) / ((x.abs() + y.abs()) ** 2 / 4 + tiny),
    }
    return {name: error.abs().max().item() for name, error in errors.items()}


def piecewise_linear_error(pieces: int, points: int = 257) -> float:
    """Largest error of the best approximation of x^2 on [0, 1] by ``pieces`` straight lines: 1 / (8 pieces^2).

    Each line is the chord lowered by half of its largest distance, so that the error is as large above as below.
    Measured on ``points`` (odd, so that the middle is one) in every piece. O(pieces * points).
    """
    knots = torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
    left, right = knots[:-1, None], knots[1:, None]
    x = left + (right - left) * torch.linspace(0, 1, points, dtype=torch.float64)
    line = (left + right) * x - left * right - (right - left) ** 2 / 8
    return (line - x**2).abs().max().item()


def sawtooth_square(x: Float[Tensor, " n"], depth: int) -> Float[Tensor, " n"]:
    """x^2 on [0, 1] by a ReLU network of ``depth`` layers: x - sum_k g(g(...g(x))) / 4^k, g the tent map, k times."""
    total, tooth = x.clone(), x
    for k in range(1, depth + 1):
        # The tent 2x, 2 - 2x is two ReLU units.
        tooth = 2 * torch.relu(tooth) - 4 * torch.relu(tooth - 0.5)
        total = total - tooth / 4**k
    return total


def sawtooth_error(depth: int) -> float:
    """Largest error of ``sawtooth_square``: 4^-(depth + 1), in the middle of each of its 2^depth pieces."""
    x = torch.linspace(0, 1, 2 ** (depth + 2) + 1, dtype=torch.float64)
    return (sawtooth_square(x, depth) - x**2).abs().max().item()


def spline_error(units: int, power: int, points: int = 4001) -> float:
    """Largest error of a least-squares fit of sin 4x + cos(9x)/2 on [0, 1] by ``units`` units max(x - t, 0)^power.

    The knots t are k / units; the polynomials 1, ..., x^(power - 1) come beside them. ``power`` 1 is ReLU (error of
    order units^-2), 3 is PolyReLU with coefficients (0, 0, 0, 1) (units^-4).
    """
    x = torch.linspace(0, 1, points, dtype=torch.float64)
    target = torch.sin(4 * x) + 0.5 * torch.cos(9 * x)
    knots = torch.arange(units, dtype=torch.float64) / units
    columns = torch.cat([x[:, None] ** torch.arange(power), torch.relu(x[:, None] - knots) ** power], dim=1)
    solution = torch.linalg.lstsq(columns, target[:, None], driver="gelsd").solution
    return (columns @ solution - target[:, None]).abs().max().item()


def order_errors(orders: Sequence[int] = (1, 2, 3, 4), units: int = 64, seeds: int = 8) -> dict[int, float]:
    """Error of one hidden layer of max(w x + b, 0)^order units on a smooth function of two variables, by order.

    Weights of the hidden layer are drawn, those of the output are fitted by least squares; root mean square error on
    points that were not fitted, relative to the function's, median over ``seeds``.
    """

    def function(point: Tensor) -> Tensor:
        return torch.sin(3 * point[:, 0]) * torch.cos(2 * point[:, 1]) + 0.5 * torch.exp(-4 * point.square().sum(1))

    errors: dict[int, list[float]] = {order: [] for order in orders}
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        draw = {"generator": generator, "dtype": torch.float64}
        fitted, held_out = 2 * torch.rand(2, 2000, 2, **draw) - 1
        direction = torch.nn.functional.normalize(torch.randn(2, units, **draw), dim=0)
        offset = 2.8 * torch.rand(units, **draw) - 1.4
        hidden = [torch.relu(point @ direction + offset) for point in (fitted, held_out)]
        for order in orders:
            known, unknown = (torch.nn.functional.pad(unit**order, (0, 1), value=1.0) for unit in hidden)
            solution = torch.linalg.lstsq(known, function(fitted)[:, None], driver="gelsd").solution
            residual = unknown @ solution - function(held_out)[:, None]
            errors[order].append((residual.square().mean() / function(held_out).square().mean()).sqrt().item())
    return {order: sorted(found)[len(found) // 2] for order, found in errors.items()}


def rate(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """The order p of errors that fall like size^-p: minus the slope of log error over log size, by least squares."""
    x = [math.log(size) for size in sizes]
    y = [math.log(error) for error in errors]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return -products / sum((a - mean_x) ** 2 for a in x)


def effective_rank(matrix: Float[Tensor, "rows columns"]) -> float:
    """exp of the entropy of the normalised singular values: how many directions a weight matrix uses, 1 to its rank."""
    values = torch.linalg.svdvals(matrix.detach().double())
    share = values / values.sum()
    return math.exp(-torch.special.xlogy(share, share).sum().item())
