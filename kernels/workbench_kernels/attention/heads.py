"""What the attention kernels share: which heads they take, how the copy engine reads them, and a row-wise product."""

import math

import torch
from torch import Tensor

from workbench_kernels import tiles
from workbench_kernels.launch import prepared

try:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # `why_not` says so
    triton = None

MAX_HEAD_DIM = 256
LOG2_E = math.log2(math.e)


def why_not(dtype: torch.dtype, head_dim: int) -> list[str]:
    """Why an attention kernel cannot take such heads here, in sentences; empty: it can."""
    reasons = tiles.why_not(dtype)
    if head_dim > MAX_HEAD_DIM:
        reasons.append(f"The kernel takes a head_dim up to {MAX_HEAD_DIM}, not {head_dim}.")
    return reasons


def tile_side(size: int) -> int:
    """How long the side of a tile is that holds ``size`` rows or columns and that a matrix product can take."""
    return max(16, tiles.next_power_of_2(size))


def precision(tensor: Tensor) -> str:
    """Float32 inputs are split into three tf32 products: about float32's own accuracy, on the tensor cores."""
    return "tf32x3" if tensor.dtype == torch.float32 else "tf32"


def for_descriptor(tensor: Tensor) -> Tensor:
    """The tensor itself where the copy engine can read it in place: rows contiguous, 16-byte aligned; else a copy."""
    step = 16 // tensor.element_size()
    width = tensor.shape[-1]
    batch, head, row, column = tensor.stride()
    if width % step:
        return torch.nn.functional.pad(tensor, (0, step - width % step))
    if column == 1 and batch and head and row and (batch | head | row) % step == 0 and tensor.data_ptr() % 16 == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def descriptor(tensor: Tensor, rows: int, width: int) -> "TensorDescriptor":
    """Tiles (1, 1, rows, width) of a tensor of four axes that ``for_descriptor`` returned, or that is like one.

    Made without Triton's checks, which take longer than the launch: what they look for is true of such a tensor.
    """
    made = object.__new__(TensorDescriptor)
    made.base, made.shape, made.strides, made.block_shape = tensor, tensor.shape, tensor.stride(), [1, 1, rows, width]
    return made


def row_dots(grad: Tensor, output: Tensor) -> Tensor:
    """rowsum(dO * O), float32 (batch, heads, queries), of two tensors (batch, heads, queries, width): what softmax's
    gradient subtracts from every row."""
    batch, heads, queries, width = output.shape
    found = output.new_empty(batch, heads, queries, dtype=torch.float32)
    _row_dot_kernel[(-(-queries // 64), batch * heads)](
        grad,
        output,
        found,
        queries,
        heads,
        width,
        *grad.stride(),
        *output.stride(),
        BLOCK_M=64,
        BLOCK_D=tile_side(width),
        num_warps=4,
    )
    return found


if triton is not None:

    @triton.jit
    def _rows_of(tensor, row, queries, width, head_offset, stride_row, stride_column, BLOCK_D: tl.constexpr):
        column = tl.arange(0, BLOCK_D)
        at = tensor + head_offset + row[:, None].to(tl.int64) * stride_row + column[None, :] * stride_column
        return tl.load(at, mask=(row[:, None] < queries) & (column[None, :] < width), other=0.0).to(tl.float32)

    @prepared
    @triton.jit
    def _row_dot_kernel(
        grad, output, row_dot, queries, heads, width,
        grad_batch, grad_head, grad_row, grad_column, output_batch, output_head, output_row, output_column,
        BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        batch, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
        row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
        one = _rows_of(grad, row, queries, width, batch * grad_batch + head * grad_head, grad_row, grad_column, BLOCK_D)
        other = _rows_of(
            output, row, queries, width, batch * output_batch + head * output_head, output_row, output_column, BLOCK_D
        )
        at = row_dot + tl.program_id(1).to(tl.int64) * queries + row
        tl.store(at, tl.sum(one * other, 1), mask=row < queries)
