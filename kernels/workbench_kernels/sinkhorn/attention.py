"""Attention whose rows and columns are normalised in turn (Sinkhorn), forward and backward, for Triton.

``sinkhorn_attention`` is the function. The score
matrix is never written: with few tokens it stays in a program's registers (``fused``), otherwise every
half-step computes it again, tile by tile (``stream``). What is kept is u and v after every half-step, and
the maxima m and n by which scores are levelled.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from workbench_kernels.attention.heads import descriptor, row_dots, tile_side, why_not
from workbench_kernels.operation import Operation
from workbench_kernels.sinkhorn.tiles import Parts, split

try:
    import triton
except ImportError:  # macOS and Windows have no Triton; `why_not` says so
    triton = None

if triton is not None:
    from workbench_kernels.sinkhorn import fused as sinkhorn_fused
    from workbench_kernels.sinkhorn import stream as sinkhorn_stream

LOG2_E = math.log2(math.e)


def sinkhorn_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float, iterations: int) -> Tensor:
    """exp(S + u 1^T + 1 v^T) V after ``iterations`` half-steps, rows first, with S = scale Q K^T.

    query, key, value and the result (batch, heads, tokens, head_dim); any strides, any number of tokens, head_dim up to
    256, float16, bfloat16 or float32 (products of two float16 parts, see ``tiles``: as accurate as float32
    products are, unless an entry is 1e5 times as large as those of its head that matter). The last row step of an odd
    count is part of the pass that multiplies with V, so k half-steps take k passes over the scores (an even count
    k + 1), and the backward pass k + 2 or so. Memory beside inputs and output: 4 bytes a token and half-step and 8 a
    token, and with float32, during a pass, as much as its inputs take.

    Deterministic. Raises ``ValueError`` for what `why_not` names, and unless there is at least one half-step.
    """
    reasons = why_not(query.dtype, query.shape[-1])
    if iterations < 1:
        reasons.append(f"There must be at least 1 half-step, not {iterations}.")
    if reasons:
        raise ValueError(" ".join(reasons))
    return _attention(query, key, value, scale, iterations)[0]


# --- the operation; rows and columns hold u and v after each half-step, in base 2, and levels m and n -----------------


def _forward(
    query: Tensor, key: Tensor, value: Tensor, scale: float, iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width, dtype = query.shape[-1], query.dtype
    rows, columns, levels = _potentials(query, iterations)
    query, key, value = split(query, key, value)
    output = torch.empty(rows.shape[1:] + query.tensor.shape[-1:], dtype=dtype, device=rows.device)
    run = _fused_forward if _in_registers(query, rows) else _stream_forward
    run(query, key, value, output, rows, columns, levels, scale)
    return output[..., :width].contiguous(), rows, columns, levels


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    rows: Tensor,
    columns: Tensor,
    levels: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    width, dtype = query.shape[-1], query.dtype
    inputs = split(query, key, value, grad)
    shape = rows.shape[1:] + inputs[0].tensor.shape[-1:]
    gradients = [torch.empty(shape, dtype=dtype, device=query.device) for _ in range(3)]
    if _in_registers(inputs[0], rows):
        _fused_backward(*inputs, gradients, rows, columns, levels, scale)
    else:
        _stream_backward(*inputs, gradients, row_dots(grad, output), rows, columns, levels, scale)
    return tuple(gradient[..., :width].contiguous() for gradient in gradients)


_attention = Operation(
    "sinkhorn_attention",
    forward=_forward,
    backward=_backward,
    outputs=("output", "rows", "columns", "levels"),
    fake=lambda query, key, value, scale, iterations: (
        torch.empty_like(query, memory_format=torch.contiguous_format),
        *_potentials(query, iterations),
    ),
)


# --- few tokens ------------------------------------------------------------------------------------------------------


def _in_registers(query: Parts, rows: Tensor) -> bool:
    """Whether a head's map fits into the registers of a program, and its tiles into shared memory; matrix products of
    fewer than 64 rows read their tiles from registers, too."""
    tokens, parts = rows.shape[-1], len(query.tensor) // rows.shape[1]
    side = tile_side(tokens)
    most = 128 * 128 if side >= 64 else 128 * 64
    return tokens <= MOST_IN_REGISTERS and side * tile_side(query.tensor.shape[-1]) * parts <= most


def _fused_launch(query: Parts, rows: Tensor, columns: Tensor, scale: float) -> tuple[tuple, dict]:
    """The numbers and the settings that both fused kernels take."""
    _, batch, heads, tokens = rows.shape
    block, width, parts = tile_side(tokens), tile_side(query.tensor.shape[-1]), len(query.tensor) // batch
    warps = block // 16 if parts == 1 or block >= 64 else max(block // 16, block * width * parts // 2048)
    settings = {"BLOCK": block, "BLOCK_D": width, "PARTS": parts, "ROWS_LAST": len(rows) - len(columns)}
    span = sinkhorn_fused.MOST_PAIRS if len(columns) > sinkhorn_fused.MOST_PAIRS else 0
    settings |= {"SPAN": span, "num_warps": warps, "num_stages": 1}
    return (*_power_and_factor(scale), tokens, heads, batch, rows.stride(0), len(columns)), settings


def _fused_forward(query, key, value, output, rows, columns, levels, scale) -> None:
    numbers, settings = _fused_launch(query, rows, columns, scale)
    sinkhorn_fused.fused_forward_kernel[(rows[0, ..., 0].numel(),)](
        *_descriptors()(settings, "BLOCK", query.tensor, key.tensor, value.tensor, output),
        *(query.unit, key.unit, value.unit),
        *(rows, columns, *levels.unbind(), *numbers),
        **settings,
    )


def _fused_backward(query, key, value, grad, gradients, rows, columns, levels, scale) -> None:
    numbers, settings = _fused_launch(query, rows, columns, scale)
    sinkhorn_fused.fused_backward_kernel[(rows[0, ..., 0].numel(),)](
        *_descriptors()(settings, "BLOCK", query.tensor, key.tensor, value.tensor, grad.tensor),
        *(query.unit, key.unit, value.unit, grad.unit),
        *(rows, columns, *levels.unbind()),
        *_descriptors()(settings, "BLOCK", *gradients),
        *(scale, *numbers),
        **settings,
    )


# --- many tokens -----------------------------------------------------------------------------------------------------


def _stream_forward(query, key, value, output, rows, columns, levels, scale) -> None:
    numbers = (*_power_and_factor(scale), rows.shape[-1], rows.shape[2], rows.shape[1])
    described = _descriptors()
    grid, settings = _stream_launch("half_step", query, rows)
    query_m, key_m = described(settings, "BLOCK_M", query.tensor, key.tensor)
    query_n, key_n = described(settings, "BLOCK_N", query.tensor, key.tensor)
    m, n = levels.unbind()
    u, v = rows.unbind(), columns.unbind()
    on_rows, on_columns = (query_m, key_n, query.unit, key.unit), (key_m, query_n, key.unit, query.unit)
    for half_step in range(2 * len(columns)):
        index, of_rows = half_step // 2, half_step % 2 == 0
        if half_step < 2:
            kernel = sinkhorn_stream.first_step_kernel
            steps = (m, u[0], m, u[0]) if of_rows else (m, u[0], n, v[0])
        else:
            kernel = sinkhorn_stream.half_step_kernel
            before = index - 1
            steps = (m, n, v[before], u[before], u[index]) if of_rows else (n, m, u[index], v[before], v[index])
        tiles = on_rows if of_rows else on_columns
        kernel[grid](*tiles, *steps, *numbers, OF_ROWS=of_rows, **settings)
    grid, settings = _stream_launch("attend", query, rows)
    query_m, output_m = described(settings, "BLOCK_M", query.tensor, output)
    key_n, value_n = described(settings, "BLOCK_N", key.tensor, value.tensor)
    softmax = len(columns) == 0
    sinkhorn_stream.attend_kernel[grid](
        *(query_m, key_n, value_n, output_m),
        *(query.unit, key.unit, value.unit),
        *(m, n),
        rows if softmax else v[-1],
        rows if softmax else u[len(v) - 1],
        u[-1],
        *numbers,
        SOFTMAX=softmax,
        NORMALISED=len(rows) > len(columns),
        **settings,
    )


def _stream_backward(query, key, value, grad, gradients, row_dot, rows, columns, levels, scale) -> None:
    numbers = (*_power_and_factor(scale), rows.shape[-1], rows.shape[2], rows.shape[1])
    iterations = len(rows) + len(columns)
    rows_last = len(rows) > len(columns)
    last_v = columns[-1] if len(columns) else torch.zeros_like(rows[0])
    grad_rows, grad_columns = torch.empty_like(rows), torch.empty_like(columns)
    grad_v = grad_columns[-1] if len(columns) else torch.empty_like(row_dot)
    m, n = levels.unbind()

    described = _descriptors()
    grid, settings = _stream_launch("gather_value", query, rows, over="BLOCK_N")
    query_m, grad_m = described(settings, "BLOCK_M", query.tensor, grad.tensor)
    key_n, value_n, result = described(settings, "BLOCK_N", key.tensor, value.tensor, gradients[2])
    sinkhorn_stream.gather_value_kernel[grid](
        *(query_m, key_n, value_n, grad_m),
        *(query.unit, key.unit, value.unit, grad.unit),
        *(m, n, rows[-1], last_v, row_dot, result, grad_v),
        *numbers,
        ROWS_LAST=rows_last,
        **settings,
    )
    if rows_last:
        grad_rows[-1] = row_dot

    grid, settings = _stream_launch("pass_on", query, rows)
    query_m, key_m = described(settings, "BLOCK_M", query.tensor, key.tensor)
    query_n, key_n = described(settings, "BLOCK_N", query.tensor, key.tensor)
    on_rows, on_columns = (query_m, key_n, query.unit, key.unit), (key_m, query_n, key.unit, query.unit)
    u, v, grad_u, grad_v = rows.unbind(), columns.unbind(), grad_rows.unbind(), grad_columns.unbind()
    for half_step in reversed(range(1, iterations - rows_last)):
        index, of_rows = half_step // 2, half_step % 2 == 1
        if of_rows:
            tiles, steps, result = on_rows, (m, n, u[index], v[index], grad_v[index]), grad_u[index]
        else:
            tiles, steps, result = on_columns, (n, m, v[index - 1], u[index], grad_u[index]), grad_v[index - 1]
        # The sums of P * dO V^T over keys enter once, in the first row step that is undone.
        added = half_step == iterations - 1 and not rows_last
        sinkhorn_stream.pass_on_kernel[grid](
            *(*tiles, *steps, row_dot, result), *numbers, OF_ROWS=of_rows, ADDED=added, **settings
        )

    x, y, shared_u, shared_v = _coefficients(rows, columns, n, grad_rows, grad_columns, last_v, numbers[1])
    grid, settings = _stream_launch("gather_scores", query, rows)
    settings |= {"GROUPED": len(shared_u) > 1, "PRECISION": "tf32x3" if settings["PARTS"] == 2 else "tf32"}
    on_query = (query, key, value, grad, x, y, m, n, shared_u, shared_v, gradients[0])
    on_key = (key, query, grad, value, y, x, n, m, shared_v, shared_u, gradients[1])
    for a, b, c, d, e, f, own_level, other_level, own, other, gradient in (on_query, on_key):
        a_m, d_m, gradient_m = described(settings, "BLOCK_M", a.tensor, d.tensor, gradient)
        b_n, c_n = described(settings, "BLOCK_N", b.tensor, c.tensor)
        sinkhorn_stream.gather_scores_kernel[grid](
            *(a_m, b_n, c_n, d_m),
            *(a.unit, b.unit, c.unit, d.unit),
            descriptor(e, settings["BLOCK_M"], 16),
            descriptor(f, settings["BLOCK_N"], 16),
            *(own_level, other_level, own, other, gradient_m, scale),
            *numbers,
            *(rows.stride(0), len(shared_u) - 1),
            OF_ROWS=a is query,
            **settings,
        )


# How far, in powers of two, a map may be scaled: what it lost in float32, below 2^-126, then stays below 2^-35.
REACH = 91


def groups(tokens: int, iterations: int) -> tuple[int, int, int]:
    """(groups, half-steps of a group, which of them has the map that the group shares); one group shares the last map.

    A half-step scales rows or columns by no more than the number of tokens, so those of a group scale the map together
    by less than 2^REACH: 16 of them where these are few enough, else 16 about one in their middle, or 8.
    """
    bits = math.log2(tokens)
    if iterations <= 16 and (iterations - 1) * bits <= REACH:
        return 1, 16, iterations - 1
    steps = 16 if 8 * bits <= REACH else 8
    return -(-iterations // steps), steps, steps // 2


def _coefficients(
    rows: Tensor, columns: Tensor, n: Tensor, grad_rows: Tensor, grad_columns: Tensor, last_v: Tensor, factor: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X and Y (batch, heads, tokens, 16 * groups), and u and v (maps, batch, heads, tokens) of the last map and, if
    there are more groups than one, of the map of each."""
    _, batch, heads, tokens = rows.shape
    iterations = len(rows) + len(columns)
    count, steps, middle = groups(tokens, iterations)
    x = torch.empty(batch, heads, tokens, 16 * count, dtype=torch.float32, device=rows.device)
    y = torch.empty_like(x)
    block = 64
    sinkhorn_stream.coefficients_kernel[(-(-tokens // block), batch * heads, count)](
        *(rows, columns, n, grad_rows, grad_columns, x, y, factor, tokens, iterations, rows.stride(0), steps, middle),
        BLOCK=block,
    )
    if count == 1:
        return x, y, rows[-1:], last_v[None]
    shared = [min(group * steps + middle, iterations - 1) for group in range(count)]
    shared_u = torch.stack([rows[-1], *(rows[half_step // 2] for half_step in shared)])
    return x, y, shared_u, torch.stack([last_v, *(columns[(half_step - 1) // 2] for half_step in shared)])


def _power_and_factor(scale: float) -> tuple[float, float]:
    """What a score is multiplied by in base 2, ``scale`` log2(e), as a signed power of two and a factor in [1/2, 1)."""
    factor, exponent = math.frexp(abs(scale) * LOG2_E)
    return math.copysign(math.ldexp(1.0, exponent), scale) if factor else 0.0, factor or 0.5


# --- tiles -----------------------------------------------------------------------------------------------------------

MOST_IN_REGISTERS = 128

# (BLOCK_M, BLOCK_N, warps, stages, HELD) by kernel, parts and padded head_dim.
_TILES = {
    "half_step": {
        1: {64: (64, 64, 4, 3, False), 128: (128, 128, 8, 3, False), 256: (128, 64, 8, 2, False)},
        2: {64: (128, 128, 8, 2, False), 128: (128, 128, 8, 2, False), 256: (128, 64, 8, 1, False)},
    },
    "attend": {
        1: {64: (64, 128, 4, 2, False), 128: (128, 128, 8, 3, False), 256: (64, 64, 4, 3, False)},
        2: {64: (128, 64, 8, 2, False), 128: (64, 64, 4, 1, False), 256: (64, 32, 8, 2, False)},
    },
    "gather_value": {
        1: {64: (64, 64, 4, 2, False), 128: (64, 64, 4, 2, False), 256: (64, 64, 8, 2, False)},
        2: {64: (64, 64, 4, 2, True), 128: (64, 64, 4, 1, False), 256: (32, 64, 8, 2, False)},
    },
    "pass_on": {
        1: {64: (128, 64, 4, 3, False), 128: (128, 128, 8, 3, False), 256: (128, 64, 8, 2, False)},
        2: {64: (128, 64, 8, 2, False), 128: (128, 128, 8, 2, False), 256: (128, 64, 8, 1, False)},
    },
    "gather_scores": {
        1: {64: (128, 64, 8, 2, False), 128: (128, 64, 8, 2, False), 256: (64, 32, 8, 2, False)},
        2: {64: (64, 64, 4, 2, True), 128: (64, 32, 4, 1, False), 256: (64, 16, 8, 2, False)},
    },
}


def _stream_launch(kernel: str, query: Parts, rows: Tensor, over: str = "BLOCK_M") -> tuple[tuple[int], dict]:
    """Grid and settings: a program for every block of tokens of every head."""
    _, batch, heads, tokens = rows.shape
    parts, width = len(query.tensor) // batch, tile_side(query.tensor.shape[-1])
    block_m, block_n, warps, stages, held = _TILES[kernel][parts][max(64, width)]
    settings = {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": warps, "num_stages": stages}
    settings |= {"BLOCK_D": width, "PARTS": parts, "HELD": held}
    return (-(-tokens // settings[over]) * batch * heads,), settings


def _descriptors() -> Callable[..., list]:
    """Makes descriptors of tensors for one call of an operator, once for every tensor and number of rows."""
    made = {}

    def described(settings: dict, side: str, *tensors: Tensor) -> list:
        rows = settings[side]
        for tensor in tensors:
            if (id(tensor), rows) not in made:
                made[id(tensor), rows] = descriptor(tensor, rows, settings["BLOCK_D"])
        return [made[id(tensor), rows] for tensor in tensors]

    return described


def _potentials(query: Tensor, iterations: int) -> list[Tensor]:
    """Room for u and v after each row and column step, and for m and n: (steps, or 2, batch, heads, tokens)."""
    steps = ((iterations + 1) // 2, iterations // 2, 2)
    return [query.new_empty((count, *query.shape[:-1]), dtype=torch.float32) for count in steps]
