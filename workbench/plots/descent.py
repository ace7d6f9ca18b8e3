"""Paths of optimisers over the contours of what they descend, and the curvature that each of them meets."""

from collections.abc import Mapping

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, LegendItem, Range1d, Span
from bokeh.palettes import linear_palette
from bokeh.plotting import figure

from workbench.models.descent import Path
from workbench.plots.looks import colors_of
from workbench.plots.runs import add_floor
from workbench.plots.style import INK, SEQUENTIAL, arrange, blank, legend_below, themed

LEVELS = 14


def contours(
    x: np.ndarray, y: np.ndarray, values: np.ndarray, seen: Mapping[str, np.ndarray], paths: Mapping[str, Path],
    *, x_label: str = "x", y_label: str = "y",
) -> figure:  # fmt: skip
    """A function as contours, values (len(y), len(x)), and over them the paths as ``seen`` on the plane, (steps, 2).

    Between two contours lies an equal part of the picture, so that a valley shows however deep it is. A path that
    diverged says so in the legend, and has a cross where it was last in the picture. ``update_contours`` draws the
    paths up to a step.
    """
    made = blank("", x_label, y_label, height=470, x_range=Range1d(x[0], x[-1]), y_range=Range1d(y[0], y[-1]))
    levels = np.unique(np.nanquantile(values[np.isfinite(values)], np.linspace(0, 1, LEVELS)))
    if len(levels) > 1:
        fill = linear_palette(SEQUENTIAL, LEVELS)[::-1]
        values = np.where(np.isfinite(values), values, np.nan)
        made.contour(x, y, values, levels, fill_color=fill, fill_alpha=0.28, line_color=INK["neutral"], line_alpha=0.4)
    legend = legend_below(made)
    for name, color in colors_of(paths).items():
        path, points = paths[name], seen[name]
        source = ColumnDataSource(_path(points, path, len(points) - 1), name=name)
        line = made.line("x", "y", source=source, line_color=color, line_width=2.5, name="paths")
        dots = made.scatter("x", "y", source=source, size=4, color=color, name="paths")
        at = ColumnDataSource(_now(made, points, len(points) - 1), name=f"{name}, now")
        marker = "circle" if path.diverged is None else "x"
        now = made.scatter("x", "y", source=at, size=11, marker=marker, line_color=color, line_width=3,
                           fill_color=color, name="now")  # fmt: skip
        label = name if path.diverged is None else f"{name}: diverges, step {path.diverged}"
        legend.items.append(LegendItem(label=label, renderers=[line, dots, now]))
        words = [("", name), ("step", "@step"), ("value", "@value{0.000000}")]
        made.add_tools(HoverTool(renderers=[dots], tooltips=words))
    arrange(legend)
    return themed(made, "neutral")


def update_contours(made: figure, seen: Mapping[str, np.ndarray], paths: Mapping[str, Path], step: int) -> None:
    """Draw the paths up to ``step`` in a figure made by ``contours``."""
    sources = {each.data_source.name: each.data_source for each in made.renderers if each.name in ("paths", "now")}
    for name, points in seen.items():
        last = min(step, len(points) - 1)
        sources[name].data = _path(points, paths[name], last)
        sources[f"{name}, now"].data = _now(made, points, last)


def spectrum(paths: Mapping[str, Path], *, limit: tuple[float, str] | None = None) -> figure:
    """The largest and the smallest eigenvalue of the Hessian along every path; a mark stands at the present step.

    ``limit`` is a height that matters, such as 2 / (learning rate), and words for it.
    """
    made = blank("", "step", "eigenvalue λ of the Hessian", height=470)
    legend = legend_below(made)
    dots = []
    for name, color in colors_of(paths).items():
        path, drawn = paths[name], []
        for place, word, dash in ((-1, "largest", "solid"), (0, "smallest", "dotted")):
            data = {"x": list(path.measured_at), "y": path.eigenvalues[:, place].numpy()}
            source = ColumnDataSource(data | {"which": [f"{name}, {word}"] * len(data["x"])}, name=f"{name}, {word}")
            drawn.append(made.line("x", "y", source=source, line_color=color, line_width=2.5, line_dash=dash))
            dots.append(made.scatter("x", "y", source=source, size=5, color=color))
        legend.items.append(LegendItem(label=name, renderers=[*drawn, *dots[-2:]]))
    made.add_tools(HoverTool(renderers=dots, tooltips=[("", "@which"), ("step", "@x"), ("eigenvalue", "@y{0.0000}")]))
    made.add_layout(Span(location=0, dimension="height", line_color=INK["neutral"], line_width=2, name="now"))
    made.title.text = "largest λ solid, smallest dotted"
    if limit is not None:
        add_floor(made, *limit)
    kept = [path.eigenvalues if path.came_down else path.eigenvalues[:1] for path in paths.values()]
    heights = np.concatenate([each[:, [0, -1]].numpy().ravel() for each in kept] + [[limit[0]] if limit else []])
    if np.isfinite(heights).any():  # a path that goes up does not move the axis
        low, high = np.nanmin(heights), np.nanmax(heights)
        room = 0.08 * ((high - low) or 1.0)
        made.y_range = Range1d(low - room, high + room)
    arrange(legend)
    return themed(made, "neutral")


def update_spectrum(made: figure, step: int) -> None:
    """Move the mark in a figure made by ``spectrum``."""
    made.select_one({"name": "now"}).location = step


def _path(points: np.ndarray, path: Path, last: int) -> dict[str, np.ndarray]:
    x, y = points[: last + 1].T
    return {"x": x, "y": y, "step": np.arange(last + 1), "value": path.values[: last + 1].numpy()}


def _now(made: figure, points: np.ndarray, last: int) -> dict[str, np.ndarray]:
    """Where a path stands at step ``last``, or was last inside the picture."""
    x, y = points[: last + 1].T
    inside = (x >= made.x_range.start) & (x <= made.x_range.end) & (y >= made.y_range.start) & (y <= made.y_range.end)
    at = np.flatnonzero(inside)[-1:]
    return {"x": x[at], "y": y[at]}


