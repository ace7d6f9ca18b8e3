"""ReLU squared, max(x, 0)^2, in one pass forward and one backward. Kept for the backward pass: x.

ReLU and GELU have no kernel here: PyTorch's are one pass each already.
"""

import torch
from torch import Tensor

from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None

BLOCK, WARPS = 1024, 4


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 for every number of x, of any floating type. Differentiable once. On CUDA it needs Triton."""
    return _relu_squared(x)


def forward_triton(x: Tensor) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    _forward_kernel[(-(-x.numel() // BLOCK),)](x, y, x.numel(), BLOCK=BLOCK, num_warps=WARPS)
    return y


def backward_triton(grad: Tensor, x: Tensor) -> Tensor:
    x, grad = x.contiguous(), grad.contiguous()
    grad_x = torch.empty_like(x)
    _backward_kernel[(-(-x.numel() // BLOCK),)](x, grad, grad_x, x.numel(), BLOCK=BLOCK, num_warps=WARPS)
    return grad_x


def forward_torch(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype).copy_(x).clamp_(min=0).square_()


def backward_torch(grad: Tensor, x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype).copy_(x).clamp_(min=0).mul_(grad).mul_(2)  # 2 x may be too large


_relu_squared = Operation(
    "relu_squared",
    forward={"cuda": forward_triton, "cpu": forward_torch},
    backward={"cuda": backward_triton, "cpu": backward_torch},
    fake=lambda x: x.new_empty(x.shape),
)


if triton is not None:

    @triton.jit
    def _positive(pointer, place, mask):
        value = tl.load(pointer + place, mask=mask, other=0.0).to(tl.float32)
        return tl.where(value < 0, 0.0, value)  # a NaN stays; tl.maximum would drop it

    @prepared
    @triton.jit
    def _forward_kernel(x, y, numbers, BLOCK: tl.constexpr):
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = place < numbers
        q = _positive(x, place, mask)
        tl.store(y + place, q * q, mask=mask)

    @prepared
    @triton.jit
    def _backward_kernel(x, grad, grad_x, numbers, BLOCK: tl.constexpr):
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = place < numbers
        g = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_x + place, 2 * _positive(x, place, mask) * g, mask=mask)
