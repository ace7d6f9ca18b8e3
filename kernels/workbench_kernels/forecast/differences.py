"""Forecasts from finite differences, one for all modules of a network at once, and their refresh.

A stack of differences holds ``entries`` tensors like the feature: its last value, then its divided differences. Stacks
are (batch, entries, tokens, width), or (batch, modules, entries, tokens, width) for a whole network.

Everything here moves memory and computes next to nothing: each kernel reads what it needs once, in pieces of rows, and
adds up in float32. Sums run in a fixed order: the same input gives the same bits.
"""

import torch
from torch import Tensor

from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation
from workbench_kernels.tiles import arithmetic, next_power_of_2, why_not

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None

# Numbers and warps of a program; a program of the forecast reads UNROLL modules before it adds them up.
FORECAST_TILE, FORECAST_WARPS, UNROLL = 512, 2, 2
REFRESH_TILE, REFRESH_WARPS = 1024, 4
ADD_TILE, ADD_WARPS = 1024, 4
COLUMNS = 128  # of a tile: a cache line of two-byte numbers, or two


def forecast_modules(hidden: Tensor, derivatives: Tensor, gates: Tensor, weights: Tensor) -> Tensor:
    """``hidden + sum over modules k of gates[:, k] * (sum over entries i of weights[:, i] * derivatives[:, k, i])``.

    hidden (batch, tokens, width), derivatives (batch, modules, entries, tokens, width), gates (batch, modules, width),
    weights (batch, entries). Modules are added in their order, in float32 (float64 for float64 input); the result has
    hidden's dtype. Differentiable once, the backward pass in plain PyTorch. On CUDA it needs Triton.
    """
    return _forecast_modules(hidden, derivatives, gates, weights)


def forecast(derivatives: Tensor, weights: Tensor, out: Tensor | None = None) -> Tensor:
    """``sum over entries i of weights[:, i] * derivatives[:, i]`` for derivatives (batch, entries, tokens, width).

    Not differentiable: what a sampler calls, on any device. ``out`` (batch, tokens, width), contiguous, takes the
    result if given.
    """
    if has_kernel(derivatives):
        return _forecast_on_cuda(None, derivatives[:, None], None, weights, out)
    result = combined(derivatives.to(arithmetic(derivatives.dtype)), weights).to(derivatives.dtype)
    return result if out is None else out.copy_(result)


def refresh_derivatives(feature: Tensor, derivatives: Tensor, rates: Tensor) -> Tensor:
    """The stack after a new feature: ``new[0] = feature``, ``new[i + 1] = (new[i] - derivatives[i]) * rate``.

    feature (batch, tokens, width), derivatives (batch, entries, tokens, width), rates (batch,): one over the
    steps since the last refresh. The result is a new tensor. Differentiable once. On CUDA it needs Triton.
    """
    return _refresh_derivatives(feature, derivatives, rates)


def refresh_(feature: Tensor, derivatives: Tensor, rates: Tensor) -> None:
    """``refresh_derivatives``, in place: one read and one write of the stack. ``derivatives`` may have gaps between its
    batches and entries, as one module's part of a network's stack has. Not differentiable."""
    if has_kernel(derivatives):
        _refresh_on_cuda(feature, derivatives, derivatives, rates)
    else:
        _refresh_in_pieces(feature, derivatives, rates, derivatives)


def add_gated(hidden: Tensor, feature: Tensor, gates: Tensor) -> Tensor:
    """``hidden + gates[:, None] * feature``: the residual stream after a module.

    hidden and feature (batch, tokens, width), gates (batch, width). What a sampler calls after every module: on CUDA
    one kernel, the product not rounded. Not differentiable.
    """
    if has_kernel(hidden):
        return _add_gated_on_cuda(hidden, feature, gates)
    return torch.addcmul(hidden, gates[:, None], feature)


# --- CUDA ------------------------------------------------------------------------------------------------------------


def has_kernel(tensor: Tensor) -> bool:
    """Whether there is a kernel for it; a sampler in float64, or without Triton, gets plain PyTorch on any device."""
    return tensor.is_cuda and not why_not(tensor.dtype)


def forecast_modules_triton(hidden: Tensor, derivatives: Tensor, gates: Tensor, weights: Tensor) -> Tensor:
    return _forecast_on_cuda(hidden, derivatives, gates, weights, None)


def _forecast_on_cuda(
    hidden: Tensor | None, derivatives: Tensor, gates: Tensor | None, weights: Tensor, out: Tensor | None
) -> Tensor:
    derivatives = with_dense_rows(derivatives)
    batch, modules, entries, tokens, width = derivatives.shape
    if out is None:
        kind = derivatives if hidden is None else hidden
        out = kind.new_empty(batch, tokens, width)
    hidden = out if hidden is None else hidden.contiguous()
    gated = gates is not None
    gates = (gates if gates.stride(2) == 1 else gates.contiguous()) if gated else out
    grid, rows, columns = tiles_of_rows(batch, tokens, width, FORECAST_TILE)
    unroll = next(count for count in (UNROLL, 2, 1) if modules % count == 0)
    _forecast_kernel[grid](
        hidden, derivatives, gates, weights, out, modules, tokens, width, *derivatives.stride()[:3],
        gates.stride(0) if gated else 0, gates.stride(1) if gated else 0, *weights.stride(),
        ENTRIES=entries, GATED=gated, UNROLL=unroll, ROWS=rows, COLUMNS=columns, num_warps=FORECAST_WARPS,
    )  # fmt: skip
    return out


def refresh_derivatives_triton(feature: Tensor, derivatives: Tensor, rates: Tensor) -> Tensor:
    out = torch.empty(derivatives.shape, dtype=derivatives.dtype, device=derivatives.device)
    _refresh_on_cuda(feature, with_dense_rows(derivatives), out, rates)
    return out


def _refresh_on_cuda(feature: Tensor, old: Tensor, new: Tensor, rates: Tensor) -> None:
    feature = feature.contiguous()
    batch, tokens, width = feature.shape
    grid, rows, columns = tiles_of_rows(batch, tokens, width, REFRESH_TILE)
    _refresh_kernel[grid](
        feature, old, new, rates, tokens, width, *old.stride()[:2], *new.stride()[:2], rates.stride(0),
        ENTRIES=new.shape[1], ROWS=rows, COLUMNS=columns, num_warps=REFRESH_WARPS,
    )  # fmt: skip


def _add_gated_on_cuda(hidden: Tensor, feature: Tensor, gates: Tensor) -> Tensor:
    hidden, feature = hidden.contiguous(), feature.contiguous()
    batch, tokens, width = feature.shape
    out = torch.empty_like(hidden)
    grid, rows, columns = tiles_of_rows(batch, tokens, width, ADD_TILE)
    _add_gated_kernel[grid](
        hidden, feature, gates, out, tokens, width, gates.stride(0),
        ROWS=rows, COLUMNS=columns, num_warps=ADD_WARPS,
    )  # fmt: skip
    return out


def tiles_of_rows(batch: int, tokens: int, width: int, tile: int) -> tuple[tuple[int], int, int]:
    """Programs, rows and columns of a tile; a program has one batch element's rows."""
    columns = min(COLUMNS, next_power_of_2(width))
    rows = min(tile // columns, next_power_of_2(tokens))
    return (batch * -(-tokens // rows) * -(-width // columns),), rows, columns


def with_dense_rows(stack: Tensor) -> Tensor:
    """The stack, (tokens, width) of each of its entries in one piece; copied only where it must be."""
    dense = stack.stride(-1) == 1 and stack.stride(-2) == stack.shape[-1]
    return stack if dense else stack.contiguous()


# --- CPU -------------------------------------------------------------------------------------------------------------


def forecast_modules_torch(hidden: Tensor, derivatives: Tensor, gates: Tensor, weights: Tensor) -> Tensor:
    """As ``forecast_modules_triton``: one pass over the stack."""
    dtype = arithmetic(hidden.dtype)
    total = torch.empty(hidden.shape, dtype=dtype, device=hidden.device).copy_(hidden)
    factors = weights.to(dtype)[:, None, :, None] * gates.to(dtype)[:, :, None]
    for module in range(derivatives.shape[1]):
        for entry in range(derivatives.shape[2]):
            total.addcmul_(derivatives[:, module, entry].to(dtype), factors[:, module, entry, None])
    return total.to(hidden.dtype)


def refresh_derivatives_torch(feature: Tensor, derivatives: Tensor, rates: Tensor) -> Tensor:
    out = torch.empty(derivatives.shape, dtype=derivatives.dtype, device=derivatives.device)
    _refresh_in_pieces(feature, derivatives, rates, out)
    return out


def _refresh_in_pieces(feature: Tensor, old: Tensor, rates: Tensor, new: Tensor) -> None:
    """From ``old`` to ``new``, which may be the same tensor: an entry is read before it is written."""
    dtype = arithmetic(feature.dtype)
    entry, rates = feature.to(dtype), rates.to(dtype)[:, None, None]
    for number in range(old.shape[1]):
        following = (entry - old[:, number]).mul_(rates) if number + 1 < old.shape[1] else None
        new[:, number] = entry
        entry = following


def combined(derivatives: Tensor, weights: Tensor) -> Tensor:
    weights = weights.to(derivatives.dtype)[:, :, None, None]
    total = derivatives[:, 0] * weights[:, 0]
    for entry in range(1, derivatives.shape[1]):
        total.addcmul_(derivatives[:, entry], weights[:, entry])
    return total


# --- the operations --------------------------------------------------------------------------------------------------


def _forecast_modules_on_cuda(hidden: Tensor, derivatives: Tensor, gates: Tensor, weights: Tensor) -> Tensor:
    chosen = forecast_modules_triton if has_kernel(hidden) else forecast_modules_torch
    return chosen(hidden, derivatives, gates, weights)


def _refresh_derivatives_on_cuda(feature: Tensor, derivatives: Tensor, rates: Tensor) -> Tensor:
    chosen = refresh_derivatives_triton if has_kernel(feature) else refresh_derivatives_torch
    return chosen(feature, derivatives, rates)


def _differentiate_forecast(
    grad: Tensor, hidden: Tensor, derivatives: Tensor, gates: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = arithmetic(hidden.dtype)
    g, stack, alpha, w = (each.to(dtype) for each in (grad, derivatives, gates, weights))
    gated = g[:, None] * alpha[:, :, None]  # (batch, modules, tokens, width)
    grad_stack = gated[:, :, None] * w[:, None, :, None, None]
    grad_gates = torch.einsum("btd,bketd,be->bkd", g, stack, w)
    grad_weights = torch.einsum("bktd,bketd->be", gated, stack)
    return (
        grad.to(hidden.dtype, copy=True, memory_format=torch.contiguous_format),
        grad_stack.to(derivatives.dtype),
        grad_gates.to(gates.dtype).contiguous(),  # einsum is free to lay them out otherwise
        grad_weights.to(weights.dtype).contiguous(),
    )


def _differentiate_refresh(
    grad: Tensor, feature: Tensor, derivatives: Tensor, rates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Entry i + 1 passes ``rate`` times its gradient on to entry i, and takes as much from the old entry i."""
    dtype = arithmetic(feature.dtype)
    g, old, rate = grad.to(dtype), derivatives.to(dtype), rates.to(dtype)
    slowness = rate[:, None, None]
    new = [feature.to(dtype)]
    for entry in range(old.shape[1] - 1):
        new.append((new[-1] - old[:, entry]) * slowness)
    grad_old, grad_rate = torch.zeros_like(old), torch.zeros_like(rate)
    above = g[:, -1]
    for entry in range(old.shape[1] - 2, -1, -1):
        grad_rate += (above * (new[entry] - old[:, entry])).sum((1, 2))
        grad_old[:, entry] = -slowness * above
        above = g[:, entry] + slowness * above
    return above.to(feature.dtype, copy=True), grad_old.to(derivatives.dtype), grad_rate.to(rates.dtype)


_forecast_modules = Operation(
    "forecast_modules",
    forward={"cuda": _forecast_modules_on_cuda, "cpu": forecast_modules_torch},
    backward=_differentiate_forecast,
    fake=lambda hidden, derivatives, gates, weights: hidden.new_empty(hidden.shape),
)
_refresh_derivatives = Operation(
    "refresh_derivatives",
    forward={"cuda": _refresh_derivatives_on_cuda, "cpu": refresh_derivatives_torch},
    backward=_differentiate_refresh,
    fake=lambda feature, derivatives, rates: derivatives.new_empty(derivatives.shape),
)
# --- the kernels -----------------------------------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def piece_of_rows(tokens, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        """This program's batch element, its place among that element's tiles, row (ROWS, 1) and column (1, COLUMNS)
        numbers, and the mask."""
        across = tl.cdiv(width, COLUMNS)
        tiles = across * tl.cdiv(tokens, ROWS)
        program = tl.program_id(0)
        within = program % tiles
        row = (within // across) * ROWS + tl.arange(0, ROWS)[:, None]
        column = (within % across) * COLUMNS + tl.arange(0, COLUMNS)[None]
        return (program // tiles).to(tl.int64), within, row, column, (row < tokens) & (column < width)

    @triton.jit
    def stream(pointer, mask):
        return tl.load(pointer, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)

    @prepared
    @triton.jit
    def _forecast_kernel(
        hidden, derivatives, gates, weights, out, modules, tokens, width,
        stride_batch, stride_module, stride_entry, gate_batch, gate_module, weight_batch, weight_entry,
        ENTRIES: tl.constexpr, GATED: tl.constexpr, UNROLL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        batch, _, row, column, mask = piece_of_rows(tokens, width, ROWS, COLUMNS)
        place = row * width + column
        own = batch * tokens * width + place
        source = derivatives + batch * stride_batch + place
        gate = gates + batch * gate_batch + column
        weight = weights + batch * weight_batch
        total = stream(hidden + own, mask) if GATED else tl.zeros((ROWS, COLUMNS), tl.float32)
        for _ in range(0, modules, UNROLL):
            for _ in tl.static_range(UNROLL):
                value = tl.zeros((ROWS, COLUMNS), tl.float32)
                for entry in tl.static_range(ENTRIES):
                    w = tl.load(weight + entry * weight_entry).to(tl.float32)
                    value += w * stream(source + entry * stride_entry, mask)
                if GATED:
                    value *= tl.load(gate, mask=column < width, other=0.0).to(tl.float32)
                    gate += gate_module
                total += value
                source += stride_module  # a pointer goes further than 32 bits
        tl.store(out + own, total, mask=mask)

    @prepared
    @triton.jit
    def _refresh_kernel(
        feature, old, new, rates, tokens, width, old_batch, old_entry, new_batch, new_entry, rate_stride,
        ENTRIES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        batch, _, row, column, mask = piece_of_rows(tokens, width, ROWS, COLUMNS)
        place = row * width + column
        value = stream(feature + batch * tokens * width + place, mask)
        rate = tl.load(rates + batch * rate_stride).to(tl.float32)
        for entry in tl.static_range(ENTRIES):
            if entry + 1 < ENTRIES:
                following = (value - stream(old + batch * old_batch + entry * old_entry + place, mask)) * rate
                tl.store(new + batch * new_batch + entry * new_entry + place, value, mask=mask)
                value = following
            else:
                tl.store(new + batch * new_batch + entry * new_entry + place, value, mask=mask)

    @prepared
    @triton.jit
    def _add_gated_kernel(
        hidden, feature, gates, out, tokens, width, gate_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr
    ):
        batch, _, row, column, mask = piece_of_rows(tokens, width, ROWS, COLUMNS)
        own = batch * tokens * width + row * width + column
        gate = tl.load(gates + batch * gate_stride + column, mask=column < width, other=0.0).to(tl.float32)
        before = tl.load(hidden + own, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(feature + own, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + own, before + gate * value, mask=mask)
