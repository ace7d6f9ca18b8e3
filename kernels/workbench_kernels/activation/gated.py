"""Gated activations, act(gate) * value for the two halves of a row: forward and backward, each in one pass.

``act`` is SiLU (SwiGLU), GELU with the exact error function (GEGLU) or ReLU (ReGLU). Kept for the backward pass: x.
"""

import torch
from torch import Tensor

from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation
from workbench_kernels.tiles import arithmetic, as_rows, next_power_of_2, pieces, rows_of

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None

FORWARD_TILE, FORWARD_WARPS = 2048, 8  # numbers of the output a program computes
BACKWARD_TILE, BACKWARD_WARPS = 512, 4


def gated(x: Tensor, activation: str) -> Tensor:
    """activation(x[..., :hidden]) * x[..., hidden:] for x (..., 2 hidden); ``activation`` is "silu", "gelu" or "relu".

    float16, bfloat16 or float32 (on a CPU also float64). Differentiable once. CUDA needs Triton (`tiles.why_not`).
    """
    return _gated(x, activation)


# --- CUDA ------------------------------------------------------------------------------------------------------------


def forward_triton(x: Tensor, activation: str) -> Tensor:
    rows, count, width, stride = rows_of(x)
    hidden = width // 2
    y = x.new_empty(*x.shape[:-1], hidden)
    grid, block, height = _grid(count, hidden, FORWARD_TILE)
    _forward_kernel[grid](
        rows, y, count, hidden, stride, ACT=activation, ROWS=height, BLOCK=block, num_warps=FORWARD_WARPS
    )
    return y


def backward_triton(grad: Tensor, x: Tensor, activation: str) -> Tensor:
    rows, _, _, stride = rows_of(x)
    above, count, hidden, grad_stride = rows_of(grad)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grid, block, height = _grid(count, hidden, BACKWARD_TILE)
    _backward_kernel[grid](
        rows, above, grad_x, count, hidden, stride, grad_stride,
        ACT=activation, ROWS=height, BLOCK=block, num_warps=BACKWARD_WARPS,
    )  # fmt: skip
    return grad_x


def _grid(rows: int, hidden: int, tile: int) -> tuple[tuple[int], int, int]:
    """Programs, columns and rows of a tile: a piece of one row, or several rows where they are short."""
    block = min(tile, next_power_of_2(hidden))
    height = tile // block
    return (-(-hidden // block) * -(-rows // height),), block, height


# --- CPU -------------------------------------------------------------------------------------------------------------


def forward_torch(x: Tensor, activation: str) -> Tensor:
    """As ``forward_triton``, in pieces of rows that stay in the cache."""
    rows, dtype = as_rows(x), arithmetic(x.dtype)
    hidden = rows.shape[1] // 2
    y = torch.empty(*x.shape[:-1], hidden, dtype=x.dtype, device=x.device)
    act = getattr(torch.nn.functional, activation)
    for piece in pieces(len(rows), hidden):
        gate, value = rows[piece].to(dtype).split(hidden, dim=1)
        torch.mul(act(gate), value, out=y.view(-1, hidden)[piece])
    return y


def backward_torch(grad: Tensor, x: Tensor, activation: str) -> Tensor:
    """As ``backward_triton``, in pieces of rows that stay in the cache."""
    rows, above, dtype = as_rows(x), as_rows(grad), arithmetic(x.dtype)
    hidden = above.shape[1]
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    act = getattr(torch.nn.functional, activation)
    act_backward = {
        "silu": torch.ops.aten.silu_backward,
        "gelu": torch.ops.aten.gelu_backward,
        "relu": lambda g, gate: torch.ops.aten.threshold_backward(g, gate, 0),
    }[activation]
    results = grad_x.view(-1, 2 * hidden)
    for piece in pieces(len(rows), hidden):
        gate, value = rows[piece].to(dtype).split(hidden, dim=1)
        g = above[piece].to(dtype)
        results[piece, :hidden] = act_backward(g * value, gate)
        torch.mul(act(gate), g, out=results[piece, hidden:])
    return grad_x


# --- the operation ---------------------------------------------------------------------------------------------------

_gated = Operation(
    "gated",
    forward={"cuda": forward_triton, "cpu": forward_torch},
    backward={"cuda": backward_triton, "cpu": backward_torch},
    fake=lambda x, activation: x.new_empty(*x.shape[:-1], x.shape[-1] // 2),
)


# --- the kernels -----------------------------------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def _activate(g, ACT: tl.constexpr):
        """act(g) and its derivative; what is not used is not computed."""
        if ACT == "silu":
            sigmoid = 1 / (1 + tl.exp(-g))
            act = g * sigmoid
            slope = sigmoid * (1 + g - act)
        elif ACT == "gelu":
            distribution = 0.5 + 0.5 * tl.erf(g * 0.7071067811865476)
            act = g * distribution
            slope = distribution + g * (0.3989422804014327 * tl.exp(-0.5 * g * g))
        else:
            act = tl.where(g < 0, 0.0, g)  # a NaN stays; tl.maximum would drop it
            slope = tl.where(g <= 0, 0.0, 1.0)
        return act, slope

    @triton.jit
    def _tile(rows, hidden, ROWS: tl.constexpr, BLOCK: tl.constexpr):
        """Row numbers (ROWS, 1), column numbers (1, BLOCK) and the mask of this program's tile."""
        across = tl.cdiv(hidden, BLOCK)
        program = tl.program_id(0)
        row = (program // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        column = (program % across) * BLOCK + tl.arange(0, BLOCK)[None]
        return row, column, (row < rows) & (column < hidden)

    @triton.jit
    def _load(pointer, mask):
        return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)

    @prepared
    @triton.jit
    def _forward_kernel(
        x, y, rows, hidden, stride, ACT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
    ):  # fmt: skip
        row, column, mask = _tile(rows, hidden, ROWS, BLOCK)
        gate = _load(x + row * stride + column, mask)
        value = _load(x + row * stride + hidden + column, mask)
        act, _ = _activate(gate, ACT)
        tl.store(y + row * hidden + column, act * value, mask=mask)

    @prepared
    @triton.jit
    def _backward_kernel(
        x, grad, grad_x, rows, hidden, stride, grad_stride,
        ACT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        row, column, mask = _tile(rows, hidden, ROWS, BLOCK)
        gate = _load(x + row * stride + column, mask)
        value = _load(x + row * stride + hidden + column, mask)
        g = _load(grad + row * grad_stride + column, mask)
        act, slope = _activate(gate, ACT)
        to = grad_x + row * (2 * hidden) + column
        tl.store(to, g * value * slope, mask=mask)
        tl.store(to + hidden, g * act, mask=mask)
