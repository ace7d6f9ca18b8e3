r"""TaylorSeer: a diffusion transformer's features are forecast where they need not be computed.

Jiacheng Liu et al., *From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers*, arXiv 2503.06923,
ICCV 2025.

Idea. A sampler calls its network at every step, and the output F of each attention and feed-forward module moves along
a smooth curve meanwhile. Older caches compute F at every N-th step and *reuse* it in between; the error grows with its
age. TaylorSeer keeps, beside the last F, its finite differences over the step index, and *forecasts*:

.. math::
    D^{(0)}_j = F(s_j), \qquad D^{(i+1)}_j = \frac{D^{(i)}_j - D^{(i)}_{j-1}}{s_j - s_{j-1}}, \qquad
    \hat F(s) = \sum_{i=0}^{m} \frac{(s - s_j)^i}{i!} D^{(i)}_j

No training, no matrix product; order m = 0 is reuse.

Notation:

==========================  ================  ======================================================================
paper                       here              shape or range
==========================  ================  ======================================================================
:math:`F`                   features          (batch, steps, tokens, width): a module's output **before** its gate
:math:`N, m`                interval, order   whole numbers; N = 1 computes everything
:math:`e`                   first_full        steps at the start that are all computed
:math:`D^{(0)}..D^{(m)}`    derivatives       (..., order + 1, tokens, width)
:math:`x = s - s_j`         distance          steps since the last full one
:math:`\alpha`              gates             (batch, modules, width), from the **current** time
==========================  ================  ======================================================================

Steps are counted as the sampler visits them, from 0 up. The official code counts down; distances and differences change
sign together, so the forecasts are the same.

What makes it fast: on a skipped step no module sees what another one did, so all 2 L forecasts, their gates and the
residual stream are *one* sum, :math:`h + \sum_k \alpha_k \odot \sum_i w_i D^{(i)}_k`: one pass over the cache. Up to
the next full step nothing in it changes but gates and weights, which are known beforehand. So a sampler goes over the
cache once an interval. At the end of a full step one kernel refreshes all differences and, while they are in registers,
adds up the sum of each coming step (``workbench_kernels.forecast.ahead``, with the bytes that this takes). A skipped
step is then the tokens of its image, plus a sum, and the head. On an H200 runs of DiT-XL/2 with order 1 get 94 % (every
third step full) and 93 % (every fifth) of what the skipped steps allow; ``recorded/sampling`` has all of them.
"""

from collections.abc import Callable, Sequence

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.generation.forecasting import (
    DerivativeCache,
    factors_by_age,
    forecast_weights,
    full_count,
    full_steps,
    newton_weights,
    refreshed,
    reuse_weights,
    schedule,
    tables,
    taylor_weights,
)
from workbench.generation.taylorseer.claims import CLAIMS
from workbench.generation.taylorseer.inputs import (
    Order,
    check_modules,
    check_stack,
    modules_cost,
    modules_example,
    modules_workspace,
    reuse_workspace,
    stack_cost,
    stack_example,
    stack_workspace,
    trajectory_cost,
    trajectory_example,
    trajectory_workspace,
)
from workbench.generation.taylorseer.strategies import ModuleCache, ReuseCache, Scheduled
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
from workbench.paper import Caching, Method, Paper, Recording, SamplingRun, kernel_or_cpu, runs_anywhere

__all__ = [
    "PAPER",
    "DerivativeCache",
    "ModuleCache",
    "ReuseCache",
    "Scheduled",
    "factors_by_age",
    "feature_reuse",
    "forecast_matrix",
    "forecast_modules",
    "forecast_weights",
    "full_count",
    "full_steps",
    "newton_weights",
    "refresh_derivatives",
    "refreshed",
    "reuse_weights",
    "schedule",
    "tables",
    "taylor_weights",
    "taylorseer",
]


# --- the reference ---------------------------------------------------------------------------------------------------


def feature_reuse_reference(features: Features, *, interval: Interval = 4, first_full: FirstFull = 1) -> Features:
    """What a sampler sees that computes the features at full steps and reuses them in between (FORA).

    features (batch, steps, tokens, width), any floating type; the result has its shape and type. Raises ``ValueError``
    for other shapes.
    """
    check_features("feature_reuse", features, 4)
    full = full_steps(features.shape[1], interval, first_full)
    seen = []
    for step, computed in enumerate(full):
        if computed:
            last = features[:, step]
        seen.append(last)
    return torch.stack(seen, dim=1)


def taylorseer_reference(
    features: Features,
    *,
    interval: Interval = 4,
    order: Order = 2,
    first_full: FirstFull = 2,
    weights: Weights = "taylor",
) -> Features:
    """What a sampler sees that computes the features at full steps and forecasts them in between.

    features (batch, steps, tokens, width), any floating type, step 0 first; the result has its shape and type. The
    differences are kept in float32 (float64 for float64): in 16 bits they would drown in rounding. Raises
    ``ValueError`` for other shapes. order + 1 operations a number and skipped step.
    """
    check_features("taylorseer", features, 4)
    cache, seen = DerivativeCache(order), []
    for step, full in enumerate(full_steps(features.shape[1], interval, first_full)):
        if full:
            cache.refresh(step, wide(features[:, step]))
            seen.append(features[:, step])
        else:
            seen.append(cache.forecast(step, weights).to(features.dtype))
    return torch.stack(seen, dim=1)


def forecast_modules_reference(
    hidden: Float[Tensor, "batch tokens width"],
    derivatives: Float[Tensor, "batch modules entries tokens width"],
    gates: Float[Tensor, "batch modules width"],
    weights: Float[Tensor, "batch entries"],
) -> Float[Tensor, "batch tokens width"]:
    """The residual stream after all modules of a skipped step: h + sum_k gate_k * sum_i weight_i * D_k^(i).

    Added in float32 (float64 for float64), module after module as in the network; the result has hidden's type. Raises
    ``ValueError`` for shapes that do not fit together. 2 * modules * (entries + 1) operations a number.
    """
    check_modules(hidden, derivatives, gates, weights)
    total, w = wide(hidden), wide(weights)
    for stack, gate in zip(wide(derivatives).unbind(1), wide(gates).unbind(1), strict=True):
        forecast = einsum(w, stack, "batch entries, batch entries tokens width -> batch tokens width")
        total = total + gate[:, None] * forecast
    return total.to(hidden.dtype)


def refresh_derivatives_reference(
    feature: Float[Tensor, "batch tokens width"],
    derivatives: Float[Tensor, "batch entries tokens width"],
    rates: Float[Tensor, " batch"],
) -> Float[Tensor, "batch entries tokens width"]:
    """The differences after a new feature: D^(0) = F, D^(i+1) = (D^(i) - old D^(i)) * rate.

    ``rates`` is one over the steps since the last refresh, for each sample. The result has the derivatives' shape; an
    entry that rests on one that was never filled means nothing yet, and its weight is zero (``tables``). Raises
    ``ValueError`` for shapes that do not fit together. 2 operations a number of the result.
    """
    check_stack(feature, derivatives, rates)
    new, rate = [wide(feature)], wide(rates)[:, None, None]
    for old in wide(derivatives[:, :-1]).unbind(1):
        new.append((new[-1] - old) * rate)
    return torch.stack(new, dim=1).to(derivatives.dtype)


# --- fast: what is linear is one product; what moves memory is one kernel --------------------------------------------


@torch.compiler.assume_constant_result
def forecast_matrix(full: Sequence[bool], order: int, weights: str) -> Tensor:
    """The matrix (steps, full steps), float64, that makes what a sampler sees out of what it computed.

    A forecast is a sum of differences, and those are sums of features: row s holds the factors of all features
    computed up to s. Raises ``ValueError`` unless step 0 is full.
    """
    if not full[0]:
        raise ValueError("Step 0 must be full: there is nothing to forecast from.")
    unit = torch.eye(sum(full), dtype=torch.float64)
    cache, rows = DerivativeCache(order), []
    for step, computed in enumerate(full):
        if computed:
            cache.refresh(step, unit[len(cache.steps)])
        rows.append(cache.forecast(step, weights))
    return torch.stack(rows)


def feature_reuse_fast(features: Features, *, interval: Interval = 4, first_full: FirstFull = 1) -> Features:
    """The same, as one gather. Arguments and errors as ``reference``."""
    check_features("feature_reuse", features, 4)
    steps = features.shape[1]
    full = full_steps(steps, interval, first_full)
    last = [max(step for step in range(now + 1) if full[step]) for now in range(steps)]
    return features.index_select(1, torch.tensor(last, device=features.device))


def taylorseer_fast(
    features: Features,
    *,
    interval: Interval = 4,
    order: Order = 2,
    first_full: FirstFull = 2,
    weights: Weights = "taylor",
) -> Features:
    """The same, as one matrix product with the computed features. Arguments and errors as ``reference``."""
    check_features("taylorseer", features, 4)
    full = full_steps(features.shape[1], interval, first_full)
    computed = torch.tensor([step for step, each in enumerate(full) if each], device=features.device)
    matrix = forecast_matrix(full, order, weights).to(features.device, working_type(features))
    known = wide(features.index_select(1, computed)).flatten(2)
    return torch.matmul(matrix, known).unflatten(2, features.shape[2:]).to(features.dtype)


def forecast_modules_fast(hidden: Tensor, derivatives: Tensor, gates: Tensor, weights: Tensor) -> Tensor:
    """All modules in one pass over the cache. Arguments and errors as ``reference``."""
    check_modules(hidden, derivatives, gates, weights)
    from workbench_kernels.forecast import differences as forecast

    return forecast.forecast_modules(hidden, derivatives, gates, weights)


def refresh_derivatives_fast(feature: Tensor, derivatives: Tensor, rates: Tensor) -> Tensor:
    """All differences in one pass, each number's in a register. Arguments and errors as ``reference``; the sampler of
    the last block calls the same kernel in place (``workbench_kernels.forecast.differences.refresh_``)."""
    check_stack(feature, derivatives, rates)
    from workbench_kernels.forecast import differences as forecast

    return forecast.refresh_derivatives(feature, derivatives, rates)


def why_not_fast(*inputs: Tensor, **options: object) -> list[str]:
    """Why the kernels cannot run on these inputs, given by place or by name, in sentences."""
    x = next(each for each in (*inputs, *options.values()) if isinstance(each, Tensor))
    from workbench_kernels import tiles

    return kernel_or_cpu(x, tiles.why_not, x.dtype)


# --- the methods -----------------------------------------------------------------------------------------------------


def _caching(
    name: str, title: str, idea: str, reference: Callable, fast: Callable, workspace: Callable, strategy: type
) -> Method:
    return method(
        name,
        title,
        idea,
        slot=Caching(strategy),
        reference=reference,
        fast=fast,
        why_not_fast=runs_anywhere,
        example=trajectory_example,
        cost=trajectory_cost,
        workspace=workspace,
    )


feature_reuse = _caching(
    "feature_reuse",
    "Feature reuse (FORA)",
    "The modules are computed every N-th step; in between their last outputs are used again.",
    feature_reuse_reference,
    feature_reuse_fast,
    reuse_workspace,
    ReuseCache,
)

taylorseer = _caching(
    "taylorseer",
    "TaylorSeer",
    "The modules are computed every N-th step; in between their outputs are forecast from finite differences.",
    taylorseer_reference,
    taylorseer_fast,
    trajectory_workspace,
    ModuleCache,
)

forecast_modules = method(
    "forecast_modules",
    "Forecast of all modules",
    "One step of a network whose modules are all forecast: one sum over the whole cache.",
    slot=None,
    reference=forecast_modules_reference,
    fast=forecast_modules_fast,
    why_not_fast=why_not_fast,
    example=modules_example,
    cost=modules_cost,
    workspace=modules_workspace,
)

refresh_derivatives = method(
    "refresh_derivatives",
    "Refresh of the differences",
    "A new feature comes in; every difference is formed anew from the one before.",
    slot=None,
    reference=refresh_derivatives_reference,
    fast=refresh_derivatives_fast,
    why_not_fast=why_not_fast,
    example=stack_example,
    cost=stack_cost,
    workspace=stack_workspace,
)

DIT_XL_2 = {"batch": 2, "width": 1152}

PAPER = Paper(
    slug="taylorseer",
    title="From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers",
    authors="Jiacheng Liu, Chang Zou, Yuanhuiyi Lyu, Junjie Chen, Linfeng Zhang",
    arxiv="2503.06923",
    year=2025,
    chapter="generation",
    idea="Skipped steps of a diffusion transformer are forecast from the finite differences of the computed ones.",
    methods=(feature_reuse, taylorseer, forecast_modules, refresh_derivatives),
    claims=CLAIMS,
    recordings=(
        Recording(
            group="all modules of DiT-XL/2, order 4",
            methods=("forecast_modules",),
            sizes=(256, 1024),
            shape={**DIT_XL_2, "modules": 56, "order": 4},
            directions=("forward",),
        ),
        Recording(
            group="all modules of DiT-XL/2, order 1",
            methods=("forecast_modules",),
            sizes=(256, 1024),
            shape={**DIT_XL_2, "modules": 56, "order": 1},
            directions=("forward",),
        ),
        Recording(
            group="one module of DiT-XL/2, order 4",
            methods=("refresh_derivatives",),
            sizes=(256, 1024, 4096),
            shape={**DIT_XL_2, "order": 4},
            directions=("forward",),
        ),
        Recording(
            group="a trajectory, order 2",
            methods=("taylorseer", "feature_reuse"),
            sizes=(50,),
            shape={"batch": 8, "tokens": 256, "width": 1152},
            directions=("forward",),
        ),
    ),
    sampling=(
        *(SamplingRun(caching="feature_reuse", options={"interval": interval, "first_full": 2}) for interval in (3, 5)),
        *(
            SamplingRun(caching="taylorseer", options={"interval": interval, "order": order})
            for interval, order in ((3, 1), (4, 1), (5, 1), (6, 1), (3, 3), (5, 4))
        ),
    ),
)
