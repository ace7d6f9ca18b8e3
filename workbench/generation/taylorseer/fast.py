"""TaylorSeer made to pay off: what moves memory moves it once.

A forecast of a whole trajectory is a sum of a few computed features, whose factors are known beforehand: one kernel
reads those and writes what is seen, no difference is ever formed. For 8 runs of 50 steps of DiT-XL/2 in bfloat16, every
4th step full, that is 302 MB, 63 microseconds at 4.8 TB/s; the reference needs a kernel for every entry of every step.
"""

from torch import Tensor

from workbench.generation.forecasting import seen_tables
from workbench.generation.taylorseer.inputs import Order, check_modules, check_stack
from workbench.generation.trajectories import Features, FirstFull, Interval, Weights, check_features, working_type
from workbench.paper import kernel_or_cpu


def feature_reuse(features: Features, *, interval: Interval = 4, first_full: FirstFull = 1) -> Features:
    """The same, as one gather. Arguments and errors as ``reference``."""
    check_features("feature_reuse", features, 4)
    return seen(features, interval, first_full, 0, "taylor")


def taylorseer(
    features: Features,
    *,
    interval: Interval = 4,
    order: Order = 2,
    first_full: FirstFull = 2,
    weights: Weights = "taylor",
) -> Features:
    """The same, as sums of the computed features. Arguments and errors as ``reference``."""
    check_features("taylorseer", features, 4)
    return seen(features, interval, first_full, order, weights)


def seen(features: Features, interval: int, first_full: int, order: int, weights: str) -> Features:
    """What is seen of features (batch, steps, tokens, width) on a fixed schedule."""
    from workbench_kernels.forecast import trajectory

    tables = seen_tables(
        features.shape[1], interval, first_full, order, weights, features.device, working_type(features)
    )
    return trajectory.seen(features, *tables)


def forecast_modules(hidden: Tensor, derivatives: Tensor, gates: Tensor, weights: Tensor) -> Tensor:
    """All modules in one pass over the cache. Arguments and errors as ``reference``."""
    check_modules(hidden, derivatives, gates, weights)
    from workbench_kernels.forecast import differences

    return differences.forecast_modules(hidden, derivatives, gates, weights)


def refresh_derivatives(feature: Tensor, derivatives: Tensor, rates: Tensor) -> Tensor:
    """All differences in one pass, each number's in a register. Arguments and errors as ``reference``; the sampler of
    the last block calls the same kernel in place (``workbench_kernels.forecast.differences.refresh_``)."""
    check_stack(feature, derivatives, rates)
    from workbench_kernels.forecast import differences

    return differences.refresh_derivatives(feature, derivatives, rates)


def why_not(*inputs: Tensor, **options: object) -> list[str]:
    """Why the kernels cannot run on these inputs, given by place or by name, in sentences."""
    x = next(each for each in (*inputs, *options.values()) if isinstance(each, Tensor))
    from workbench_kernels import tiles

    return kernel_or_cpu(x, tiles.why_not, x.dtype)
