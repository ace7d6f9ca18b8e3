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
    LogTicker,
    Span,
)
from bokeh.plotting import figure

from workbench.measure.records import machine_line
from workbench.measure.roofline import Ceilings
from workbench.plots.style import FONT, INK, MARKERS, arrange, blank, colors_of, legend_below, note, themed

AXES = {
    "median_ms": ("time of one call (ms)", 1.0),
    "peak_bytes": ("peak memory (MiB)", 2.0**20),
    "tflops_per_s": ("throughput (TFLOP/s)", 1.0),
    "gb_per_s": ("memory traffic (GB/s)", 1.0),
    "roofline": ("fraction of this machine's limit", 1.0),
    "error": ("relative error", 1.0),
    "tokens": ("tokens", 1.0),
    "size": ("size", 1.0),
}
RATES = ("tflops_per_s", "gb_per_s", "roofline")  # larger when the time is smaller


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
) -> figure:
    """One line a group over column ``x``: the median, with the band from the 20th to the 80th percentile.

    ``group`` is a column, or several whose values are joined. Rows without a number in ``y`` (too large, wrong ...) are
    left out. ``recorded`` are measurements of another machine: dashed and hollow, and the small print says where they
    come from. ``machine`` is the small print for ``frame``.
    """
    scales = {"x_axis_type": "log" if log_x else "linear", "y_axis_type": "log" if log_y else "linear"}
    made = blank("", x_label or _axis(x)[0], _axis(y)[0], height=340, **scales)
    legend_below(made)
    update_curves(made, frame, x, y, group=group, recorded=recorded)
    note(made, machine)
    if recorded is not None:
        provenance = recorded.attrs.get("provenance", {})
        brief = {name: provenance[name] for name in ("device", "date") if name in provenance}
        note(made, "dashed: recorded on " + machine_line(brief))
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
    live = _lines(frame, x, y, group)
    elsewhere = {} if recorded is None else _lines(recorded, x, y, group)
    labels = dict.fromkeys([*live, *elsewhere])
    colors = colors_of(labels)
    sources = {line.data_source.name: line.data_source for line in made.renderers}
    wanted = {f"live: {label}" for label in live} | {f"recorded: {label}" for label in elsewhere}
    for name, source in sources.items():
        if name not in wanted and len(source.data["x"]):
            source.data = {column: [] for column in source.data}
    items = []
    for index, label in enumerate(labels):
        shown = []
        for lines, name in ((live, f"live: {label}"), (elsewhere, f"recorded: {label}")):
            if label in lines:
                source = sources[name] if name in sources else ColumnDataSource(lines[label], name=name)
                if name not in sources:
                    _draw_line(made, source, colors[label], MARKERS[index % len(MARKERS)], hollow=lines is elsewhere)
                elif not _equal(source.data, lines[label]):  # a page draws again whatever it is told, changed or not
                    source.data = lines[label]
                shown += [line for line in made.renderers if line.data_source is source]
        items.append((label, shown))
    legend = made.legend[0]
    if items != [(item.label.value, item.renderers) for item in legend.items]:
        legend.items = [LegendItem(label=label, renderers=shown) for label, shown in items]
        arrange(legend)
    places = sorted({place for lines in (live, elsewhere) for data in lines.values() for place in data["x"]})
    words = {place: f"{place:,.0f}" for place in places if place == int(place)}
    if 0 < len(places) <= 8 and made.xaxis[0].major_label_overrides != words:
        made.xaxis[0].ticker = FixedTicker(ticks=places)
        made.xaxis[0].major_label_overrides = words
    elif len(places) > 8 and isinstance(made.xaxis[0].ticker, FixedTicker):  # the lines have grown since
        made.xaxis[0].ticker = LogTicker() if isinstance(made.x_scale, LogScale) else BasicTicker()
        made.xaxis[0].major_label_overrides = {}


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
        "text": [f"copy: {bandwidth / 1e9:,.0f} GB/s", f"matrix product: {peak / 1e12:.3g} TFLOP/s"],
        "align": ["left", "right"],
        "aside": [26, 0],
    }
    made.text(
        "x", "y", "text", text_align="align", x_offset="aside", y_offset=-4, text_baseline="bottom",
        text_color=INK["neutral"], text_font_size="12px", text_font=value(FONT),
        source=ColumnDataSource(limits_in_words),
    )  # fmt: skip
    legend = legend_below(made)
    labels = _labels(rows, group)
    colors = colors_of(dict.fromkeys(labels))
    for index, (label, part) in enumerate(rows.groupby(labels.to_numpy(), sort=False)):
        data = {"x": part["flops"] / part["bytes"], "y": part["tflops_per_s"], "size": part["size"]}
        data |= {"fraction": part["roofline"], "label": [label] * len(part)}
        dots = made.scatter(
            "x", "y", size=9, marker=MARKERS[index % len(MARKERS)], color=colors[label], alpha=0.9,
            source=ColumnDataSource(data, name=label), name="dots",
        )  # fmt: skip
        legend.items.append(LegendItem(label=label, renderers=[dots]))
    arrange(legend)
    tooltips = [("", "@label"), ("size", "@size"), ("rate", "@y{0.000} TFLOP/s"), ("of the limit", "@fraction{0.0%}")]
    made.add_tools(HoverTool(renderers=list(made.select({"name": "dots"})), tooltips=tooltips))
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
    made.add_tools(HoverTool(renderers=renderers, tooltips=[("input", "@x{0.00}"), ("output", "@y{0.000}")]))
    return themed(made, "neutral")


def bars(labels: Sequence[str], values: Sequence[float], unit: str, *, machine: str = "") -> figure:
    """One horizontal bar a label, its value written at the end. Values below zero are not for bars: ``ValueError``."""
    if any(not number >= 0 for number in values):
        raise ValueError(f"Bars show numbers from 0 on, not {list(values)}.")
    made = blank("", unit, "", height=80 + 34 * len(labels), y_range=list(reversed(labels)))
    colors = colors_of(labels)
    made.hbar(y=list(labels), right=list(values), height=0.7, color=[colors[label] for label in labels], alpha=0.9)
    words = [f"{number:,.0f}" if number >= 100 else f"{number:.3g}" for number in values]
    made.text(
        "x", "y", "text", x_offset=6, text_baseline="middle", text_color=INK["neutral"], text_font_size="12px",
        text_font=value(FONT), source=ColumnDataSource({"x": list(values), "y": list(labels), "text": words}),
    )  # fmt: skip
    made.x_range.start, made.x_range.end = 0, max([*values, 1e-12]) * 1.15
    made.ygrid.grid_line_color = None
    note(made, machine)
    return themed(made, "neutral")


# --- shared ----------------------------------------------------------------------------------------------------------


def _axis(column: str) -> tuple[str, float]:
    return AXES.get(column, (column.replace("_", " "), 1.0))


def _labels(frame: pd.DataFrame, group: str | Sequence[str]) -> pd.Series:
    columns = [group] if isinstance(group, str) else list(group)
    return frame[columns].astype(str).agg(" · ".join, axis=1) if len(frame) else pd.Series(dtype=str)


def _lines(frame: pd.DataFrame, x: str, y: str, group: str | Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """For every label its columns: x, y, low, high, what the hover shows."""
    if not len(frame):
        return {}
    rows = frame[frame[y].notna()].sort_values(x)
    unit = _axis(y)[1]
    found = {}
    for label, part in rows.groupby(_labels(rows, group).to_numpy(), sort=False):
        middle = part[y].to_numpy(dtype=float) / unit
        low, high = _band(part, y, middle)
        found[label] = {
            "x": part[x].to_numpy(dtype=float),
            "y": middle,
            "low": low,
            "high": high,
            "label": np.array([label] * len(part)),
            "repeats": part["repeats"].to_numpy() if "repeats" in part else np.ones(len(part)),
        }
    return found


def _band(part: pd.DataFrame, y: str, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if {"low", "high"} <= set(part):
        return part["low"].to_numpy(dtype=float), part["high"].to_numpy(dtype=float)
    if "low_ms" not in part or (y != "median_ms" and y not in RATES):
        return middle, middle
    low, median, high = (part[name].to_numpy(dtype=float) for name in ("low_ms", "median_ms", "high_ms"))
    return (low, high) if y == "median_ms" else (middle * median / high, middle * median / low)


def _equal(shown: Mapping[str, Sequence], wanted: Mapping[str, Sequence]) -> bool:
    return all(np.array_equal(shown[column], wanted[column]) for column in ("x", "y", "low", "high"))


def _draw_line(made: figure, source: ColumnDataSource, color: str, marker: str, *, hollow: bool) -> None:
    made.varea("x", "low", "high", source=source, fill_color=color, fill_alpha=0.18)
    made.line(
        "x", "y", source=source, line_color=color, line_width=2.5, line_dash="dashed" if hollow else "solid",
        line_alpha=0.7 if hollow else 1, name="lines",
    )  # fmt: skip
    dots = made.scatter(
        "x", "y", source=source, marker=marker, size=8, line_color=color, line_width=2,
        fill_color=color, fill_alpha=0 if hollow else 1,
    )  # fmt: skip
    numbers = [("", "@label"), (made.xaxis[0].axis_label, "@x{0,0.###}"), (made.yaxis[0].axis_label, "@y{0,0.0000}")]
    spread = [("20 % to 80 %", "@low{0,0.0000} to @high{0,0.0000}"), ("repeats", "@repeats")]
    source_of = [("", "recorded elsewhere")] if hollow else []
    made.add_tools(HoverTool(renderers=[dots], tooltips=numbers + spread + source_of))
