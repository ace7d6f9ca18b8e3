"""CG-Taylor made to pay off: decide first, from the first block alone; then one pass over the last block's output.

On CUDA the host never learns what was decided. Two small kernels a step add up the error and decide; what the decision
means for a forecast, which computed features it is a sum of, goes into tables, and one kernel reads the last block's
features by them. For 4 samples of DiT-XL/2 in bfloat16, 50 steps, that is 354 MB at the most, 74 microseconds at 4.8
TB/s; the hundred launches take longer than that.
"""

import torch
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
from workbench.generation.taylorseer import taylorseer
from workbench.generation.trajectories import Features, FirstFull, Interval, Weights, check_features, wide


def confidence_gated_taylor(
    features: Blocks,
    *,
    threshold: Threshold = 0.03,
    warmup: Warmup = 2,
    order_first: Order = 1,
    order_last: Order = 1,
    scope: Scope = "batch",
) -> Features:
    """The decisions, then sums of the last block's computed outputs. Arguments and errors as ``reference``."""
    check_features("confidence_gated_taylor", features, 5)
    check_blocks("confidence_gated_taylor", features, 2)
    from workbench_kernels.forecast import trajectory

    chosen, factors, *_ = trajectory.gate(
        features[:, 0], threshold, warmup, order_first, order_last, per_sample=scope == "sample"
    )
    return trajectory.seen(features[:, 1], chosen, factors)


def last_block_forecast(
    features: Features,
    *,
    interval: Interval = 4,
    order: Order = 1,
    first_full: FirstFull = 2,
    weights: Weights = "taylor",
) -> Features:
    """Sums of the computed outputs. Arguments and errors as ``reference``."""
    return taylorseer.fast(features, interval=interval, order=order, first_full=first_full, weights=weights)


def first_block_cache(features: Blocks, *, threshold: Change = 0.1) -> Features:
    """The decisions first: a forecast of order 0, held against what the first block adds; then one gather and one sum.
    Arguments and errors as ``reference``."""
    check_features("first_block_cache", features, 5)
    check_blocks("first_block_cache", features, 3)
    from workbench_kernels.forecast import trajectory

    tokens, first, last = wide(features).unbind(1)
    chosen, factors, full, *_ = trajectory.gate(first - tokens, threshold, 0, 0, 0, of_forecast=True)
    again = first + trajectory.seen(last - first, chosen, factors)
    return torch.where(full[0, :, None, None], last, again).to(features.dtype)


def gate_error(hidden: Tensor, derivatives: Tensor, weights: Tensor) -> Tensor:
    """One pass over differences and truth, the forecast never written down; sums in a fixed order. Arguments and errors
    as ``reference``."""
    check_gate(hidden, derivatives, weights)
    from workbench_kernels.forecast import errors

    return errors.error_means(hidden, derivatives, weights)
