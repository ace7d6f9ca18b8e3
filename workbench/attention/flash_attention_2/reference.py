"""The equations: Algorithm 1 forward, Algorithm 2 backward."""

import torch
from torch import Tensor

from workbench.attention.flash_attention_2.blocks import Block, block_kinds, mask_of, slices
from workbench.attention.inputs import (
    Causal,
    KeyOrValue,
    Output,
    Query,
    Rows,
    Scale,
    Window,
    attention,
    check,
    prepare,
    repeat_heads,
)


def online_softmax_step(
    scores: Tensor, value: Tensor, maximum: Tensor, normaliser: Tensor, accumulator: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One column block of Algorithm 1, lines 9-10: the new (maximum, normaliser, accumulator) and the rescale factor.

    scores (..., B_r, B_c) with -inf where not allowed, value (..., B_c, d), maximum and normaliser (..., B_r),
    accumulator (..., B_r, d).
    """
    new_maximum = torch.maximum(maximum, scores.detach().amax(-1))
    # A row that has seen no allowed key yet subtracts 0: -inf - (-inf) would be NaN.
    shift = torch.where(new_maximum == -torch.inf, 0.0, new_maximum)
    weights = torch.exp(scores - shift[..., None])
    rescale = torch.exp(maximum - shift)
    normaliser = rescale * normaliser + weights.sum(-1)
    accumulator = rescale[..., None] * accumulator + weights @ value
    return new_maximum, normaliser, accumulator, rescale


def finish(maximum: Tensor, normaliser: Tensor, accumulator: Tensor) -> tuple[Tensor, Tensor]:
    """Algorithm 1, lines 12-13: divide once, and keep one logsumexp. Rows that saw no key give 0 and -inf."""
    seen = normaliser != 0
    divisor = torch.where(seen, normaliser, 1.0)
    logsumexp = torch.where(seen, maximum + torch.log(divisor), -torch.inf)
    return accumulator / divisor[..., None], logsumexp


def forward(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    window_left: int | None = None,
    window_right: int | None = None,
    block_rows: int | None = None,
    block_columns: int | None = None,
) -> tuple[Output, Rows]:
    """Algorithm 1: the output and the logsumexp (natural log) of every row. Arguments as in ``flash_attention_2``.

    As on the chip, float16 and bfloat16 are computed in float32: their scores may not fit them.
    """
    query, key, value, scale = prepare(query, key, value, scale)
    arithmetic = torch.promote_types(query.dtype, torch.float32)
    visible = {"is_causal": is_causal, "window_left": window_left, "window_right": window_right}
    blocks = {"block_rows": block_rows, "block_columns": block_columns}
    kinds = block_kinds(query.shape[-2], key.shape[-2], **visible, **blocks)

    outputs, logsumexps = [query[..., :0, :]], [query[..., :0, 0].to(arithmetic)]
    for i, rows in enumerate(slices(query.shape[-2], block_rows)):
        query_i = query[..., rows, :].to(arithmetic) * scale
        maximum = query_i.new_full(query_i.shape[:-1], -torch.inf)
        normaliser = torch.zeros_like(maximum)
        accumulator = torch.zeros_like(query_i)
        for j, columns in enumerate(slices(key.shape[-2], block_columns)):
            if kinds[i, j] == 0:
                continue
            key_j, value_j = key[..., columns, :].to(arithmetic), value[..., columns, :].to(arithmetic)
            scores = query_i @ key_j.mT
            if kinds[i, j] == 1:
                scores = scores.masked_fill(~mask_of(query, key, visible, rows, columns), -torch.inf)
            maximum, normaliser, accumulator, _ = online_softmax_step(scores, value_j, maximum, normaliser, accumulator)
        output_i, logsumexp_i = finish(maximum, normaliser, accumulator)
        outputs.append(output_i.to(query.dtype))
        logsumexps.append(logsumexp_i)
    return torch.cat(outputs, dim=-2), torch.cat(logsumexps, dim=-1)


@attention
def flash_attention_2(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: Causal = False,
    scale: Scale = None,
    window_left: Window = None,
    window_right: Window = None,
    block_rows: Block = None,
    block_columns: Block = None,
) -> Output:
    """Exact softmax attention, block by block (Algorithm 1).

    query (batch, heads, N, d); key and value (batch, kv_heads, M, d) where kv_heads divides heads: query head h reads
    key/value head ``h // (heads // kv_heads)``. ``scale`` (1/sqrt(d)) may be a tensor. A causal query r sees key c when
    ``c <= r + M - N``; a window keeps ``r + M - N - window_left <= c <= r + M - N + window_right``. A query that sees
    nothing gets zeros. Returns (batch, heads, N, d).

    Raises ``ValueError`` for shapes, dtypes or devices that do not fit together.
    Cost: 4 N M d FLOPs a head (half when causal); memory beside input and output O(B_r (B_c + d)).
    """
    options = {"is_causal": is_causal, "scale": scale, "window_left": window_left, "window_right": window_right}
    return forward(query, key, value, **options, block_rows=block_rows, block_columns=block_columns)[0]


def backward(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    output: Output,
    logsumexp: Rows,
    grad_output: Output,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    window_left: int | None = None,
    window_right: int | None = None,
    block_rows: int | None = None,
    block_columns: int | None = None,
) -> tuple[Query, KeyOrValue, KeyOrValue]:
    """Algorithm 2: the gradients of query, key and value from what the forward pass saved.

    The scores are computed again, block by block; with the logsumexp at hand no maximum is needed. The paper prints
    :math:`D \\in R^d`; it is one number a row: D = rowsum(dO * O). Computed in float32 at least, as the forward pass.
    """
    check(query, key, value, scale)
    kv_heads, dtype, arithmetic = key.shape[1], query.dtype, torch.promote_types(query.dtype, torch.float32)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    key, value = repeat_heads(query, key, value)
    query, key, value, output, grad_output = (x.to(arithmetic) for x in (query, key, value, output, grad_output))
    visible = {"is_causal": is_causal, "window_left": window_left, "window_right": window_right}
    blocks = {"block_rows": block_rows, "block_columns": block_columns}
    kinds = block_kinds(query.shape[-2], key.shape[-2], **visible, **blocks)
    grad_query, grad_key, grad_value = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    row_dot = (grad_output * output).sum(-1)

    for j, columns in enumerate(slices(key.shape[-2], block_columns)):
        key_j, value_j = key[..., columns, :], value[..., columns, :]
        for i, rows in enumerate(slices(query.shape[-2], block_rows)):
            if kinds[i, j] == 0:
                continue
            scores = scale * query[..., rows, :] @ key_j.mT
            weights = torch.exp(scores - logsumexp[..., rows, None])
            if kinds[i, j] == 1:
                # A row that sees nothing has logsumexp -inf: masking the weights, not the scores, keeps it at 0.
                weights = weights.masked_fill(~mask_of(query, key, visible, rows, columns), 0.0)
            grad_output_i = grad_output[..., rows, :]
            grad_value[..., columns, :] += weights.mT @ grad_output_i
            grad_weights = grad_output_i @ value_j.mT
            grad_scores = scale * weights * (grad_weights - row_dot[..., rows, None])
            grad_query[..., rows, :] += grad_scores @ key_j
            grad_key[..., columns, :] += grad_scores.mT @ query[..., rows, :]

    def sum_over_group(gradient: Tensor) -> Tensor:
        return gradient.unflatten(1, (kv_heads, -1)).sum(2).to(dtype)

    return grad_query.to(dtype), sum_over_group(grad_key), sum_over_group(grad_value)
