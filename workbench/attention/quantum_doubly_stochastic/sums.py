"""How far a map is from doubly stochastic, how evenly it spreads, and what it keeps of the scores (Sec. 5, Fig. 2B)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.attention.quantum_doubly_stochastic.operators import Scores, birkhoff_projection, check_square


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
