"""What the activation kernels share: how a tensor is cut into tiles, and a sum whose order never changes.

A row of ``width`` numbers is cut into a head, the largest power of two that fits, and a tail, padded to a power of two.
The head needs no mask, and a width such as 8256 costs 8192 + 64 lanes where one padded block would cost 16384.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from workbench_kernels.launch import prepared

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `why_not` says so
    triton = None

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Numbers that a CPU core works on at a time: in float32 a piece, and the few like it that it turns into, fit its cache.
CPU_PIECE = 1 << 16


def why_not(dtype: torch.dtype = torch.float32) -> list[str]:
    """Why the activation kernels cannot run here on numbers of that type, in sentences; empty: they can."""
    reasons = []
    if triton is None:
        reasons.append("Triton is not installed; it comes with PyTorch on Linux only.")
    if dtype not in DTYPES:
        reasons.append(f"The kernel takes float16, bfloat16 or float32, not {str(dtype).removeprefix('torch.')}.")
    return reasons


def as_rows(x: Tensor) -> Tensor:
    """x (..., width) as (rows, width), neighbouring numbers side by side in memory; copied only where it must be."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def rows_of(x: Tensor) -> tuple[Tensor, int, int, int]:
    """x (..., width) as a kernel reads it: a tensor, how many rows, their width, and numbers from one row to the next.

    Neighbouring numbers of a row are side by side in memory; x is copied only where they are not.
    """
    width = x.shape[-1]
    if x.is_contiguous():
        return x, x.numel() // width, width, width
    rows = as_rows(x)
    return rows, rows.shape[0], width, rows.stride(0)


def head_and_tail(width: int) -> tuple[int, int]:
    """The two powers of two that cover a row: 8192 is (8192, 0), 8256 is (8192, 64), 5504 is (4096, 2048)."""
    head = 1 << (width.bit_length() - 1)
    rest = width - head
    return head, next_power_of_2(rest) if rest else 0


def pieces(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows that a CPU works on one after the other, all its cores together on each."""
    height = max(1, CPU_PIECE * torch.get_num_threads() // width)
    return (slice(start, start + height) for start in range(0, rows, height))


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """What numbers of that type are computed in: float64 stays, everything else is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sum_partials(partials: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of weight (order,) and bias (1,) from partial sums (order + 1, programs), in a fixed order."""
    order, programs = partials.shape[0] - 1, partials.shape[1]
    grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
    block = min(8192, next_power_of_2(programs))
    _sum_partials_kernel[(order + 1,)](
        partials, grad_weight, grad_bias, programs, ORDER=order, BLOCK=block, num_warps=8 if block > 1024 else 4
    )
    return grad_weight, grad_bias


def programs_per_tensor(tiles: int, device: torch.device, per_processor: int) -> int:
    """How many programs share ``tiles``: one each, or ``per_processor`` on every multiprocessor, whichever is less."""
    if not per_processor or device.type != "cuda":
        return tiles
    return min(tiles, per_processor * _multiprocessors(device))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def shape_for(width: int, table: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """The first line of a table that covers a row of so many numbers, without its first number. The line says how a
    program is shaped for such rows: how many of them it takes, its warps and so on."""
    return next(line[1:] for line in table if width <= line[0])


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (number - 1).bit_length()


if triton is not None:

    @prepared
    @triton.jit
    def _sum_partials_kernel(partials, grad_weight, grad_bias, programs, ORDER: tl.constexpr, BLOCK: tl.constexpr):
        which = tl.program_id(0)
        columns = tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, programs, BLOCK):
            inside = start + columns < programs
            total += tl.load(partials + which * programs + start + columns, mask=inside, other=0.0)
        if which < ORDER:
            tl.store(grad_weight + which, tl.sum(total))
        else:
            tl.store(grad_bias, tl.sum(total))
