"""Attention with the paper's maps, as the equations have it."""

from torch import Tensor

from workbench.attention.inputs import KeyOrValue, Output, Query, Scale, attention, repeat_heads, scores_of
from workbench.attention.quantum_doubly_stochastic.circuit import doubly_stochastic
from workbench.attention.quantum_doubly_stochastic.circuit_inputs import (
    Auxiliary,
    Layers,
    circuit_of,
    padded_scores,
    parameters_of,
)
from workbench.attention.quantum_doubly_stochastic.inputs import (
    HalfSteps,
    Seed,
    Spread,
    refuse_causal,
    refuse_unless_square,
    rounding,
)
from workbench.attention.quantum_doubly_stochastic.operators import norm_softmax, qr, sinkhorn


@attention(refuse=refuse_unless_square)
def sinkhorn_attention(
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
def qr_attention(
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
def qontot_attention(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    layers: Layers = 2,
    auxiliary: Auxiliary = 1,
    seed: Seed = 0,
    theta: Tensor | None = None,
) -> Output:
    """QontOT attention: P V with P = the circuit's read-out for angles theta * scores; a *static* circuit.

    theta is drawn from U(-1, 1) by ``seed``, or given (``parameters_of`` has its length) and then differentiable. Zero
    scores give the identity. Shapes, errors and ``scale`` as ``sinkhorn_attention``; at most 64 tokens. Their number is
    padded to a power of two, at least 2, with scores of zero; what padded tokens receive is lost to the output, so rows
    and columns sum to 1 only for a power of two. The paper takes log2 T + 1 auxiliary qubits or more.

    With q = log2 T + auxiliary + 1 qubits: 16 q layers 4^q FLOPs a head.
    """
    key, value = repeat_heads(query, key, value)
    tokens = query.shape[-2]
    circuit = circuit_of(tokens, layers, auxiliary)
    scores = padded_scores(scores_of(query, key, scale), circuit.pop("tokens"))
    if theta is None:
        theta = parameters_of(tokens, layers, auxiliary, seed).to(scores.device)
    return doubly_stochastic(scores, theta, **circuit)[..., :tokens, :tokens].to(value.dtype) @ value


@attention(refuse=refuse_causal, folds_scale=False)
def norm_softmax_attention(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    spread: Spread = "deviation",
) -> Output:
    """NormSoftmax (Sec. 5.1): softmax(Q K^T / min(sqrt(d), spread of Q K^T)) V; row-stochastic only, a baseline.

    The spread is over all scores of a head. ``scale`` stands for 1/sqrt(d). Shapes and errors as
    ``sinkhorn_attention``; it cannot be causal, since the spread looks at all pairs.
    """
    key, value = repeat_heads(query, key, value)
    scores = scores_of(query, key, 1.0)
    map = norm_softmax(scores, ceiling=1 / scale, spread=spread, resolution=rounding(query, key))
    return map.to(value.dtype) @ value
