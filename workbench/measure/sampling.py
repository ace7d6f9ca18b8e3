"""How long whole sampling runs take, with and without a cache, and what ships with the workbench of that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch

from workbench import catalog
from workbench.measure.correctness import relative_error
from workbench.measure.records import RECORDED, save
from workbench.measure.timing import Stop, stop_if, time_call
from workbench.models.diffusion import Sampler
from workbench.models.dit import DIT_XL_2, DiT
from workbench.paper import SamplingRun

FEWER = tuple(SamplingRun(steps=steps) for steps in (26, 18, 14, 11, 10))
"""What a user would otherwise do: take fewer steps. As many as are full where every 2nd, 3rd, ... 6th of 50 is."""


def sampling_runs() -> tuple[SamplingRun, ...]:
    """What is recorded: no cache, fewer steps, and what the papers name; the first is what the others are compared
    with."""
    return (SamplingRun(), *FEWER, *(run for paper in catalog.papers() for run in paper.sampling))


def sampling(
    model: DiT,
    runs: Sequence[SamplingRun],
    *,
    batch: int = 2,
    sampler: str = "ddim",
    budget_s: float = 0.5,
    cuda_graphs: bool | None = None,
    cancelled: Stop = None,
) -> Iterator[dict[str, Any]]:
    """Time whole sampling runs of ``model``, side by side; one row each, as it is made.

    Every run starts from the same noise and labels. On CUDA it is replayed from graphs, after its images were compared
    with those of the same run without graphs: status "wrong", and no time, where they differ by more than a rounding
    unit. Besides the times a row has ``full_steps`` (network calls, a partial one counts its share), ``cache_bytes``
    and ``sum_bytes`` as a ``Step`` has them, ``speed_up`` over the first row, ``ideal`` (its network calls / this
    row's) and ``of_ideal``, their ratio.
    """
    weight = model.label.weight
    generator = torch.Generator(weight.device).manual_seed(0)
    config = model.config
    shape = (batch, config.channels, config.image, config.image)
    noise = torch.randn(shape, generator=generator, device=weight.device)
    labels = torch.arange(batch, device=weight.device) % config.classes
    base: dict[str, float] | None = None
    for run in runs:
        stop_if(cancelled)
        options = dict(run.options)
        if run.full is not None:
            options["threshold"] = threshold_for(model, run, noise, labels, sampler)
        settings = {"steps": run.steps, "caching": run.caching, "options": options, "sampler": sampler}
        *_, plain_steps = _walk(Sampler(model, **settings, cuda_graphs=False), noise, labels)
        made = Sampler(model, **settings, cuda_graphs=cuda_graphs)
        images = made(noise, labels)
        row = {
            "caching": run.caching, "steps": run.steps, "batch": batch, "sampler": sampler,
            "dtype": str(weight.dtype)[6:], "device": weight.device.type, "graphs": made.graphs, **options,
            "status": "ok", "full_steps": plain_steps["full"], "cache_bytes": plain_steps["cache_bytes"],
            "sum_bytes": plain_steps["sum_bytes"],
            "error": relative_error(images, plain_steps["images"]), "budget": torch.finfo(weight.dtype).eps,
        }  # fmt: skip
        if not row["error"] <= row["budget"]:
            yield row | {"status": "wrong"}
            continue
        timing = time_call(
            lambda made=made: made(noise, labels), weight.device.type, budget_s=budget_s, cancelled=cancelled
        )
        row |= vars(timing)
        base = base or {"ms": timing.median_ms, "full": row["full_steps"]}
        speed_up, ideal = base["ms"] / timing.median_ms, base["full"] / row["full_steps"]
        yield row | {"speed_up": speed_up, "ideal": ideal, "of_ideal": speed_up / ideal}
        del made  # its caches and graphs, before the next one's


def threshold_for(model: DiT, run: SamplingRun, noise: torch.Tensor, labels: torch.Tensor, sampler: str) -> float:
    """The threshold with which about ``run.full`` steps are full: bisection, ten runs without graphs."""
    low, high = 0.0, 1.0
    best = (float("inf"), 0.5)
    for _ in range(10):
        middle = (low + high) / 2
        options = {**run.options, "threshold": middle}
        walk = _walk(Sampler(model, steps=run.steps, caching=run.caching, options=options, sampler=sampler,
                             cuda_graphs=False), noise, labels)  # fmt: skip
        *_, last = walk
        best = min(best, (abs(last["full"] - run.full), middle))
        low, high = (middle, high) if last["full"] > run.full else (low, middle)
    return best[1]


def _walk(sampler: Sampler, noise: torch.Tensor, labels: torch.Tensor) -> Iterator[dict[str, Any]]:
    full = 0.0
    for step in sampler.steps_of(noise, labels):
        full += step.share
        yield {"full": full, "cache_bytes": step.cache_bytes, "sum_bytes": step.sum_bytes, "images": step.sample}


def dit_xl_2(device: str) -> DiT:
    """DiT-XL/2 with random weights, bfloat16: 1.4 GB."""
    with torch.random.fork_rng(devices=[device] if device == "cuda" else []), torch.device(device):
        torch.manual_seed(0)
        return DiT(DIT_XL_2, start="random").to(torch.bfloat16).requires_grad_(False)


def record_sampling(device: str = "cuda", *, batch: int = 2, budget_s: float = 0.5) -> Iterator[dict[str, Any]]:
    """Make the recorded runs of DiT-XL/2 on this machine; yields the rows as they come.

    The weights are random, in bfloat16: times do not depend on them, and nothing is said about quality. After the last
    row all of them are written to ``workbench/recorded/sampling/dit_xl_2.json``, with the machine.
    """
    rows = []
    for row in sampling(dit_xl_2(device), sampling_runs(), batch=batch, budget_s=budget_s):
        rows.append({"network": "DiT-XL/2", **row})
        yield rows[-1]
    save(rows, RECORDED / "sampling" / "dit_xl_2.json", device)


def recorded_sampling() -> pd.DataFrame | None:
    """The runs of DiT-XL/2 that ship with the workbench, a row each, with the machine in ``.attrs["provenance"]``; None
    when there are none."""
    path = RECORDED / "sampling" / "dit_xl_2.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    table = pd.DataFrame(content["rows"])
    table.attrs["provenance"] = content["provenance"]
    return table
