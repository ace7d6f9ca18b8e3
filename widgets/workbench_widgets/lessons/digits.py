"""What the lessons on caching share: digits drawn with and without a cache from the same noise, and their pictures."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from bokeh.model import Model
from torch import Tensor

from workbench import measure, plots
from workbench.models.diffusion import Quality, Recorded, Sampler, Step, quality, record, sample
from workbench.models.dit import DiT, pretrained
from workbench_widgets import page

STEPS = 50
ERROR = "error of a pixel (white − black = 2)"


@dataclass(frozen=True, eq=False)
class Digits:
    """The trained network on a device, noise and labels to start from, and what it draws without a cache.

    ``labels`` is (count,), or (steps, count) where they change on the way; ``wanted`` are those at the end.
    """

    model: DiT
    noise: Tensor
    labels: Tensor
    uncached: Tensor
    steps: int = STEPS

    @property
    def wanted(self) -> Tensor:
        return self.labels[-1] if self.labels.ndim == 2 else self.labels

    def draw(self, caching: str = "none", *, steps: int | None = None, **options: Any) -> Tensor:
        """Digits from the same noise, with that cache or that number of steps."""
        return _drawn(self, caching, steps or self.steps, tuple(sorted(options.items())))

    def walk(self, caching: str = "none", *, record_error: bool = False, **options: Any) -> list[Step]:
        """The same, step by step."""
        settings = {"steps": self.steps, "caching": caching, "options": options, "record_error": record_error}
        return list(sample(self.model, self.noise, self.labels, **settings))

    def judge(self, images: Tensor) -> Quality:
        """How good they are, beside the uncached ones."""
        return quality(images, self.wanted, self.uncached)

    def decibels(self, caching: str = "none", *, steps: int | None = None, **options: Any) -> float:
        """Nearness to the uncached digits."""
        return self.judge(self.draw(caching, steps=steps, **options)).psnr_db

    def few(self, count: int) -> "Digits":
        """The first of them."""
        parts = (self.noise[:count], self.labels[..., :count], self.uncached[:count])
        return Digits(self.model, *parts, steps=self.steps)


@functools.cache
def digits(count: int, device: str = "cpu", *, steps: int = STEPS, switch_at: int | None = None) -> Digits:
    """``count`` digits from seeded noise, 0 to 9 in turn. ``switch_at``: from that step on another label is asked for,
    3 further on."""
    model = _model(device)
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(device)
    labels = torch.arange(count, device=device) % 10
    if switch_at is not None:
        labels = torch.cat((labels.expand(switch_at, -1), ((labels + 3) % 10).expand(steps - switch_at, -1)))
    return Digits(model, noise, labels, Sampler(model, steps=steps)(noise, labels), steps)


@functools.cache  # what two cells of a lesson look at is drawn once
def _drawn(digits: Digits, caching: str, steps: int, options: tuple[tuple[str, Any], ...]) -> Tensor:
    sampler = Sampler(digits.model, steps=steps, caching=caching, options=dict(options))
    return sampler(digits.noise, digits.labels)


@functools.cache
def _model(device: str) -> DiT:
    return pretrained().to(device)


@functools.cache
def features(count: int = 4) -> Recorded:
    """Every feature of an uncached run that draws ``count`` digits, on the CPU."""
    few = digits(count)
    return record(few.model, few.noise, few.labels)


def side_by_side(rows: Mapping[str, Tensor], columns: int = 10) -> Model:
    """Digits drawn in several ways, a row each, named in the caption's order."""
    return _narrow(plots.image_grid(torch.cat([images[:columns] for images in rows.values()]).cpu().numpy(),
                                    columns=columns))  # fmt: skip


def differences(images: Tensor, truth: Tensor, columns: int = 10, size: float = 0.5) -> Model:
    """What is wrong with digits, pixel by pixel; the strongest colour at ``size`` (the whole range is 2)."""
    return _narrow(plots.image_grid((images - truth)[:columns].cpu().numpy(), columns=columns, signed=size))


def _narrow(figure: Model) -> Model:
    figure.max_width = 700
    return figure


def rms_error(decibels: float) -> float:
    """The error of a pixel, of a range from -1 to 1, that goes with a nearness (PSNR) in decibels: its root mean
    square, and over several samples the geometric mean of theirs."""
    return 2 * 10 ** (-decibels / 20)


def sampling_table(caching: Sequence[str]) -> str:
    """The recorded runs of DiT-XL/2 with these caches (and without), as a table, or a note that there are none."""
    frame = measure.recorded_sampling()
    if frame is None:
        return '<div class="wb-box">No whole sampling run was recorded on a GPU yet.</div>'
    rows = []
    for row in frame[frame["caching"].isin(["none", *caching]) & (frame["status"] == "ok")].to_dict("records"):
        known = {name: row.get(name) for name in ("interval", "order", "order_first", "threshold")}
        options = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in known.items() if _given(value))
        name = f"{row['steps']} steps" if row["caching"] == "none" else row["caching"].replace("_", " ")
        rows.append(
            (name, options, f"{row['full_steps']:.0f}", f"{row['median_ms']:.1f}", f"{row['speed_up']:.2f}",
             f"{row['ideal']:.2f}", f"{row['of_ideal']:.0%}", f"{row['cache_bytes'] / 2**20:.0f}")
        )  # fmt: skip
    heads = ("", "", "full steps", "ms", "× faster", "× fewer calls", "of that", "cache (MiB)")
    where = page.escape("recorded on " + measure.machine_line(frame.attrs["provenance"]))
    return page.table_html(heads, rows, where)


def share_of_saving(caching: str, *, full: int | None = None, **options: Any) -> float:
    """How much of the saving in network calls arrives as time: DiT-XL/2, measured here, on a GPU; NaN where the result
    was wrong. ``full`` sets the threshold of a gate."""
    run = measure.SamplingRun(caching=caching, options=options, full=full)
    *_, row = measure.sampling(measure.dit_xl_2("cuda"), [measure.SamplingRun(), run])
    return row.get("of_ideal", float("nan"))


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and np.isnan(value))
