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

from typing import Annotated

import torch
from torch import Tensor

from workbench.attention.doubly_stochastic import Diagnostics, birkhoff_projection, diagnostics
from workbench.attention.inputs import (
    KeyOrValue,
    Output,
    Query,
    Scale,
    attention,
    cost,
    example,
    repeat_heads,
    scores_of,
)
from workbench.attention.quantum_doubly_stochastic import circuit, theory
from workbench.attention.quantum_doubly_stochastic.baselines import (
    compiled,
    norm_softmax_fast,
    norm_softmax_reference,
    norm_softmax_workspace,
)
from workbench.attention.quantum_doubly_stochastic.circuit import doubly_stochastic as qontot
from workbench.attention.quantum_doubly_stochastic.circuit_attention import (
    LARGEST_EXAMPLE,
    circuit_of,
    parameters_of,
    qontot_cost,
    qontot_example,
    qontot_fast,
    qontot_reference,
    qontot_workspace,
    why_not_qontot,
)
from workbench.attention.quantum_doubly_stochastic.claims import CLAIMS, RECORDINGS
from workbench.attention.quantum_doubly_stochastic.inputs import (
    qr_cost,
    qr_example,
    qr_workspace,
    refuse_unless_square,
    sinkhorn_workspace,
    why_not_sinkhorn,
)
from workbench.attention.quantum_doubly_stochastic.operators import (
    Convergence,
    implicit_gradient,
    jittered,
    norm_softmax,
    potentials,
    qr,
    sinkhorn,
    sinkhorn_to_tolerance,
)
from workbench.attention.quantum_doubly_stochastic.scaling import sinkhorn_attention as scaled_sinkhorn
from workbench.controls import Range
from workbench.paper import Attention, Baseline, Method, Paper, View

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

HalfSteps = Annotated[int, Range(1, 101), "Half-steps, rows first: odd counts end with rows. 1 is softmax."]
Seed = Annotated[int, Range(0, 1_000_000), "Which random numbers."]

# --- Sinkhorn --------------------------------------------------------------------------------------------------------


@attention(refuse=refuse_unless_square)
def sinkhorn_reference(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    iterations: HalfSteps = 5,
) -> Output:
    """Sinkhorn attention (Sec. 2.3.1): P V with P from ``iterations`` half-steps of row and column normalisation.

    query (batch, heads, T, d); key and value (batch, kv_heads, T, d) where kv_heads divides heads. ``scale`` defaults
    to 1/sqrt(d). Returns (batch, heads, T, d). The rows of P sum to 1 for an odd count, the columns for an even one.

    Raises ``ValueError`` for a causal call, for queries and keys of different lengths, and for shapes, dtypes or
    devices that do not fit together. O(T^2 (d + iterations)) time and O(T^2) memory a head.
    """
    key, value = repeat_heads(query, key, value)
    return sinkhorn(scores_of(query, key, scale), iterations).to(value.dtype) @ value


@attention(refuse=refuse_unless_square)
def sinkhorn_fast(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    iterations: HalfSteps = 5,
) -> Output:
    """The same, without the score matrix in memory: on CUDA every half-step computes the scores again, block by block.

    Up to 128 tokens one program keeps a head's scores in registers for all half-steps. On a CPU a few heads' scores are
    in memory at a time, and from the third half-step on a half-step is a matrix-vector product. Beside input and output
    it keeps 4 bytes a token and half-step (u and v), from which the backward pass starts. In float32 on CUDA a pass
    works on copies of its inputs, each number as two of float16: about as accurate as float32 products, but entries are
    not told apart below 2^-38 of the largest of their 128 tokens. Arguments as ``reference``.

    On an H200, 8 x 16 heads of 1024 tokens, 10 half-steps forward, products included: bfloat16 0.72 ms, torch.compile
    4.5 ms; float32 1.3 ms, torch.compile 5.0 ms.
    """
    key, value = repeat_heads(query, key, value)
    if query.is_cuda:
        from workbench_kernels.sinkhorn.attention import sinkhorn_attention as fused

        return fused(query, key, value, scale=scale, iterations=iterations)
    return scaled_sinkhorn(query, key, value, scale=scale, iterations=iterations)


# --- QR --------------------------------------------------------------------------------------------------------------


@attention(refuse=refuse_unless_square)
def qr_reference(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    jitter: float = 1e-7,
    seed: Seed = 0,
) -> Output:
    """QR attention (Sec. 2.3.4): P = U * U with scores + jitter * noise = U R; exactly doubly stochastic.

    Shapes, errors and ``scale`` (which changes nothing but the share of the noise) as ``sinkhorn_attention``. With
    head_dim < T the scores have rank head_dim only: the other columns of U come from the noise, ``seed`` says which.
    O(T^3) time a head.
    """
    key, value = repeat_heads(query, key, value)
    return qr(scores_of(query, key, scale), jitter=jitter, seed=seed).to(value.dtype) @ value


@attention(refuse=refuse_unless_square)
def qr_fast(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    jitter: float = 1e-7,
    seed: Seed = 0,
) -> Output:
    """The same with scores in float32 at least, and all matrices decomposed at once: on CUDA, up to 128 tokens, a
    program keeps a matrix in its registers. Arguments as ``reference``."""
    from workbench_kernels.linear_algebra.orthogonal import squared_orthogonal

    key, value = repeat_heads(query, key, value)
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = jittered(scale * query.to(dtype) @ key.to(dtype).mT, jitter, seed)
    return (squared_orthogonal(scores) @ value.to(dtype)).to(query.dtype)


@attention(refuse=refuse_unless_square)
def qr_one_by_one(
    query: Tensor, key: Tensor, value: Tensor, *, scale: Scale = None, jitter: float = 1e-7, seed: int = 0
) -> Tensor:
    """The equations with a loop over heads, one decomposition after the other. Arguments as ``reference``."""
    key, value = repeat_heads(query, key, value)
    scores = jittered(scores_of(query, key, scale), jitter, seed).flatten(0, 1)
    maps = torch.stack([torch.linalg.qr(matrix)[0].square() for matrix in scores])
    return maps.unflatten(0, query.shape[:2]).to(value.dtype) @ value


# --- methods, the paper ----------------------------------------------------------------------------------------------


sinkhorn_attention = Method(
    name="sinkhorn_attention",
    title="Sinkhorn attention",
    idea="Rows and columns of the map are normalised in turn, until both sum to one.",
    slot=Attention(family="doubly stochastic"),
    reference=sinkhorn_reference,
    fast=sinkhorn_fast,
    why_not_fast=why_not_sinkhorn,
    example=example,
    cost=cost,
    workspace=sinkhorn_workspace,
    tolerance={"float64": 1e-11, "float32": 1e-5},
    baselines={
        "torch_compile": compiled(sinkhorn_reference),
        "torch_compile_training": compiled(sinkhorn_reference, training=True),
    },
)

qr_attention = Method(
    name="qr_attention",
    title="QR attention",
    idea="Squares of an orthogonal matrix are doubly stochastic; a QR decomposition of the scores gives one.",
    slot=Attention(family="doubly stochastic"),
    reference=qr_reference,
    fast=qr_fast,
    example=qr_example,
    cost=qr_cost,
    workspace=lambda implementation, *inputs, **options: qr_workspace(*inputs),
    tolerance={"float64": 1e-9, "float32": 1e-3},
    baselines={"one_by_one": Baseline(qr_one_by_one)},
)

qontot_attention = Method(
    name="qontot_attention",
    title="QontOT attention",
    idea="What a quantum circuit measures whose angles are the scores, simulated exactly.",
    slot=Attention(family="doubly stochastic"),
    reference=qontot_reference,
    fast=qontot_fast,
    why_not_fast=why_not_qontot,
    example=qontot_example,
    cost=qontot_cost,
    workspace=qontot_workspace,
    tolerance={"float64": 1e-10, "float32": 1e-4},
    largest=LARGEST_EXAMPLE,
)

norm_softmax_attention = Method(
    name="norm_softmax_attention",
    title="NormSoftmax attention",
    idea="Softmax with the spread of the scores as its temperature.",
    slot=Attention(offered=False),
    reference=norm_softmax_reference,
    fast=norm_softmax_fast,
    example=example,
    cost=cost,
    workspace=norm_softmax_workspace,
    tolerance={"float64": 1e-11, "float32": 1e-5},
)

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
