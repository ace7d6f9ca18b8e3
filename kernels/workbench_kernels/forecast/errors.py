"""How good a forecast from finite differences was: the two sums that a gate asks for, in one pass."""

import math

import torch
from torch import Tensor

from workbench_kernels.forecast.differences import combined, has_kernel, tiles_of_rows, with_dense_rows
from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation
from workbench_kernels.tiles import arithmetic, next_power_of_2

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None
if triton is not None:
    from workbench_kernels.forecast.differences import piece_of_rows, stream

TILE, WARPS = 2048, 4  # numbers and warps of a program


def error_sums(hidden: Tensor, derivatives: Tensor, weights: Tensor) -> Tensor:
    """(batch, 2): the sums over tokens and width of ``|forecast - hidden|`` and of ``|hidden|``.

    hidden (batch, tokens, width), derivatives (batch, entries, tokens, width), weights (batch, entries). The
    forecast is never written down. The result is float32 (float64 for float64 input), its sums in a fixed order.
    Differentiable once. On CUDA it needs Triton.
    """
    return _error_sums(hidden, derivatives, weights, False)


def error_means(hidden: Tensor, derivatives: Tensor, weights: Tensor) -> Tensor:
    """The same as means, in hidden's dtype; NaN of no numbers."""
    return _error_sums(hidden, derivatives, weights, True)


# --- CUDA and CPU -----------------------------------------------------------------------------------------------------


def error_sums_triton(hidden: Tensor, derivatives: Tensor, weights: Tensor, mean: bool) -> Tensor:
    hidden, derivatives = hidden.contiguous(), with_dense_rows(derivatives)
    batch, entries, tokens, width = derivatives.shape
    sums = hidden.new_empty(batch, 2, dtype=hidden.dtype if mean else torch.float32)
    if not hidden.numel():
        return sums.fill_(math.nan if mean else 0.0)
    (programs,), rows, columns = tiles_of_rows(batch, tokens, width, TILE)
    pieces = programs // batch
    partials = hidden.new_empty(batch, 2, pieces, dtype=torch.float32)
    _error_kernel[(programs,)](
        hidden, derivatives, weights, partials, tokens, width, *derivatives.stride()[:2], *weights.stride(),
        ENTRIES=entries, ROWS=rows, COLUMNS=columns, num_warps=WARPS,
    )  # fmt: skip
    scale = 1 / (tokens * width) if mean else 1.0
    _sum_kernel[(2 * batch,)](partials, sums, pieces, scale, BLOCK=min(1024, next_power_of_2(pieces)), num_warps=4)
    return sums


def error_sums_torch(hidden: Tensor, derivatives: Tensor, weights: Tensor, mean: bool) -> Tensor:
    dtype = arithmetic(hidden.dtype)
    truth = hidden.to(dtype)
    off = combined(derivatives.to(dtype), weights).sub_(truth)
    if mean:
        return torch.stack([part.abs().mean((1, 2)) for part in (off, truth)], dim=1).to(hidden.dtype)
    return torch.stack([part.abs().sum((1, 2)) for part in (off, truth)], dim=1)


# --- the operation ---------------------------------------------------------------------------------------------------


def _error_sums_on_cuda(hidden: Tensor, derivatives: Tensor, weights: Tensor, mean: bool) -> Tensor:
    chosen = error_sums_triton if has_kernel(hidden) else error_sums_torch
    return chosen(hidden, derivatives, weights, mean)


def _differentiate_error(
    grad: Tensor, hidden: Tensor, derivatives: Tensor, weights: Tensor, mean: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = arithmetic(hidden.dtype)
    truth, stack, w = (each.to(dtype) for each in (hidden, derivatives, weights))
    above = grad.to(dtype) / hidden[0].numel() if mean else grad.to(dtype)
    off = above[:, 0, None, None] * (combined(stack, w) - truth).sign()
    grad_stack = off[:, None] * w[:, :, None, None]
    grad_weights = torch.einsum("btd,betd->be", off, stack)
    grad_hidden = above[:, 1, None, None] * truth.sign() - off
    return grad_hidden.to(hidden.dtype), grad_stack.to(derivatives.dtype), grad_weights.to(weights.dtype)


_error_sums = Operation(
    "error_sums",
    forward={"cuda": _error_sums_on_cuda, "cpu": error_sums_torch},
    backward=_differentiate_error,
    fake=lambda hidden, derivatives, weights, mean: hidden.new_empty(
        len(hidden), 2, dtype=hidden.dtype if mean else arithmetic(hidden.dtype)
    ),
)


# --- the kernels -----------------------------------------------------------------------------------------------------

if triton is not None:

    @prepared
    @triton.jit
    def _error_kernel(
        hidden, derivatives, weights, partials, tokens, width,
        stride_batch, stride_entry, weight_batch, weight_entry,
        ENTRIES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        batch, within, row, column, mask = piece_of_rows(tokens, width, ROWS, COLUMNS)
        place = row * width + column
        truth = tl.load(hidden + batch * tokens * width + place, mask=mask, other=0.0).to(tl.float32)
        forecast = tl.zeros((ROWS, COLUMNS), tl.float32)
        for entry in tl.static_range(ENTRIES):
            w = tl.load(weights + batch * weight_batch + entry * weight_entry).to(tl.float32)
            forecast += w * stream(derivatives + batch * stride_batch + entry * stride_entry + place, mask)
        tiles = tl.cdiv(width, COLUMNS) * tl.cdiv(tokens, ROWS)
        to = partials + batch * 2 * tiles + within
        tl.store(to, tl.sum(tl.abs(forecast - truth)))
        tl.store(to + tiles, tl.sum(tl.abs(truth)))

    @prepared
    @triton.jit
    def _sum_kernel(partials, sums, pieces, scale, BLOCK: tl.constexpr):
        which = tl.program_id(0)
        columns = tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, pieces, BLOCK):
            total += tl.load(partials + which * pieces + start + columns, mask=start + columns < pieces, other=0.0)
        tl.store(sums + which, tl.sum(total) * scale)
