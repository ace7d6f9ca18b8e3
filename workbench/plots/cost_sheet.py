"""A cost sheet as bars: for each line how long arithmetic, memory and link take at least; the longest is the floor."""

import pandas as pd
from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, HoverTool, LegendItem, Range1d
from bokeh.plotting import figure
from bokeh.transform import dodge

from workbench.plots.looks import BLUE, ORANGE, PALETTE
from workbench.plots.style import AROUND, FONT, INK, blank, legend_below, note, themed
from workbench.writing import number

RESOURCES = {"compute": BLUE, "memory": ORANGE, "link": PALETTE[2]}
BAR = 17  # pixels


def cost_bars(sheet: pd.DataFrame, *, machine: str = "") -> figure:
    """The table of ``measure.cost_sheet``: a bar for compute, for memory and (where anything is sent) for the link, a
    line each. The longest, which is the floor, is opaque and has its time beside it. ``machine`` is the small print."""
    shown = [name for name in RESOURCES if name != "link" or sheet["sent"].any()]
    unit, scale = ("ms", 1.0) if sheet["floor_ms"].max() >= 0.1 else ("µs", 1e3)
    names = list(sheet["line"])
    made = blank(
        "", f"least time ({unit}, estimate)", "", height=AROUND + 10 + (BAR * len(shown) + 10) * len(names),
        y_range=list(reversed(names)), x_range=Range1d(0, 1.2 * scale * (sheet["floor_ms"].max() or 1.0)),
    )  # fmt: skip
    legend = legend_below(made)
    thick = 0.8 / len(shown)
    for place, resource in enumerate(shown):
        time, bound = scale * sheet[f"{resource}_ms"], sheet["bound"] == resource
        source = ColumnDataSource(
            {
                "name": names,
                "time": time,
                "alpha": [0.95 if found else 0.4 for found in bound],
                "words": [number(each) if found else "" for each, found in zip(time, bound, strict=True)],
            }
        )
        y = dodge("name", thick * ((len(shown) - 1) / 2 - place), range=made.y_range)
        bars = made.hbar(
            y=y, right="time", height=0.92 * thick, source=source, color=RESOURCES[resource], alpha="alpha",
            name=resource,
        )  # fmt: skip
        made.text(
            "time", y, "words", source=source, x_offset=6, text_baseline="middle", text_color=INK["neutral"],
            text_font_size="12px", text_font=value(FONT),
        )  # fmt: skip
        legend.items.append(LegendItem(label=resource, renderers=[bars]))
        made.add_tools(HoverTool(renderers=[bars], tooltips=[("", f"@name, {resource}"), (unit, "@time{0,0.####}")]))
    made.ygrid.grid_line_color = None
    legend.ncols = len(shown)
    note(made, machine)
    return themed(made, "neutral")
