"""Optimisers on their way down: paths over contours step by step, and the curvature that they meet beside it."""

from collections.abc import Mapping, Sequence

import ipywidgets
import torch
from bokeh.models import Row
from jupyter_bokeh.widgets import BokehModel
from torch import Tensor

from workbench.models import descent as model
from workbench.plots import descent as plots
from workbench.plots.cells import short
from workbench_widgets import page

RESOLUTION = 60  # places along a side of the picture, at each of which the function is called


class Descent(page.WithStill):
    """Made by ``descent``: ``paths`` by contestant, a slider over the steps, contours and spectrum."""

    def __init__(
        self, function: model.Function, paths: Mapping[str, model.Path], plane: model.Plane,
        window: Sequence[tuple[float, float]] | None, resolution: int, limit: tuple[float, str] | None,
        labels: tuple[str, str], caption: str,
    ) -> None:  # fmt: skip
        self.paths = dict(paths)
        self._seen = {name: plane.on(path.points).numpy() for name, path in paths.items()}
        ends = window or model.window(paths, plane)
        x, y = (torch.linspace(*each, resolution, dtype=torch.float64) for each in ends)
        values = plane.values(function, x, y).numpy()

        def figures() -> list:
            drawn = {"x_label": labels[0], "y_label": labels[1]}
            made = plots.contours(x.numpy(), y.numpy(), values, self._seen, self.paths, **drawn)
            return [made, plots.spectrum(self.paths, limit=limit)]

        def beside(pair: list) -> Row:
            pair[0].min_width = pair[1].min_width = 300
            return Row(children=pair, sizing_mode="stretch_width", styles={"flex-wrap": "wrap"})

        last = max(len(path.points) for path in paths.values()) - 1
        self.figures = figures()
        self._step = ipywidgets.IntSlider(last, 0, last, description="step", layout={"width": "30em"})
        self._play = ipywidgets.Play(value=last, min=0, max=last, interval=120, show_repeat=False)
        ipywidgets.jslink((self._play, "value"), (self._step, "value"))
        self._step.observe(lambda _: self._draw(), "value")
        self._said = ipywidgets.HTML()
        row = ipywidgets.HBox([self._play, self._step], layout={"flex_flow": "row wrap"})
        below = ipywidgets.HTML(page.caption_html(caption))
        self._draw()
        self.live = ipywidgets.VBox([row, BokehModel(beside(self.figures)), self._said, below])
        self.still = page.figures_html([beside(figures())]) + self._said.value + page.caption_html(caption)

    @property
    def step(self) -> int:
        """Up to which step the paths are drawn."""
        return self._step.value

    @step.setter
    def step(self, step: int) -> None:
        self._step.value = step

    def _draw(self) -> None:
        plots.update_contours(self.figures[0], self._seen, self.paths, self.step)
        plots.update_spectrum(self.figures[1], self.step)
        self._said.value = self._table()

    def _table(self) -> str:
        """Where each stands at the present step."""
        rows = []
        for name, path in self.paths.items():
            last = min(self.step, len(path.points) - 1)
            near = max(at for at in range(len(path.measured_at)) if path.measured_at[at] <= last)
            curved = path.eigenvalues[near]
            gone = path.diverged is not None and self.step >= path.diverged
            word = f"diverged at step {path.diverged}" if gone else f"step {last}"
            word += ", higher than at the start" if not gone and path.values[last] > path.values[0] else ""
            numbers = (path.values[last], curved[-1], curved[0])
            rows.append((page.escape(name), word, *(short(float(number)) for number in numbers)))
        heads = ("", "where", "value", "largest λ", "smallest λ")
        return page.table_html(heads, rows)


def descent(
    function: model.Function,
    contestants: Mapping[str, model.Make],
    start: Tensor | Sequence[float],
    *,
    steps: int = 60,
    walks: Mapping[str, model.Walk] | None = None,
    directions: Sequence[Tensor] | None = None,
    origin: Tensor | None = None,
    window: Sequence[tuple[float, float]] | None = None,
    limit: tuple[float, str] | None = None,
    labels: tuple[str, str] = ("x", "y"),
    resolution: int = RESOLUTION,
    caption: str = "",
) -> Descent:
    """Watch optimisers come down ``function``, which takes a point (n,) to a number, from ``start`` (n,) on.

    contestants  optimisers by name, each made of a list with one tensor: ``lambda p: torch.optim.SGD(p, lr=0.1)``
    walks        others by name, that yield the points after the start: ``walk(function, start)``
    directions   two directions (n,) of the plane that is drawn, through ``origin`` (default: the start); they may be
                 left out for n = 2
    window       ((left, right), (low, high)) of the picture on the plane (default: it holds the paths that come down)
    limit        a height in the spectrum that matters, and its words: ``(2 / rate, "2 / learning rate")``

    A path that diverges ends where it was last finite, and does not move the axes. Work is bounded: 1000 steps, 64
    numbers a point, ``resolution`` squared calls for the contours. Raises ``ValueError`` beyond that, for a function
    that gives no number, and where there is no contestant or no plane.
    """
    start = torch.as_tensor(start, dtype=torch.float64)
    walks = walks or {}
    if not contestants and not walks:
        raise ValueError("A descent needs a contestant.")
    if not 2 <= resolution <= 200:
        raise ValueError(f"resolution = {resolution} is not allowed: choose 2 to 200.")
    if directions is None and len(start) != 2:
        raise ValueError(f"Two directions are needed to draw a function of {len(start)} numbers.")
    paths = {name: model.descend(function, make, start, steps) for name, make in contestants.items()}
    paths |= {name: model.follow(function, walk, start, steps) for name, walk in walks.items()}
    if directions is None:
        plane = model.Plane(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    else:
        plane = model.Plane.of(start if origin is None else origin, directions)
    return Descent(function, paths, plane, window, resolution, limit, labels, caption)
