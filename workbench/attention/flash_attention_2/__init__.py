r"""FlashAttention-2: exact softmax attention that never writes the score matrix.

Tri Dao, *FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning*, arXiv 2307.08691.

Idea. Cut the queries into blocks of :math:`B_r` rows and the keys into blocks of :math:`B_c` columns. For one block of
rows walk over the blocks of columns and keep three things per row: the running maximum :math:`m` of the scores, the
running sum of exponentials :math:`\ell`, and an output :math:`\tilde O` that is *not yet* divided by :math:`\ell`.
Whenever the maximum grows, what was summed so far is corrected by one factor. Scores live on the chip for one block
only, so memory is linear in the number of tokens.

Notation, for one batch element and one head:

====================  ======================  ==============================================================
paper                 here                    shape
====================  ======================  ==============================================================
:math:`Q, K, V`       query, key, value       (N, d), (M, d), (M, d)
:math:`S`             scores                  (B_r, B_c), times the softmax scale :math:`1/\sqrt d`
:math:`m, \ell`       maximum, normaliser     (B_r,)
:math:`\tilde O`      accumulator             (B_r, d)
:math:`L = m+\log\ell` logsumexp              (N,)
====================  ======================  ==============================================================

The printed Algorithm 1 rescales with an inverse, :math:`\mathrm{diag}(e^{m^{(j-1)}-m^{(j)}})^{-1}`, and leaves the
softmax scale out. What is written here is what is mathematically right: no inverse, and the scale applied once.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.flash_attention_2.claims import CLAIMS
from workbench.attention.inputs import (
    Causal,
    KeyOrValue,
    Output,
    Query,
    Rows,
    Scale,
    Window,
    allowed,
    attention,
    check,
    cost,
    example,
    prepare,
    repeat_heads,
)
from workbench.attention.standard import (
    ROWS_AT_A_TIME,
    direct,
    flex_attention,
    fused_cpu,
    only_backend,
    sdpa,
    why_not_flex,
    without_blocks,
)
from workbench.controls import Range
from workbench.paper import Attention, Baseline, Method, Paper, Recording, View, kernel_or_cpu

Block = Annotated[int | None, Range(1, 4096), "Tokens in a block; changes the order of work, never the result."]

DEFAULT_BLOCK = 64


# --- which blocks there are ------------------------------------------------------------------------------------------


def block_kinds(
    queries: int,
    keys: int,
    *,
    is_causal: bool = False,
    window_left: int | None = None,
    window_right: int | None = None,
    block_rows: int | None = None,
    block_columns: int | None = None,
) -> np.ndarray:
    """What happens to each block, (row blocks, column blocks) of int8: 0 skipped, 1 masked inside, 2 full."""
    height, width = block_rows or DEFAULT_BLOCK, block_columns or DEFAULT_BLOCK
    first_row = np.arange(0, queries, height)[:, None] + (keys - queries)
    last_row = np.minimum(first_row + height, keys) - 1
    first_column = np.arange(0, keys, width)[None]
    last_column = np.minimum(first_column + width, keys) - 1
    right = 0 if is_causal else window_right
    right, left = (math.inf if side is None else side for side in (right, window_left))
    visited = (first_column <= last_row + right) & (last_column >= first_row - left)
    full = (last_column <= first_row + right) & (first_column >= last_row - left)
    return np.where(visited, np.where(full, 2, 1), 0).astype(np.int8)


# --- the reference: Algorithm 1 --------------------------------------------------------------------------------------


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
    """Algorithm 1: the output and the logsumexp (natural log) of every row. Arguments as in ``reference``.

    As on the chip, float16 and bfloat16 are computed in float32: their scores may not fit them.
    """
    query, key, value, scale = prepare(query, key, value, scale)
    arithmetic = torch.promote_types(query.dtype, torch.float32)
    visible = {"is_causal": is_causal, "window_left": window_left, "window_right": window_right}
    blocks = {"block_rows": block_rows, "block_columns": block_columns}
    kinds = block_kinds(query.shape[-2], key.shape[-2], **visible, **blocks)

    outputs, logsumexps = [query[..., :0, :]], [query[..., :0, 0].to(arithmetic)]
    for i, rows in enumerate(_blocks(query.shape[-2], block_rows)):
        query_i = query[..., rows, :].to(arithmetic) * scale
        maximum = query_i.new_full(query_i.shape[:-1], -torch.inf)
        normaliser = torch.zeros_like(maximum)
        accumulator = torch.zeros_like(query_i)
        for j, columns in enumerate(_blocks(key.shape[-2], block_columns)):
            if kinds[i, j] == 0:
                continue
            key_j, value_j = key[..., columns, :].to(arithmetic), value[..., columns, :].to(arithmetic)
            scores = query_i @ key_j.mT
            if kinds[i, j] == 1:
                scores = scores.masked_fill(~_mask_of(query, key, visible, rows, columns), -torch.inf)
            maximum, normaliser, accumulator, _ = online_softmax_step(scores, value_j, maximum, normaliser, accumulator)
        output_i, logsumexp_i = finish(maximum, normaliser, accumulator)
        outputs.append(output_i.to(query.dtype))
        logsumexps.append(logsumexp_i)
    return torch.cat(outputs, dim=-2), torch.cat(logsumexps, dim=-1)


@attention
def reference(
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


def reference_backward(
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

    for j, columns in enumerate(_blocks(key.shape[-2], block_columns)):
        key_j, value_j = key[..., columns, :], value[..., columns, :]
        for i, rows in enumerate(_blocks(query.shape[-2], block_rows)):
            if kinds[i, j] == 0:
                continue
            scores = scale * query[..., rows, :] @ key_j.mT
            weights = torch.exp(scores - logsumexp[..., rows, None])
            if kinds[i, j] == 1:
                # A row that sees nothing has logsumexp -inf: masking the weights, not the scores, keeps it at 0.
                weights = weights.masked_fill(~_mask_of(query, key, visible, rows, columns), 0.0)
            grad_output_i = grad_output[..., rows, :]
            grad_value[..., columns, :] += weights.mT @ grad_output_i
            grad_weights = grad_output_i @ value_j.mT
            grad_scores = scale * weights * (grad_weights - row_dot[..., rows, None])
            grad_query[..., rows, :] += grad_scores @ key_j
            grad_key[..., columns, :] += grad_scores.mT @ query[..., rows, :]

    def sum_over_group(gradient: Tensor) -> Tensor:
        return gradient.unflatten(1, (kv_heads, -1)).sum(2).to(dtype)

    return grad_query.to(dtype), sum_over_group(grad_key), sum_over_group(grad_value)


# --- the same, watched: what happens in every block, and how much of it ----------------------------------------------


@dataclass
class Operations:
    """How often each kind of work was done. A multiply-add counts 2 FLOPs; everything else counts once a number."""

    matmul_flops: int = 0
    exponentials: int = 0
    rescale_multiplications: int = 0
    divisions: int = 0
    mask_evaluations: int = 0
    blocks_visited: int = 0
    blocks_skipped: int = 0


@dataclass(frozen=True)
class Step:
    """One block of the walk: the state *after* it. A skipped block has no state."""

    row_block: int
    column_block: int
    kind: Literal["skipped", "masked", "full"]
    rows: slice
    columns: slice
    maximum: Tensor | None = None
    normaliser: Tensor | None = None
    rescale: Tensor | None = None
    accumulator: Tensor | None = None


@dataclass(frozen=True)
class Trace:
    """A whole walk: the result, every step in order, and the operations counted."""

    output: Tensor
    logsumexp: Tensor
    steps: list[Step]
    operations: Operations


def trace(
    query: Float[Tensor, "queries head_dim"],
    key: Float[Tensor, "keys head_dim"],
    value: Float[Tensor, "keys head_dim"],
    *,
    is_causal: bool = False,
    scale: float | None = None,
    window_left: int | None = None,
    window_right: int | None = None,
    block_rows: int | None = None,
    block_columns: int | None = None,
    update: Literal["v1", "v2"] = "v2",
) -> Trace:
    """Algorithm 1 on one head, with every block recorded.

    ``update="v2"`` keeps the accumulator un-normalised and divides once at the end; ``"v1"`` (the first FlashAttention)
    keeps it normalised after every block: a division of the whole (B_r, d) tile each time. Same output.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    visible = {"is_causal": is_causal, "window_left": window_left, "window_right": window_right}
    blocks = {"block_rows": block_rows, "block_columns": block_columns}
    kinds = block_kinds(len(query), len(key), **visible, **blocks)
    counted, steps, outputs, logsumexps = Operations(), [], [], []

    for i, rows in enumerate(_blocks(len(query), block_rows)):
        query_i = query[rows] * scale
        height, width = query_i.shape
        maximum, normaliser = query_i.new_full((height,), -torch.inf), query_i.new_zeros(height)
        accumulator = torch.zeros_like(query_i)
        for j, columns in enumerate(_blocks(len(key), block_columns)):
            kind = ("skipped", "masked", "full")[kinds[i, j]]
            if kind == "skipped":
                counted.blocks_skipped += 1
                steps.append(Step(i, j, kind, rows, columns))
                continue
            scores = query_i @ key[columns].mT
            counted.blocks_visited += 1
            counted.matmul_flops += 4 * scores.numel() * width
            counted.exponentials += scores.numel() + height
            if kind == "masked":
                scores = scores.masked_fill(~_mask_of(query, key, visible, rows, columns), -torch.inf)
                counted.mask_evaluations += scores.numel()
            if update == "v1":  # undo the last division; with the rescale below this is one multiplication a number
                accumulator = accumulator * normaliser[:, None]
            maximum, normaliser, accumulator, rescale = online_softmax_step(
                scores, value[columns], maximum, normaliser, accumulator
            )
            counted.rescale_multiplications += height * width
            if update == "v1":
                accumulator, _ = finish(maximum, normaliser, accumulator)
                counted.divisions += height * width
            steps.append(Step(i, j, kind, rows, columns, maximum, normaliser, rescale, accumulator))
        output_i, logsumexp_i = finish(maximum, normaliser, accumulator)
        if update == "v1":
            output_i = accumulator
        else:
            counted.divisions += height * width
        outputs.append(output_i)
        logsumexps.append(logsumexp_i)
    return Trace(torch.cat(outputs), torch.cat(logsumexps), steps, counted)


def wave_efficiency(blocks: int, slots: int) -> float:
    """How full a GPU with ``slots`` places for thread blocks is kept by ``blocks`` of them, 0 to 1 (Sec. 3.2)."""
    return blocks / (math.ceil(blocks / slots) * slots)


# --- fast ------------------------------------------------------------------------------------------------------------


@attention
def fast(
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
    """The same function, made to pay off: a Triton kernel on CUDA, PyTorch's fused CPU attention elsewhere.

    Arguments and errors as ``reference``. Block sizes are ignored: the kernel takes the tiles that measured best.
    The kernel is deterministic, backward too. Memory beside input and output: 4 bytes a row (its logsumexp), and where
    queries are so few that the keys are split over the GPU, the partial results: up to 4000 rows or so.
    """
    visible = {"is_causal": is_causal, "window_left": window_left, "window_right": window_right}
    if query.is_cuda:
        from workbench_kernels.attention.flash_attention import flash_attention

        return flash_attention(query, key, value, scale=scale, **visible)[0]
    return fused_cpu(query, key, value, scale=scale, **visible)


def why_not_fast(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
    """Why ``fast`` cannot run on these inputs, in sentences."""
    from workbench_kernels.attention import flash_attention

    return kernel_or_cpu(query, flash_attention.why_not, query.dtype, query.shape[-1])


# --- memory, methods, the paper --------------------------------------------------------------------------------------


def workspace(implementation: str, query: Tensor, key: Tensor, value: Tensor, **options: object) -> int:
    """Bytes held at the forward's peak beside inputs and output; an upper bound for every implementation we ship."""
    batch, heads, queries, width = query.shape
    keys, size = key.shape[-2], query.element_size()
    repeated = 2 * batch * heads * keys * width * size if heads != key.shape[1] else 0
    if implementation in ("softmax_attention", "direct"):
        size = 4 if query.dtype == torch.float16 else size
        return 3 * batch * heads * queries * keys * size + queries * keys + repeated
    if implementation == "reference":
        rows = min(queries, options.get("block_rows") or DEFAULT_BLOCK)
        columns = min(keys, options.get("block_columns") or DEFAULT_BLOCK)
        tile = batch * heads * (rows * (4 * columns + 6 * width + 8) + 2 * columns * width) * max(4, size)
        return tile + query.numel() * size + 2 * batch * heads * queries * size + repeated
    masked = any(options.get(name) is not None for name in ("window_left", "window_right")) or queries != keys
    if query.is_cpu or query.is_meta:
        return query.numel() * size + 2 * ROWS_AT_A_TIME * keys * size if masked else 4 * batch * heads * queries
    if implementation == "fast":
        from workbench_kernels.attention import flash_attention

        return 4 * batch * heads * queries + flash_attention.workspace(query, key)
    return queries * keys if masked and implementation == "sdpa" else 4 * batch * heads * queries


softmax_attention = Method(
    name="softmax_attention",
    title="Softmax attention",
    idea="Every query looks at every key; the whole score matrix is written out.",
    slot=Attention(),
    reference=direct,
    fast=sdpa,
    example=example,
    cost=cost,
    workspace=lambda implementation, *inputs, **options: workspace(
        "direct" if implementation == "reference" else "sdpa", *inputs, **options
    ),
    tolerance={"float64": 1e-12, "float32": 2e-6},
)

flash_attention_2 = Method(
    name="flash_attention_2",
    title="FlashAttention-2",
    idea="The same attention, block by block, so that the score matrix never leaves the chip.",
    slot=Attention(),
    reference=reference,
    fast=fast,
    why_not_fast=why_not_fast,
    example=example,
    cost=cost,
    workspace=workspace,
    tolerance={"float64": 1e-12, "float32": 2e-6},
    baselines={
        "softmax_attention": Baseline(lambda *inputs, **options: direct(*inputs, **without_blocks(options))),
        "sdpa_flash": only_backend("FLASH_ATTENTION"),
        "flex_attention": Baseline(flex_attention, why_not_flex),
        "sdpa_cudnn": only_backend("CUDNN_ATTENTION"),
    },
    ordinary="softmax_attention",
)

PAPER = Paper(
    slug="flash_attention_2",
    title="FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning",
    authors="Tri Dao",
    arxiv="2307.08691",
    year=2023,
    chapter="attention",
    idea="Exact attention in linear memory, arranged so that a GPU spends its time on matrix products.",
    methods=(softmax_attention, flash_attention_2),
    claims=CLAIMS,
    views=(
        View(
            page="inspect",
            title="What does “it” stand for?",
            settings={
                "b.attention": "flash_attention_2",
                "b.attention.window_left": "4",
                "b.attention.window_right": "4",
            },
            first=True,
        ),
        View(
            page="inspect",
            title="See only two neighbours",
            settings={"b.attention.window_left": "2", "b.attention.window_right": "2"},
        ),
        View(
            page="inspect",
            title="Look only backwards",
            settings={
                "b.attention.window_left": "None",
                "b.attention.window_right": "None",
                "b.attention.is_causal": "True",
            },
        ),
    ),
    recordings=tuple(
        Recording(
            group=f"{mask}, head_dim {head_dim}",
            methods=("flash_attention_2",),
            sizes=sizes,
            shape={"batch": 2, "heads": 2048 // head_dim, "head_dim": head_dim},
            options={"is_causal": mask == "causal"},
            implementations=implementations,
        )
        for head_dim in (64, 128)
        for mask in ("full", "causal")
        for sizes, implementations in (
            ((512, 1024, 2048, 4096, 8192, 16384), ("fast", "softmax_attention", "sdpa_flash", "sdpa_cudnn")),
            ((8192,), ("flex_attention",)),  # compiles for a while at every size
        )
    ),
)


# --- shared by the above ---------------------------------------------------------------------------------------------


def _blocks(length: int, size: int | None) -> list[slice]:
    size = size or DEFAULT_BLOCK
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _mask_of(query: Tensor, key: Tensor, visible: dict, rows: slice, columns: slice) -> Tensor:
    return allowed(query.shape[-2], key.shape[-2], **visible, rows=rows, columns=columns, device=query.device)
