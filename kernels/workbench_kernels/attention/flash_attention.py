"""Exact attention in blocks, forward and backward: FlashAttention-2 (arXiv 2307.08691) for Triton.

``flash_attention`` is the function.

What each program does. Forward: one block of query rows walks over the key blocks that it can see; blocks that need no
mask come first, in a loop of their own. Backward: one block of keys walks over the query rows that see it and keeps
its dK and dV; dQ either is added up in memory by all of them (atomic) or gets a second kernel that walks like the
forward pass (deterministic: two matrix products more).

All tiles come in through tensor descriptors, which Hopper's copy engine serves and which older GPUs turn into ordinary
loads; what lies outside a tensor reads as zero and is never written. Where the blocks of rows are too few to fill the
GPU, the forward pass is ``split_keys``'s.
"""

import functools

import torch
from torch import Tensor

from workbench_kernels.attention import split_keys
from workbench_kernels.attention.heads import LOG2_E, descriptor, for_descriptor, precision, row_dots, tile_side
from workbench_kernels.attention.heads import why_not as heads_why_not
from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `why_not` says so
    triton = None


def why_not(dtype: torch.dtype, head_dim: int, scale: float | None = None) -> list[str]:
    """Why the kernel cannot take such inputs, in sentences; empty: it can."""
    reasons = heads_why_not(dtype, head_dim)
    if scale is not None and not scale > 0:
        reasons.append(f"The kernel takes a positive softmax scale, not {scale}.")
    return reasons


def workspace(query: Tensor, key: Tensor) -> int:
    """Bytes that the forward pass holds beside its inputs and results, at most, where it copies none of them."""
    batch, heads, queries, width = query.shape
    rows, _, _ = _tiles("forward", tile_side(width), query.dtype)
    splits = split_keys.pays_off(query, key, -(-queries // rows) * batch * heads)
    return split_keys.workspace(query, key) if splits else 0


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    is_causal: bool = False,
    window_left: int | None = None,
    window_right: int | None = None,
    deterministic: bool = True,
    split: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention output (batch, heads, queries, head_dim) and logsumexp (batch, heads, queries; float32, natural log).

    query (batch, heads, queries, head_dim), key and value (batch, kv_heads, keys, head_dim) with kv_heads dividing
    heads; any strides, any lengths, head_dim <= 256, float16, bfloat16 or float32, ``scale`` > 0. The last query is
    aligned with the last key. A query that sees no key gives 0 and -inf.

    ``split`` says whether a block of rows is the work of one program (False) or the keys are split over several (True);
    None: split where there are too few blocks to fill the GPU.

    The backward pass is deterministic unless told otherwise; the atomic form (the paper's) does two matrix products
    fewer, and measured slower all the same, since its dQ goes through memory once per key block. The logsumexp carries
    no gradient. Raises ``ValueError`` for what `why_not` names.
    """
    if reasons := why_not(query.dtype, query.shape[-1], scale):
        raise ValueError(" ".join(reasons))
    left = -1 if window_left is None else window_left
    right = 0 if is_causal else -1 if window_right is None else window_right
    return _flash_attention(query, key, value, scale, left, right, deterministic, split)


# --- both directions; -1 stands for an unlimited side of the window --------------------------------------------------


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    left: int,
    right: int,
    deterministic: bool,
    split: bool | None,
) -> tuple[Tensor, Tensor]:
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1:3]
    padded = tile_side(width)
    rows, columns, settings = _tiles("forward", padded, query.dtype)
    programs = -(-queries // rows) * batch * heads
    if split or (split is None and split_keys.pays_off(query, key, programs)):
        return split_keys.attend(query, key, value, scale, left, right)
    query, key, value = for_descriptor(query), for_descriptor(key), for_descriptor(value)
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    logsumexp = query.new_empty(batch, heads, queries, dtype=torch.float32)
    _forward_kernel[(programs,)](
        descriptor(query, rows, padded),
        descriptor(key, columns, padded),
        descriptor(value, columns, padded),
        descriptor(output, rows, padded),
        logsumexp,
        scale * LOG2_E,
        queries,
        keys,
        heads,
        heads // kv_heads,
        batch * heads,
        _heads_in_cache(key.device, 2 * keys * width * key.element_size()),
        left,
        right,
        BLOCK_M=rows,
        BLOCK_N=columns,
        BLOCK_D=padded,
        LEFT=left >= 0,
        RIGHT=right >= 0,
        MASKED=left >= 0 or right >= 0 or keys % columns != 0,
        PRECISION=precision(query),
        **settings,
    )
    return _cut(output, width), logsumexp


def _fake(query: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:-1], dtype=torch.float32)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    scale: float,
    left: int,
    right: int,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1:3]
    group = heads // kv_heads
    padded, row_dot, dtype = tile_side(width), row_dots(grad, output), query.dtype
    grad, query, key, value = map(for_descriptor, (grad, query, key, value))
    grad_key = torch.empty_like(key, memory_format=torch.contiguous_format)
    grad_value = torch.empty_like(value, memory_format=torch.contiguous_format)
    if deterministic:
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
    else:  # summed by many programs, so in float32
        grad_query = query.new_zeros(query.shape, dtype=torch.float32)

    common = {"BLOCK_D": padded, "LEFT": left >= 0, "RIGHT": right >= 0, "PRECISION": precision(query)}
    rows, columns, settings = _tiles("backward_key_value" if deterministic else "backward", padded, dtype)
    _backward_kernel[(-(-keys // columns), batch * kv_heads)](
        descriptor(query, rows, padded),
        descriptor(key, columns, padded),
        descriptor(value, columns, padded),
        descriptor(grad, rows, padded),
        logsumexp,
        row_dot,
        descriptor(grad_query, rows, padded),
        descriptor(grad_key, columns, padded),
        descriptor(grad_value, columns, padded),
        scale,
        queries,
        keys,
        kv_heads,
        group,
        left,
        right,
        BLOCK_M=rows,
        BLOCK_N=columns,
        ADD_QUERY=not deterministic,
        MASKED=left >= 0 or right >= 0 or keys % columns != 0,
        **common,
        **settings,
    )
    if deterministic:
        rows, columns, settings = _tiles("backward_query", padded, dtype)
        _backward_query_kernel[(-(-queries // rows) * batch * heads,)](
            descriptor(query, rows, padded),
            descriptor(key, columns, padded),
            descriptor(value, columns, padded),
            descriptor(grad, rows, padded),
            logsumexp,
            row_dot,
            descriptor(grad_query, rows, padded),
            scale,
            queries,
            keys,
            heads,
            group,
            batch * heads,
            _heads_in_cache(key.device, 2 * keys * width * key.element_size()),
            left,
            right,
            BLOCK_M=rows,
            BLOCK_N=columns,
            MASKED=left >= 0 or right >= 0 or keys % columns != 0,
            **common,
            **settings,
        )
    return _cut(grad_query.to(dtype), width), _cut(grad_key, width), _cut(grad_value, width)


_flash_attention = Operation(
    "flash_attention", forward=_forward, backward=_backward, outputs=("output", "logsumexp"), fake=_fake
)


# --- host side -------------------------------------------------------------------------------------------------------


@functools.lru_cache(1024)
def _heads_in_cache(device: torch.device, one_head: int) -> int:
    """How many heads' keys and values stay in half of the second-level cache: as many are worked on at a time."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 1
    return max(1, cache // 2 // one_head)


def _cut(padded: Tensor, width: int) -> Tensor:
    """The first ``width`` numbers of every row, contiguous."""
    return padded if padded.shape[-1] == width else padded[..., :width].contiguous()


# (BLOCK_M, BLOCK_N, warps, stages) that measured best on an H200, by kernel and padded head_dim. Four warps a program
# mostly leave room for several programs on a multiprocessor: while one takes exponentials, another multiplies matrices.
_TILES = {
    "forward": {64: (64, 128, 4, 2), 128: (128, 128, 8, 3), 256: (64, 64, 4, 3)},
    "backward": {64: (64, 64, 4, 2), 128: (64, 128, 8, 3), 256: (64, 64, 8, 1)},
    "backward_key_value": {64: (64, 64, 4, 2), 128: (64, 64, 4, 2), 256: (64, 64, 8, 2)},
    "backward_query": {64: (128, 64, 8, 3), 128: (128, 64, 8, 3), 256: (128, 32, 8, 3)},
}


@functools.lru_cache(64)
def _tiles(kernel: str, padded: int, dtype: torch.dtype) -> tuple[int, int, dict[str, int]]:
    """Rows and columns of a tile of scores, and the kernel's settings."""
    rows, columns, warps, stages = _TILES[kernel][max(64, padded)]
    if dtype == torch.float32:
        rows, columns, warps, stages = min(rows, 64), min(columns, 32), 4, 1
    return rows, columns, {"num_warps": warps, "num_stages": stages}


# --- kernels ---------------------------------------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def _place(BLOCK_M: tl.constexpr, queries, heads, total_heads, heads_in_cache):
        """Which row block of which head a program works on.

        A few heads at a time, so that their keys stay in cache; within those the last rows first, since under a causal
        mask they have most to do.
        """
        row_blocks = tl.cdiv(queries, BLOCK_M)
        program = tl.program_id(0)
        batch_of_heads = program // (heads_in_cache * row_blocks)
        first = batch_of_heads * heads_in_cache
        count = tl.minimum(heads_in_cache, total_heads - first)
        within = program - first * row_blocks
        head = first + within % count
        row_block = row_blocks - 1 - within // count
        return row_block * BLOCK_M, head // heads, head % heads

    @triton.jit
    def _visible_keys(
        start_m, queries, keys, left, right,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    ):  # fmt: skip
        """Keys [first, last) that a block of rows sees, and where, between them, masked blocks begin."""
        first = 0
        last = keys
        full = keys // BLOCK_N * BLOCK_N
        if RIGHT:
            last = tl.minimum(keys, tl.maximum(start_m + BLOCK_M + keys - queries + right, 0))
            full = tl.minimum(full, tl.maximum(start_m + keys - queries + right + 1, 0) // BLOCK_N * BLOCK_N)
        if LEFT:
            first = tl.maximum(start_m + keys - queries - left, 0) // BLOCK_N * BLOCK_N
            full = first
        return first, full, last

    @triton.jit
    def _sees(rows, columns, queries, keys, left, right, LEFT: tl.constexpr, RIGHT: tl.constexpr):
        seen = columns < keys
        if RIGHT:
            seen = seen & (columns <= rows + (keys - queries) + right)
        if LEFT:
            seen = seen & (columns >= rows + (keys - queries) - left)
        return seen

    @triton.jit
    def _attend(
        accumulator, normaliser, maximum, query, key, value, batch, kv_head, first, last, start_m, scale,
        queries, keys, left, right,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
        MASKED: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """The online softmax over key blocks [first, last); scores in base 2."""
        rows = start_m + tl.arange(0, BLOCK_M)
        for start_n in tl.range(first, last, BLOCK_N):
            keys_t = key.load([batch, kv_head, start_n, 0]).reshape(BLOCK_N, BLOCK_D).T
            scores = tl.dot(query, keys_t, input_precision=PRECISION)
            if MASKED:
                seen = _sees(rows[:, None], start_n + tl.arange(0, BLOCK_N)[None, :], queries, keys, left, right,
                             LEFT, RIGHT)  # fmt: skip
                # Finite, so that a row that has seen nothing yet stays free of NaN; `_forward_kernel` clears such rows.
                scores = tl.where(seen, scores, -1.0e30)
            new_maximum = tl.maximum(maximum, tl.max(scores, 1) * scale)
            weights = tl.exp2(scores * scale - new_maximum[:, None])
            rescale = tl.exp2(maximum - new_maximum)
            normaliser = normaliser * rescale + tl.sum(weights, 1)
            values = value.load([batch, kv_head, start_n, 0]).reshape(BLOCK_N, BLOCK_D)
            accumulator = accumulator * rescale[:, None]
            accumulator = tl.dot(weights.to(values.dtype), values, accumulator, input_precision=PRECISION)
            maximum = new_maximum
        return accumulator, normaliser, maximum

    @prepared
    @triton.jit
    def _forward_kernel(
        query, key, value, output, logsumexp, scale, queries, keys, heads, group, total_heads, heads_in_cache,
        left, right,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
        MASKED: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        start_m, batch, head = _place(BLOCK_M, queries, heads, total_heads, heads_in_cache)
        first, full, last = _visible_keys(start_m, queries, keys, left, right, BLOCK_M, BLOCK_N, LEFT, RIGHT)
        query_tile = query.load([batch, head, start_m, 0]).reshape(BLOCK_M, BLOCK_D)
        maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
        normaliser = tl.zeros([BLOCK_M], tl.float32)
        accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        accumulator, normaliser, maximum = _attend(
            accumulator, normaliser, maximum, query_tile, key, value, batch, head // group, first, full, start_m, scale,
            queries, keys, left, right, BLOCK_M, BLOCK_N, BLOCK_D, LEFT, RIGHT, False, PRECISION,
        )  # fmt: skip
        if MASKED:
            accumulator, normaliser, maximum = _attend(
                accumulator, normaliser, maximum, query_tile, key, value, batch, head // group, full, last, start_m,
                scale, queries, keys, left, right, BLOCK_M, BLOCK_N, BLOCK_D, LEFT, RIGHT, True, PRECISION,
            )  # fmt: skip
            # A GPU's maximum passes over NaN, the normaliser does not: a row of NaN is not blind.
            blind = (maximum <= -1.0e29 * scale) & (normaliser == normaliser)
            normaliser = tl.where(blind, 1.0, normaliser)
            accumulator = tl.where(blind[:, None], 0.0, accumulator)
            maximum = tl.where(blind, -float("inf"), maximum)
        accumulator = accumulator / normaliser[:, None]
        output.store([batch, head, start_m, 0], accumulator.to(output.dtype).reshape(1, 1, BLOCK_M, BLOCK_D))
        rows = start_m + tl.arange(0, BLOCK_M)
        at = logsumexp + (batch.to(tl.int64) * heads + head) * queries + rows
        tl.store(at, (maximum + tl.log2(normaliser)) * 0.6931471805599453, mask=rows < queries)

    @triton.jit
    def _weights(logarithm, PRECISION: tl.constexpr):
        """The weights once more. In float32, scores of 1e8 and more may be rounded otherwise than in the forward pass,
        and what would cancel in their gradient does not where a weight is many times too large: so none is above one.
        """
        if PRECISION == "tf32x3":
            logarithm = tl.where(logarithm > 0, 0.0, logarithm)  # a NaN stays one
        return tl.exp2(logarithm)

    @triton.jit
    def _gather_key_value(
        grad_key, grad_value, key_tile, value_tile, query, grad, logsumexp, row_dot, grad_query, batch, head, row_base,
        first, last, start_n, scale, queries, keys, left, right,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
        ADD_QUERY: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """Algorithm 2's inner loop: query rows [first, last) against one block of keys. Scores stand transposed, keys
        in rows, so that they feed the products for dV and dK without a transposition."""
        columns = start_n + tl.arange(0, BLOCK_N)
        for start_m in tl.range(first, last, BLOCK_M):
            rows = start_m + tl.arange(0, BLOCK_M)
            query_tile = query.load([batch, head, start_m, 0]).reshape(BLOCK_M, BLOCK_D)
            # Rows outside the tensor, and rows that see no key, get logsumexp +inf: their weights are 0.
            log_sum = tl.load(logsumexp + row_base + rows, mask=rows < queries, other=float("inf"))
            log_sum = tl.where(log_sum == -float("inf"), float("inf"), log_sum) * 1.4426950408889634
            scores_t = tl.dot(key_tile, query_tile.T, input_precision=PRECISION)
            weights_t = _weights(scores_t * (scale * 1.4426950408889634) - log_sum[None, :], PRECISION)
            if MASKED:
                seen = _sees(rows[None, :], columns[:, None], queries, keys, left, right, LEFT, RIGHT)
                weights_t = tl.where(seen, weights_t, 0.0)
            grad_tile = grad.load([batch, head, start_m, 0]).reshape(BLOCK_M, BLOCK_D)
            grad_value = tl.dot(weights_t.to(grad_tile.dtype), grad_tile, grad_value, input_precision=PRECISION)
            grad_weights_t = tl.dot(value_tile, grad_tile.T, input_precision=PRECISION)
            dot = tl.load(row_dot + row_base + rows, mask=rows < queries, other=0.0)
            grad_scores_t = (weights_t * (grad_weights_t - dot[None, :])).to(query_tile.dtype)
            grad_key = tl.dot(grad_scores_t, query_tile, grad_key, input_precision=PRECISION)
            if ADD_QUERY:
                part = tl.dot(grad_scores_t.T, key_tile, input_precision=PRECISION) * scale
                grad_query.atomic_add([batch, head, start_m, 0], part.reshape(1, 1, BLOCK_M, BLOCK_D))
        return grad_key, grad_value

    @prepared
    @triton.jit
    def _backward_kernel(
        query, key, value, grad, logsumexp, row_dot, grad_query, grad_key, grad_value, scale, queries, keys, kv_heads,
        group, left, right,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
        ADD_QUERY: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        start_n = tl.program_id(0) * BLOCK_N
        batch, kv_head = tl.program_id(1) // kv_heads, tl.program_id(1) % kv_heads
        # Rows [first, last) see this block of keys; from `full` on every pair is allowed.
        first = 0
        last = queries
        full = 0
        if RIGHT:
            first = tl.maximum(start_n - (keys - queries) - right, 0) // BLOCK_M * BLOCK_M
            full = tl.cdiv(tl.maximum(start_n + BLOCK_N - 1 - (keys - queries) - right, 0), BLOCK_M) * BLOCK_M
            full = tl.minimum(tl.maximum(full, first), tl.cdiv(queries, BLOCK_M) * BLOCK_M)
        if LEFT:
            last = tl.minimum(queries, tl.maximum(start_n + BLOCK_N - (keys - queries) + left, 0))
        if LEFT or start_n + BLOCK_N > keys:
            full = tl.cdiv(last, BLOCK_M) * BLOCK_M

        key_tile = key.load([batch, kv_head, start_n, 0]).reshape(BLOCK_N, BLOCK_D)
        value_tile = value.load([batch, kv_head, start_n, 0]).reshape(BLOCK_N, BLOCK_D)
        key_sum = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        value_sum = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        for member in range(group):
            head = kv_head * group + member
            row_base = (batch.to(tl.int64) * kv_heads * group + head) * queries
            if MASKED:
                key_sum, value_sum = _gather_key_value(
                    key_sum, value_sum, key_tile, value_tile, query, grad, logsumexp, row_dot, grad_query, batch, head,
                    row_base, first, tl.minimum(full, last), start_n, scale, queries, keys, left, right,
                    BLOCK_M, BLOCK_N, BLOCK_D, LEFT, RIGHT, ADD_QUERY, True, PRECISION,
                )  # fmt: skip
            key_sum, value_sum = _gather_key_value(
                key_sum, value_sum, key_tile, value_tile, query, grad, logsumexp, row_dot, grad_query, batch, head,
                row_base, full, last, start_n, scale, queries, keys, left, right,
                BLOCK_M, BLOCK_N, BLOCK_D, LEFT, RIGHT, ADD_QUERY, False, PRECISION,
            )  # fmt: skip
        at = [batch, kv_head, start_n, 0]
        grad_key.store(at, (key_sum * scale).to(grad_key.dtype).reshape(1, 1, BLOCK_N, BLOCK_D))
        grad_value.store(at, value_sum.to(grad_value.dtype).reshape(1, 1, BLOCK_N, BLOCK_D))

    @triton.jit
    def _gather_query(
        grad_query, query_tile, grad_tile, key, value, log_sum, dot, batch, kv_head, first, last, start_m, scale,
        queries, keys, left, right,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
        MASKED: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        rows = start_m + tl.arange(0, BLOCK_M)
        for start_n in tl.range(first, last, BLOCK_N):
            key_tile = key.load([batch, kv_head, start_n, 0]).reshape(BLOCK_N, BLOCK_D)
            value_tile = value.load([batch, kv_head, start_n, 0]).reshape(BLOCK_N, BLOCK_D)
            scores = tl.dot(query_tile, key_tile.T, input_precision=PRECISION)
            grad_weights = tl.dot(grad_tile, value_tile.T, input_precision=PRECISION)
            weights = _weights(scores * (scale * 1.4426950408889634) - log_sum[:, None], PRECISION)
            if MASKED:
                seen = _sees(rows[:, None], start_n + tl.arange(0, BLOCK_N)[None, :], queries, keys, left, right,
                             LEFT, RIGHT)  # fmt: skip
                weights = tl.where(seen, weights, 0.0)
            grad_scores = (weights * (grad_weights - dot[:, None])).to(key_tile.dtype)
            grad_query = tl.dot(grad_scores, key_tile, grad_query, input_precision=PRECISION)
        return grad_query

    @prepared
    @triton.jit
    def _backward_query_kernel(
        query, key, value, grad, logsumexp, row_dot, grad_query, scale, queries, keys, heads, group, total_heads,
        heads_in_cache, left, right,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
        MASKED: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """The deterministic way to dQ: one block of rows computes its weights once more and adds up by itself."""
        start_m, batch, head = _place(BLOCK_M, queries, heads, total_heads, heads_in_cache)
        first, full, last = _visible_keys(start_m, queries, keys, left, right, BLOCK_M, BLOCK_N, LEFT, RIGHT)
        rows = start_m + tl.arange(0, BLOCK_M)
        row_base = (batch.to(tl.int64) * heads + head) * queries
        log_sum = tl.load(logsumexp + row_base + rows, mask=rows < queries, other=float("inf"))
        log_sum = tl.where(log_sum == -float("inf"), float("inf"), log_sum) * 1.4426950408889634
        dot = tl.load(row_dot + row_base + rows, mask=rows < queries, other=0.0)
        query_tile = query.load([batch, head, start_m, 0]).reshape(BLOCK_M, BLOCK_D)
        grad_tile = grad.load([batch, head, start_m, 0]).reshape(BLOCK_M, BLOCK_D)
        total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        total = _gather_query(
            total, query_tile, grad_tile, key, value, log_sum, dot, batch, head // group, first, full, start_m, scale,
            queries, keys, left, right, BLOCK_M, BLOCK_N, BLOCK_D, LEFT, RIGHT, False, PRECISION,
        )  # fmt: skip
        if MASKED:
            total = _gather_query(
                total, query_tile, grad_tile, key, value, log_sum, dot, batch, head // group, full, last, start_m,
                scale, queries, keys, left, right, BLOCK_M, BLOCK_N, BLOCK_D, LEFT, RIGHT, True, PRECISION,
            )  # fmt: skip
        grad_query.store([batch, head, start_m, 0],
                         (total * scale).to(grad_query.dtype).reshape(1, 1, BLOCK_M, BLOCK_D))  # fmt: skip
