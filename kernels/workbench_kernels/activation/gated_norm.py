"""A gate whose two branches are normalised, LN(act(gate)) * LN(value): forward and backward, each in one pass.

For the two halves of a row, with :math:`a = \\mathrm{act}(z_1)`, one weight :math:`\\gamma` and one bias
:math:`\\beta` for both,

.. math:: y = u v, \\quad u = \\hat u \\gamma + \\beta, \\; \\hat u = (a - \\bar a)\\, r_1, \\quad
          v = \\hat v \\gamma + \\beta, \\; \\hat v = (z_2 - \\bar z_2)\\, r_2

with r the reciprocal standard deviations. With g the gradient of y, :math:`p = \\gamma g v`,
:math:`q = \\gamma g u`,

.. math:: da = r_1 (p - \\bar p - \\hat u\\, \\overline{p \\hat u}), \\quad dz_1 = da\\, \\mathrm{act}'(z_1), \\quad
          dz_2 = r_2 (q - \\bar q - \\hat v\\, \\overline{q \\hat v})

.. math:: d\\gamma = \\sum g\\, (v \\hat u + u \\hat v), \\quad d\\beta = \\sum g\\, (v + u)

where the last two sum over rows. Kept for the backward pass: the input, and two means and two r of each row. Sums run
in a fixed order: the same input gives the same bits.
"""

import math

import torch
from torch import Tensor

from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation
from workbench_kernels.tiles import (
    arithmetic,
    as_rows,
    next_power_of_2,
    pieces,
    programs_per_tensor,
    rows_of,
    shape_for,
)
from workbench_kernels.tiles import why_not as why_not_triton

try:
    import triton
    import triton.language as tl
except ImportError:  # `why_not` says so
    triton = None

# For rows up to `hidden` long: rows that a program takes at a time, and its warps; backward also how many programs on a
# multiprocessor take turns at the rows, and how many turns' loads are in flight.
#   hidden rows warps
FORWARD = (
    (32, 32, 4),
    (128, 8, 4),
    (256, 4, 4),
    (512, 2, 1),
    (2048, 1, 4),
    (4096, 1, 8),
    (8192, 1, 16),
)
#   hidden rows warps programs stages
BACKWARD = (
    (32, 32, 4, 4, 1),
    (128, 8, 4, 4, 1),
    (256, 4, 4, 4, 1),
    (512, 2, 4, 4, 2),
    (1024, 1, 4, 4, 2),
    (2048, 1, 8, 2, 2),
    (4096, 1, 16, 1, 2),
    (8192, 1, 32, 1, 2),
)
LONGEST_ROW = 8192  # both branches of a row, and its gradient, must fit into a program's registers
SUM_ROWS, SUM_COLUMNS = 32, 32  # the tile in which partial sums are added up


def gated_norm(x: Tensor, weight: Tensor, bias: Tensor, activation: str, eps: float = 1e-5) -> Tensor:
    """y (..., hidden) = LN(activation(x[..., :hidden])) * LN(x[..., hidden:]), both with weight and bias (hidden,).

    x float16, bfloat16 or float32 (on a CPU also float64); ``activation`` is "gelu" (exact), "silu", "relu" or
    "identity". Differentiable once, in x, weight and bias. On CUDA it needs Triton (``why_not``).
    """
    return _gated_norm(x, weight, bias, activation, eps)[0]


def why_not(hidden: int, dtype: torch.dtype = torch.float32) -> list[str]:
    """Why the kernels cannot run here on rows of 2 ``hidden`` numbers of that type, in sentences; empty: they can."""
    reasons = why_not_triton(dtype)
    if hidden > LONGEST_ROW:
        reasons.append(f"The kernel holds a row in registers: hidden may be {LONGEST_ROW} at most, not {hidden}.")
    return reasons


# --- CUDA ------------------------------------------------------------------------------------------------------------


def forward_triton(x: Tensor, weight: Tensor, bias: Tensor, activation: str, eps: float) -> tuple[Tensor, Tensor]:
    """The output, and (4, rows) in float32: the means of the two branches, then their reciprocal deviations."""
    rows, count, _, stride = rows_of(x)
    hidden = weight.shape[0]
    y = x.new_empty(*x.shape[:-1], hidden)
    statistics = x.new_empty(4, count, dtype=torch.float32)
    height, warps = shape_for(hidden, FORWARD)
    _forward_kernel[(-(-count // height),)](
        rows, weight.contiguous(), bias.contiguous(), y, statistics, count, hidden, stride, eps,
        ACT=activation, ROWS=height, BLOCK=next_power_of_2(hidden), num_warps=warps,
    )  # fmt: skip
    return y, statistics


def backward_triton(
    grad: Tensor, x: Tensor, statistics: Tensor, weight: Tensor, bias: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    rows, _, _, stride = rows_of(x)
    above, count, hidden, grad_stride = rows_of(grad)
    height, warps, per_processor, stages = shape_for(hidden, BACKWARD)
    programs = programs_per_tensor(-(-count // height), x.device, per_processor)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    partials = x.new_empty(2, programs, hidden, dtype=torch.float32)
    grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
    _backward_kernel[(programs,)](
        rows, above, statistics, weight.contiguous(), bias.contiguous(), grad_x, partials,
        count, hidden, stride, grad_stride,
        ACT=activation, ROWS=height, BLOCK=next_power_of_2(hidden), STAGES=stages, num_warps=warps,
    )  # fmt: skip
    _sum_kernel[(-(-hidden // SUM_COLUMNS), 2)](
        partials, grad_weight, grad_bias, programs, hidden, ROWS=SUM_ROWS, COLUMNS=SUM_COLUMNS, num_warps=4
    )
    return grad_x, grad_weight, grad_bias


# --- CPU -------------------------------------------------------------------------------------------------------------


def forward_torch(x: Tensor, weight: Tensor, bias: Tensor, activation: str, eps: float) -> tuple[Tensor, Tensor]:
    """As ``forward_triton``, in pieces of rows that stay in the cache."""
    rows, dtype = as_rows(x), arithmetic(x.dtype)
    count, hidden = len(rows), len(weight)
    y = torch.empty(*x.shape[:-1], hidden, dtype=x.dtype, device=x.device)
    statistics = torch.empty(4, count, dtype=dtype, device=x.device)
    weight, bias = weight.to(dtype), bias.to(dtype)
    for piece in pieces(count, 2 * hidden):
        gate, value = rows[piece].to(dtype).split(hidden, dim=1)
        u, *of_u = torch.native_layer_norm(_activated(gate, activation), [hidden], weight, bias, eps)
        v, *of_v = torch.native_layer_norm(value, [hidden], weight, bias, eps)
        statistics[:, piece] = torch.stack((of_u[0], of_v[0], of_u[1], of_v[1])).squeeze(-1)
        torch.mul(u, v, out=y.view(count, hidden)[piece])
    return y, statistics


def backward_torch(
    grad: Tensor, x: Tensor, statistics: Tensor, weight: Tensor, bias: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``backward_triton``, in pieces of rows that stay in the cache."""
    rows, above, dtype = as_rows(x), as_rows(grad), arithmetic(x.dtype)
    count, hidden = above.shape
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    gamma, beta = weight.to(dtype), bias.to(dtype)
    grad_weight, grad_bias = torch.zeros_like(gamma), torch.zeros_like(beta)
    results = grad_x.view(count, 2 * hidden)
    for piece in pieces(count, 2 * hidden):
        gate, value = rows[piece].to(dtype).split(hidden, dim=1)
        g, activated = above[piece].to(dtype), _activated(gate, activation)
        mean_u, mean_v, scale_u, scale_v = statistics[:, piece, None]
        u = torch.addcmul(beta, (activated - mean_u).mul_(scale_u), gamma)
        v = torch.addcmul(beta, (value - mean_v).mul_(scale_v), gamma)
        of_u = _through_norm(v.mul_(g), activated, mean_u, scale_u, gamma, beta)
        of_v = _through_norm(u.mul_(g), value, mean_v, scale_v, gamma, beta)
        results[piece, :hidden] = _through_activation(of_u[0], gate, activation)
        results[piece, hidden:] = of_v[0]
        grad_weight += of_u[1] + of_v[1]
        grad_bias += of_u[2] + of_v[2]
    return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def _activated(gate: Tensor, activation: str) -> Tensor:
    return gate if activation == "identity" else getattr(torch.nn.functional, activation)(gate)


def _through_norm(
    above: Tensor, x: Tensor, mean: Tensor, scale: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of x, gamma and beta of a layer norm."""
    return torch.ops.aten.native_layer_norm_backward(
        above, x, [x.shape[1]], mean, scale, gamma, beta, [True, True, True]
    )


def _through_activation(above: Tensor, gate: Tensor, activation: str) -> Tensor:
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(above, gate)
    if activation == "silu":
        return torch.ops.aten.silu_backward(above, gate)
    return torch.ops.aten.threshold_backward(above, gate, 0) if activation == "relu" else above


# --- the operation ---------------------------------------------------------------------------------------------------

def _fake(x: Tensor, weight: Tensor, bias: Tensor, activation: str, eps: float) -> tuple[Tensor, Tensor]:
    rows = math.prod(x.shape[:-1])
    return x.new_empty(*x.shape[:-1], weight.shape[0]), x.new_empty(4, rows, dtype=arithmetic(x.dtype))


_gated_norm = Operation(
    "gated_norm",
    forward={"cuda": forward_triton, "cpu": forward_torch},
    backward={"cuda": backward_triton, "cpu": backward_torch},
    outputs=("y", "statistics"),
    fake=_fake,
)


# --- the kernels -----------------------------------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def _activate(z, ACT: tl.constexpr):
        """act(z) and its derivative; what is not used is not computed."""
        if ACT == "gelu":
            distribution = 0.5 + 0.5 * tl.erf(z * 0.7071067811865476)
            act = z * distribution
            slope = distribution + z * (0.3989422804014327 * tl.exp(-0.5 * z * z))
        elif ACT == "silu":
            sigmoid = 1 / (1 + tl.exp(-z))
            act = z * sigmoid
            slope = sigmoid * (1 + z - act)
        elif ACT == "relu":
            act = tl.where(z < 0, 0.0, z)  # a NaN stays; tl.maximum would drop it
            slope = tl.where(z <= 0, 0.0, 1.0)
        else:
            act = z
            slope = tl.full(z.shape, 1.0, tl.float32)
        return act, slope

    @triton.jit
    def _add_2(a1, a2, b1, b2):
        return a1 + b1, a2 + b2

    @triton.jit
    def _add_4(a1, a2, a3, a4, b1, b2, b3, b4):
        return a1 + b1, a2 + b2, a3 + b3, a4 + b4

    @prepared
    @triton.jit
    def _forward_kernel(
        x, weight, bias, y, statistics, rows, hidden, stride, eps,
        ACT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        column = tl.arange(0, BLOCK)[None]
        real, inside = row < rows, column < hidden
        mask = real[:, None] & inside
        gate_at = x + (row * stride)[:, None] + column
        gate = tl.load(gate_at, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(gate_at + hidden, mask=mask, other=0.0).to(tl.float32)
        act, _ = _activate(gate, ACT)
        # Zero stays zero under every activation, so that padding adds nothing to the sums.
        sum_u, sum_v = tl.reduce((act, value), 1, _add_2)
        mean_u, mean_v = sum_u / hidden, sum_v / hidden
        # The variance from centred numbers: as a difference of squares it would lose its digits where the mean is big.
        act, value = act - mean_u[:, None], value - mean_v[:, None]
        square_u, square_v = tl.where(inside, act * act, 0.0), tl.where(inside, value * value, 0.0)
        var_u, var_v = tl.reduce((square_u, square_v), 1, _add_2)
        scale_u, scale_v = tl.rsqrt(var_u / hidden + eps), tl.rsqrt(var_v / hidden + eps)
        gamma = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        beta = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        u, v = act * scale_u[:, None] * gamma + beta, value * scale_v[:, None] * gamma + beta
        tl.store(y + (row * hidden)[:, None] + column, u * v, mask=mask)
        to = statistics + row
        tl.store(to, mean_u, mask=real)
        tl.store(to + rows, mean_v, mask=real)
        tl.store(to + 2 * rows, scale_u, mask=real)
        tl.store(to + 3 * rows, scale_v, mask=real)

    @prepared
    @triton.jit
    def _backward_kernel(
        x, grad, statistics, weight, bias, grad_x, partials, rows, hidden, stride, grad_stride,
        ACT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        column = tl.arange(0, BLOCK)[None]
        inside = column < hidden
        gamma = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        beta = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        d_gamma = tl.zeros((ROWS, BLOCK), tl.float32)
        d_beta = tl.zeros((ROWS, BLOCK), tl.float32)
        for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0), num_stages=STAGES):
            row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
            real = row < rows
            mask = real[:, None] & inside
            gate_at = x + (row * stride)[:, None] + column
            gate = tl.load(gate_at, mask=mask, other=0.0).to(tl.float32)
            value = tl.load(gate_at + hidden, mask=mask, other=0.0).to(tl.float32)
            g = tl.load(grad + (row * grad_stride)[:, None] + column, mask=mask, other=0.0).to(tl.float32)
            of_row = statistics + row
            mean_u = tl.load(of_row, mask=real, other=0.0)[:, None]
            mean_v = tl.load(of_row + rows, mask=real, other=0.0)[:, None]
            scale_u = tl.load(of_row + 2 * rows, mask=real, other=0.0)[:, None]
            scale_v = tl.load(of_row + 3 * rows, mask=real, other=0.0)[:, None]
            act, slope = _activate(gate, ACT)
            u_hat, v_hat = (act - mean_u) * scale_u, (value - mean_v) * scale_v
            above_u = g * (v_hat * gamma + beta)
            above_v = g * (u_hat * gamma + beta)
            d_gamma += above_u * u_hat + above_v * v_hat
            d_beta += above_u + above_v
            p, q = above_u * gamma, above_v * gamma  # zero in the padding, as gamma and g are
            sum_p, sum_pu, sum_q, sum_qv = tl.reduce((p, p * u_hat, q, q * v_hat), 1, _add_4)
            of_act = p - (sum_p / hidden)[:, None] - u_hat * (sum_pu / hidden)[:, None]
            of_value = q - (sum_q / hidden)[:, None] - v_hat * (sum_qv / hidden)[:, None]
            to = grad_x + (row * (2 * hidden))[:, None] + column
            tl.store(to, of_act * scale_u * slope, mask=mask)
            tl.store(to + hidden, of_value * scale_v, mask=mask)
        to = partials + tl.program_id(0) * hidden + tl.arange(0, BLOCK)
        columns = tl.arange(0, BLOCK) < hidden
        tl.store(to, tl.sum(d_gamma, axis=0), mask=columns)
        tl.store(to + tl.num_programs(0) * hidden, tl.sum(d_beta, axis=0), mask=columns)

    @prepared
    @triton.jit
    def _sum_kernel(
        partials, grad_weight, grad_bias, programs, hidden, ROWS: tl.constexpr, COLUMNS: tl.constexpr
    ):  # fmt: skip
        """Adds up the programs' parts of the gradient of weight (second axis of the grid 0) or bias (1)."""
        column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        inside = column < hidden
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, programs, ROWS):
            program = start + tl.arange(0, ROWS)[:, None]
            at = partials + (tl.program_id(1) * programs + program) * hidden + column[None]
            total += tl.load(at, mask=(program < programs) & inside[None], other=0.0)
        if tl.program_id(1) == 0:
            tl.store(grad_weight + column, tl.sum(total, axis=0), mask=inside)
        else:
            tl.store(grad_bias + column, tl.sum(total, axis=0), mask=inside)
