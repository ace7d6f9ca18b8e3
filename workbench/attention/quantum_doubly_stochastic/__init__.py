r"""Quantum doubly stochastic attention: every key receives exactly as much attention as every query spends.

Born, Skogh, Rhrissorrakrai, Utro, Wagner, Sobczyk, *Quantum Doubly Stochastic Transformers*, arXiv 2504.16275.

Idea. Softmax makes the rows of the attention map sum to 1; its columns may sum to anything, so a key can be flooded or
ignored. A *doubly stochastic* map has columns that sum to 1 as well. Three ways from the scores :math:`M` to one:
Sinkhorn normalises rows and columns in turn and comes close; for a unitary :math:`U` the squares :math:`|U_{ij}|^2` are
doubly stochastic exactly, and :math:`U` is either the orthogonal factor of a QR decomposition of the scores or what a
quantum circuit does whose angles are the scores (QontOT, simulated).

Notation, for one batch element and one head:

=====================  ======================  =============================================================
paper                  here                    shape
=====================  ======================  =============================================================
:math:`Q, K, V`        query, key, value       (T, d)
:math:`M`              scores                  (T, T), :math:`Q K^\top / \sqrt d`
:math:`P`              map, probabilities      (T, T)
:math:`u, v`           potentials              (T,), :math:`P = \exp(M + u 1^\top + 1 v^\top)`
:math:`k`              iterations              half-steps of Sinkhorn, rows first; 1 is softmax
=====================  ======================  =============================================================

``iterations`` counts *half*-steps, as the Sinkformer's code does; where others count a row and a column step as one, n
of theirs are 2 n here. A causal doubly stochastic map can only be the identity (the first row has one entry, which is
then 1, so its column is full, and so on), so none of these methods can be causal, and queries and keys must be as many.
"""

from workbench.attention.doubly_stochastic import Diagnostics, birkhoff_projection, diagnostics
from workbench.attention.quantum_doubly_stochastic import circuit, theory
from workbench.attention.quantum_doubly_stochastic.circuit import doubly_stochastic as qontot
from workbench.attention.quantum_doubly_stochastic.circuit_inputs import circuit_of, parameters_of
from workbench.attention.quantum_doubly_stochastic.claims import CLAIMS, RECORDINGS
from workbench.attention.quantum_doubly_stochastic.methods import (
    norm_softmax_attention,
    qontot_attention,
    qr_attention,
    sinkhorn_attention,
)
from workbench.attention.quantum_doubly_stochastic.operators import (
    Convergence,
    implicit_gradient,
    norm_softmax,
    potentials,
    qr,
    sinkhorn,
    sinkhorn_to_tolerance,
)
from workbench.paper import Paper, View

__all__ = [
    "PAPER",
    "Convergence",
    "Diagnostics",
    "birkhoff_projection",
    "circuit",
    "circuit_of",
    "diagnostics",
    "implicit_gradient",
    "norm_softmax",
    "norm_softmax_attention",
    "parameters_of",
    "potentials",
    "qontot",
    "qontot_attention",
    "qr",
    "qr_attention",
    "sinkhorn",
    "sinkhorn_attention",
    "sinkhorn_to_tolerance",
    "theory",
]

SINKHORN = {
    "b.attention.window_left": "None",
    "b.attention.window_right": "None",
    "b.doubly_stochastic": "sinkhorn_attention",
}

PAPER = Paper(
    slug="quantum_doubly_stochastic",
    title="Quantum Doubly Stochastic Transformers",
    authors="Jannis Born, Filip Skogh, Kahn Rhrissorrakrai, Filippo Utro, Nico Wagner, Aleksandros Sobczyk",
    arxiv="2504.16275",
    year=2025,
    chapter="attention",
    idea="Attention whose columns sum to one as its rows do: by Sinkhorn, a QR decomposition or a quantum circuit.",
    methods=(norm_softmax_attention, sinkhorn_attention, qr_attention, qontot_attention),
    claims=CLAIMS,
    recordings=RECORDINGS,
    views=(
        View(
            page="inspect",
            title="No word gets more than its share",
            settings={**SINKHORN, "b.doubly_stochastic.iterations": "21", "layer": "5", "head": "7"},
        ),
        View(
            page="inspect",
            title="A digit in patches",
            settings={**SINKHORN, "source": "image", "layer": "2", "head": "0"},
        ),
        View(
            page="train",
            title="Doubly stochastic attention",
            settings={"b.mixing": "attention", "b.doubly_stochastic": "sinkhorn_attention"},
        ),
    ),
    take_when=(
        "No token may be overlooked and none may take all: maps whose columns sum to one as rows do. Sinkhorn is "
        "the one to begin with; QR needs no iterations and fits short sequences, such as patches."
    ),
    leave_when=(
        "Generation token by token, for doubly stochastic maps are not causal; long sequences with QR, whose work"
        " is cubic; and the circuit, beyond a study of what it computes."
    ),
)
