"""The same attention, made to pay off."""

import torch
from torch import Tensor

from workbench.attention.inputs import KeyOrValue, Output, Query, Scale, attention, repeat_heads
from workbench.attention.quantum_doubly_stochastic.circuit import doubly_stochastic_fast
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
from workbench.attention.quantum_doubly_stochastic.operators import jittered, temperature
from workbench.attention.quantum_doubly_stochastic.scaling import sinkhorn_attention as scaled_sinkhorn
from workbench.attention.standard import fused_cpu


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
    """The same, without the score matrix in memory: on CUDA every half-step computes the scores again, block by block.

    Up to 128 tokens one program keeps a head's scores in registers for all half-steps. On a CPU a few heads' scores are
    in memory at a time, and from the third half-step on a half-step is a matrix-vector product. Beside input and output
    it keeps 4 bytes a token and half-step (u and v) and 8 a token, from which the backward pass starts. In float32 on
    CUDA a pass works on copies of its inputs, each number as two of float16: about as accurate as float32 products, but
    entries are not told apart below 2^-38 of the largest of their 128 tokens. Arguments as ``reference``.

    On an H200, 8 x 16 heads of 1024 tokens, 10 half-steps forward, products included: bfloat16 0.82 ms, float32 1.85;
    torch.compile 4.3 and 4.8 ms, and 2.4 and 3.6 ms with the graph that it makes for training. Levelling the scores by
    their maxima, without which large ones come out wrong, is 0.1 ms of it in bfloat16 and 0.56 ms in float32.
    """
    key, value = repeat_heads(query, key, value)
    if query.is_cuda:
        from workbench_kernels.sinkhorn.attention import sinkhorn_attention as fused

        return fused(query, key, value, scale=scale, iterations=iterations)
    return scaled_sinkhorn(query, key, value, scale=scale, iterations=iterations)


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
    """The same with scores in float32 at least, and all matrices decomposed at once: on CUDA, up to 128 tokens, a
    program keeps a matrix in its registers. Arguments as ``reference``."""
    from workbench_kernels.linear_algebra.orthogonal import squared_orthogonal

    key, value = repeat_heads(query, key, value)
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = jittered(scale * query.to(dtype) @ key.to(dtype).mT, jitter, seed)
    return (squared_orthogonal(scores) @ value.to(dtype)).to(query.dtype)


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
    """The same: on CUDA the amplitudes stay in registers, on a CPU gates are multiplied up to matrices of four wires.
    Backward walks the gates back, so nothing but the angles is kept. Arguments as ``reference``."""
    key, value = repeat_heads(query, key, value)
    tokens, dtype = query.shape[-2], torch.promote_types(query.dtype, torch.float32)
    circuit = circuit_of(tokens, layers, auxiliary)
    scores = padded_scores(scale * query.to(dtype) @ key.to(dtype).mT, circuit.pop("tokens"))
    if theta is None:
        theta = parameters_of(tokens, layers, auxiliary, seed).to(scores.device)
    map = doubly_stochastic_fast(scores, theta, **circuit)[..., :tokens, :tokens]
    return (map @ value.to(dtype)).to(query.dtype)


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
    """The same in linear memory: the variance of all scores comes from d x d matrices, the rest is PyTorch's fused
    attention. With mean q and covariance A of the queries, k and B of the keys, it is k^T A k + q^T B q + tr(A B).
    """
    key, value = repeat_heads(query, key, value)
    dtype = torch.promote_types(query.dtype, torch.float32)
    (mean_q, a), (mean_k, b) = _moments(query.to(dtype)), _moments(key.to(dtype))
    variance = mean_k @ a @ mean_k.mT + mean_q @ b @ mean_q.mT + (a * b).sum((-2, -1), keepdim=True)
    # float16 has too few small numbers for the gradient of a query that is divided by a small spread.
    own, wide = query.dtype, torch.float32 if query.dtype == torch.float16 else query.dtype
    query = (query.to(dtype) / temperature(variance, 1 / scale, spread, rounding(query, key))).to(wide)
    key, value = key.to(wide), value.to(wide)
    if query.is_cpu:
        return fused_cpu(query, key, value, scale=1.0, is_causal=False, window_left=None, window_right=None).to(own)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0).to(own)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (..., 1, d) and covariance (..., d, d) of the tokens of x (..., T, d)."""
    mean = x.mean(-2, keepdim=True)
    return mean, (x - mean).mT @ (x - mean) / x.shape[-2]
