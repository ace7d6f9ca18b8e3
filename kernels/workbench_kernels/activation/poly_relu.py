"""PolyReLU, a polynomial of max(x, 0): forward and backward, each in one pass over x.

With q = max(x, 0): y = b + a_1 q + a_2 q^2 + ..., dx = g (a_1 + 2 a_2 q + 3 a_3 q^2 + ...) where x > 0 and 0 elsewhere.
Kept for the backward pass: x. Sums run in a fixed order: the same input gives the same bits.
"""

import torch
from torch import Tensor

from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation
from workbench_kernels.tiles import arithmetic, pieces, sum_partials

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None

FORWARD_BLOCK, FORWARD_WARPS = 1024, 4
BACKWARD_BLOCK, BACKWARD_WARPS = 4096, 8


def poly_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """bias + sum over p of weight[p-1] max(x, 0)^p, for every number of x.

    x of any shape, float16, bfloat16 or float32 (on a CPU also float64); weight (1 to 4,), bias (1,), any float.
    Differentiable once, in x, weight and bias. On CUDA it needs Triton (`tiles.why_not`).
    """
    return _poly_relu(x, weight, bias)


# --- CUDA ------------------------------------------------------------------------------------------------------------


def forward_triton(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    numbers, order = x.numel(), weight.shape[0]
    _forward_kernel[(-(-numbers // FORWARD_BLOCK),)](
        x, weight.contiguous(), bias, y, numbers, ORDER=order, BLOCK=FORWARD_BLOCK, num_warps=FORWARD_WARPS
    )
    return y


def backward_triton(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, grad = x.contiguous(), grad.contiguous()
    grad_x = torch.empty_like(x)
    numbers, order = x.numel(), weight.shape[0]
    programs = -(-numbers // BACKWARD_BLOCK)
    partials = x.new_empty(order + 1, programs, dtype=torch.float32)
    _backward_kernel[(programs,)](
        x, grad, weight.contiguous(), grad_x, partials, numbers,
        ORDER=order, BLOCK=BACKWARD_BLOCK, num_warps=BACKWARD_WARPS,
    )  # fmt: skip
    return grad_x, *sum_partials(partials, weight, bias)


# --- CPU -------------------------------------------------------------------------------------------------------------


def forward_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As ``forward_triton``, in pieces that stay in the cache."""
    dtype = arithmetic(x.dtype)
    weight, bias = weight.to(dtype), bias.to(dtype)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    numbers, results = x.reshape(-1), y.view(-1)
    for piece in pieces(len(numbers), 1):
        q = numbers[piece].to(dtype).clamp(min=0)
        value = q * weight[-1]
        for lower in weight[:-1].flip(0):
            value.add_(lower).mul_(q)
        torch.add(value, bias, out=results[piece])
    return y


def backward_torch(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``backward_triton``, in pieces that stay in the cache."""
    dtype, order = arithmetic(x.dtype), len(weight)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    numbers, above, results = x.reshape(-1), grad.reshape(-1), grad_x.view(-1)
    grad_weight, grad_bias = torch.zeros(order, dtype=dtype), torch.zeros(1, dtype=dtype)
    slopes = weight.to(dtype) * torch.arange(1, order + 1, dtype=dtype)
    for piece in pieces(len(numbers), 1):
        q, g = numbers[piece].to(dtype).clamp(min=0), above[piece].to(dtype)
        value = slopes[-1].expand_as(q).clone()
        for lower in slopes[:-1].flip(0):
            value.mul_(q).add_(lower)
        results[piece] = torch.ops.aten.threshold_backward(value.mul_(g), q, 0)
        grad_bias += g.sum()
        power = g
        for p in range(order):
            power = power * q
            grad_weight[p] += power.sum()
    return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


# --- the operation ---------------------------------------------------------------------------------------------------

_poly_relu = Operation(
    "poly_relu",
    forward={"cuda": forward_triton, "cpu": forward_torch},
    backward={"cuda": backward_triton, "cpu": backward_torch},
    fake=lambda x, weight, bias: x.new_empty(x.shape),
)


# --- the kernels -----------------------------------------------------------------------------------------------------

if triton is not None:

    @prepared
    @triton.jit
    def _forward_kernel(x, weight, bias, y, numbers, ORDER: tl.constexpr, BLOCK: tl.constexpr):
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = place < numbers
        value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        q = tl.where(value < 0, 0.0, value)  # a NaN stays; tl.maximum would drop it
        result = tl.load(weight + ORDER - 1).to(tl.float32) * q
        for p in tl.static_range(ORDER - 1, 0, -1):
            result = (result + tl.load(weight + p - 1).to(tl.float32)) * q
        tl.store(y + place, result + tl.load(bias).to(tl.float32), mask=mask)

    @prepared
    @triton.jit
    def _backward_kernel(x, grad, weight, grad_x, partials, numbers, ORDER: tl.constexpr, BLOCK: tl.constexpr):
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = place < numbers
        value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        q = tl.where(value < 0, 0.0, value)
        slope = tl.zeros_like(q) + ORDER * tl.load(weight + ORDER - 1).to(tl.float32)
        for p in tl.static_range(ORDER - 1, 0, -1):
            slope = slope * q + p * tl.load(weight + p - 1).to(tl.float32)
        tl.store(grad_x + place, tl.where(value <= 0, 0.0, g * slope), mask=mask)
        column, programs = partials + tl.program_id(0), tl.num_programs(0)
        power = g
        for p in tl.static_range(ORDER):
            power = power * q
            tl.store(column + p * programs, tl.sum(power))
        tl.store(column + ORDER * programs, tl.sum(g))
