"""CG-Taylor's equations, and those of the two caches that it is compared with."""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.generation.confidence_gated_taylor.inputs import (
    Blocks,
    Change,
    Order,
    Scope,
    Threshold,
    Warmup,
    check_blocks,
    check_gate,
)
from workbench.generation.forecasting import DerivativeCache
from workbench.generation.taylorseer import taylorseer
from workbench.generation.trajectories import Features, FirstFull, Interval, Weights, check_features, wide


def relative_l1(forecast: Tensor, truth: Tensor) -> Tensor:
    """mean |forecast - truth| / mean |truth| over everything; NaN against zeros."""
    return (forecast - truth).abs().mean() / truth.abs().mean()


def confidence_gated_taylor(
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
        return torch.cat([confidence_gated_taylor(f, threshold=threshold, **options) for f in features.split(1)])
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


def last_block_forecast(
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


def first_block_cache(features: Blocks, *, threshold: Change = 0.1) -> Features:
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


def gate_error(
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
