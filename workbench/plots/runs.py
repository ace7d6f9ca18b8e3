"""Runs of two sides, step by step: curves that grow, and a strip of what each step was."""

from collections.abc import Mapping, Sequence

import numpy as np
from bokeh.core.properties import value
from bokeh.models import (
    ColumnDataSource,
    FactorRange,
    HoverTool,
    Label,
    LegendItem,
    NumeralTickFormatter,
    Range1d,
    Span,
)
from bokeh.plotting import figure

from workbench.plots.axes import spoken
from workbench.plots.looks import SIDES
from workbench.plots.style import FONT, INK, arrange, blank, legend_below, note, part, themed

LOOKS = {"A": ("solid", "circle"), "B": ("dashed", "square")}  # told apart without colour, and where they coincide
FORECAST_ALPHA = 0.15
COLUMNS = ("x", "side", "step", "kind", "color", "alpha", "more")

Curve = tuple[Sequence[float], Sequence[float]]


def run_curves(
    y_label: str,
    *,
    steps: int | None,
    x_label: str = "step",
    log_y: bool = False,
    share: bool = False,
    floor: tuple[float, str] | None = None,
    machine: str = "",
) -> figure:
    """An empty figure for one curve of A and one of B over steps 0 to ``steps``; ``update_run_curves`` fills it.

    The range of steps is fixed, so that nothing jumps while the curves grow; None lets it follow them. ``floor`` is
    (height, words) of a line that no curve can cross. ``share`` shows values from 0 to 1 as percent.
    """
    scale = "log" if log_y else "linear"
    fixed = {} if steps is None else {"x_range": Range1d(0, 1.015 * max(1, steps))}
    made = blank("", x_label, y_label, height=300, y_axis_type=scale, **fixed)
    if share:
        made.y_range = Range1d(0, 1.02)
        made.yaxis.formatter = NumeralTickFormatter(format="0%")
    # Something unseen that is always there: axes show before there is a curve, and those of a loss begin at zero.
    made.scatter([0, 0], [1e-3, 1e-2] if log_y else [0, 1], alpha=0, name="anchor")
    legend = legend_below(made)
    lines = []
    for side, color in SIDES.items():
        dash, marker = LOOKS[side]
        source = ColumnDataSource({"x": [], "y": []}, name=side)
        line = made.line("x", "y", source=source, line_color=color, line_width=2.5, line_dash=dash, name="curves")
        dots = made.scatter(
            "x", "y", source=source, marker=marker, size=5, line_color=color, fill_color=color, name="curves"
        )
        legend.items.append(LegendItem(label=side, renderers=[line, dots]))
        lines.append(dots)
    said = [(x_label, "@x{number}"), (y_label, "@y{number}")]
    made.add_tools(HoverTool(renderers=lines, tooltips=said, formatters=spoken("@x", "@y")))
    if floor is not None:
        add_floor(made, *floor)
    note(made, machine)
    return themed(made, "neutral")


def add_floor(made: figure, height: float, words: str) -> None:
    """A dotted line at a height that no curve can cross, with words that say why."""
    made.add_layout(Span(location=height, dimension="width", line_color=INK["neutral"], line_dash="dotted"))
    made.add_layout(
        Label(
            x=8, y=height, x_units="screen", text=words, text_baseline="bottom", text_font=FONT,
            text_font_size="12px", text_color=INK["neutral"], y_offset=2,
        )
    )  # fmt: skip


def update_run_curves(made: figure, curves: Mapping[str, Curve], names: Mapping[str, str] | None = None) -> None:
    """Show other curves, (steps, values) by side, in a figure made by ``run_curves``; a side without one is emptied.

    ``names`` are words for the legend beside the letters.
    """
    for side in SIDES:
        x, y = curves.get(side, ((), ()))
        source = next(each.data_source for each in made.renderers if each.data_source.name == side)
        if len(x) != len(source.data["x"]) or not np.array_equal(y, source.data["y"]):
            source.data = {"x": list(x), "y": list(y)}
    for item, side in zip(made.legend[0].items, SIDES, strict=True):
        words = f"{side}: {names[side]}" if names and names.get(side) else side
        if item.label.value != words:
            item.label = value(words)
    arrange(made.legend[0])


def timeline(steps: int) -> figure:
    """An empty strip of ``steps`` cells for A and for B; ``update_timeline`` fills it as a run goes on.

    A full cell was computed, a pale one was forecast, an outline is still to come.
    """
    made = blank(
        "", "sampling step, from noise to image", "", height=150, x_range=Range1d(0, steps),
        y_range=FactorRange("B", "A"),
    )  # fmt: skip
    cells = made.rect(
        "x", "side", width=0.82, height=0.62, fill_color="color", fill_alpha="alpha", line_color="color",
        line_alpha=0.75, line_width=1, source=ColumnDataSource(_cells({}, steps, {})), name="cells",
    )  # fmt: skip
    made.add_tools(HoverTool(renderers=[cells], tooltips=[("", "@side, step @step: @kind"), ("", "@more")]))
    made.grid.grid_line_color = None
    made.yaxis.axis_line_color = made.yaxis.major_tick_line_color = None
    made.yaxis.major_label_text_font_size = "14px"
    made.toolbar_location = None
    return themed(made, "neutral")


def update_timeline(
    made: figure,
    done: Mapping[str, Sequence[float]],
    steps: int,
    more: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """``done`` says for each side which of its steps so far were computed (1), forecast (0), or computed for a part of
    the samples; ``more`` is a line about each, for the pointer."""
    source = part(made, "cells").data_source
    data = _cells(done, steps, more or {})
    if any(not np.array_equal(data[name], source.data[name]) for name in ("x", "kind", "more")):
        source.data = data
    if made.x_range.end != steps:
        made.x_range.update(end=steps, reset_end=steps)


def _cells(done: Mapping[str, Sequence[float]], steps: int, more: Mapping[str, Sequence[str]]) -> dict[str, list]:
    rows = []
    for side, color in SIDES.items():
        shares, said = list(done.get(side, ()))[:steps], list(more.get(side, ()))
        for step in range(steps):
            share = shares[step] if step < len(shares) else None
            alpha, kind = 0.0, "to come"
            if share is not None:
                alpha = FORECAST_ALPHA + share * (1 - FORECAST_ALPHA)
                kind = "forecast" if share == 0 else "computed" + (f" for {100 * share:.0f} %" if share < 1 else "")
            ink = INK["neutral"] if share is None else color
            rows.append((step + 0.5, side, step + 1, kind, ink, alpha, said[step] if step < len(said) else ""))
    return {name: [row[place] for row in rows] for place, name in enumerate(COLUMNS)}
