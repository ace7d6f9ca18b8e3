"""Layer norm in one pass over short rows: several rows a program, where PyTorch's kernel gives each row a block.

On an H100, in bfloat16, 2^24 numbers take 0.026 ms in rows of any length from 32 to 2048: what reading and writing them
takes. PyTorch's kernel needs 0.60 ms for rows of 32, 0.088 for rows of 256 and 0.036 for rows of 2048.

Kept for the backward pass, which is PyTorch's: the input, and the mean and the reciprocal deviation of each row.
"""

import torch
from torch import Tensor

from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation
from workbench_kernels.tiles import arithmetic, next_power_of_2, rows_of, shape_for
from workbench_kernels.tiles import why_not as why_not_triton

try:
    import triton
    import triton.language as tl
except ImportError:  # `why_not` says so
    triton = None

# For rows up to `width` long: rows that a program takes, and its warps.
#   width rows warps
FORWARD = (
    (32, 32, 4),
    (128, 16, 4),
    (256, 8, 4),
    (512, 4, 2),
    (1024, 4, 4),
    (2048, 2, 4),
    (4096, 1, 8),
    (8192, 1, 16),
)
LONGEST_ROW = 8192


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Each row of x (..., width) less its mean, over its (biased) standard deviation, times weight, plus bias (width,).

    x float16, bfloat16 or float32 (on a CPU also float64). Differentiable once, in x, weight and bias. On CUDA it needs
    Triton (``why_not``).
    """
    return _layer_norm(x, weight, bias, eps)[0]


def why_not(width: int, dtype: torch.dtype = torch.float32) -> list[str]:
    """Why the kernel cannot run here on rows of ``width`` numbers of that type, in sentences; empty: it can."""
    reasons = why_not_triton(dtype)
    if width > LONGEST_ROW:
        reasons.append(f"The kernel holds a row in registers: width may be {LONGEST_ROW} at most, not {width}.")
    return reasons


def forward_triton(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the rows' means and reciprocal deviations, (..., 1) in float32."""
    rows, count, width, stride = rows_of(x)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    mean = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    scale = torch.empty_like(mean)
    height, warps = shape_for(width, FORWARD)
    _forward_kernel[(-(-count // height),)](
        rows, weight.contiguous(), bias.contiguous(), y, mean, scale, count, width, stride, eps,
        ROWS=height, BLOCK=next_power_of_2(width), num_warps=warps,
    )  # fmt: skip
    return y, mean, scale


def forward_torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """As ``forward_triton``, by PyTorch's own layer norm."""
    wide = arithmetic(x.dtype)
    y, mean, scale = torch.native_layer_norm(x.to(wide), weight.shape, weight.to(wide), bias.to(wide), eps)
    return y.to(x.dtype), mean, scale


def backward_torch(
    grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias, by PyTorch's own kernels."""
    # In low precision PyTorch's kernel for a CPU would add up the gradients of weight and bias in that precision.
    dtype = x.dtype if x.is_cuda and x.dtype == weight.dtype == bias.dtype else arithmetic(x.dtype)
    found = torch.ops.aten.native_layer_norm_backward(
        grad.to(dtype), x.to(dtype), weight.shape, mean, scale, weight.to(dtype), bias.to(dtype), [True, True, True]
    )
    return tuple(gradient.to(of.dtype) for gradient, of in zip(found, (x, weight, bias), strict=True))


def _fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean, scale = (x.new_empty(*x.shape[:-1], 1, dtype=arithmetic(x.dtype)) for _ in range(2))
    return x.new_empty(x.shape), mean, scale


_layer_norm = Operation(
    "layer_norm",
    forward={"cuda": forward_triton, "cpu": forward_torch},
    backward=backward_torch,
    outputs=("y", "mean", "scale"),
    fake=_fake,
)


if triton is not None:

    @prepared
    @triton.jit
    def _forward_kernel(
        x, weight, bias, y, mean, scale, rows, width, stride, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        column = tl.arange(0, BLOCK)[None]
        real, inside = row < rows, column < width
        mask = real[:, None] & inside
        value = tl.load(x + (row * stride)[:, None] + column, mask=mask, other=0.0).to(tl.float32)
        mean_of_row = tl.sum(value, 1) / width
        # The variance from centred numbers: as a difference of squares it would lose its digits where the mean is big.
        value -= mean_of_row[:, None]
        scale_of_row = tl.rsqrt(tl.sum(tl.where(inside, value * value, 0.0), 1) / width + eps)
        gamma = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        beta = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + (row * width)[:, None] + column, value * scale_of_row[:, None] * gamma + beta, mask=mask)
        tl.store(mean + row, mean_of_row, mask=real)
        tl.store(scale + row, scale_of_row, mask=real)
