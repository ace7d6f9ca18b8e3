"""What the Sinkhorn kernels share: products that are accurate in float32, and where a program stands.

Float16 and bfloat16 tiles are multiplied as they are. Float32 tensors are split once into two float16 parts, and a
product is three products of parts: small times large, large times small, large times large. Tensor cores multiply
float16 twice as fast as tf32, and no tile has to be split inside a loop.

Two parts suffice: each keeps 11 bits, so together they miss a number by at most 2^-23 of it (float32: 2^-24), and the
product that is left out, small times small, is below 2^-22 of large times large. Only float16's range is narrow. So
every head is multiplied by the power of two that brings its largest entry to between 2^13 and 2^14, which no part of it
overflows, and what is rounded off as subnormal is below 2^-38 of that entry.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from workbench_kernels.heads import for_descriptor

try:
    import triton
    import triton.language as tl
except ImportError:  # `sinkhorn.why_not` says so
    triton = None


class Parts(NamedTuple):
    """Heads (batch, heads, tokens, width) as the kernels read them: ``tensor * unit``, summed over the parts.

    tensor: (parts * batch, heads, tokens, width'), the large parts of all batches before the small ones; readable by
    the copy engine. unit: (batch * heads,) powers of two, float32; None with one part, where it would be 1.
    """

    tensor: Tensor
    unit: Tensor | None


def split(*tensors: Tensor) -> list[Parts]:
    """Float32 tensors of one shape (batch, heads, tokens, width) in two float16 parts, the width padded with zeros to a
    multiple of 8; tensors of other types in one. NaN and infinities become NaN in at least one part."""
    if tensors[0].dtype != torch.float32:
        return [Parts(for_descriptor(tensor), None) for tensor in tensors]
    batch, heads, tokens, width = tensors[0].shape
    device = tensors[0].device
    padded = -(-width // 8) * 8
    columns = triton.next_power_of_2(padded)
    rows = max(1, 2048 // columns)
    grid, settings = (triton.cdiv(tokens, rows), batch * heads), {"ROWS": rows, "COLUMNS": columns}
    largest = torch.zeros(len(tensors), batch * heads, dtype=torch.int32, device=device)
    units = torch.empty(len(tensors), batch * heads, dtype=torch.float32, device=device)
    results = []
    for tensor, bits, unit in zip(tensors, largest, units, strict=True):
        parts = torch.empty(2 * batch, heads, tokens, padded, dtype=torch.float16, device=device)
        numbers = (tokens, heads, width, *tensor.stride())
        _largest_kernel[grid](tensor, bits, *numbers, **settings)
        _split_kernel[grid](tensor, bits, parts, unit, *numbers, padded, batch * heads, **settings)
        results.append(Parts(parts, unit))
    return results


if triton is not None:

    @triton.jit
    def _rows(
        tensor, tokens, heads, width, stride_batch, stride_head, stride_row, stride_column,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        """Some rows of a matrix, which rows and columns those are, and which matrix."""
        matrix = tl.program_id(1).to(tl.int64)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
        column = tl.arange(0, COLUMNS)[None, :]
        start = tensor + (matrix // heads) * stride_batch + (matrix % heads) * stride_head
        inside = (row < tokens) & (column < width)
        numbers = tl.load(start + row.to(tl.int64) * stride_row + column * stride_column, mask=inside, other=0.0)
        return numbers, row, column, matrix

    @triton.jit
    def _magnitude(numbers):
        """The bits of absolute values, which are ordered as the values are; NaN comes last."""
        return numbers.to(tl.int32, bitcast=True) & 0x7FFFFFFF

    @triton.jit
    def _powers_of_two(magnitude, TARGET: tl.constexpr):
        """2^n that lifts this magnitude to between 2^TARGET and 2^(TARGET + 1), and 2^-n; n is at most 126."""
        power = tl.minimum(TARGET + 127 - (magnitude >> 23), 126)
        return ((127 + power) << 23).to(tl.float32, bitcast=True), ((127 - power) << 23).to(tl.float32, bitcast=True)

    @triton.jit
    def _largest_kernel(
        tensor, largest, tokens, heads, width, stride_batch, stride_head, stride_row, stride_column,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        """The magnitude of the largest finite entry of each matrix. A maximum is the same in any order."""
        numbers, _, _, matrix = _rows(
            tensor, tokens, heads, width, stride_batch, stride_head, stride_row, stride_column, ROWS, COLUMNS
        )
        magnitude = _magnitude(numbers)
        magnitude = tl.where(magnitude < 0x7F800000, magnitude, 0)
        tl.atomic_max(largest + matrix, tl.max(tl.max(magnitude, 1), 0))

    @triton.jit
    def _split_kernel(
        tensor, largest, parts, unit, tokens, heads, width, stride_batch, stride_head, stride_row, stride_column,
        padded, matrices,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        numbers, row, column, matrix = _rows(
            tensor, tokens, heads, width, stride_batch, stride_head, stride_row, stride_column, ROWS, COLUMNS
        )
        lift, own_unit = _powers_of_two(tl.load(largest + matrix), 13)
        if tl.program_id(0) == 0:
            tl.store(unit + matrix, own_unit)
        numbers *= lift
        large = numbers.to(tl.float16)
        stored = (row < tokens) & (column < padded)
        tl.store(parts + (matrix * tokens + row) * padded + column, large, mask=stored)
        small = (numbers - large.to(tl.float32)).to(tl.float16)
        tl.store(parts + ((matrices + matrix) * tokens + row) * padded + column, small, mask=stored)

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
    def unit(units, matrix, PARTS: tl.constexpr):
        """What 1 stands for in the parts of this matrix."""
        own = 1.0
        if PARTS == 2:
            own = tl.load(units + matrix)
        return own

    @triton.jit
    def units(one, other, matrix, PARTS: tl.constexpr):
        """What 1 stands for in a product of two such matrices."""
        return unit(one, matrix, PARTS) * unit(other, matrix, PARTS)

    @triton.jit
    def times_transposed(a0, a1, b0, b1, PARTS: tl.constexpr):
        """a b^T in float32, in units of a times units of b; small terms first."""
        if PARTS == 1:
            product = tl.dot(a0, b0.T)
        else:
            product = tl.dot(a1, b0.T)
            product = tl.dot(a0, b1.T, product)
            product = tl.dot(a0, b0.T, product)
        return product

    @triton.jit
    def weights_of(exponents, MOST: tl.constexpr, like):
        """exp2 of exponents that are at most MOST, but for rounding: scores of 1e6 and more are rounded so coarsely
        that a weight would be too large for float16, if that is what ``like`` is made of. NaN stays NaN."""
        if like.dtype == tl.float16:
            exponents = tl.minimum(exponents, MOST, propagate_nan=tl.PropagateNan.ALL)
        return tl.exp2(exponents)

    @triton.jit
    def add_product(total, weights, b0, b1, PARTS: tl.constexpr, ANY_SIZE: tl.constexpr = False):
        """total + weights b with float32 weights, which are rounded or split as b is; in units of b.

        The weights are below 2^16, and what is below 2^-25 is lost; with ANY_SIZE, and in two parts, each row of the
        tile is brought to that range by a power of two of its own.

        Hopper's tensor cores round towards zero whenever they add to their accumulator. Over many tiles of positive
        weights that adds up to 1e-5, so the products of parts start from zero and are added once a tile.
        """
        if PARTS == 1:
            total = tl.dot(weights.to(b0.dtype), b0, total)
        else:
            if ANY_SIZE:
                lift, unit = _powers_of_two(tl.max(_magnitude(weights), 1), 14)
                weights *= lift[:, None]
            w0 = weights.to(b0.dtype)
            w1 = (weights - w0.to(tl.float32)).to(b0.dtype)
            product = tl.dot(w1, b0)
            product = tl.dot(w0, b1, product)
            product = tl.dot(w0, b0, product)
            if ANY_SIZE:
                product *= unit[:, None]
            total += product
        return total

    @triton.jit
    def whole(large, small, PARTS: tl.constexpr):
        """The float32 tile that the parts stand for, in their unit."""
        total = large.to(tl.float32)
        if PARTS == 2:
            total += small.to(tl.float32)
        return total
