"""Measurements and functions as lines, dots and bars."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from bokeh.core.properties import value
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LegendItem,
    LogScale,
    Span,
)
from bokeh.plotting import figure

from workbench.measure.roofline import Ceilings
from workbench.plots.axes import log_ticker, spoken
from workbench.plots.lines import Line, axis, empty, lines, looks, provenance
from workbench.plots.looks import PALETTE, Look, colors_of
from workbench.plots.style import FONT, INK, arrange, blank, legend_below, note, part, themed
from workbench.writing import number, quantity

MOST_TICKS = 8  # measured sizes that are written at the axis
ENDS = "ends"


def curves(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    group: str | Sequence[str],
    log_x: bool = True,
    log_y: bool = True,
    recorded: pd.DataFrame | None = None,
    machine: str = "",
    x_label: str = "",
    y_label: str = "",
) -> figure:
    """One line a group over column ``x``: the median, with the band from the 20th to the 80th percentile.

    ``group`` is a column, or several whose values are joined. Rows without a number in ``y`` (too large, wrong ...) are
    left out. Colour is the method, dash and marker the implementation. ``recorded`` are measurements of other machines:
    thin and hollow; the small print says when and where they were made, in which dtype and shape. ``machine`` is the
    small print for ``frame``. Where there are more lines than colours that are easily told apart, they are numbered.
    """
    scales = {"x_axis_type": "log" if log_x else "linear", "y_axis_type": "log" if log_y else "linear"}
    made = blank("", x_label or axis(x)[0], y_label or axis(y)[0], height=340, **scales)
    legend_below(made)
    made.text(
        "x", "y", "text", x_offset=7, y_offset=1, text_baseline="middle", text_font_size="12px", text_color="color",
        text_font=value(FONT), source=ColumnDataSource({"x": [], "y": [], "text": [], "color": []}), name=ENDS,
    )  # fmt: skip
    note(made, machine, "here")
    note(made, "", "recorded")
    update_curves(made, frame, x, y, group=group, recorded=recorded)
    return themed(made, "neutral")


def update_curves(
    made: figure,
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    group: str | Sequence[str],
    recorded: pd.DataFrame | None = None,
) -> None:
    """Show other rows in a figure made by ``curves`` (same ``x`` and ``y``): lines are replaced, added and emptied."""
    elsewhere = [] if recorded is None else lines(recorded, x, y, group, recorded=True)
    shown = [*lines(frame, x, y, group), *elsewhere]
    look = looks(shown, group)
    sources = {each.data_source.name: each.data_source for each in made.renderers if each.name == "lines"}
    for name in sources.keys() - {line.name for line in shown}:
        if len(sources[name].data["x"]):
            sources[name].data = empty(sources[name].data)
    for line in shown:
        source = sources.get(line.name)
        if source is None:
            _draw_line(made, line, look[line.label])
        elif not line.shows(source.data):  # a page draws again whatever it is told, changed or not
            source.data = dict(line.data)
    numbers = _numbers(list(look))
    _name(made, shown, numbers)
    _mark_ends(made, shown, look, numbers)
    _mark_sizes(made, sorted({place for line in shown for place in line.data["x"]}))
    note(made, "" if recorded is None else "\n".join(provenance(recorded)), "recorded")


def _numbers(names: Sequence[str]) -> dict[str, str]:
    """What stands before each name and at the end of its line: a number where there are many, else nothing."""
    return {name: str(place) if len(names) > len(PALETTE) else "" for place, name in enumerate(names, 1)}


def _name(made: figure, shown: Sequence[Line], numbers: Mapping[str, str]) -> None:
    """One entry of the legend for each name."""
    names = {line.name: line.label for line in shown}
    drawn: dict[str, list] = {label: [] for label in numbers}
    for each in made.renderers:
        if (label := names.get(each.data_source.name)) is not None:
            drawn[label].append(each)
    items = [(f"{numbers[label]} {label}".strip(), renderers) for label, renderers in drawn.items()]
    legend = made.legend[0]
    if items != [(item.label.value, item.renderers) for item in legend.items]:
        legend.items = [LegendItem(label=label, renderers=renderers) for label, renderers in items]
        arrange(legend)


def _mark_ends(made: figure, shown: Sequence[Line], look: Mapping[str, Look], numbers: Mapping[str, str]) -> None:
    ends = [line for line in shown if numbers[line.label] and len(line.data["x"])]
    data = {
        "x": [float(line.data["x"][-1]) for line in ends],
        "y": [float(line.data["y"][-1]) for line in ends],
        "text": [numbers[line.label] for line in ends],
        "color": [look[line.label].color for line in ends],
    }
    source = part(made, ENDS).data_source
    if data != source.data:
        source.data = data


def _mark_sizes(made: figure, places: Sequence[float]) -> None:
    """Ticks where something was measured, while there are few such places."""
    x_axis = made.xaxis[0]
    words = {place: number(int(place)) for place in places if place == int(place)}
    if 0 < len(places) <= MOST_TICKS and x_axis.major_label_overrides != words:
        x_axis.ticker = FixedTicker(ticks=places)
        x_axis.major_label_overrides = words
    elif len(places) > MOST_TICKS and isinstance(x_axis.ticker, FixedTicker):  # the lines have grown since
        x_axis.ticker = log_ticker() if isinstance(made.x_scale, LogScale) else BasicTicker()
        x_axis.major_label_overrides = {}


def roofline(frame: pd.DataFrame, ceilings: Ceilings | Mapping[str, float], *, group: str | Sequence[str]) -> figure:
    """Measured rates under the machine's limits: a dot a row at (FLOPs per byte, TFLOP/s), log-log.

    The slope is the copy rate of the machine, the flat part its matrix rate, both measured.
    """
    limits = ceilings if isinstance(ceilings, Mapping) else vars(ceilings)
    bandwidth, peak = limits["bytes_per_s"], limits["flops_per_s"]
    rows = frame[frame["tflops_per_s"].notna() & (frame["bytes"] > 0)]
    intensity = rows["flops"] / rows["bytes"]
    ridge = peak / bandwidth
    low, high = min(intensity.min(), ridge) / 4, max(intensity.max(), ridge) * 4
    low, high = (low, high) if np.isfinite([low, high]).all() else (ridge / 64, ridge * 64)

    made = blank("", "FLOPs per byte moved", "TFLOP/s", height=340, x_axis_type="log", y_axis_type="log")
    roof_x = np.array([low, ridge, high])
    roof_y = np.minimum(roof_x * bandwidth, peak) / 1e12
    made.y_range.end = 2 * peak / 1e12
    made.line(roof_x, roof_y, line_color=INK["neutral"], line_width=2)
    limits_in_words = {
        "x": roof_x[[0, 2]],
        "y": roof_y[[0, 2]],
        "text": [f"copy: {quantity(bandwidth / 1e9, 'GB/s')}", f"matrix product: {quantity(peak / 1e12, 'TFLOP/s')}"],
        "align": ["left", "right"],
        "aside": [26, 0],
    }
    made.text(
        "x", "y", "text", text_align="align", x_offset="aside", y_offset=-4, text_baseline="bottom",
        text_color=INK["neutral"], text_font_size="12px", text_font=value(FONT),
        source=ColumnDataSource(limits_in_words),
    )  # fmt: skip
    legend = legend_below(made)
    shown = lines(rows, "size", "tflops_per_s", group)
    look = looks(shown, group)
    for line in shown:
        rows = line.rows
        data = {"x": rows["flops"] / rows["bytes"], "y": rows["tflops_per_s"], "size": rows["size"]}
        data |= {"fraction": rows["roofline"], "label": line.data["label"], "settings": line.data["settings"]}
        dots = made.scatter(
            "x", "y", size=9, marker=look[line.label].marker, color=look[line.label].color, alpha=0.9,
            source=ColumnDataSource(data, name=line.label), name="dots",
        )  # fmt: skip
        legend.items.append(LegendItem(label=line.label, renderers=[dots]))
    arrange(legend)
    words = [("", "@label"), ("size", "@size"), ("rate", "@y{number} TFLOP/s"), ("of the limit", "@fraction{0.0%}")]
    words.append(("", "@settings"))
    dots = list(made.select({"name": "dots"}))
    made.add_tools(HoverTool(renderers=dots, tooltips=words, formatters=spoken("@y")))
    return themed(made, "neutral")


def functions(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, x_label="input", y_label="output") -> figure:
    """Functions of one variable by name, as (x, y); zero lines in the background."""
    made = blank("", x_label, y_label, height=340)
    legend = legend_below(made)
    for dimension in ("width", "height"):
        made.add_layout(Span(location=0, dimension=dimension, line_color=INK["neutral"], line_alpha=0.5))
    for name, color in colors_of(curves).items():
        source = ColumnDataSource({"x": curves[name][0], "y": curves[name][1]}, name=name)
        line = made.line("x", "y", source=source, line_color=color, line_width=2.5, name="functions")
        legend.items.append(LegendItem(label=name, renderers=[line]))
    arrange(legend)
    renderers = list(made.select({"name": "functions"}))
    words = [(x_label, "@x{number}"), (y_label, "@y{number}")]
    made.add_tools(HoverTool(renderers=renderers, tooltips=words, formatters=spoken("@x", "@y")))
    return themed(made, "neutral")


def bars(labels: Sequence[str], values: Sequence[float], unit: str, *, machine: str = "") -> figure:
    """One horizontal bar a label, its value written at the end. Values below zero are not for bars: ``ValueError``."""
    if any(not each >= 0 for each in values):
        raise ValueError(f"Bars show numbers from 0 on, not {list(values)}.")
    made = blank("", unit, "", height=80 + 34 * len(labels), y_range=list(reversed(labels)))
    colors = colors_of(labels)
    made.hbar(y=list(labels), right=list(values), height=0.7, color=[colors[label] for label in labels], alpha=0.9)
    words = [number(float(each)) for each in values]
    made.text(
        "x", "y", "text", x_offset=6, text_baseline="middle", text_color=INK["neutral"], text_font_size="12px",
        text_font=value(FONT), source=ColumnDataSource({"x": list(values), "y": list(labels), "text": words}),
    )  # fmt: skip
    made.x_range.start, made.x_range.end = 0, max([*values, 1e-12]) * 1.15
    made.ygrid.grid_line_color = None
    note(made, machine)
    return themed(made, "neutral")


def _draw_line(made: figure, line: Line, look: Look) -> None:
    hollow = line.recorded
    source = ColumnDataSource(dict(line.data), name=line.name)
    made.varea("x", "low", "high", source=source, fill_color=look.color, fill_alpha=0.08 if hollow else 0.18)
    made.line(
        "x", "y", source=source, line_color=look.color, line_width=1.4 if hollow else 2.5, line_dash=list(look.dash),
        line_alpha=0.8 if hollow else 1, name="lines",
    )  # fmt: skip
    dots = made.scatter(
        "x", "y", source=source, marker=look.marker, size=8, line_color=look.color, line_width=1.6,
        fill_color=look.color, fill_alpha=0 if hollow else 1,
    )  # fmt: skip
    words = [
        ("", "@label"), (made.xaxis[0].axis_label, "@x{number}"), (made.yaxis[0].axis_label, "@y{number}"),
        ("20 % to 80 %", "@low{number} to @high{number}"), ("repeats", "@repeats"), ("", "@settings"), ("", "@where"),
    ]  # fmt: skip
    made.add_tools(HoverTool(renderers=[dots], tooltips=words, formatters=spoken("@x", "@y", "@low", "@high")))
