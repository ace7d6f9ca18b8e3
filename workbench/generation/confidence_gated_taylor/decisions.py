"""What a gate decides on the features of a recorded run, and how far off forecasts are there."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.generation.confidence_gated_taylor.reference import relative_l1
from workbench.generation.forecasting import full_steps
from workbench.generation.taylorseer import taylorseer
from workbench.generation.trajectories import Features, check_features


class Decisions(NamedTuple):
    """What a gate decided, for every sample and step.

    full       (batch, steps): whether blocks 2 to L were computed
    refreshed  (batch, steps): whether the first block's differences were refreshed
    errors     (batch, steps): the gate's relative error, NaN where it was not asked
    """

    full: np.ndarray
    refreshed: np.ndarray
    errors: np.ndarray


def decide(
    first: Features,
    *,
    threshold: float = 0.03,
    warmup: int = 2,
    order_first: int = 1,
    scope: str = "batch",
) -> Decisions:
    """The gate's decisions on a trajectory of the first block (batch, steps, tokens, width)."""
    from workbench_kernels.forecast import trajectory

    _, _, *found = trajectory.gate(first, threshold, warmup, order_first, 0, per_sample=scope == "sample")
    return Decisions(*(each.expand(len(first), -1).cpu().numpy() for each in found))


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
