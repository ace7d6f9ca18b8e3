"""What a quantiser does: its staircase, its levels among the numbers, and its error over the bits."""

from collections.abc import Mapping

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, LegendItem, Range1d, Span
from bokeh.plotting import figure

from workbench.plots.looks import BLUE, ORANGE, colors_of
from workbench.plots.style import INK, arrange, blank, legend_below, themed

DECIBELS_A_BIT = 20 * np.log10(2)
MOST_LEVELS = 40  # that are drawn as lines


def staircase(levels: np.ndarray, low: float, high: float) -> figure:
    """The value that comes back over the value that goes in, from ``low`` to ``high``, beside the identity. ``levels``
    (count,) are what there is; between two of them the nearer one is taken."""
    levels = np.sort(np.asarray(levels, dtype=float))
    low, high = min(low, levels[0]), max(high, levels[-1])
    margin = 0.04 * (high - low) or 1.0
    made = blank("", "number", "what comes back", height=300, x_range=Range1d(low - margin, high + margin))
    legend = legend_below(made)
    ends = np.array([low - margin, high + margin])
    same = made.line(ends, ends, line_color=INK["neutral"], line_width=1.5, line_dash="dashed", name="identity")
    edges = np.concatenate([ends[:1], (levels[1:] + levels[:-1]) / 2, ends[1:]])
    source = ColumnDataSource({"x": np.repeat(edges, 2)[1:-1], "y": np.repeat(levels, 2)})
    steps = made.line("x", "y", source=source, line_color=BLUE, line_width=2.5, name="staircase")
    legend.items = [LegendItem(label="quantised", renderers=[steps]), LegendItem(label="as it was", renderers=[same])]
    arrange(legend)
    made.add_tools(HoverTool(renderers=[steps], tooltips=[("number", "@x{0.0000}"), ("comes back as", "@y{0.0000}")]))
    return themed(made, "neutral")


def levels_histogram(numbers: np.ndarray, levels: np.ndarray, *, bins: int = 80) -> figure:
    """How many numbers lie where: those within the outer levels (and half a step) blue, those beyond, which are
    clipped, orange. Lines mark the levels, if they are few enough to be seen."""
    numbers = np.asarray(numbers, dtype=float).ravel()
    levels = np.sort(np.asarray(levels, dtype=float))
    half = (levels[-1] - levels[0]) / max(1, len(levels) - 1) / 2
    made = blank("", "number", "how many", height=300)
    legend = legend_below(made)
    counts, edges = np.histogram(numbers, bins)
    middles = (edges[1:] + edges[:-1]) / 2
    inside = (middles >= levels[0] - half) & (middles <= levels[-1] + half)
    for label, own, color in (("kept", inside, BLUE), ("clipped", ~inside, ORANGE)):
        if not own.any():
            continue
        data = {"left": edges[:-1][own], "right": edges[1:][own], "top": counts[own]}
        bars = made.quad(
            "left", "right", "top", 0, source=ColumnDataSource(data), fill_color=color, line_color=color,
            fill_alpha=0.75, name=label,
        )  # fmt: skip
        legend.items.append(LegendItem(label=label, renderers=[bars]))
        made.add_tools(HoverTool(renderers=[bars], tooltips=[("numbers", "@top{0,0}"), ("from", "@left{0.0000}")]))
    if len(levels) <= MOST_LEVELS:
        for level in levels:
            line = Span(location=level, dimension="height", line_color=INK["neutral"], line_alpha=0.7, line_width=1)
            made.add_layout(line)
    made.y_range.start = 0
    arrange(legend)
    return themed(made, "neutral")


def noise_over_bits(found: Mapping[str, Mapping[int, float]], *, chosen: tuple[str, int]) -> figure:
    """The signal over the noise in dB for each number of bits, a line a name; the law of 6.02 dB a bit, as uniform
    numbers obey it, dashed. ``chosen`` (name, bits) has a ring."""
    made = blank("", "bits", "signal over noise (dB)", height=300)
    legend = legend_below(made)
    bits = sorted({count for line in found.values() for count in line})
    law = made.line(
        bits, [DECIBELS_A_BIT * count for count in bits], line_color=INK["neutral"], line_dash="dashed", line_width=1.5
    )
    for name, color in colors_of(found).items():
        finite = {count: decibels for count, decibels in found[name].items() if np.isfinite(decibels)}
        data = {"x": list(finite), "y": list(finite.values()), "name": [name] * len(finite)}
        source = ColumnDataSource(data, name=name)
        line = made.line("x", "y", source=source, line_color=color, line_width=2.5)
        dots = made.scatter("x", "y", source=source, size=7, color=color)
        legend.items.append(LegendItem(label=name, renderers=[line, dots]))
        made.add_tools(HoverTool(renderers=[dots], tooltips=[("", "@name"), ("bits", "@x"), ("dB", "@y{0.0}")]))
    name, count = chosen
    if np.isfinite(found[name].get(count, np.nan)):
        made.scatter([count], [found[name][count]], size=16, fill_alpha=0, line_color=INK["neutral"], line_width=2)
    legend.items.append(LegendItem(label="6.02 dB a bit", renderers=[law]))
    made.xaxis.ticker = FixedTicker(ticks=bits)
    arrange(legend)
    return themed(made, "neutral")
