"""How a lesson begins: on which device, at which size, and with BokehJS on the page."""

from dataclasses import dataclass
from typing import Any

import torch

from workbench import measure
from workbench_widgets import page

SCALES = {
    "ci": "as small as it can be, to test the notebook itself",
    "laptop": "about a minute on a laptop",
    "gpu": "the real sizes",
}


@dataclass(frozen=True)
class Session:
    """The device and the scale of one run of a notebook."""

    device: str
    scale: str

    def pick(self, *, ci: Any, laptop: Any, gpu: Any = ...) -> Any:
        """The value for this scale; ``gpu`` is as ``laptop`` unless given."""
        return {"ci": ci, "laptop": laptop, "gpu": laptop if gpu is ... else gpu}[self.scale]


def begin(device: str = "auto", scale: str = "laptop") -> Session:
    """Say where and how large this notebook runs. Raises ``ValueError`` for a device or scale that there is not."""
    if scale not in SCALES:
        raise ValueError(f"scale = {scale!r} is not allowed: choose {', '.join(SCALES)}.")
    device = measure.pick_device(device)
    if scale == "gpu" and device != "cuda":
        raise ValueError("scale = 'gpu' needs a CUDA device, and there is none here: choose 'laptop' or 'ci'.")
    if scale == "ci":
        # The calls are tiny, and a busy machine makes threads wait for each other.
        torch.set_num_threads(1)
    page.load_bokeh()
    where = page.escape(measure.machine_line(measure.machine(device)))
    page.show_html(
        f'<div class="wb-box">This notebook runs on <b>{device}</b> ({where}) '
        f"at scale <b>{scale}</b>: {SCALES[scale]}.</div>"
    )
    return Session(device, scale)
