"""What the operators make of many small matrices: how many maps they can tell apart, how far the maps are from doubly
stochastic, and what they trade between entropy and information (Sec. 3)."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.doubly_stochastic import birkhoff_projection, diagnostics
from workbench.attention.quantum_doubly_stochastic.circuit import (
    Ansatz,
    doubly_stochastic_fast,
    draw_parameters,
    parameter_count,
)
from workbench.attention.quantum_doubly_stochastic.operators import qr, sinkhorn

Matrices = Float[Tensor, "matrices tokens tokens"]
Operator = Callable[[Tensor], Tensor]


# --- expressivity: how many of many inputs stay apart ----------------------------------------------------------------


def sphere_grid(tokens: int = 4) -> Matrices:
    """All matrices whose columns are unit vectors of the grid {0, 1/2, 1}^4: 5^4 = 625 of them, float64 (Sec. 3.1).

    In four dimensions the grid has five vectors of length 1, the axes and (1/2, 1/2, 1/2, 1/2); in others only the
    axes. Raises ``ValueError`` for fewer than 1 or more than 5 tokens.
    """
    if not 1 <= tokens <= 5:
        raise ValueError(f"The grid is listed in full for 1 to 5 tokens, not {tokens}.")
    grid = torch.tensor(list(itertools.product((0.0, 0.5, 1.0), repeat=tokens)), dtype=torch.float64)
    vectors = grid[torch.linalg.vector_norm(grid, dim=1) == 1]
    columns = torch.tensor(list(itertools.product(range(len(vectors)), repeat=tokens)))
    return vectors[columns].mT


def hypercube_grid(count: int, *, tokens: int = 4, seed: int = 0) -> Matrices:
    """``count`` matrices drawn from the 3^(tokens^2) whose entries are 0, 1/2 or 1, float64 (Fig. 2A has them all)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (count, tokens, tokens), generator=generator).double() / 2


def distinct(maps: Matrices, decimals: int = 3) -> int:
    """How many different matrices there are after rounding to that many decimals."""
    return len(torch.unique((maps.double() * 10**decimals).round().long().flatten(1), dim=0))


def circuit(
    tokens: int,
    *,
    auxiliary_qubits: int,
    layers: int,
    ansatz: Ansatz = "parted",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Operator:
    """QontOT as a function of scores (..., tokens, tokens) alone, with theta ~ U(-1, 1) drawn by ``seed``."""
    settings = {"auxiliary_qubits": auxiliary_qubits, "layers": layers, "ansatz": ansatz}
    theta = draw_parameters(parameter_count(tokens, **settings), seed=seed)

    def operator(scores: Tensor) -> Tensor:
        return doubly_stochastic_fast(scores.to(dtype), theta.to(scores.device, dtype), **settings)

    return operator


def qr_of_deficient(scores: Matrices, *, jitter: float = 1e-7, seed: int = 0) -> Matrices:
    """QR's map, with noise only on the matrices that have no full rank (their other columns are the noise's)."""
    deficient = torch.linalg.matrix_rank(scores) < scores.shape[-1]
    return torch.where(deficient[:, None, None], qr(scores, jitter=jitter, seed=seed), qr(scores, jitter=0.0))


def sphere_counts() -> dict[str, int]:
    """How many of the 625 matrices of the sphere grid each operator keeps apart; the paper: 621, 625 and 381."""
    scores = sphere_grid()
    operators: dict[str, Operator] = {
        "softmax": lambda matrices: sinkhorn(matrices, 1),
        "Sinkhorn, 3": lambda matrices: sinkhorn(matrices, 3),
        "Sinkhorn, 21": lambda matrices: sinkhorn(matrices, 21),
        "Birkhoff projection": birkhoff_projection,
        "QR": qr_of_deficient,
        "QR without noise": lambda matrices: qr(matrices, jitter=0.0),
        "QontOT, parted, 2 layers": circuit(4, auxiliary_qubits=3, layers=2),
        "QontOT, parted, 4 layers": circuit(4, auxiliary_qubits=3, layers=4),
        "QontOT, parted, 8 layers": circuit(4, auxiliary_qubits=3, layers=8),
        "QontOT, simple, 2 layers": circuit(4, auxiliary_qubits=3, layers=2, ansatz="simple"),
        "QontOT, simple, 8 layers": circuit(4, auxiliary_qubits=3, layers=8, ansatz="simple"),
    }
    return {name: distinct(operator(scores)) for name, operator in operators.items()}


def depth_counts(
    layers: Sequence[int], count: int = 2000, *, auxiliary_qubits: Sequence[int] = (2, 3), seed: int = 0
) -> list[dict[str, float]]:
    """The share of ``count`` hypercube matrices that a simple circuit keeps apart, by layers and auxiliary qubits."""
    scores = hypercube_grid(count, seed=seed)
    inputs = distinct(scores)
    rows = []
    for auxiliary, depth in itertools.product(auxiliary_qubits, layers):
        operator = circuit(4, auxiliary_qubits=auxiliary, layers=depth, ansatz="simple", seed=seed, dtype=torch.float32)
        share = distinct(operator(scores)) / inputs
        rows.append({"layers": depth, "auxiliary_qubits": auxiliary, "distinct": share})
    return rows


# --- how far from doubly stochastic, and what is kept ----------------------------------------------------------------


def operators(tokens: int = 8, *, auxiliary_qubits: int = 2, layers: int = 4) -> dict[str, Operator]:
    """The operators that the paper compares, by the name that a legend shows."""
    return {
        "softmax": lambda scores: sinkhorn(scores, 1),
        "Sinkhorn, 3": lambda scores: sinkhorn(scores, 3),
        "Sinkhorn, 21": lambda scores: sinkhorn(scores, 21),
        "QR": qr,
        "QontOT": circuit(tokens, auxiliary_qubits=auxiliary_qubits, layers=layers),
    }


def normal_scores(scale: float, *, matrices: int = 32, tokens: int = 8, seed: int = 0) -> Matrices:
    """Normal scores of that standard deviation, float64."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(matrices, tokens, tokens, generator=generator, dtype=torch.float64)


def compare(scores: Matrices, chosen: Mapping[str, Operator] | None = None) -> list[dict[str, float | str]]:
    """For each operator the means over all matrices of their diagnostics: a row a operator.

    ``distance`` to the doubly stochastic matrices (Frobenius), ``row_error`` and ``column_error``, ``entropy`` in nats
    a row, ``information_loss`` (the Frobenius norm of scores minus map).
    """
    rows = []
    for name, operator in (operators(scores.shape[-1]) if chosen is None else chosen).items():
        found = diagnostics(operator(scores), scores)
        measures = ("distance", "row_error", "column_error", "entropy", "information_loss")
        rows.append({"operator": name, **{measure: getattr(found, measure).mean().item() for measure in measures}})
    return rows


def scale_study(scales: Sequence[float], *, matrices: int = 32, tokens: int = 8) -> list[dict[str, float | str]]:
    """``compare`` on normal scores, one after the other for every standard deviation, ``scale``."""
    chosen = operators(tokens)
    return [
        {"scale": scale, **row}
        for scale in scales
        for row in compare(normal_scores(scale, matrices=matrices, tokens=tokens), chosen)
    ]


def entropy_at_equal_loss(
    rows: Sequence[Mapping[str, float | str]], one: str = "QontOT", other: str = "Sinkhorn, 21"
) -> list[dict[str, float]]:
    """How much more entropy ``one`` operator's maps have than the ``other``'s where both lose as much information.

    ``rows`` are those of ``scale_study``: loss and entropy of each operator, a curve over the size of the scores, taken
    as straight between sizes. At the losses of all rows that lie within both curves: ``information_loss``, ``gap``.
    """
    curves = {}
    for name in (one, other):
        points = sorted((row["information_loss"], row["entropy"]) for row in rows if row["operator"] == name)
        curves[name] = tuple(zip(*points, strict=True))
    low, high = max(losses[0] for losses, _ in curves.values()), min(losses[-1] for losses, _ in curves.values())
    losses = sorted({loss for found, _ in curves.values() for loss in found if low <= loss <= high} | {low, high})
    gaps = np.interp(losses, *curves[one]) - np.interp(losses, *curves[other])
    return [{"information_loss": loss, "gap": gap} for loss, gap in zip(losses, gaps.tolist(), strict=True)]
