"""What the Sinkhorn kernels share: products that are accurate in float32, and where a program stands.

Float16 and bfloat16 tiles are multiplied as they are. Float32 tensors are split once into three bfloat16 parts whose
sum they are (3 x 8 bits), and a product is six products of parts; what is left out is smaller than float32's rounding.
Tensor cores multiply bfloat16 twice as fast as tf32, and no tile has to be split inside a loop.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # `sinkhorn.why_not` says so
    triton = None


def split(tensor: Tensor) -> Tensor:
    """Float32 (batch, heads, tokens, width) as bfloat16 (3 batch, heads, tokens, width'): the large parts of all
    batches, then what those lack, then what is still lacking. The width is padded to a multiple of 8. Other types
    pass through."""
    if tensor.dtype != torch.float32:
        return tensor
    batch, heads, tokens, width = tensor.shape
    padded = -(-width // 8) * 8
    parts = torch.empty(3 * batch, heads, tokens, padded, dtype=torch.bfloat16, device=tensor.device)
    columns = triton.next_power_of_2(padded)
    rows = max(1, 2048 // columns)
    _split_kernel[(triton.cdiv(tokens, rows), batch * heads)](
        tensor, parts, tokens, heads, width, padded, batch * heads, *tensor.stride(), ROWS=rows, COLUMNS=columns
    )
    return parts


if triton is not None:

    @triton.jit
    def _split_kernel(
        tensor, parts, tokens, heads, width, padded, matrices, stride_batch, stride_head, stride_row, stride_column,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        matrix = tl.program_id(1).to(tl.int64)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
        column = tl.arange(0, COLUMNS)[None, :]
        start = tensor + (matrix // heads) * stride_batch + (matrix % heads) * stride_head
        inside = (row < tokens) & (column < width)
        rest = tl.load(start + row.to(tl.int64) * stride_row + column * stride_column, mask=inside, other=0.0)
        stored = (row < tokens) & (column < padded)
        for part in tl.static_range(3):
            large = rest.to(tl.bfloat16)
            tl.store(parts + ((part * matrices + matrix) * tokens + row) * padded + column, large, mask=stored)
            rest -= large.to(tl.float32)

    @triton.jit
    def place(tokens, heads, BLOCK: tl.constexpr):
        """(first token, batch, head, matrix) of a program; the blocks of a head are neighbours."""
        blocks = tl.cdiv(tokens, BLOCK)
        matrix = tl.program_id(0) // blocks
        return tl.program_id(0) % blocks * BLOCK, matrix // heads, matrix % heads, matrix.to(tl.int64)

    @triton.jit
    def tile(tensor, batches, batch, head, start, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr):
        """The parts of a tile; one part stands for all three."""
        first = tensor.load([batch, head, start, 0]).reshape(ROWS, COLUMNS)
        second, third = first, first
        if PARTS == 3:
            second = tensor.load([batches + batch, head, start, 0]).reshape(ROWS, COLUMNS)
            third = tensor.load([2 * batches + batch, head, start, 0]).reshape(ROWS, COLUMNS)
        return first, second, third

    @triton.jit
    def times_transposed(a0, a1, a2, b0, b1, b2, PARTS: tl.constexpr):
        """a b^T in float32, small terms first."""
        if PARTS == 1:
            product = tl.dot(a0, b0.T)
        else:
            product = tl.dot(a2, b0.T)
            product = tl.dot(a0, b2.T, product)
            product = tl.dot(a1, b1.T, product)
            product = tl.dot(a1, b0.T, product)
            product = tl.dot(a0, b1.T, product)
            product = tl.dot(a0, b0.T, product)
        return product

    @triton.jit
    def add_product(total, weights, b0, b1, b2, PARTS: tl.constexpr):
        """total + weights b with float32 weights, which are rounded or split as b is.

        Hopper's tensor cores round towards zero whenever they add to their accumulator. Over many tiles of positive
        weights that adds up to 1e-5, so the products of parts start from zero and are added once a tile.
        """
        w0 = weights.to(b0.dtype)
        if PARTS == 1:
            total = tl.dot(w0, b0, total)
        else:
            rest = weights - w0.to(tl.float32)
            w1 = rest.to(b0.dtype)
            w2 = (rest - w1.to(tl.float32)).to(b0.dtype)
            product = tl.dot(w2, b0)
            product = tl.dot(w0, b2, product)
            product = tl.dot(w1, b1, product)
            product = tl.dot(w1, b0, product)
            product = tl.dot(w0, b1, product)
            total += tl.dot(w0, b0, product)
        return total

    @triton.jit
    def whole(first, second, third, PARTS: tl.constexpr):
        """The float32 tile that the parts stand for."""
        total = first.to(tl.float32)
        if PARTS == 3:
            total += second.to(tl.float32) + third.to(tl.float32)
        return total
