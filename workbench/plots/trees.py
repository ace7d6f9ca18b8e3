"""A tree over the tokens of a map: brackets above it, and the groups as frames along its diagonal."""

from collections.abc import Sequence

import numpy as np
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from workbench.plots.style import INK, part

Group = tuple[int, int, int]
"""The first token of a group, the token after its last, and its height: 1 for a group of tokens, 2 above that ..."""

LEVEL = 0.045  # of the map's side, for each level of brackets
MOST = 0.2  # of the map's side, for all of them


def add_tree(made: figure) -> None:
    """The two glyphs, empty, in a figure that shows a matrix."""
    made.multi_line(
        "xs", "ys", line_color=INK["neutral"], line_width=1.5, line_join="round", name="brackets",
        source=ColumnDataSource({"xs": [], "ys": []}),
    )  # fmt: skip
    made.quad(
        "left", "right", "top", "bottom", fill_color=None, line_color="#FFFFFF", line_alpha=0.75, line_width=1.25,
        source=ColumnDataSource({name: [] for name in ("left", "right", "top", "bottom")}), name="frames",
    )  # fmt: skip


def show_tree(made: figure, groups: Sequence[Group], width: int, height: int, levels: int | None = None) -> float:
    """Draw the groups over a map of that size; the room that the brackets take above it, in rows.

    ``levels`` is how many levels of brackets there is room for (default: as many as there are).
    """
    tallest = max((group[2] for group in groups), default=0) if levels is None else levels
    room = height * min(MOST, LEVEL * (tallest + 0.5)) if tallest else 0.0
    step, foot = room / (tallest + 0.5) if tallest else 0.0, 0.35
    xs, ys = [], []
    for first, after, level in groups:
        left, right, top = first + 0.12, after - 0.12, -step * level
        xs.append([left, left, right, right])
        ys.append([top + foot * step, top, top, top + foot * step])
    brackets = part(made, "brackets").data_source
    if brackets.data["xs"] == xs and brackets.data["ys"] == ys:
        return room  # nothing for a page to draw anew
    brackets.data = {"xs": xs, "ys": ys}
    framed = np.array([group[:2] for group in groups if 1 < group[1] - group[0] < width]).reshape(-1, 2)
    part(made, "frames").data_source.data = {
        "left": framed[:, 0], "right": framed[:, 1], "top": framed[:, 0], "bottom": framed[:, 1]
    }  # fmt: skip
    return room
