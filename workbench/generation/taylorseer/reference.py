"""TaylorSeer's equations."""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.generation.forecasting import DerivativeCache, full_steps
from workbench.generation.taylorseer.inputs import Order, check_modules, check_stack
from workbench.generation.trajectories import Features, FirstFull, Interval, Weights, check_features, wide


def feature_reuse(features: Features, *, interval: Interval = 4, first_full: FirstFull = 1) -> Features:
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


def taylorseer(
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


def forecast_modules(
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


def refresh_derivatives(
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
