"""What doubly stochastic attention is compared with: NormSoftmax, and equations that go through ``torch.compile``."""

import functools
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor

from workbench.attention.inputs import KeyOrValue, Output, Query, Scale, attention, repeat_heads, scores_of
from workbench.attention.quantum_doubly_stochastic.inputs import refuse_causal
from workbench.attention.quantum_doubly_stochastic.operators import norm_softmax, temperature
from workbench.attention.standard import fused_cpu
from workbench.paper import Baseline

Spread = Annotated[Literal["deviation", "variance"], "What the scores are divided by, if it is less than sqrt(d)."]


@attention(refuse=refuse_causal, folds_scale=False)
def norm_softmax_reference(
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
    map = norm_softmax(scores, ceiling=1 / scale, spread=spread, resolution=_rounding(query, key))
    return map.to(value.dtype) @ value


@attention(refuse=refuse_causal, folds_scale=False)
def norm_softmax_fast(
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
    query = query / temperature(variance, 1 / scale, spread, _rounding(query, key)).to(query.dtype)
    if query.is_cpu:
        return fused_cpu(query, key, value, scale=1.0, is_causal=False, window_left=None, window_right=None)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)


def _rounding(query: Tensor, key: Tensor) -> Tensor:
    """How far scores of equal queries and keys may lie apart (..., 1, 1): four roundings of sums of head_dim products,
    in the precision that sums are made in."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    longest = [torch.linalg.vector_norm(x.detach().to(dtype), dim=-1).amax(-1)[..., None, None] for x in (query, key)]
    return 4 * torch.finfo(dtype).eps * query.shape[-1] ** 0.5 * longest[0] * longest[1]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (..., 1, d) and covariance (..., d, d) of the tokens of x (..., T, d)."""
    mean = x.mean(-2, keepdim=True)
    return mean, (x - mean).mT @ (x - mean) / x.shape[-2]


def norm_softmax_workspace(implementation: str, query: Tensor, key: Tensor, value: Tensor, **options: object) -> int:
    """Bytes held at the forward's peak beside inputs and output; an upper bound for both implementations."""
    batch, heads, tokens, width = query.shape
    repeated = 2 * query.numel() * query.element_size() if heads != key.shape[1] else 0
    if implementation == "reference":
        return 4 * batch * heads * tokens**2 * query.element_size() + repeated
    size = 8 if query.dtype == torch.float64 else 4
    return size * (3 * query.numel() + 4 * batch * heads * (width**2 + tokens)) + repeated


def compiled(function: Callable[..., Tensor], *, training: bool = False) -> Baseline:
    """``torch.compile`` of the equations, anew for every shape: a sweep must not time a graph for unknown sizes.

    ``training``: also where no gradient is wanted, the graph that is made for inputs that want one. It keeps what the
    backward pass would need, and is cut into other kernels, which can be quicker.
    """

    @functools.cache
    def compiled_for(*case: object) -> Callable[..., Tensor]:
        def call(*inputs: Tensor, **options: object) -> Tensor:
            return function(*inputs, **options)

        # PyTorch stops compiling a function after 8 shapes; a code object of its own gives each shape its own count.
        call.__code__ = call.__code__.replace()
        return torch.compile(call, fullgraph=True, dynamic=False)

    def run(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        case = (query.shape, key.shape, query.dtype, query.requires_grad, *sorted(options.items()))
        return compiled_for(*case)(query, key, value, **options)

    def run_training(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        if query.requires_grad and torch.is_grad_enabled():
            return run(query, key, value, **options)
        with torch.enable_grad():
            leaves = (tensor.detach().requires_grad_() for tensor in (query, key, value))
            return run(*leaves, **options).detach()

    def why_not(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
        return (
            [] if query.is_cuda else ["The compiled equations are measured on CUDA only: compiling for a CPU is slow."]
        )

    return Baseline(run_training if training else run, why_not)
