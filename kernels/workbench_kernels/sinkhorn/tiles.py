"""What the Sinkhorn kernels share: products that are accurate in float32, and where a program stands.

Float16 and bfloat16 tiles are multiplied as they are. Float32 tensors are split once into two float16 parts, and a
product is three products of parts: small times large, large times small, large times large. Tensor cores multiply
float16 twice as fast as tf32, and no tile has to be split inside a loop.

Two parts suffice: each keeps 11 bits, so together they miss a number by at most 2^-23 of it (float32: 2^-24), and the
product that is left out, small times small, is below 2^-22 of large times large. Only float16's range is narrow. So
every group of 128 tokens of a head is multiplied by the power of two that brings its largest entry to between 2^13 and
2^14, which no part of it overflows, and what is rounded off as subnormal is below 2^-38 of that entry. A tile never
reaches into a second group.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from workbench_kernels.attention.heads import for_descriptor
from workbench_kernels.launch import prepared
from workbench_kernels.tiles import next_power_of_2

try:
    import triton
    import triton.language as tl
except ImportError:  # `attention.why_not` says so
    triton = None


# Tokens that share a unit. Tiles start at multiples of their length, which divides this.
GROUP = 128


class Parts(NamedTuple):
    """Heads (batch, heads, tokens, width) as the kernels read them: ``tensor * unit``, summed over the parts.

    tensor: (parts * batch, heads, tokens, width'), the large parts of all batches before the small ones; readable by
    the copy engine. unit: (batch * heads, groups of tokens) powers of two, float32; None with one part, where it would
    be 1.
    """

    tensor: Tensor
    unit: Tensor | None


def split(*tensors: Tensor) -> list[Parts]:
    """Float32 tensors of one shape (batch, heads, tokens, width) in two float16 parts, the width padded with zeros to a
    multiple of 8; tensors of other types in one. NaN and infinities become NaN in at least one part."""
    if tensors[0].dtype != torch.float32:
        return [Parts(for_descriptor(tensor), None) for tensor in tensors]
    batch, heads, tokens, width = tensors[0].shape
    padded = -(-width // 8) * 8
    groups = -(-tokens // GROUP)
    parts = tensors[0].new_empty((len(tensors), 2 * batch, heads, tokens, padded), dtype=torch.float16)
    units = tensors[0].new_empty((len(tensors), batch * heads, groups))
    rows, columns = min(GROUP, next_power_of_2(tokens)), next_power_of_2(padded)
    _split_kernel[(groups * batch * heads, len(tensors))](
        tensors,
        tuple(tensor.stride() for tensor in tensors),
        *(parts, units, tokens, heads, width, padded, batch * heads),
        ROWS=rows,
        COLUMNS=columns,
        num_warps=min(16, max(1, rows * columns // 1024)),
    )
    return [Parts(*pair) for pair in zip(parts, units, strict=True)]


if triton is not None:
    GROUP_OF_TOKENS = tl.constexpr(GROUP)

    @triton.jit
    def _magnitude(numbers):
        """The bits of absolute values, which are ordered as the values are; NaN comes last."""
        return numbers.to(tl.int32, bitcast=True) & 0x7FFFFFFF

    @triton.jit
    def _powers_of_two(magnitude, TARGET: tl.constexpr):
        """2^n that lifts this magnitude to between 2^TARGET and 2^(TARGET + 1), and 2^-n; n is at most 126."""
        power = tl.minimum(TARGET + 127 - (magnitude >> 23), 126)
        return ((127 + power) << 23).to(tl.float32, bitcast=True), ((127 - power) << 23).to(tl.float32, bitcast=True)

    @prepared
    @triton.jit
    def _split_kernel(
        tensors, strides, parts, units, tokens, heads, width, padded, matrices,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        """A program for every group of every tensor, so that one launch serves all tensors of a call."""
        for which in tl.static_range(len(tensors)):
            if tl.program_id(1) == which:
                stride_batch, stride_head, stride_row, stride_column = strides[which]
                groups = tl.cdiv(tokens, ROWS)
                group = tl.program_id(0) % groups
                matrix = (tl.program_id(0) // groups).to(tl.int64)
                row = group * ROWS + tl.arange(0, ROWS)[:, None]
                column = tl.arange(0, COLUMNS)[None, :]
                start = tensors[which] + (matrix // heads) * stride_batch + (matrix % heads) * stride_head
                at = start + row.to(tl.int64) * stride_row + column * stride_column
                numbers = tl.load(at, mask=(row < tokens) & (column < width), other=0.0)
                magnitude = _magnitude(numbers)
                magnitude = tl.where(magnitude < 0x7F800000, magnitude, 0)  # the largest finite one counts
                lift, unit = _powers_of_two(tl.max(tl.max(magnitude, 1), 0), 13)
                tl.store(units + (which * matrices + matrix) * groups + group, unit)
                numbers *= lift
                large = numbers.to(tl.float16)
                small = (numbers - large.to(tl.float32)).to(tl.float16)
                stored = (row < tokens) & (column < padded)
                place_of_large = (2 * which * matrices + matrix) * tokens + row
                place_of_small = ((2 * which + 1) * matrices + matrix) * tokens + row
                tl.store(parts + place_of_large * padded + column, large, mask=stored)
                tl.store(parts + place_of_small * padded + column, small, mask=stored)

    @triton.jit
    def place(tokens, heads, BLOCK: tl.constexpr):
        """(first token, batch, head, matrix) of a program; the blocks of a head are neighbours."""
        blocks = tl.cdiv(tokens, BLOCK)
        matrix = tl.program_id(0) // blocks
        return tl.program_id(0) % blocks * BLOCK, matrix // heads, matrix % heads, matrix.to(tl.int64)

    @triton.jit
    def tile(tensor, batches, batch, head, start, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr):
        """The parts of a tile; one part stands for both."""
        large = tensor.load([batch, head, start, 0]).reshape(ROWS, COLUMNS)
        small = large
        if PARTS == 2:
            small = tensor.load([batches + batch, head, start, 0]).reshape(ROWS, COLUMNS)
        return large, small

    @triton.jit
    def own_tile(
        tensor, batches, batch, head, start, tokens,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
    ):  # fmt: skip
        """A tile that a program multiplies with every other one. HELD: it stays in registers. Hopper reads the left
        operand of a product from there as well as from shared memory, which gives 128 bytes a clock and with tiles of
        64 keys would have to give 133. What went through a ``where`` is in registers (the zeros change nothing)."""
        large, small = tile(tensor, batches, batch, head, start, ROWS, COLUMNS, PARTS)
        if HELD:
            inside = (start + tl.arange(0, ROWS) < tokens)[:, None]
            large = tl.where(inside, large, 0.0)
            small = tl.where(inside, small, 0.0)
        return large, small

    @triton.jit
    def unit(units, matrix, tokens, start, PARTS: tl.constexpr):
        """What 1 stands for in the parts of the tile of this matrix that starts there."""
        own = 1.0
        if PARTS == 2:
            own = tl.load(units + matrix * tl.cdiv(tokens, GROUP_OF_TOKENS) + start // GROUP_OF_TOKENS)
        return own

    @triton.jit
    def times_transposed(a0, a1, b0, b1, PARTS: tl.constexpr, EXCHANGED: tl.constexpr = False):
        """a b^T in float32, in units of a times units of b; small terms first.

        EXCHANGED: to the last bit the transpose of b a^T, which another kernel computes. Tensor cores sum the products
        of a row and a column in an order that does not depend on which is which; of parts, the order is kept here.
        """
        if PARTS == 1:
            product = tl.dot(a0, b0.T)
        elif EXCHANGED:
            product = tl.dot(a0, b1.T)
            product = tl.dot(a1, b0.T, product)
            product = tl.dot(a0, b0.T, product)
        else:
            product = tl.dot(a1, b0.T)
            product = tl.dot(a0, b1.T, product)
            product = tl.dot(a0, b0.T, product)
        return product

    @triton.jit
    def levelled(product, unit, own, other, OF_ROWS: tl.constexpr):
        """S - m 1^T - 1 n^T, where S is what ``unit`` makes of a product of parts. ``own`` belongs to the rows of the
        tile: m with OF_ROWS; otherwise the tile is one of S^T, and ``own`` is n.

        Multiplied by a power of two the product stays exact, and m is subtracted before n: so every kernel sees the
        same bits, and the largest numbers are exactly 0, where sums of weights are made of them.
        """
        if OF_ROWS:
            level = product * unit - own[:, None] - other[None, :]
        else:
            level = product * unit - other[None, :] - own[:, None]
        return level

    @triton.jit
    def row_sums(numbers, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        """Eight partial sums a row. A thread holds columns that are equal modulo 8 of what a product leaves, or next to
        them: so these are sums of its own numbers, and threads need not exchange theirs before the last tile."""
        return tl.sum(tl.reshape(numbers, [ROWS, COLUMNS // 8, 8]), 1)

    @triton.jit
    def add_product(total, weights, b0, b1, unit, PARTS: tl.constexpr, ANY_SIZE: tl.constexpr = False):
        """total + weights b with float32 weights, which are rounded or split as b is. ``unit`` is what a product of the
        parts counts for; with one part it is 1.

        The weights are below 2^16, and what is below 2^-25 is lost; with ANY_SIZE, and in two parts, each row of the
        tile is brought to that range by a power of two of its own.

        Hopper's tensor cores round towards zero whenever they add to their accumulator. Over many tiles of positive
        weights that adds up to 1e-5, so the products of parts start from zero and are added once a tile.
        """
        if PARTS == 1:
            total = tl.dot(weights.to(b0.dtype), b0, total)
        else:
            if ANY_SIZE:
                lift, lowered = _powers_of_two(tl.max(_magnitude(weights), 1), 14)
                weights *= lift[:, None]
                unit *= lowered[:, None]
            w0 = weights.to(b0.dtype)
            w1 = (weights - w0.to(tl.float32)).to(b0.dtype)
            product = tl.dot(w1, b0)
            product = tl.dot(w0, b1, product)
            product = tl.dot(w0, b0, product)
            total += product * unit
        return total

    @triton.jit
    def whole(large, small, PARTS: tl.constexpr):
        """The float32 tile that the parts stand for, in their unit."""
        total = large.to(tl.float32)
        if PARTS == 2:
            total += small.to(tl.float32)
        return total
