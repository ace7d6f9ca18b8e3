"""The differences of all modules of a network refreshed, and every coming forecast added up in the same pass.

Between two refreshes the differences do not change, and the gates and the weights of the coming steps are known: what
those steps will add to their residual streams can be added up while the new differences are in registers. A coming step
then reads one sum, not the whole stack.

Least bytes, for order m (m + 1 entries) of ``modules`` outputs of b bytes each: (2 m + 2) * modules * b. The m entries
below the highest difference and the outputs are read, m + 1 entries are written; order 0 only reads the outputs. For
DiT-XL/2, two samples in bfloat16 (56 modules of 1.2 MB), that is 264 MB at order 1 and 661 MB at order 4: 66 and 165
microseconds at 4 TB/s. The sums, float32, are 2.4 MB a step.
"""

import torch
from torch import Tensor

from workbench_kernels.forecast.differences import has_kernel
from workbench_kernels.launch import prepared
from workbench_kernels.tiles import arithmetic, next_power_of_2

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None
if triton is not None:
    from workbench_kernels.forecast.differences import piece_of_rows

# Numbers and warps of a program. Narrow tiles: a row of gates is read for every step ahead and shared by all rows.
TILE, COLUMNS, WARPS = 512, 64, 2
# Registers of a thread: nine programs fit on a multiprocessor, so those for two samples of DiT-XL/2 all run at once on
# an H200. They hold the sums (SUMS numbers a program at the most) and READ bytes a place, read before the first store.
REGISTERS, SUMS, READ = 112, 6 * TILE, 24


def refresh_ahead_(stack: Tensor, gates: Tensor, numbers: Tensor, at: Tensor, sums: Tensor) -> None:
    """Refresh the differences in place, and write what each coming step's modules will add to its residual stream.

    stack    (entries, modules, batch, tokens, width), (batch, tokens, width) contiguous. The **last** entry holds the
             modules' new outputs, whose place it is until now: no refresh needs the highest difference. Afterwards
             entry 0 is the outputs, and entry i + 1 is (new entry i - old entry i) * rate
    gates    (steps, batch, modules, width), the last dimension dense: a table of which this step is row ``at``
    numbers  (steps, 1 + ahead * entries), float32 or float64: this step's row holds the rate (one over the steps since
             the last refresh), then the weights of each coming step
    at       (1,), int64, from 0 to steps - 1
    sums     (ahead, batch, tokens, width), float32 or float64: for s = 1 to ``ahead``, at place (at + s) % ahead,
             the sum over modules k and entries i of gates[at + s, :, k] * weights[s, i] * new entry i of module k

    With a rate of 0 nothing of the old entries is read: so a stack begins. A step beyond the table takes its last row
    of gates; its weights should be zero. Sums run in a fixed order, in float32 (float64 for float64). Not
    differentiable: what a sampler calls, on any device.
    """
    chosen = _refresh_ahead_on_cuda if has_kernel(stack) and sums.dtype == torch.float32 else _refresh_ahead_plainly
    chosen(stack, gates, numbers, at, sums)


def _refresh_ahead_on_cuda(stack: Tensor, gates: Tensor, numbers: Tensor, at: Tensor, sums: Tensor) -> None:
    entries, modules, batch, tokens, width = stack.shape
    ahead = len(sums)
    columns = min(COLUMNS, next_power_of_2(width))
    rows = min(TILE // columns, next_power_of_2(tokens))
    while rows > 1 and ahead * rows * columns > SUMS:
        rows //= 2
    read = (entries + ahead) * stack.element_size()
    unroll = next(count for count in (4, 2, 1) if count == 1 or (modules % count == 0 and count * read <= READ))
    _refresh_ahead_kernel[(batch * -(-tokens // rows) * -(-width // columns),)](
        stack, gates, numbers, at, sums, modules, tokens, width, *stack.stride()[:3],
        len(gates) - 1, *gates.stride()[:3], numbers.stride(0), sums.stride(0),
        ENTRIES=entries, AHEAD=ahead, UNROLL=unroll, ROWS=rows, COLUMNS=columns, num_warps=WARPS, maxnreg=REGISTERS,
    )  # fmt: skip


def _refresh_ahead_plainly(stack: Tensor, gates: Tensor, numbers: Tensor, at: Tensor, sums: Tensor) -> None:
    dtype = arithmetic(stack.dtype)
    entries, ahead = len(stack), len(sums)
    own = numbers.index_select(0, at)[0].to(dtype)
    rate, weights = own[0], own[1 : 1 + ahead * entries].view(ahead, entries, 1, 1)
    steps = at + torch.arange(1, ahead + 1, device=at.device)
    chosen = gates.index_select(0, steps.clamp(max=len(gates) - 1)).to(dtype)
    found = torch.zeros(sums.shape, dtype=dtype, device=sums.device)
    for module in range(stack.shape[1]):
        entry = stack[-1, module].to(dtype)
        for number in range(entries):
            following = None
            if number + 1 < entries:
                old = torch.where(rate == 0, 0.0, stack[number, module])
                following = (entry - old).mul_(rate)
            stack[number, module] = entry
            factors = chosen[:, :, module] * weights[:, number]  # (ahead, batch, width)
            found.addcmul_(entry[None], factors[:, :, None])
            entry = following
    sums.index_copy_(0, steps % ahead, found.to(sums.dtype))


if triton is not None:

    @prepared
    @triton.jit
    def _refresh_ahead_kernel(
        stack, gates, numbers, at, sums, modules, tokens, width, stride_entry, stride_module, stride_batch,
        last, gate_step, gate_batch, gate_module, number_step, sum_step,
        ENTRIES: tl.constexpr, AHEAD: tl.constexpr, UNROLL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        batch, _, row, column, mask = piece_of_rows(tokens, width, ROWS, COLUMNS)
        within = row * width + column
        now = tl.load(at)
        numbers += now * number_step
        rate = tl.load(numbers).to(tl.float32)
        begun = mask & (row < tl.where(rate != 0.0, tokens, 0))
        source = stack + batch * stride_batch + within
        # Of the tile's shape, so that gates are loaded as they are used: no exchange between threads.
        gate = tl.broadcast_to(gates + batch * gate_batch + column, (ROWS, COLUMNS))
        weights, totals = (), ()
        for step in tl.static_range(AHEAD):
            totals += (tl.zeros((ROWS, COLUMNS), tl.float32),)
            for entry in tl.static_range(ENTRIES):
                weights += (tl.load(numbers + 1 + step * ENTRIES + entry).to(tl.float32),)
        for _ in range(0, modules, UNROLL):
            loaded, alphas = (), ()  # all before the first is stored: loads behind a store wait for what it stores
            ahead, ahead_gate = source, gate
            for _ in tl.static_range(UNROLL):
                place = ahead
                for entry in tl.static_range(ENTRIES):
                    wanted = begun if entry + 1 < ENTRIES else mask
                    loaded += (tl.load(place, mask=wanted, other=0.0),)
                    place += stride_entry  # a pointer goes further than 32 bits
                for step in tl.static_range(AHEAD):
                    where = ahead_gate + tl.minimum(now + 1 + step, last) * gate_step
                    alphas += (tl.load(where, mask=mask, other=0.0),)
                ahead += stride_module
                ahead_gate += gate_module
            for unrolled in tl.static_range(UNROLL):
                value = loaded[unrolled * ENTRIES + ENTRIES - 1].to(tl.float32)
                place, new = source, (value,)
                for entry in tl.static_range(ENTRIES - 1):
                    tl.store(place, value, mask=mask)
                    value = (value - loaded[unrolled * ENTRIES + entry].to(tl.float32)) * rate
                    new += (value,)
                    place += stride_entry
                if ENTRIES > 1:
                    tl.store(place, value, mask=mask)
                sums_now = ()
                for step in tl.static_range(AHEAD):
                    found = weights[step * ENTRIES] * new[0]
                    for entry in tl.static_range(1, ENTRIES):
                        found += weights[step * ENTRIES + entry] * new[entry]
                    sums_now += (totals[step] + alphas[unrolled * AHEAD + step].to(tl.float32) * found,)
                totals = sums_now
                source += stride_module
            gate = ahead_gate
        for step in tl.static_range(AHEAD):
            to = sums + ((now + 1 + step) % AHEAD) * sum_step + batch * tokens * width + within
            tl.store(to, totals[step], mask=mask)
