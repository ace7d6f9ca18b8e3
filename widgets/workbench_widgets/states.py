"""A state over time, the state at one moment, and the mixing map that it implies, with one pointer."""

from collections.abc import Callable
from typing import Any

import ipywidgets
import numpy as np
import torch
from jupyter_bokeh.widgets import BokehModel
from torch import Tensor

from workbench import plots
from workbench.plots.cells import as_array
from workbench_widgets import page


class StateOverTime(page.WithStill):
    """Made by ``state_over_time``: a slider over time; the mouse moves the pointer too, also in the still."""

    def __init__(self, states: np.ndarray, mixing: np.ndarray | None, time: int, caption: str, words: dict) -> None:
        def picture() -> plots.StatePicture:
            return plots.state_over_time(states, mixing, time=time, **words)

        self.picture = picture()
        last, what = len(states) - 1, self.picture.what
        self._time = ipywidgets.IntSlider(time, 0, last, description=what, layout={"width": "30em"})
        self._play = ipywidgets.Play(value=time, min=0, max=last, interval=400, show_repeat=False)
        ipywidgets.jslink((self._play, "value"), (self._time, "value"))
        self._time.observe(lambda _: self.picture.point(self._time.value), "value")
        row = ipywidgets.HBox([self._play, self._time], layout={"flex_flow": "row wrap"})
        below = ipywidgets.HTML(page.caption_html(caption))
        self.live = ipywidgets.VBox([row, BokehModel(self.picture.layout), below])
        self.still = page.figures_html([picture().layout]) + page.caption_html(caption)

    @property
    def time(self) -> int:
        """Where the pointer stands."""
        return self._time.value

    @time.setter
    def time(self, time: int) -> None:
        self._time.value = time


def state_over_time(
    states: Any, mixing: Any = None, *, time: int | None = None, caption: str = "", **words: Any
) -> StateOverTime:
    """Look at a state while time goes by.

    states  (time, channels) or (time, rows, columns): tensors or arrays
    mixing  (time, sources): row t says what the output at t is mixed of; ``implied_map`` makes it of a function
    time    where the pointer stands at first (default: the middle)
    words   ``name`` of what is shown, ``channels``, ``what`` a moment is ("step", "token"), ``mixes``, and ``marks`` of
            some moments with what is ``marked`` by them, and ``strongest``, as ``plots.state_over_time`` takes them

    Raises ``ValueError`` for shapes that do not fit together, and for a moment that there is not.
    """
    states = as_array(states)
    mixing = None if mixing is None else as_array(mixing)
    time = len(states) // 2 if time is None else time
    if not 0 <= time < max(len(states), 1):
        raise ValueError(f"There is no moment {time}: the last one is {len(states) - 1}.")
    return StateOverTime(states, mixing, time, caption, words)


@torch.no_grad()
def implied_map(mix: Callable[[Tensor], Tensor], tokens: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """The map (tokens, tokens) that a linear way of mixing tokens implies: unit vectors sent through the real path.

    ``mix`` takes values (tokens, width) to outputs (tokens, width). Raises ``ValueError`` where it is not linear: then
    there is no such map.
    """
    unit = torch.eye(tokens, dtype=dtype)
    map = mix(unit)
    probe = torch.randn(tokens, tokens, generator=torch.Generator().manual_seed(0), dtype=dtype)
    if map.shape != (tokens, tokens) or not torch.allclose(mix(probe), map @ probe, rtol=1e-4, atol=1e-6):
        raise ValueError("What this gives is not linear in the values: no map of tokens stands for it.")
    return map
