"""Features of a whole sampling run, as a sampler with a cache sees them, and where a gate has them computed.

A forecast is a sum of finite differences, and those are sums of the features that were computed last: what is seen at a
step is a sum of a few features of the run, ``order + 1`` at the most. Which ones, and how much of each, stands in two
tables, ``chosen`` and ``factors``, of shape (groups, steps, entries). A group is one sample, or the whole batch.

Least bytes: every feature that is used is read once, and the result is written once. A gate reads the first block's
features of ``order + 2`` steps at every step; all but one of them were read just before, and lie in the L2 cache.
"""

import math

import torch
from torch import Tensor

from workbench_kernels.forecast.differences import has_kernel
from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation
from workbench_kernels.tiles import arithmetic, next_power_of_2

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None

TILE, WARPS = 1024, 4  # numbers and warps of a program
ERROR_TILE, ERROR_WARPS = 2048, 4
SUM_BLOCK = 1024


class Combination:
    """The differences of a trajectory as sums of the features that they come from: no feature is needed for it.

    ``steps`` are the latest refreshes, newest first, ``order + 1`` at the most; ``differences[i]`` are the factors of
    those steps' features in the i-th difference. One difference after the first refresh, then one more each time.
    """

    def __init__(self, order: int) -> None:
        self.order = order
        self.steps: list[int] = []
        self.differences: list[list[float]] = []

    @property
    def gap(self) -> int:
        """Steps between the last two refreshes; 1 before there are two."""
        return self.steps[0] - self.steps[1] if len(self.steps) > 1 else 1

    def refresh(self, step: int) -> None:
        """A feature was computed at ``step``: D^(0) = F, D^(i+1) = (D^(i) - old D^(i)) / gap."""
        before = self.steps[0] if self.steps else step - 1
        self.steps = [step, *self.steps][: self.order + 1]
        new = [[1.0] + [0.0] * self.order]
        for old in self.differences[: self.order]:
            older = [0.0, *old[:-1]]  # what was the newest feature is one further back
            new.append([(now - then) / (step - before) for now, then in zip(new[-1], older, strict=True)])
        self.differences = new

    def forecast(self, weights: list[float]) -> tuple[list[int], list[float]]:
        """The steps and the factors, ``order + 1`` each, that sum_i weights_i D^(i) comes to."""
        factors = [
            sum(weight * row[place] for weight, row in zip(weights, self.differences, strict=True))
            for place in range(self.order + 1)
        ]
        return self.steps + [0] * (self.order + 1 - len(self.steps)), factors


def seen(features: Tensor, chosen: Tensor, factors: Tensor) -> Tensor:
    """``sum over entries i of factors[:, s, i] * features[:, chosen[:, s, i]]`` for every step s.

    features (batch, steps, tokens, width); chosen (groups, seen steps, entries), int64, and factors alike, floating;
    groups is batch or 1. Returns (batch, seen steps, tokens, width) in the features' type, added in float32 (float64
    for float64). With a kernel a feature whose factor is zero is not looked at. Differentiable once, in the features.
    """
    return _seen(features, chosen, factors, features.shape[1])


def gate(
    first: Tensor,
    threshold: float,
    warmup: int,
    order_first: int,
    order_last: int,
    *,
    per_sample: bool = False,
    of_forecast: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What a gate decides that forecasts ``first``, the first block's output (batch, steps, tokens, width).

    At a step after ``warmup`` the forecast, Taylor's of ``order_first``, is trusted if the sum of |forecast - truth| is
    below ``threshold`` times that of |truth| (``of_forecast``: of |forecast|). Where it is not, the differences are
    refreshed and the step is full; so are the first step and the last.

    Returns chosen and factors of what is seen of another block, refreshed at full steps, of ``order_last``; then, each
    (groups, steps), whether the step is full, whether the first block's differences were refreshed, and the error, NaN
    where nobody asked. On CUDA nothing of it waits for the device. Not differentiable.
    """
    return _gate(first.detach(), threshold, warmup, order_first, order_last, per_sample, of_forecast)


# --- CUDA ------------------------------------------------------------------------------------------------------------


def seen_triton(features: Tensor, chosen: Tensor, factors: Tensor, known: int) -> Tensor:
    features = _with_dense_steps(features)
    batch, _, tokens, width = features.shape
    groups, steps, entries = chosen.shape
    out = features.new_empty(batch, steps, tokens, width)
    numbers = tokens * width
    block = min(TILE, next_power_of_2(numbers))
    _seen_kernel[(batch * -(-numbers // block) * steps,)](
        features, chosen.contiguous(), factors.contiguous(), out, steps, numbers, features.stride(0),
        features.stride(1), steps * entries if groups > 1 else 0, ENTRIES=entries, BLOCK=block, num_warps=WARPS,
    )  # fmt: skip
    return out


def gate_triton(
    first: Tensor, threshold: float, warmup: int, order_first: int, order_last: int, per_sample: bool, of_forecast: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Two launches a step: sums of every tile, then one program a group that adds them up and decides. What it decides
    it writes into the tables of the next step."""
    first = _with_dense_steps(first)
    batch, steps, tokens, width = first.shape
    groups, numbers = batch if per_sample else 1, tokens * width
    block = min(ERROR_TILE, next_power_of_2(numbers))
    tiles = -(-numbers // block)
    pieces = batch * tiles // groups  # of a group
    partials = first.new_empty(2, batch * tiles, dtype=torch.float32)
    tables, states = [], []
    for order in (order_first, order_last):
        shape = (groups, steps, order + 1)
        tables += [first.new_empty(shape, dtype=torch.int64), first.new_empty(shape, dtype=torch.float32)]
        # Of every step the latest refreshes, and the differences in terms of them; two, to write one and read one.
        states += [first.new_full((2, groups, order + 1), -1, dtype=torch.int64)]
        states += [first.new_zeros(2, groups, order + 1, order + 1, dtype=torch.float32)]
    full, refreshed = (first.new_empty(groups, steps, dtype=torch.bool) for _ in range(2))
    errors = first.new_empty(groups, steps, dtype=torch.float32)
    settings = {"ENTRIES": order_first + 1, "ENTRIES_LAST": order_last + 1, "num_warps": 4}
    settings["WIDTH"] = max(2, next_power_of_2(max(order_first, order_last) + 1))
    for step in range(steps):
        asked = step > max(warmup, 0)
        if asked:
            _gate_error_kernel[(batch * tiles,)](
                first, *tables[:2], partials, step, steps, numbers, tiles, batch * tiles, batch // groups,
                *first.stride()[:2], ENTRIES=order_first + 1, OF_FORECAST=of_forecast, BLOCK=block,
                num_warps=ERROR_WARPS,
            )  # fmt: skip
        _gate_kernel[(groups,)](
            partials, *tables, *states, full, refreshed, errors, step, steps, groups, pieces if asked else 0,
            batch * tiles, float(threshold), **settings, BLOCK=min(SUM_BLOCK, next_power_of_2(pieces)),
        )  # fmt: skip
    return *tables[2:], full, refreshed, errors


def _with_dense_steps(features: Tensor) -> Tensor:
    """The features, (tokens, width) of each step in one piece; copied only where they must be."""
    dense = features.stride(-1) == 1 and features.stride(-2) == features.shape[-1]
    return features if dense else features.contiguous()


# --- CPU -------------------------------------------------------------------------------------------------------------


def seen_torch(features: Tensor, chosen: Tensor, factors: Tensor, known: int) -> Tensor:
    """One matrix product with the features that are used; a gather where each is seen as it was."""
    dtype = arithmetic(features.dtype)
    if chosen.shape[0] == 1:  # the same steps for every sample
        if chosen.shape[2] == 1 and (factors == 1).all():
            return features.index_select(1, chosen.flatten())
        used, chosen = chosen.unique(return_inverse=True)
        features = features.index_select(1, used)
    matrix = _matrix(chosen, factors.to(dtype), features.shape[1])
    return (matrix @ features.to(dtype).flatten(2)).unflatten(2, features.shape[2:]).to(features.dtype)


def gate_torch(
    first: Tensor, threshold: float, warmup: int, order_first: int, order_last: int, per_sample: bool, of_forecast: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    options = (threshold, warmup, order_first, order_last, of_forecast)
    found = [_walk(group, *options) for group in (first.split(1) if per_sample else (first,))]
    dtypes = (torch.int64, arithmetic(first.dtype), torch.bool, torch.bool, arithmetic(first.dtype))
    tables = zip(zip(*found, strict=True), dtypes, strict=True)
    return tuple(torch.tensor(rows, dtype=dtype, device=first.device) for rows, dtype in tables)


def _walk(
    first: Tensor, threshold: float, warmup: int, order_first: int, order_last: int, of_forecast: bool
) -> tuple[list, list, list, list, list]:
    """One group's decisions: a row of every table that ``gate`` returns, step by step."""
    mine, other, steps = Combination(order_first), Combination(order_last), first.shape[1]
    rows: tuple[list, list, list, list, list] = ([], [], [], [], [])
    for step in range(steps):
        error = math.nan
        if step > max(warmup, 0):
            chosen, factors = mine.forecast(_taylor(step, mine))
            truth = first[:, step].to(arithmetic(first.dtype))
            forecast = torch.zeros_like(truth)
            for place, factor in zip(chosen, factors, strict=True):
                forecast.add_(first[:, place], alpha=factor)
            sums = [(forecast - truth).abs().sum(), (forecast if of_forecast else truth).abs().sum()]
            error = (sums[0] / sums[1]).item()
        refreshed = not error < threshold
        full = refreshed or step in (0, steps - 1)
        if refreshed:
            mine.refresh(step)
        if full:
            other.refresh(step)
        for row, value in zip(rows, (*other.forecast(_taylor(step, other)), full, refreshed, error), strict=True):
            row.append(value)
    return rows


def _taylor(step: int, known: Combination) -> list[float]:
    return [(step - known.steps[0]) ** i / math.factorial(i) for i in range(len(known.differences))]


# --- the operations --------------------------------------------------------------------------------------------------


def _seen_on_cuda(features: Tensor, chosen: Tensor, factors: Tensor, known: int) -> Tensor:
    return (seen_triton if has_kernel(features) else seen_torch)(features, chosen, factors, known)


def _gate_on_cuda(
    first: Tensor, threshold: float, warmup: int, order_first: int, order_last: int, per_sample: bool, of_forecast: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    chosen = gate_triton if has_kernel(first) else gate_torch
    return chosen(first, threshold, warmup, order_first, order_last, per_sample, of_forecast)


def _matrix(chosen: Tensor, factors: Tensor, steps: int) -> Tensor:
    """The tables as matrices (groups, seen steps, steps)."""
    return factors.new_zeros(*chosen.shape[:2], steps).scatter_add_(2, chosen, factors)


def _differentiate_seen(grad: Tensor, chosen: Tensor, factors: Tensor, known: int) -> Tensor:
    dtype = arithmetic(grad.dtype)
    matrix = _matrix(chosen, factors.to(dtype), known)
    return (matrix.mT @ grad.to(dtype).flatten(2)).unflatten(2, grad.shape[2:]).to(grad.dtype)


def _fake_gate(
    first: Tensor, threshold: float, warmup: int, order_first: int, order_last: int, per_sample: bool, of_forecast: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape = (first.shape[0] if per_sample else 1, first.shape[1])
    chosen = first.new_empty(*shape, order_last + 1, dtype=torch.int64)
    factors = first.new_empty(*shape, order_last + 1, dtype=arithmetic(first.dtype))
    full, refreshed = (first.new_empty(shape, dtype=torch.bool) for _ in range(2))
    return chosen, factors, full, refreshed, first.new_empty(shape, dtype=arithmetic(first.dtype))


_seen = Operation(
    "seen",
    forward={"cuda": _seen_on_cuda, "cpu": seen_torch},
    backward=_differentiate_seen,
    fake=lambda features, chosen, factors, known: features.new_empty(
        features.shape[0], chosen.shape[1], *features.shape[2:]
    ),
    fake_backward=lambda grad, chosen, factors, known: grad.new_empty(grad.shape[0], known, *grad.shape[2:]),
)
_gate = Operation("gate", forward={"cuda": _gate_on_cuda, "cpu": gate_torch}, fake=_fake_gate)


# --- the kernels -----------------------------------------------------------------------------------------------------

if triton is not None:

    @prepared
    @triton.jit
    def _seen_kernel(
        features, chosen, factors, out, steps, numbers, stride_batch, stride_step, table_batch,
        ENTRIES: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        # Neighbouring programs see the same place at neighbouring steps: they share what they read.
        step, rest = tl.program_id(0) % steps, tl.program_id(0) // steps
        tiles = tl.cdiv(numbers, BLOCK)
        batch = (rest // tiles).to(tl.int64)
        place = rest % tiles * BLOCK + tl.arange(0, BLOCK)
        row = batch * table_batch + step * ENTRIES
        total = tl.zeros((BLOCK,), tl.float32)
        for entry in tl.static_range(ENTRIES):
            factor = tl.load(factors + row + entry).to(tl.float32)
            source = features + batch * stride_batch + tl.load(chosen + row + entry) * stride_step
            value = tl.load(source + place, mask=place < tl.where(factor != 0.0, numbers, 0), other=0.0)
            total += factor * value.to(tl.float32)
        tl.store(out + (batch * steps + step) * numbers + place, total, mask=place < numbers)

    @prepared
    @triton.jit(do_not_specialize=["step"])
    def _gate_error_kernel(
        first, chosen, factors, partials, step, steps, numbers, tiles, all_tiles, samples, stride_batch, stride_step,
        ENTRIES: tl.constexpr, OF_FORECAST: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """The sums of one tile: of |forecast - truth|, and of |truth| or |forecast|."""
        program = tl.program_id(0)
        batch = (program // tiles).to(tl.int64)
        place = program % tiles * BLOCK + tl.arange(0, BLOCK)
        own = first + batch * stride_batch + place
        row = (batch // samples * steps + step) * ENTRIES
        truth = tl.load(own + step.to(tl.int64) * stride_step, mask=place < numbers, other=0.0).to(tl.float32)
        forecast = tl.zeros((BLOCK,), tl.float32)
        for entry in tl.static_range(ENTRIES):
            factor = tl.load(factors + row + entry)
            source = own + tl.load(chosen + row + entry) * stride_step
            value = tl.load(source, mask=place < tl.where(factor != 0.0, numbers, 0), other=0.0)
            forecast += factor * value.to(tl.float32)
        tl.store(partials + program, tl.sum(tl.abs(forecast - truth)))
        tl.store(partials + all_tiles + program, tl.sum(tl.abs(forecast if OF_FORECAST else truth)))

    @triton.jit
    def _advance(
        latest, differences, chosen, factors, refresh, step, target, group, groups, steps,
        ENTRIES: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        """``Combination``, on the device: refreshed at ``step`` if told so, its forecast written at ``target``."""
        k = tl.arange(0, WIDTH)
        real = k < ENTRIES
        read = (step % 2) * groups + group
        write = ((step + 1) % 2) * groups + group
        old = latest + read * ENTRIES
        before = tl.load(old)
        begun = before >= 0
        rate = tl.where(begun, 1.0 / tl.where(begun, step - before, 1).to(tl.float32), 0.0)
        older = tl.load(old + k - 1, mask=real & (k > 0), other=0)
        now = tl.where(refresh, tl.where(k == 0, step, older), tl.load(old + k, mask=real, other=-1))
        tl.store(latest + write * ENTRIES + k, now, mask=real)
        distance = (target - tl.where(refresh, step, before)).to(tl.float32)
        filled = tl.sum((real & (now >= 0)).to(tl.int32))
        new = tl.where(k == 0, 1.0, 0.0)
        total = tl.zeros((WIDTH,), tl.float32)
        weight = 1.0
        for i in tl.static_range(ENTRIES):
            was = differences + (read * ENTRIES + i) * ENTRIES + k
            kept = tl.load(was, mask=real, other=0.0)
            shifted = tl.load(was - 1, mask=real & (k > 0), other=0.0)
            entry = tl.where(refresh, new, kept)
            tl.store(differences + (write * ENTRIES + i) * ENTRIES + k, entry, mask=real)
            total += tl.where(i < filled, weight, 0.0) * entry
            weight *= distance / (i + 1)
            new = (new - shifted) * rate
        wanted = real & (target < steps)
        to = (group * steps + target) * ENTRIES + k
        tl.store(chosen + to, tl.maximum(now, 0), mask=wanted)
        tl.store(factors + to, total, mask=wanted)

    @prepared
    @triton.jit(do_not_specialize=["step", "pieces"])
    def _gate_kernel(
        partials, chosen, factors, last_chosen, last_factors, latest, differences, last_latest, last_differences,
        full, refreshed, errors, step, steps, groups, pieces, all_tiles, threshold,
        ENTRIES: tl.constexpr, ENTRIES_LAST: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """One group's decision at one step; ``pieces`` is 0 where the gate is not asked."""
        group = tl.program_id(0)
        off, size = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for start in range(0, pieces, BLOCK):
            place = start + tl.arange(0, BLOCK)
            own = partials + group * pieces + place
            off += tl.load(own, mask=place < pieces, other=0.0)
            size += tl.load(own + all_tiles, mask=place < pieces, other=0.0)
        error = tl.sum(off) / tl.sum(size)  # NaN where it is not asked, and then not below the threshold
        refresh = (error < threshold) == 0
        computed = refresh | (step == 0) | (step == steps - 1)
        here = group * steps + step
        tl.store(errors + here, error)
        tl.store(refreshed + here, refresh)
        tl.store(full + here, computed)
        _advance(latest, differences, chosen, factors, refresh, step, step + 1, group, groups, steps, ENTRIES, WIDTH)
        _advance(last_latest, last_differences, last_chosen, last_factors, computed, step, step, group, groups, steps,
                 ENTRIES_LAST, WIDTH)  # fmt: skip
