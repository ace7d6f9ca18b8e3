"""The paper's whole run here: how near forecasts come to what no cache would have drawn, as steps are skipped."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from workbench.controls import Range
from workbench.generation.forecasting import full_count
from workbench.models.diffusion import Sampler, quality
from workbench.models.dit import DiT, pretrained
from workbench.paper import Axes, Study

FEWER = "fewer steps, no cache"
ORDERS = (0, 1, 2, 4)


def by_interval(
    model: DiT, noise: Tensor, labels: Tensor, *, steps: int, intervals: Sequence[int], orders: Sequence[int] = ORDERS
) -> Iterator[dict[str, Any]]:
    """Nearness to the uncached images from the same noise, for every interval and order, and for samplers that take as
    many steps as the others make calls (``order`` -1): a row each.

    noise (batch, channels, side, side), labels (batch,) or (steps, batch). Rows have interval, order, calls, decibels.
    """

    def decibels(**settings: Any) -> float:
        images = Sampler(model, **{"steps": steps, **settings})(noise, labels)
        return quality(images, labels[-1] if labels.ndim == 2 else labels, uncached).psnr_db

    uncached = Sampler(model, steps=steps)(noise, labels)
    for interval in intervals:
        calls = full_count(steps, interval)
        for order in orders:
            near = decibels(caching="taylorseer", options={"interval": interval, "order": order})
            yield {"interval": interval, "order": order, "calls": calls, "decibels": near}
        yield {"interval": interval, "order": -1, "calls": calls, "decibels": decibels(steps=calls)}


def run(
    *,
    device: str,
    seed: int,
    samples: Annotated[int, Range(10, 2000, log=True), "Digits that are drawn at every setting."] = 100,
    steps: Annotated[int, Range(10, 200), "Of the sampler."] = 50,
    longest: Annotated[int, Range(2, 20), "The longest interval between full steps; all from 2 on are tried."] = 10,
) -> Iterator[dict[str, Any]]:
    """Digits of the shipped diffusion transformer, 0 to 9 in turn, from the same noise at every setting."""
    model = pretrained().to(device)
    noise = torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).to(device)
    labels = torch.arange(samples, device=device) % 10
    names = {-1: FEWER, 0: "reuse"}
    for row in by_interval(model, noise, labels, steps=steps, intervals=range(2, longest + 1)):
        sampler = names.get(row["order"], f"order {row['order']}")
        yield {
            "sampler": sampler,
            "interval": row["interval"],
            "calls": row["calls"],
            "nearness": row["decibels"],
        }


def length(samples: int, steps: int, longest: int) -> int:
    """Rows of a run."""
    return (len(ORDERS) + 1) * (longest - 1)


INTERVALS = Study(
    name="intervals",
    title="Steps that are skipped",
    question="How near do forecasts come to the digits that no cache would have drawn, the fewer steps are computed?",
    run=run,
    columns={"sampler": "", "interval": "", "calls": "", "nearness": "dB"},
    axes=Axes(x="calls", y="nearness", by=("sampler",)),
    sizes={"ci": {"samples": 10, "steps": 20, "longest": 3}, "gpu": {"samples": 2000}},
    length=length,
)
STUDIES = (INTERVALS,)
