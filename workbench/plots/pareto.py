"""A cloud of choices between two costs: those on the Pareto front stand out, with the stairs of what they dominate."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, HoverTool, LabelSet, LegendItem
from bokeh.plotting import figure

from workbench.measure.pareto import Better, pareto_front
from workbench.plots.looks import MARKERS, colors_of
from workbench.plots.style import FONT, INK, arrange, blank, legend_below, note, part, themed

MOST_NAMES = 7  # of the front: more would cover one another
PALE = 0.28


def pareto_cloud(
    points: pd.DataFrame,
    x: str,
    y: str,
    better: Mapping[str, Better],
    *,
    name: str = "name",
    group: str | None = None,
    labels: Mapping[str, str] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    machine: str = "",
) -> figure:
    """The points (rows) over their columns ``x`` and ``y``; ``better`` says of each whether "less" or "more" is better.

    What another point dominates is pale. ``name`` is a column whose words stand beside the points of the front, and
    ``group`` one that they are coloured by; ``labels`` are the words of the axes. Rows without a number in ``x`` or
    ``y`` are left out.
    """
    scales = {"x_axis_type": "log" if log_x else "linear", "y_axis_type": "log" if log_y else "linear"}
    made = blank("", "", "", height=380, **scales)
    made.x_range.range_padding = made.y_range.range_padding = 0.15  # for the names
    legend_below(made)
    made.step(
        "x", "y", mode="after", line_color=INK["neutral"], line_width=2, name="front",
        source=ColumnDataSource({"x": [], "y": []}),
    )  # fmt: skip
    names = ColumnDataSource({"x": [], "y": [], "name": []}, name="names")
    made.add_layout(
        LabelSet(x="x", y="y", text="name", source=names, x_offset=8, y_offset=5, text_font_size="11px",
                 text_font=FONT, text_color=INK["neutral"], name="names")
    )  # fmt: skip
    note(made, machine)
    update_pareto_cloud(made, points, x, y, better, name=name, group=group, labels=labels)
    return made


def update_pareto_cloud(
    made: figure,
    points: pd.DataFrame,
    x: str,
    y: str,
    better: Mapping[str, Better],
    *,
    name: str = "name",
    group: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Show more points, or others, in a figure made by ``pareto_cloud``; its axes stay linear or logarithmic."""
    points = points[points[x].notna() & points[y].notna()]
    across, up = points[x].to_numpy(dtype=float), points[y].to_numpy(dtype=float)
    on_front = pareto_front(np.column_stack([across, up]), (better[x], better[y]))
    nothing = np.array([""] * len(points))
    named, groups = (points[each].astype(str).to_numpy() if each in points else nothing for each in (name, group))
    words = {column: (labels or {}).get(column, column.replace("_", " ")) for column in (x, y)}
    made.xaxis.axis_label, made.yaxis.axis_label = (f"{words[each]}: {better[each]} is better" for each in (x, y))

    items = []
    for index, (label, color) in enumerate(colors_of(dict.fromkeys(groups)).items()):
        own = groups == label
        data = {
            "x": across[own], "y": up[own], "name": named[own], "group": groups[own],
            "alpha": np.where(on_front[own], 1.0, PALE), "size": np.where(on_front[own], 11, 8),
            "said": np.where(on_front[own], "on the front", "dominated"),
        }  # fmt: skip
        dots = part(made, f"points: {label}")
        if dots is None:
            dots = made.scatter(
                "x", "y", size="size", marker=MARKERS[index % len(MARKERS)], fill_color=color, line_color=color,
                fill_alpha="alpha", line_alpha="alpha", source=ColumnDataSource(data), name=f"points: {label}",
            )  # fmt: skip
            shown = [("", "@name @group"), (words[x], "@x{0,0.####}"), (words[y], "@y{0,0.####}"), ("", "@said")]
            made.add_tools(HoverTool(renderers=[dots], tooltips=shown))
        else:
            dots.data_source.data = data
        # A legend entry looks like one of its points: like one of the front, if there is one.
        items.append(LegendItem(label=label, renderers=[dots], index=int(on_front[own].argmax())))
    for dots in made.renderers:
        if dots.name.startswith("points: ") and dots.name.removeprefix("points: ") not in groups:
            dots.data_source.data = {column: [] for column in dots.data_source.data}
    made.legend[0].items = items if group else []
    made.legend[0].visible = bool(group)
    arrange(made.legend[0])
    _front(made, across[on_front], up[on_front], named[on_front], better[x])
    themed(made, "neutral")


def _front(made: figure, across: np.ndarray, up: np.ndarray, named: np.ndarray, better: Better) -> None:
    """The stairs: from the best on the horizontal axis on, level until the next point of the front."""
    order = np.lexsort((up, across if better == "less" else -across))
    across, up, named = across[order], up[order], named[order]
    part(made, "front").data_source.data = {"x": across, "y": up}
    few = len(across) <= MOST_NAMES
    labels = next(each for each in made.center if each.name == "names")
    labels.source.data = {"x": across, "y": up, "name": named} if few else {"x": [], "y": [], "name": []}
