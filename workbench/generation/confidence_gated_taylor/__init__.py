r"""CG-Taylor: the first block is computed at every step, and says whether the last block's forecast can be trusted.

Xiaoliu Guan et al., *Forecasting When to Forecast: Accelerating Diffusion Models with Confidence-Gated Taylor*,
arXiv 2508.02240, 2025.

Idea. TaylorSeer forecasts the output of every module, so it keeps 2 L (m + 1) tensors; and it forecasts on a fixed
schedule, even where the forecast is bad. CG-Taylor (1) forecasts only what leaves the **last block**, one trajectory
instead of 2 L, and (2) always computes the **first block** and compares it with its own forecast:

.. math::
    e_s = \frac{\mathrm{mean}\,|\hat h^1(s) - h^1(s)|}{\mathrm{mean}\,|h^1(s)|}, \qquad
    \text{forecast } h^L \text{ if } e_s < \tau, \text{ compute blocks } 2..L \text{ otherwise}

Differences and forecasts are TaylorSeer's (``workbench.generation.taylorseer``). Two stacks, each with its own list of
refreshes: the first block's is refreshed only when the gate refused, though its output is known at every step. So the
gate judges a forecast of exactly the age that the last block's would have.

Notation:

========================  =======================  ==================================================================
paper                     here                     shape or range
========================  =======================  ==================================================================
:math:`h^1, h^L`          features[:, 0], [:, 1]   (batch, steps, tokens, width): what leaves the first, the last block
:math:`\tau`              threshold                0.008 (DiT-XL/2), 0.13 (FLUX), 0.24 (Wan): a model's own
:math:`w`                 warmup                   steps 0 to w are full
:math:`m_1, m_L`          order_first, order_last  3 and 1 for DiT-XL/2
========================  =======================  ==================================================================

The first and the last step are always full. ``scope`` "sample" is an addition to the paper: every sample of a batch is
judged by its own error, and only those that fail are computed.

Two baselines stand beside it: the last block's forecast without a gate, on a fixed schedule, and the first-block cache,
which asks whether the first block's *output* changed, not whether its *forecast* failed. A fast but straight trajectory
passes the one test and fails the other.
"""

from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.controls import Range
from workbench.generation.confidence_gated_taylor.claims import CLAIMS
from workbench.generation.confidence_gated_taylor.inputs import (
    Order,
    blocks_cost,
    blocks_example,
    blocks_workspace,
    cache_workspace,
    check_blocks,
    check_gate,
    gate_cost,
    gate_example,
    gate_workspace,
)
from workbench.generation.confidence_gated_taylor.strategies import FirstBlockCache, GatedCache, LastBlockCache
from workbench.generation.taylorseer import (
    DerivativeCache,
    factors_by_age,
    forecast_matrix,
    full_steps,
    taylorseer,
    why_not_fast,
)
from workbench.generation.trajectories import (
    Features,
    FirstFull,
    Interval,
    Weights,
    check_features,
    method,
    wide,
    working_type,
)
from workbench.paper import Caching, Paper, Recording, SamplingRun, runs_anywhere
from workbench_kernels.operators import operator

__all__ = [
    "PAPER",
    "Decisions",
    "FirstBlockCache",
    "GatedCache",
    "LastBlockCache",
    "confidence_gated_taylor",
    "decide",
    "first_block_cache",
    "forecast_errors",
    "gate_error",
    "last_block_forecast",
    "relative_l1",
]

Blocks = Float[Tensor, "batch blocks steps tokens width"]
Threshold = Annotated[
    float, Range(0.0, 1.0), "Relative error of the first block's forecast from which on it is refused."
]
Change = Annotated[
    float, Range(0.0, 1.0), "Relative change of what the first block adds from which on all is computed."
]
Warmup = Annotated[int, Range(0, 12), "Steps up to this one are full."]
Scope = Annotated[Literal["batch", "sample"], "One decision for the batch, or one for each sample."]


# --- the reference ---------------------------------------------------------------------------------------------------


def relative_l1(forecast: Tensor, truth: Tensor) -> Tensor:
    """mean |forecast - truth| / mean |truth| over everything; NaN against zeros."""
    return (forecast - truth).abs().mean() / truth.abs().mean()


def confidence_gated_taylor_reference(
    features: Blocks,
    *,
    threshold: Threshold = 0.03,
    warmup: Warmup = 2,
    order_first: Order = 1,
    order_last: Order = 1,
    scope: Scope = "batch",
) -> Features:
    """What the head sees: the last block's output where the gate had it computed, and its forecast elsewhere.

    features (batch, 2, steps, tokens, width): what leaves the first and the last block, step 0 first, any floating
    type. Returns (batch, steps, tokens, width) in that type. The differences are kept in float32 (float64 for float64).
    Raises ``ValueError`` for other shapes. The decisions are not differentiable; what they leave is, and linear.
    """
    check_features("confidence_gated_taylor", features, 5)
    check_blocks("confidence_gated_taylor", features, 2)
    if scope == "sample" and len(features) > 1:
        options = {"warmup": warmup, "order_first": order_first, "order_last": order_last}
        return torch.cat(
            [confidence_gated_taylor_reference(f, threshold=threshold, **options) for f in features.split(1)]
        )
    first_cache, last_cache, seen = DerivativeCache(order_first), DerivativeCache(order_last), []
    steps = features.shape[2]
    for step in range(steps):
        first, last = features[:, 0, step], features[:, 1, step]
        confident = False
        if step > max(warmup, 0) and first_cache.steps:
            error = relative_l1(first_cache.forecast(step), wide(first))
            confident = bool(error < threshold)
        if not confident:
            first_cache.refresh(step, wide(first))
        if not confident or step in (0, steps - 1):
            last_cache.refresh(step, wide(last))
            seen.append(last)
        else:
            seen.append(last_cache.forecast(step).to(features.dtype))
    return torch.stack(seen, dim=1)


def last_block_forecast_reference(
    features: Features,
    *,
    interval: Interval = 4,
    order: Order = 1,
    first_full: FirstFull = 2,
    weights: Weights = "taylor",
) -> Features:
    """The last block's output (batch, steps, tokens, width), forecast on a fixed schedule: TaylorSeer's formula, for
    one trajectory. Arguments and errors as ``taylorseer``."""
    return taylorseer.reference(features, interval=interval, order=order, first_full=first_full, weights=weights)


def first_block_cache_reference(features: Blocks, *, threshold: Change = 0.1) -> Features:
    """What the head sees when the other blocks' sum is used again while the first block adds nearly the same.

    features (batch, 3, steps, tokens, width): what enters the first block, leaves it, and leaves the last one. With
    r = h^1 - h^0, a step is full if mean |r - r_ref| >= threshold * mean |r_ref|; else h^L is h^1 + (h^L - h^1)_ref, of
    the last full step. First and last step are full. Returns (batch, steps, tokens, width). Raises ``ValueError`` for
    other shapes.
    """
    check_features("first_block_cache", features, 5)
    check_blocks("first_block_cache", features, 3)
    seen, steps, before, rest = [], features.shape[2], None, None
    for step in range(steps):
        tokens, first, last = wide(features[:, :, step]).unbind(1)
        added = first - tokens
        if before is not None and step < steps - 1 and relative_l1(added, before) < threshold:
            seen.append((first + rest).to(features.dtype))
        else:
            before, rest = added, last - first
            seen.append(features[:, 2, step])
    return torch.stack(seen, dim=1)


def gate_error_reference(
    hidden: Float[Tensor, "batch tokens width"],
    derivatives: Float[Tensor, "batch entries tokens width"],
    weights: Float[Tensor, "batch entries"],
) -> Float[Tensor, "batch two"]:
    """The gate's two means for every sample: of \\|forecast - hidden\\| and of \\|hidden\\|, over tokens and width.

    The forecast is sum_i weights_i D^(i). Added in float32 (float64 for float64), returned in hidden's type. Their
    ratio is a sample's error; the ratio of their sums, the batch's. Raises ``ValueError`` for shapes that do not fit.
    """
    check_gate(hidden, derivatives, weights)
    truth = wide(hidden)
    forecast = einsum(
        wide(weights), wide(derivatives), "batch entries, batch entries tokens width -> batch tokens width"
    )
    means = [part.abs().mean((1, 2)) for part in (forecast - truth, truth)]
    return torch.stack(means, dim=1).to(hidden.dtype)


# --- fast: decide first, then one product ----------------------------------------------------------------------------


class Decisions(NamedTuple):
    """What a gate decided, for every sample and step.

    full       (batch, steps): whether blocks 2 to L were computed
    refreshed  (batch, steps): whether the first block's differences were refreshed
    errors     (batch, steps): the gate's relative error, NaN where it was not asked
    """

    full: np.ndarray
    refreshed: np.ndarray
    errors: np.ndarray


@torch.no_grad()
def decide(
    first: Features,
    *,
    threshold: float = 0.03,
    warmup: int = 2,
    order_first: int = 1,
    scope: str = "batch",
) -> Decisions:
    """The gate's decisions on a trajectory of the first block (batch, steps, tokens, width).

    The error is one pass over the differences, and their refresh is made in place (kernels on CUDA). The host reads two
    numbers a sample and step.
    """
    from workbench_kernels.forecast import differences as forecast

    batch, steps = first.shape[:2]
    stack = torch.zeros(batch, order_first + 1, *first.shape[2:], dtype=working_type(first), device=first.device)
    factors = factors_by_age(steps, order_first)
    age, refreshes = torch.zeros(2, batch, dtype=torch.int64)
    full, refreshed = np.ones((batch, steps), bool), np.ones((batch, steps), bool)
    errors = np.full((batch, steps), np.nan)
    for step in range(steps):
        feature = wide(first[:, step]).contiguous()
        known = factors[age, refreshes.clamp(max=order_first + 1)].to(feature)
        rates, weights = known[:, 0], known[:, 1:]
        if step > max(warmup, 0):
            sums = forecast.error_sums(feature, stack, weights).double().cpu().numpy()
            sums = np.broadcast_to(sums.sum(0), sums.shape) if scope == "batch" else sums
            with np.errstate(divide="ignore", invalid="ignore"):
                errors[:, step] = sums[:, 0] / sums[:, 1]
            refreshed[:, step] = ~(errors[:, step] < threshold)
        rows = refreshed[:, step]
        full[:, step] = rows | (step in (0, steps - 1))
        if rows.all():
            forecast.refresh_(feature, stack, rates)
        elif rows.any():
            chosen = torch.from_numpy(np.flatnonzero(rows)).to(feature.device)
            mine = stack[chosen]
            forecast.refresh_(feature[chosen], mine, rates[chosen])
            stack[chosen] = mine
        refreshes[rows] += 1
        age[rows] = 0
        age += 1
    return Decisions(full, refreshed, errors)


def _gate_matrices(
    features: Tensor, threshold: float, warmup: int, order_first: int, order_last: int, per_sample: bool
) -> Tensor:
    """(batch or 1, steps, steps): what makes the head's view out of the last block's outputs. An operator of its own,
    so that a compiled caller sees one node and not a decision."""
    options = {"threshold": threshold, "warmup": warmup, "order_first": order_first}
    full = decide(features[:, 0], scope="sample" if per_sample else "batch", **options).full
    matrices = []
    for row in full if per_sample else full[:1]:
        matrix = torch.zeros(len(row), len(row), dtype=torch.float64)
        matrix[:, torch.from_numpy(row)] = forecast_matrix(row.tolist(), order_last, "taylor")
        matrices.append(matrix)
    return torch.stack(matrices).to(features.device, working_type(features))


def _last_full(features: Tensor, threshold: float) -> Tensor:
    """(steps,): the full step that each step of a first-block cache goes back to."""
    steps, found = features.shape[2], [0]
    added = wide(features[:, 1]) - wide(features[:, 0])
    for step in range(1, steps):
        before = added[:, found[-1]]
        full = step == steps - 1 or not relative_l1(added[:, step], before) < threshold
        found.append(step if full else found[-1])
    return torch.tensor(found, device=features.device)


operator("gate_matrices", cuda=_gate_matrices, cpu=_gate_matrices)
operator("last_full", cuda=_last_full, cpu=_last_full)


@torch.library.register_fake("workbench::gate_matrices")
def _(features: Tensor, threshold: float, warmup: int, order_first: int, order_last: int, per_sample: bool) -> Tensor:
    steps = features.shape[2]
    return features.new_empty(len(features) if per_sample else 1, steps, steps, dtype=working_type(features))


@torch.library.register_fake("workbench::last_full")
def _(features: Tensor, threshold: float) -> Tensor:
    return features.new_empty(features.shape[2], dtype=torch.int64)


def confidence_gated_taylor_fast(
    features: Blocks,
    *,
    threshold: Threshold = 0.03,
    warmup: Warmup = 2,
    order_first: Order = 1,
    order_last: Order = 1,
    scope: Scope = "batch",
) -> Features:
    """The decisions first, from the first block alone; then one matrix product. Arguments and errors as
    ``reference``."""
    check_features("confidence_gated_taylor", features, 5)
    check_blocks("confidence_gated_taylor", features, 2)
    matrices = torch.ops.workbench.gate_matrices(
        features.detach(), float(threshold), warmup, order_first, order_last, scope == "sample"
    )
    last = wide(features[:, 1])
    return torch.matmul(matrices, last.flatten(2)).unflatten(2, last.shape[2:]).to(features.dtype)


def last_block_forecast_fast(
    features: Features,
    *,
    interval: Interval = 4,
    order: Order = 1,
    first_full: FirstFull = 2,
    weights: Weights = "taylor",
) -> Features:
    """One matrix product with the computed outputs. Arguments and errors as ``reference``."""
    return taylorseer.fast(features, interval=interval, order=order, first_full=first_full, weights=weights)


def first_block_cache_fast(features: Blocks, *, threshold: Change = 0.1) -> Features:
    """The decisions first; then one gather and one sum. Arguments and errors as ``reference``."""
    check_features("first_block_cache", features, 5)
    check_blocks("first_block_cache", features, 3)
    reference = torch.ops.workbench.last_full(features.detach(), float(threshold))
    first, last = wide(features[:, 1]), wide(features[:, 2])
    again = first + (last - first).index_select(1, reference)
    computed = reference == torch.arange(len(reference), device=reference.device)
    return torch.where(computed[:, None, None], last, again).to(features.dtype)


def gate_error_fast(hidden: Tensor, derivatives: Tensor, weights: Tensor) -> Tensor:
    """One pass over differences and truth, the forecast never written down; sums in a fixed order. Arguments and errors
    as ``reference``."""
    check_gate(hidden, derivatives, weights)
    from workbench_kernels.forecast import differences as forecast

    return (forecast.error_sums(hidden, derivatives, weights) / hidden[0].numel()).to(hidden.dtype)


@torch.no_grad()
def forecast_errors(
    features: Features, *, interval: int = 4, order: int = 1, first_full: int = 2
) -> Float[Tensor, " steps"]:
    """The relative L1 error of every forecast on a fixed schedule, over batch, tokens and width; NaN at full steps.

    features (batch, steps, tokens, width) of the first or the last block: what the gate's idea rests on is that the
    first's errors tell the last's.
    """
    check_features("forecast_errors", features, 4)
    full = full_steps(features.shape[1], interval, first_full)
    seen = taylorseer(features, interval=interval, order=order, first_full=first_full)
    errors = [relative_l1(seen[:, step], features[:, step]) for step in range(len(full))]
    return torch.where(torch.tensor(full), torch.nan, torch.stack(errors).double().cpu())


# --- the methods -----------------------------------------------------------------------------------------------------


last_block_forecast = method(
    "last_block_forecast",
    "Last-block forecast",
    "The last block's output is computed every N-th step and forecast in between: one trajectory to keep.",
    slot=Caching(LastBlockCache),
    reference=last_block_forecast_reference,
    fast=last_block_forecast_fast,
    why_not_fast=runs_anywhere,
    example=taylorseer.example,
    cost=taylorseer.cost,
    workspace=taylorseer.workspace,
)

first_block_cache = method(
    "first_block_cache",
    "First-block cache",
    "While the first block adds nearly what it added before, the other blocks' sum is used again.",
    slot=Caching(FirstBlockCache),
    reference=first_block_cache_reference,
    fast=first_block_cache_fast,
    why_not_fast=runs_anywhere,
    example=blocks_example(3),
    cost=blocks_cost,
    workspace=cache_workspace,
)

confidence_gated_taylor = method(
    "confidence_gated_taylor",
    "CG-Taylor",
    "The first block's forecast is checked at every step; where it is good, the last block's is used.",
    slot=Caching(GatedCache),
    reference=confidence_gated_taylor_reference,
    fast=confidence_gated_taylor_fast,
    why_not_fast=why_not_fast,
    example=blocks_example(2),
    cost=blocks_cost,
    workspace=blocks_workspace,
)

gate_error = method(
    "gate_error",
    "The gate's error",
    "Forecast, compare and add up in one pass: two numbers a sample.",
    slot=None,
    reference=gate_error_reference,
    fast=gate_error_fast,
    why_not_fast=why_not_fast,
    example=gate_example,
    cost=gate_cost,
    workspace=gate_workspace,
)

PAPER = Paper(
    slug="confidence_gated_taylor",
    title="Forecasting When to Forecast: Accelerating Diffusion Models with Confidence-Gated Taylor",
    authors="Xiaoliu Guan, Lielin Jiang, Hanqi Chen, Xu Zhang, Jiaxing Yan, Guanzhong Wang, Yi Liu, Zetao Zhang, Yu Wu",
    arxiv="2508.02240",
    year=2025,
    chapter="generation",
    idea="The first block checks its own forecast at every step and decides whether the last block's may be used.",
    methods=(last_block_forecast, first_block_cache, confidence_gated_taylor, gate_error),
    claims=CLAIMS,
    recordings=(
        Recording(
            group="first block of DiT-XL/2, order 3",
            methods=("gate_error",),
            sizes=(256, 1024, 4096),
            shape={"batch": 2, "width": 1152, "order": 3},
            directions=("forward",),
        ),
        Recording(
            group="a trajectory",
            methods=("confidence_gated_taylor", "first_block_cache"),
            sizes=(50,),
            shape={"batch": 4, "tokens": 256, "width": 1152},
            directions=("forward",),
        ),
    ),
    sampling=(
        *(SamplingRun(caching="last_block_forecast", options={"interval": interval}) for interval in (3, 5)),
        *(SamplingRun(caching="confidence_gated_taylor", options={"order_first": 3}, full=full) for full in (18, 11)),
        SamplingRun(caching="first_block_cache", full=18),
    ),
)
