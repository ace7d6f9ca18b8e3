"""PolyNorm, a polynomial whose powers are normalised over the row: forward and backward, each in one pass over x.

With :math:`r_p = (\\mathrm{mean}_j\\, x_j^{2p} + \\varepsilon)^{-1/2}` and :math:`c_p = a_p r_p` the output is one
polynomial per row, :math:`y = b + c_1 x + c_2 x^2 + ...`. With :math:`S_p = \\sum_j g_j x_j^p` the gradient is

.. math:: dx = g\\,(c_1 + 2 c_2 x + 3 c_3 x^2 + ...) - (k_1 x + k_2 x^3 + k_3 x^5 + ...), \\quad
          k_p = \\tfrac pD a_p r_p^3 S_p

so a row is read, summed, and turned into its result while it stays in registers. Sums run in a fixed order: the same
input gives the same bits.

Powers of large numbers leave the range of float32 (1e5 to the eighth), so all of this is done for x divided by a power
of two, the row's own: its largest number is then between 1 and 2, nothing is rounded by it, and PolyNorm is the same
but for :math:`\\varepsilon`, which is divided by that power's 2p-th. Kept for the backward pass: x, and of each row the
``order`` scales and one over its power of two.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation
from workbench_kernels.tiles import (
    arithmetic,
    as_rows,
    head_and_tail,
    pieces,
    programs_per_tensor,
    rows_of,
    shape_for,
    sum_partials,
)

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None

# For rows up to `width` long: rows that a program takes at a time and its warps; backward also how many programs on a
# multiprocessor take turns at the rows (0: every program has one turn), whether x and the gradient are read a second
# time, from the L1 cache, instead of staying in registers, and how many turns' loads are in flight.
#   width  rows warps
FORWARD = (
    (32, 64, 4),
    (128, 16, 4),
    (512, 4, 4),
    (1024, 4, 4),
    (6144, 1, 4),
    (12288, 1, 8),
    (16384, 1, 16),
)
#   width  rows warps programs reload stages
BACKWARD = (
    (32, 64, 4, 0, False, 1),
    (128, 16, 4, 0, False, 1),
    (512, 4, 4, 0, False, 1),
    (1024, 2, 4, 0, False, 1),
    (4096, 1, 4, 0, False, 1),
    (6144, 1, 8, 3, False, 1),
    (12288, 1, 8, 3, True, 2),
    (16384, 1, 16, 2, True, 2),
)
RELOADED_TAIL = 512  # with a shorter one, ptxas keeps a row that is read a second time in registers all the same
LONGEST_ROW = 16384  # longer rows are read twice, the second time from the L2 cache
LONG_BLOCK, LONG_WARPS = 8192, 8


def poly_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """y (..., width) = bias + sum over p of weight[p-1] x^p / rms(x^p), normalised over the last axis.

    x (..., width), float16, bfloat16 or float32 (on a CPU also float64); weight (1 to 4,), bias (1,), any float.
    Differentiable once, in x, weight and bias. On CUDA it needs Triton (`tiles.why_not`).
    """
    return _poly_norm(x, weight, bias, eps)[0]


# --- CUDA ------------------------------------------------------------------------------------------------------------


def forward_triton(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The output, and (rows, order + 1) in float32: the scales r_p, and one over the row's power of two."""
    rows, count, width, stride = rows_of(x)
    order = weight.shape[0]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    scales = x.new_empty(count, order + 1, dtype=torch.float32)
    kernel, height, settings = _forward_shape(width)
    kernel[(-(-count // height),)](
        rows, weight.contiguous(), bias, y, scales, count, width, stride, eps, _least(eps, order),
        ORDER=order, **settings,
    )  # fmt: skip
    return y, scales


def backward_triton(
    grad: Tensor, x: Tensor, scales: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    rows, count, width, stride = rows_of(x)
    above, _, _, grad_stride = rows_of(grad)
    order = weight.shape[0]
    kernel, height, per_processor, settings = _backward_shape(width, x.element_size())
    programs = programs_per_tensor(-(-count // height), x.device, per_processor)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    partials = x.new_empty(order + 1, programs, dtype=torch.float32)
    kernel[(programs,)](
        rows, above, scales, weight.contiguous(), grad_x, partials, count, width, stride, grad_stride,
        ORDER=order, **settings,
    )  # fmt: skip
    return grad_x, *sum_partials(partials, weight, bias)


@functools.lru_cache(1024)
def _least(eps: float, order: int, dtype: torch.dtype = torch.float32) -> float:
    """The power of two that rows of smaller numbers are divided by: eps over its 2 order-th must be a number, too."""
    smallest = torch.finfo(dtype).tiny
    return max(smallest, 2.0 ** math.ceil((math.log2(eps) - 100) / (2 * order))) if eps > 0 else smallest


@functools.lru_cache(1024)
def _forward_shape(width: int) -> tuple[Callable, int, dict[str, int]]:
    """The kernel for rows of that length, how many rows a program takes, and its other settings."""
    if width > LONGEST_ROW:
        return _forward_long_kernel, 1, {"BLOCK": LONG_BLOCK, "num_warps": LONG_WARPS}
    height, warps = shape_for(width, FORWARD)
    head, tail = head_and_tail(width)
    return _forward_kernel, height, {"HEAD": head, "TAIL": tail, "ROWS": height, "num_warps": warps}


@functools.lru_cache(1024)
def _backward_shape(width: int, item: int) -> tuple[Callable, int, int, dict[str, int]]:
    """As ``_forward_shape`` for numbers of ``item`` bytes; the third is how many programs a multiprocessor has."""
    if width > LONGEST_ROW:
        return _backward_long_kernel, 1, 0, {"BLOCK": LONG_BLOCK, "num_warps": LONG_WARPS}
    height, warps, per_processor, reload, stages = shape_for(width, BACKWARD)
    head, tail = head_and_tail(width)
    if reload and tail:
        tail = max(tail, RELOADED_TAIL)
    if item > 2:
        stages = 1  # two rows of float32 at a time would not fit into shared memory
    settings = {"HEAD": head, "TAIL": tail, "ROWS": height, "RELOAD": reload, "STAGES": stages, "num_warps": warps}
    return _backward_kernel, height, per_processor, settings


# --- CPU -------------------------------------------------------------------------------------------------------------


def forward_torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As ``forward_triton``, in pieces of rows that stay in the cache."""
    rows, dtype = as_rows(x), arithmetic(x.dtype)
    count, width = rows.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    order = len(weight)
    scales = torch.empty(count, order + 1, dtype=dtype, device=x.device)
    weight, bias = weight.to(dtype), bias.to(dtype)
    for piece in pieces(count, width):
        part = rows[piece].to(dtype)
        inverse = _over_powers_of_2(part.abs().amax(-1).clamp_(min=_least(eps, order, dtype)))
        scales[piece, order] = inverse
        part = part * inverse[:, None]
        share = torch.full_like(inverse, eps)
        for p, power in enumerate(_powers(part, order)):
            share = share * inverse * inverse
            mean = torch.linalg.vector_norm(power, dim=-1).square_().div_(width).add_(share)
            scales[piece, p] = mean.masked_fill_(mean == 0, torch.inf).rsqrt_()
        y.view(count, width)[piece] = _horner(part, bias, *(scales[piece, :order] * weight).split(1, dim=1))
    return y, scales


def backward_torch(
    grad: Tensor, x: Tensor, scales: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``backward_triton``, in pieces of rows that stay in the cache."""
    rows, grad_rows, dtype = as_rows(x), as_rows(grad), arithmetic(x.dtype)
    count, width = rows.shape
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    order = len(weight)
    degree = torch.arange(1, order + 1, dtype=dtype, device=x.device)
    grad_weight, grad_bias = torch.zeros(order, dtype=dtype), torch.zeros(1, dtype=dtype)
    for piece in pieces(count, width):
        scale, inverse = scales[piece, :order], scales[piece, order:]
        part, above = rows[piece].to(dtype) * inverse, grad_rows[piece].to(dtype)
        sums = torch.stack([(power * above).sum(-1) for power in _powers(part, order)], dim=-1)
        grad_weight += (scale * sums).sum(0)
        grad_bias += above.sum()
        slope = degree * scale * weight.to(dtype)
        pull = -slope * (scale * sums) * scale / width
        square = part * part
        result = _horner(part, *slope.split(1, dim=1)).mul_(above)
        pulled = _horner(square, *pull.split(1, dim=1))
        grad_x.view(count, width)[piece] = result.addcmul_(part, pulled).mul_(inverse)
    return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def _over_powers_of_2(largest: Tensor) -> Tensor:
    """As the kernels' ``_over_power_of_2``, for float32 or float64."""
    whole, fraction, bias = (torch.int64, 52, 1023) if largest.dtype == torch.float64 else (torch.int32, 23, 127)
    exponent = (largest.view(whole) >> fraction).clamp_(1, 2 * bias - 1)
    return ((2 * bias - exponent) << fraction).view(largest.dtype)


def _powers(x: Tensor, order: int) -> list[Tensor]:
    powers = [x]
    for _ in range(order - 1):
        powers.append(powers[-1] * x)
    return powers


def _horner(x: Tensor, *coefficients: Tensor) -> Tensor:
    """coefficients[0] + coefficients[1] x + ..., each of them (rows, 1) or (1,)."""
    *lower, value = coefficients
    value = value.expand_as(x).clone() if not lower else value
    for coefficient in reversed(lower):
        value = torch.addcmul(coefficient, x, value)
    return value


# --- the operation ---------------------------------------------------------------------------------------------------

def _fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = math.prod(x.shape[:-1])
    return x.new_empty(x.shape), x.new_empty(rows, weight.shape[0] + 1, dtype=arithmetic(x.dtype))


_poly_norm = Operation(
    "poly_norm",
    forward={"cuda": forward_triton, "cpu": forward_torch},
    backward={"cuda": backward_triton, "cpu": backward_torch},
    outputs=("y", "scales"),
    fake=_fake,
)


# --- the kernels -----------------------------------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def _add_2(a1, a2, b1, b2):
        return a1 + b1, a2 + b2

    @triton.jit
    def _add_3(a1, a2, a3, b1, b2, b3):
        return a1 + b1, a2 + b2, a3 + b3

    @triton.jit
    def _add_4(a1, a2, a3, a4, b1, b2, b3, b4):
        return a1 + b1, a2 + b2, a3 + b3, a4 + b4

    @triton.jit
    def _add_5(a1, a2, a3, a4, a5, b1, b2, b3, b4, b5):
        return a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5

    @triton.jit
    def _squares(x, ORDER: tl.constexpr):
        """Row sums of x^2, x^4, ... in one reduction: a program's warps wait for each other once, not ORDER times."""
        x2 = x * x
        if ORDER == 1:
            s1 = tl.sum(x2, axis=1)
            s2, s3, s4 = s1, s1, s1
        elif ORDER == 2:
            s1, s2 = tl.reduce((x2, x2 * x2), 1, _add_2)
            s3, s4 = s1, s1
        elif ORDER == 3:
            x3 = x2 * x
            s1, s2, s3 = tl.reduce((x2, x2 * x2, x3 * x3), 1, _add_3)
            s4 = s1
        else:
            x3, x4 = x2 * x, x2 * x2
            s1, s2, s3, s4 = tl.reduce((x2, x4, x3 * x3, x4 * x4), 1, _add_4)
        return s1, s2, s3, s4

    @triton.jit
    def _products(x, g, ORDER: tl.constexpr):
        """Row sums of g, g x, g x^2, ... in one reduction."""
        g1 = g * x
        if ORDER == 1:
            s0, s1 = tl.reduce((g, g1), 1, _add_2)
            s2, s3, s4 = s1, s1, s1
        elif ORDER == 2:
            s0, s1, s2 = tl.reduce((g, g1, g1 * x), 1, _add_3)
            s3, s4 = s1, s1
        elif ORDER == 3:
            g2 = g1 * x
            s0, s1, s2, s3 = tl.reduce((g, g1, g2, g2 * x), 1, _add_4)
            s4 = s1
        else:
            g2 = g1 * x
            g3 = g2 * x
            s0, s1, s2, s3, s4 = tl.reduce((g, g1, g2, g3, g3 * x), 1, _add_5)
        return s0, s1, s2, s3, s4

    @triton.jit
    def _over_power_of_2(largest):
        """One over the power of two that is not above ``largest`` (infinite or not a number: 2^126)."""
        exponent = tl.minimum(tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 1), 253)
        return ((254 - exponent) << 23).to(tl.float32, bitcast=True)

    @triton.jit
    def _coefficient(total, weight, scales, row, real, width, eps, P: tl.constexpr, ORDER: tl.constexpr):
        """c_p = a_p r_p as a column, from the row sum of x^2p and this power's eps; r_p is stored."""
        mean = total / width + eps
        scale = tl.rsqrt(tl.where(mean == 0, float("inf"), mean))  # 0 for a row of zeros, and eps = 0
        tl.store(scales + row * (ORDER + 1) + P - 1, scale, mask=real)
        return (scale * tl.load(weight + P - 1).to(tl.float32))[:, None]

    @triton.jit
    def _coefficients(s1, s2, s3, s4, inverse, weight, scales, row, real, width, eps, ORDER: tl.constexpr):
        tl.store(scales + row * (ORDER + 1) + ORDER, inverse, mask=real)
        eps = eps * inverse * inverse  # from the left: eps = 0 stays 0 where the square would overflow
        c1 = _coefficient(s1, weight, scales, row, real, width, eps, 1, ORDER)
        c2, c3, c4 = c1, c1, c1
        if ORDER >= 2:
            eps = eps * inverse * inverse
            c2 = _coefficient(s2, weight, scales, row, real, width, eps, 2, ORDER)
        if ORDER >= 3:
            eps = eps * inverse * inverse
            c3 = _coefficient(s3, weight, scales, row, real, width, eps, 3, ORDER)
        if ORDER >= 4:
            eps = eps * inverse * inverse
            c4 = _coefficient(s4, weight, scales, row, real, width, eps, 4, ORDER)
        return c1, c2, c3, c4

    @triton.jit
    def _slope_and_pull(total, inverse, scales, weight, row, real, width, P: tl.constexpr, ORDER: tl.constexpr):
        """p c_p and k_p = p/D a_p r_p^3 S_p as columns, over the row's power of two, by which x was divided; and the
        rows' part of the gradient of a_p; from S_p."""
        scale = tl.load(scales + row * (ORDER + 1) + P - 1, mask=real, other=0.0)
        slope = P * tl.load(weight + P - 1).to(tl.float32) * scale * inverse
        normalised = scale * total
        return slope[:, None], (slope * normalised * scale / width)[:, None], tl.sum(normalised)

    @triton.jit
    def _slopes_and_pulls(s1, s2, s3, s4, inverse, scales, weight, row, real, width, ORDER: tl.constexpr):
        d1, k1, a1 = _slope_and_pull(s1, inverse, scales, weight, row, real, width, 1, ORDER)
        d2, d3, d4, k2, k3, k4, a2, a3, a4 = d1, d1, d1, k1, k1, k1, a1, a1, a1
        if ORDER >= 2:
            d2, k2, a2 = _slope_and_pull(s2, inverse, scales, weight, row, real, width, 2, ORDER)
        if ORDER >= 3:
            d3, k3, a3 = _slope_and_pull(s3, inverse, scales, weight, row, real, width, 3, ORDER)
        if ORDER >= 4:
            d4, k4, a4 = _slope_and_pull(s4, inverse, scales, weight, row, real, width, 4, ORDER)
        return d1, d2, d3, d4, k1, k2, k3, k4, a1, a2, a3, a4

    @triton.jit
    def _polynomial(x, c0, c1, c2, c3, c4, ORDER: tl.constexpr):
        """c0 + c1 x + ... + c_ORDER x^ORDER."""
        value = c0 + tl.zeros_like(x)
        if ORDER == 1:
            value = c1 * x + c0
        if ORDER == 2:
            value = (c2 * x + c1) * x + c0
        if ORDER == 3:
            value = ((c3 * x + c2) * x + c1) * x + c0
        if ORDER == 4:
            value = (((c4 * x + c3) * x + c2) * x + c1) * x + c0
        return value

    @triton.jit
    def _gradient(x, g, d1, d2, d3, d4, k1, k2, k3, k4, ORDER: tl.constexpr):
        """g (d1 + d2 x + ...) - x (k1 + k2 x^2 + ...)."""
        pull = _polynomial(x * x, k1, k2, k3, k4, k4, ORDER - 1)
        return g * _polynomial(x, d1, d2, d3, d4, d4, ORDER - 1) - x * pull

    @triton.jit
    def _store_partials(partials, a0, a1, a2, a3, a4, ORDER: tl.constexpr):
        """One column of partial sums: the gradients of the coefficients, then that of the bias."""
        column = partials + tl.program_id(0)
        programs = tl.num_programs(0)
        tl.store(column, a1)
        if ORDER >= 2:
            tl.store(column + programs, a2)
        if ORDER >= 3:
            tl.store(column + 2 * programs, a3)
        if ORDER >= 4:
            tl.store(column + 3 * programs, a4)
        tl.store(column + ORDER * programs, a0)

    @triton.jit
    def _load(pointer, start, columns, mask, AGAIN: tl.constexpr = False):
        """Numbers as float32. AGAIN marks a second read: caches may forget them then, and it is not merged into the
        first (for a first and only read the hint costs 4 % of the bandwidth)."""
        policy: tl.constexpr = "evict_first" if AGAIN else ""
        return tl.load(pointer + start + columns, mask=mask, other=0.0, eviction_policy=policy).to(tl.float32)

    @prepared
    @triton.jit
    def _forward_kernel(
        x, weight, bias, y, scales, rows, width, stride, eps, least,
        ORDER: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        real = row < rows
        from_row, to_row = (row * stride)[:, None], (row * width)[:, None]
        columns, mask = tl.arange(0, HEAD)[None], real[:, None]
        head = _load(x, from_row, columns, mask)
        if TAIL > 0:
            tail_columns = HEAD + tl.arange(0, TAIL)[None]
            tail_mask = mask & (tail_columns < width)
            tail = _load(x, from_row, tail_columns, tail_mask)
        largest = tl.maximum(tl.max(tl.abs(head), axis=1), least)
        if TAIL > 0:
            largest = tl.maximum(largest, tl.max(tl.abs(tail), axis=1))
        inverse = _over_power_of_2(largest)
        head = head * inverse[:, None]
        s1, s2, s3, s4 = _squares(head, ORDER)
        if TAIL > 0:
            tail = tail * inverse[:, None]
            s1, s2, s3, s4 = _add_4(s1, s2, s3, s4, *_squares(tail, ORDER))
        c1, c2, c3, c4 = _coefficients(s1, s2, s3, s4, inverse, weight, scales, row, real, width, eps, ORDER)
        b = tl.load(bias).to(tl.float32)
        tl.store(y + to_row + columns, _polynomial(head, b, c1, c2, c3, c4, ORDER), mask=mask)
        if TAIL > 0:
            tl.store(y + to_row + tail_columns, _polynomial(tail, b, c1, c2, c3, c4, ORDER), mask=tail_mask)

    @prepared
    @triton.jit
    def _backward_kernel(
        x, grad, scales, weight, grad_x, partials, rows, width, stride, grad_stride,
        ORDER: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr,
        RELOAD: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        t0, t1, t2, t3, t4 = 0.0, 0.0, 0.0, 0.0, 0.0
        columns, tail_columns = tl.arange(0, HEAD)[None], HEAD + tl.arange(0, TAIL if TAIL > 0 else 1)[None]
        for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0), num_stages=STAGES):
            row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
            real = row < rows
            from_x, from_grad, to_row = (row * stride)[:, None], (row * grad_stride)[:, None], (row * width)[:, None]
            mask = real[:, None]
            tail_mask = mask & (tail_columns < width)
            inverse = tl.load(scales + row * (ORDER + 1) + ORDER, mask=real, other=0.0)
            head = _load(x, from_x, columns, mask) * inverse[:, None]
            head_grad = _load(grad, from_grad, columns, mask)
            if TAIL > 0:
                tail = _load(x, from_x, tail_columns, tail_mask) * inverse[:, None]
                tail_grad = _load(grad, from_grad, tail_columns, tail_mask)
            s0, s1, s2, s3, s4 = _products(head, head_grad, ORDER)
            if TAIL > 0:
                s0, s1, s2, s3, s4 = _add_5(s0, s1, s2, s3, s4, *_products(tail, tail_grad, ORDER))
            d1, d2, d3, d4, k1, k2, k3, k4, a1, a2, a3, a4 = _slopes_and_pulls(
                s1, s2, s3, s4, inverse, scales, weight, row, real, width, ORDER
            )
            if RELOAD:
                # A second read that waits for the sums: otherwise ptxas would do it with the first, and the registers
                # that this takes leave room for two programs on a multiprocessor instead of three.
                inverse = tl.where(s0 != s0, s0, inverse)
                head = _load(x, from_x, columns, mask, True) * inverse[:, None]
                head_grad = _load(grad, from_grad, columns, mask, True)
                if TAIL > 0:
                    tail = _load(x, from_x, tail_columns, tail_mask, True) * inverse[:, None]
                    tail_grad = _load(grad, from_grad, tail_columns, tail_mask, True)
            dx = _gradient(head, head_grad, d1, d2, d3, d4, k1, k2, k3, k4, ORDER)
            tl.store(grad_x + to_row + columns, dx, mask=mask)
            if TAIL > 0:
                dx = _gradient(tail, tail_grad, d1, d2, d3, d4, k1, k2, k3, k4, ORDER)
                tl.store(grad_x + to_row + tail_columns, dx, mask=tail_mask)
            t0, t1, t2, t3, t4 = t0 + tl.sum(s0), t1 + a1, t2 + a2, t3 + a3, t4 + a4
        _store_partials(partials, t0, t1, t2, t3, t4, ORDER)

    @prepared
    @triton.jit
    def _forward_long_kernel(
        x, weight, bias, y, scales, rows, width, stride, eps, least, ORDER: tl.constexpr, BLOCK: tl.constexpr
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
        real = row < rows
        from_row, to_row = (row * stride)[:, None], (row * width)[:, None]
        s1 = tl.zeros((1,), tl.float32)
        s2, s3, s4 = s1, s1, s1
        largest = s1 + least
        inverse = _over_power_of_2(largest)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None]
            part = _load(x, from_row, columns, columns < width)
            # The sums so far are for a power of two that may have been too small.
            largest = tl.maximum(largest, tl.max(tl.abs(part), axis=1))
            before, inverse = inverse, _over_power_of_2(largest)
            ratio = inverse / before
            t1 = ratio * ratio
            t2 = t1 * t1
            part = part * inverse[:, None]
            s1, s2, s3, s4 = _add_4(t1 * s1, t2 * s2, t1 * t2 * s3, t2 * t2 * s4, *_squares(part, ORDER))
        c1, c2, c3, c4 = _coefficients(s1, s2, s3, s4, inverse, weight, scales, row, real, width, eps, ORDER)
        b = tl.load(bias).to(tl.float32)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None]
            part = _load(x, from_row, columns, columns < width) * inverse[:, None]
            tl.store(y + to_row + columns, _polynomial(part, b, c1, c2, c3, c4, ORDER), mask=columns < width)

    @prepared
    @triton.jit
    def _backward_long_kernel(
        x, grad, scales, weight, grad_x, partials, rows, width, stride, grad_stride,
        ORDER: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
        real = row < rows
        from_x, from_grad, to_row = (row * stride)[:, None], (row * grad_stride)[:, None], (row * width)[:, None]
        inverse = tl.load(scales + row * (ORDER + 1) + ORDER, mask=real, other=0.0)
        s0 = tl.zeros((1,), tl.float32)
        s1, s2, s3, s4 = s0, s0, s0, s0
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None]
            mask = columns < width
            part, above = _load(x, from_x, columns, mask) * inverse[:, None], _load(grad, from_grad, columns, mask)
            s0, s1, s2, s3, s4 = _add_5(s0, s1, s2, s3, s4, *_products(part, above, ORDER))
        d1, d2, d3, d4, k1, k2, k3, k4, a1, a2, a3, a4 = _slopes_and_pulls(
            s1, s2, s3, s4, inverse, scales, weight, row, real, width, ORDER
        )
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None]
            mask = columns < width
            part, above = _load(x, from_x, columns, mask) * inverse[:, None], _load(grad, from_grad, columns, mask)
            dx = _gradient(part, above, d1, d2, d3, d4, k1, k2, k3, k4, ORDER)
            tl.store(grad_x + to_row + columns, dx, mask=mask)
        _store_partials(partials, tl.sum(s0), a1, a2, a3, a4, ORDER)
