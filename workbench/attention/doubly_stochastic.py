"""Doubly stochastic maps: rows and columns sum to one. The nearest one to any matrix, and how far from it a map is."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Scores = Float[Tensor, "*batch tokens tokens"]


def check_square(scores: Tensor) -> None:
    """Raise ``ValueError`` unless the scores are real square matrices with at least one token."""
    shape = tuple(scores.shape)
    if scores.ndim < 2 or shape[-1] != shape[-2] or 0 in shape or not scores.is_floating_point():
        raise ValueError(
            f"A doubly stochastic map is made of square real scores (..., T, T), not {str(scores.dtype)[6:]} {shape}."
        )


@torch.no_grad()
def birkhoff_projection(scores: Scores, *, tolerance: float = 1e-10, iterations: int = 20_000) -> Scores:
    """The doubly stochastic matrix nearest to the scores in the Frobenius norm, by Dykstra's alternating projections.

    Projects in turn on the matrices whose rows and columns sum to 1 (closed form) and on the non-negative ones, until
    no entry changes by more than ``tolerance`` and none is below -``tolerance``, or after ``iterations``. Computed in
    float64; for the study of expressivity: no gradient. Raises ``ValueError`` for scores that are not square. O(T^2) an
    iteration.
    """
    check_square(scores)
    projected = _with_unit_sums(scores.double())
    correction = torch.zeros_like(projected)
    for _ in range(iterations):
        positive = (projected + correction).clamp(min=0)
        correction = projected + correction - positive
        following = _with_unit_sums(positive)
        done = (following - projected).abs().amax() <= tolerance and following.amin() >= -tolerance
        projected = following
        if done:
            break
    return projected.clamp(min=0).to(scores.dtype)


def _with_unit_sums(x: Tensor) -> Tensor:
    """The nearest matrices whose rows and columns sum to 1, of any sign."""
    tokens = x.shape[-1]
    rows, columns = x.sum(-1, keepdim=True) - 1, x.sum(-2, keepdim=True) - 1
    return x - rows / tokens - columns / tokens + rows.sum(-2, keepdim=True) / tokens**2


@dataclass(frozen=True)
class Diagnostics:
    """Figures of maps (..., T, T), each (...,) in float64.

    row_sums, column_sums    (..., T) what each query spends and each key receives; 1 everywhere if doubly stochastic
    row_error, column_error  Euclidean norms of these sums minus 1
    distance                 Frobenius distance to the nearest doubly stochastic matrix
    entropy                  -sum P log P / T in nats: 0 for a permutation, log T for the uniform map
    information_loss         |scores - P| in the Frobenius norm, or None without scores
    """

    row_sums: Tensor
    column_sums: Tensor
    row_error: Tensor
    column_error: Tensor
    distance: Tensor
    entropy: Tensor
    information_loss: Tensor | None


@torch.no_grad()
def diagnostics(probabilities: Scores, scores: Scores | None = None) -> Diagnostics:
    """The figures of ``Diagnostics``, computed in float64. ``scores`` are what the operator was given.

    Raises ``ValueError`` unless both are square matrices of one shape. Dominated by the projection: O(T^2) for each of
    its steps, hundreds for a softmax map and one for a map that is doubly stochastic already.
    """
    check_square(probabilities)
    if scores is not None and scores.shape != probabilities.shape:
        raise ValueError(
            f"Map and scores must have one shape, not {tuple(probabilities.shape)} and {tuple(scores.shape)}."
        )
    p = probabilities.double()
    rows, columns = p.sum(-1), p.sum(-2)
    return Diagnostics(
        row_sums=rows,
        column_sums=columns,
        row_error=torch.linalg.vector_norm(rows - 1, dim=-1),
        column_error=torch.linalg.vector_norm(columns - 1, dim=-1),
        distance=torch.linalg.matrix_norm(p - birkhoff_projection(p, tolerance=1e-9)),
        entropy=-torch.xlogy(p, p).sum((-2, -1)) / p.shape[-1],
        information_loss=None if scores is None else torch.linalg.matrix_norm(scores.double() - p),
    )
