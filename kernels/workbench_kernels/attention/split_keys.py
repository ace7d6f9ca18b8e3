"""Exact attention of few queries to many keys: the keys are split over programs, and what they find is merged.

A block of queries is one program's work in ordinary attention, so few queries leave a GPU idle however many keys there
are. Here every program takes some tiles of keys and leaves a *partial* for each of its rows: the largest score m, the
sum l of the exponentials of scores - m, and o, the values summed with these as weights. Two partials of the same row
merge into that of all their keys, in any grouping (the largest of both m; both l and o rescaled to it); of the partial
of all keys, o / l is the output and m + log l the logsumexp. A second kernel merges, always in the order of the keys:
the same inputs give the same bits.

All query heads that share a key head are rows of one tile, so keys and values are read once for all of them. Reading
them is the floor: 2 keys head_dim numbers for each key head, next to which the partials are nothing; the arithmetic is
one sixteenth of it or less. So the tiles are small and several stages deep: what counts is bytes under way.
"""

import functools

import torch
from torch import Tensor

from workbench_kernels.attention.heads import LOG2_E, precision, tile_side
from workbench_kernels.launch import prepared

try:
    import triton
    import triton.language as tl
except ImportError:  # `heads.why_not` says so
    triton = None

MOST_ROWS = 64  # of a tile: query heads of one key head times queries
PROGRAMS_PER_PROCESSOR = 2  # that fit side by side
WAVES = 4  # of programs, where there is work for them: the last ones then wait for each other briefly
TILES_EACH = 32  # of keys for a program, at least, where that leaves none idle: enough to start up for
MANY_KEYS = 2048  # from here on splitting them pays for many queries, too, where these leave a GPU half idle
FEW_KEYS = 256  # up to here it is as quick, and costs the host less


def pays_off(query: Tensor, key: Tensor, programs: int) -> bool:
    """Whether the keys are to be split, where ordinary attention would have so many programs.

    Measured on an H200 as graphs, split / ordinary: 8 heads of 128 queries and keys 3.8 / 4.1 microseconds, of 512
    16.2 / 7.3; of 256 queries to 4096 keys 37 / 75; one head of 512 queries to 16384 keys 21 / 137.
    """
    if query.shape[1] // key.shape[1] * query.shape[2] <= MOST_ROWS:
        return True
    half_idle = 2 * programs <= _processors(query.device)
    return half_idle and not FEW_KEYS < key.shape[2] < MANY_KEYS


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    left: int = -1,
    right: int = -1,
    *,
    programs: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Output (batch, heads, queries, head_dim) and logsumexp (batch, heads, queries; float32, natural log).

    query (batch, heads, queries, head_dim), key and value (batch, kv_heads, keys, head_dim) with kv_heads dividing
    heads; any strides, none of the axes empty. ``left`` and ``right`` are the sides of the window, -1 for no limit.
    ``programs`` is how many there shall be at least, if the keys allow it; None: what fills the GPU.
    """
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1:3]
    group = heads // kv_heads
    tile = _tile(width, query.element_size())
    rows, row_blocks = _rows(group * queries)
    first = max(0, keys - queries - left) if left >= 0 else 0
    blocks = batch * kv_heads * row_blocks
    splits, each = _split(blocks, keys - first, tile["BLOCK_N"], programs, query.device)

    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    logsumexp = query.new_empty(batch, heads, queries, dtype=torch.float32)
    if splits > 1:
        partial = query.new_empty(splits, batch * heads * queries, width, dtype=torch.float32)
        statistics = query.new_empty(2, splits, batch * heads * queries, dtype=torch.float32)
    else:
        partial, statistics = output, logsumexp
    _partial_kernel[(blocks * splits,)](
        query, key, value, partial, statistics, scale * LOG2_E, queries, keys, first, each, splits, row_blocks,
        batch * heads * queries, kv_heads, group, *query.stride(), *key.stride(), *value.stride(), left, right,
        WIDTH=width, ROWS=rows, LEFT=left >= 0, RIGHT=right >= 0, WHOLE=splits == 1, PRECISION=precision(query), **tile,
    )  # fmt: skip
    if splits > 1:
        columns = min(tile["BLOCK_D"], 32)
        _merge_kernel[(batch * heads * queries, -(-width // columns))](
            partial, statistics, output, logsumexp, splits, batch * heads * queries,
            WIDTH=width, CHUNK=min(128, tile_side(splits)), COLUMNS=columns, num_warps=4,
        )  # fmt: skip
    return output, logsumexp


def workspace(query: Tensor, key: Tensor) -> int:
    """Bytes of the partials that a call holds beside its inputs and results, at most."""
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1:3]
    blocks = batch * kv_heads * _rows(heads // kv_heads * queries)[1]
    splits, _ = _split(blocks, keys, _tile(width, query.element_size())["BLOCK_N"], None, query.device)
    return 4 * splits * batch * heads * queries * (width + 2) if splits > 1 else 0


def _rows(rows: int) -> tuple[int, int]:
    """How many rows a tile has, and how many tiles there are for so many."""
    side = min(MOST_ROWS, tile_side(rows))
    return side, -(-rows // side)


@functools.lru_cache(256)
def _tile(width: int, item: int) -> dict[str, int]:
    """The tile of keys, about 16 KiB, and how many are under way."""
    padded = tile_side(width)
    columns = max(16, min(128, 16384 // item // padded))
    return {"BLOCK_N": columns, "BLOCK_D": padded, "num_warps": 4, "num_stages": 4}


@functools.lru_cache(1024)
def _split(blocks: int, keys: int, columns: int, programs: int | None, device: torch.device) -> tuple[int, int]:
    """Into how many parts the keys of each block go, and how many keys a part has: a whole number of tiles."""
    tiles = -(-keys // columns)
    if programs:
        each = blocks * tiles // programs
    else:
        share = blocks * tiles // (PROGRAMS_PER_PROCESSOR * _processors(device))
        each = max(2, min(share, TILES_EACH), share // WAVES)
    splits = -(-tiles // max(1, each))
    each = -(-tiles // splits)
    return -(-tiles // each), each * columns


@functools.lru_cache(64)
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


if triton is not None:

    @triton.jit
    def _sees(positions, columns, keys, left, right, LEFT: tl.constexpr, RIGHT: tl.constexpr):
        """Which keys (columns) a query at each position of the keys sees."""
        seen = columns < keys
        if RIGHT:
            seen = seen & (columns <= positions + right)
        if LEFT:
            seen = seen & (columns >= positions - left)
        return seen

    @triton.jit
    def _partial_of(
        query, key, value, positions, begin, end, keys, scale, key_row, key_column, value_row, value_column,
        left, right,
        WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr,
        RIGHT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """(m, l, o) of keys [begin, end) for a tile of queries (ROWS, BLOCK_D); scores in base 2. key and value point
        at key ``begin``; ``positions`` are the queries' among the keys."""
        column = tl.arange(0, BLOCK_N)
        number = tl.arange(0, BLOCK_D)
        key_tile = column[:, None] * key_row + number[None, :] * key_column
        value_tile = column[:, None] * value_row + number[None, :] * value_column
        maximum = tl.full([ROWS], -float("inf"), tl.float32)
        normaliser = tl.zeros([ROWS], tl.float32)
        accumulator = tl.zeros([ROWS, BLOCK_D], tl.float32)
        for start in tl.range(begin, end, BLOCK_N):
            inside = (start + column)[:, None] < keys
            if WIDTH != BLOCK_D:
                inside = inside & (number[None, :] < WIDTH)
            keys_t = tl.load(key + key_tile, mask=inside, other=0.0).T
            scores = tl.dot(query, keys_t, input_precision=PRECISION) * scale
            seen = _sees(positions[:, None], (start + column)[None, :], keys, left, right, LEFT, RIGHT)
            scores = tl.where(seen, scores, -float("inf"))
            new_maximum = tl.maximum(maximum, tl.max(scores, 1))
            # A row that has seen no key yet subtracts 0: -inf - (-inf) would be NaN.
            shift = tl.where(new_maximum == -float("inf"), 0.0, new_maximum)
            weights = tl.exp2(scores - shift[:, None])
            rescale = tl.exp2(maximum - shift)
            normaliser = normaliser * rescale + tl.sum(weights, 1)
            values = tl.load(value + value_tile, mask=inside, other=0.0)
            accumulator = tl.dot(weights.to(values.dtype), values, accumulator * rescale[:, None],
                                 input_precision=PRECISION)  # fmt: skip
            maximum = new_maximum
            key += BLOCK_N * key_row
            value += BLOCK_N * value_row
        return maximum, normaliser, accumulator

    @triton.jit
    def _finish(maximum, normaliser, accumulator):
        """Output and logsumexp of the partial of all keys; rows that saw none give 0 and -inf."""
        divisor = tl.where(normaliser == 0.0, 1.0, normaliser)
        shift = tl.where(maximum == -float("inf"), 0.0, maximum)
        logsumexp = tl.where(normaliser == 0.0, -float("inf"), (shift + tl.log2(divisor)) * 0.6931471805599453)
        return accumulator / divisor[:, None], logsumexp

    @prepared
    @triton.jit
    def _partial_kernel(
        query, key, value, partial, statistics, scale, queries, keys, first, each, splits, row_blocks, total,
        kv_heads, group,
        query_batch, query_head, query_row, query_column, key_batch, key_head, key_row, key_column,
        value_batch, value_head, value_row, value_column, left, right,
        WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr,
        RIGHT: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """One part of the keys for one block of rows. A row is a query head and a query: the heads that share a key
        head stand side by side."""
        split, block = tl.program_id(0) % splits, tl.program_id(0) // splits
        first_row = block % row_blocks * ROWS
        batch, kv_head = block // row_blocks // kv_heads, block // row_blocks % kv_heads
        row = first_row + tl.arange(0, ROWS)
        there = row < group * queries
        token, head = row // group, kv_head * group + row % group
        positions = token + (keys - queries)
        begin = first + split * each
        end = tl.minimum(begin + each, keys)
        if RIGHT:  # the last query of the block sees farthest
            last = tl.minimum((first_row + ROWS - 1) // group, queries - 1)
            end = tl.minimum(end, last + (keys - queries) + right + 1)

        number = tl.arange(0, BLOCK_D)
        at = query + batch.to(tl.int64) * query_batch + head[:, None].to(tl.int64) * query_head
        at += token[:, None].to(tl.int64) * query_row + number[None, :] * query_column
        tile = tl.load(at, mask=there[:, None] & (number[None, :] < WIDTH), other=0.0)
        key += batch.to(tl.int64) * key_batch + kv_head.to(tl.int64) * key_head + begin.to(tl.int64) * key_row
        value += batch.to(tl.int64) * value_batch + kv_head.to(tl.int64) * value_head + begin.to(tl.int64) * value_row
        maximum, normaliser, accumulator = _partial_of(
            tile, key, value, positions, begin, end, keys, scale, key_row, key_column, value_row, value_column,
            left, right, WIDTH, ROWS, BLOCK_N, BLOCK_D, LEFT, RIGHT, PRECISION,
        )  # fmt: skip

        place = (batch * kv_heads * group + head).to(tl.int64) * queries + token
        if WHOLE:
            accumulator, logsumexp = _finish(maximum, normaliser, accumulator)
            tl.store(statistics + place, logsumexp, mask=there)
        else:
            place += split.to(tl.int64) * total
            tl.store(statistics + place, maximum, mask=there)
            tl.store(statistics + splits * total + place, normaliser, mask=there)
        to = partial + place[:, None] * WIDTH + number[None, :]
        tl.store(to, accumulator.to(partial.dtype.element_ty), mask=there[:, None] & (number[None, :] < WIDTH))

    @prepared
    @triton.jit
    def _merge_kernel(
        partial, statistics, output, logsumexp, splits, total,
        WIDTH: tl.constexpr, CHUNK: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        """The partials of one row, brought together in the order of the keys; some columns of it a program."""
        row = tl.program_id(0).to(tl.int64)
        number = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        maximum = tl.full([1], -float("inf"), tl.float32)
        normaliser = tl.zeros([1], tl.float32)
        accumulator = tl.zeros([1, COLUMNS], tl.float32)
        for start in tl.range(0, splits, CHUNK):
            split = start + tl.arange(0, CHUNK)
            place = split.to(tl.int64) * total + row
            m = tl.load(statistics + place, mask=split < splits, other=-float("inf"))
            l = tl.load(statistics + splits * total + place, mask=split < splits, other=0.0)  # noqa: E741
            inside = (split[:, None] < splits) & (number[None, :] < WIDTH)
            o = tl.load(partial + place[:, None] * WIDTH + number[None, :], mask=inside, other=0.0)
            new_maximum = tl.maximum(maximum, tl.max(m, 0))
            shift = tl.where(new_maximum == -float("inf"), 0.0, new_maximum)
            rescale, weight = tl.exp2(maximum - shift), tl.exp2(m - shift)
            normaliser = normaliser * rescale + tl.sum(l * weight, 0)
            accumulator = accumulator * rescale[:, None] + tl.sum(o * weight[:, None], 0)[None, :]
            maximum = new_maximum
        accumulator, log_sum = _finish(maximum, normaliser, accumulator)
        to = output + row * WIDTH + number[None, :]
        tl.store(to, accumulator.to(output.dtype.element_ty), mask=number[None, :] < WIDTH)
        if tl.program_id(1) == 0:
            tl.store(logsumexp + row + tl.arange(0, 1), log_sum)
