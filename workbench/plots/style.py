"""One colour language and one look for every figure.

Configuration A is blue, B orange; implementations keep their colour wherever they appear. Colours are Okabe and Ito's
(told apart with any colour vision) without black and yellow, one of which vanishes on a dark or on a light page.
"""

import zlib
from collections.abc import Iterable
from typing import Any, Literal

from bokeh.models import ColorBar, Legend, Title
from bokeh.palettes import Viridis256, interp_palette
from bokeh.plotting import figure

BLUE = "#0072B2"
ORANGE = "#E69F00"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star")

SEQUENTIAL = Viridis256
DIVERGING = interp_palette(("#7A4A00", "#C98700", "#F2C879", "#F4F4F2", "#8CC4E3", "#1F86BF", "#003E66"), 255)

Theme = Literal["neutral", "light", "dark"]
INK = {"neutral": "#787878", "light": "#3D4248", "dark": "#C8CDD3"}
FONT = "system-ui, sans-serif"
AROUND = 120  # pixels of a figure's height for its tools, an axis, one row of a legend and small print

_FIXED = {
    "A": BLUE,
    "B": ORANGE,
    "fast": BLUE,
    "reference": "#D55E00",
    "softmax_attention": ORANGE,
    "sdpa_flash": "#009E73",
    "flex_attention": "#CC79A7",
    "sdpa_cudnn": "#56B4E9",
    "torch_compile": "#009E73",
}


def color_of(name: str) -> str:
    """The colour of an implementation or method, the same on every page: listed, or else drawn from its name."""
    return _FIXED.get(name) or PALETTE[zlib.crc32(name.encode()) % len(PALETTE)]


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name: ``color_of`` where it is still free, the next free one elsewhere (they repeat after
    seven)."""
    chosen: dict[str, str] = {}
    for name in names:
        free = [color for color in PALETTE if color not in chosen.values()] or list(PALETTE)
        chosen[name] = color_of(name) if color_of(name) in free else free[0]
    return chosen


def blank(title: str, x_label: str, y_label: str, *, height: int, **options: Any) -> figure:
    """An empty figure in the house's look: transparent, as wide as its place, tools at hand but quiet.

    No tool reacts to dragging or scrolling until it is chosen, so that a finger on a phone scrolls the page.
    """
    made = figure(
        title=title,
        x_axis_label=x_label,
        y_axis_label=y_label,
        height=height,
        min_width=240,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_drag=None,
        active_scroll=None,
        toolbar_location="above",
        **options,
    )
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.background_fill_alpha = made.border_fill_alpha = 0
    made.outline_line_color = None
    made.title.text_font_size = "14px"
    return themed(made, "neutral")


def part(made: figure, name: str) -> Any:
    """The renderer of that name, or None. ``figure.select_one`` finds it too, but walks through the whole document."""
    return next((each for each in made.renderers if each.name == name), None)


def themed(made: figure, theme: Theme) -> figure:
    """Give the figure's text and lines the ink for a page: ``"neutral"`` can be read on both, the others better."""
    ink = INK[theme]
    made.title.text_color = ink
    made.title.text_font = FONT
    for axis in made.axis:
        axis.axis_label_text_color = axis.major_label_text_color = ink
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "13px"
        axis.major_label_text_font_size = "12px"
        axis.minor_tick_line_color = None
        axis.axis_line_alpha = axis.major_tick_line_alpha = 0.5
        if axis.axis_line_color is not None:
            axis.axis_line_color = axis.major_tick_line_color = ink
    for grid in made.grid:
        grid.grid_line_alpha = 0.2
        if grid.grid_line_color is not None:
            grid.grid_line_color = INK["neutral"]
    parts = made.references()  # one walk through the figure for all that is looked for in it
    for legend in (part for part in parts if isinstance(part, Legend)):
        legend.label_text_color, legend.label_text_font, legend.label_text_font_size = ink, FONT, "12px"
        # Bokeh asks the page for its colour before the legend is on the page, so that it would never get an answer.
        legend.stylesheets = [f".bk-item .bk-label {{ color: var(--bk-label-text-color, var(--wb-ink, {ink})); }}"]
        legend.background_fill_alpha = 0
        legend.border_line_color = None
        legend.inactive_fill_alpha = 0.3
    for bar in (part for part in parts if isinstance(part, ColorBar)):
        bar.major_label_text_color = bar.title_text_color = ink
        bar.major_label_text_font = bar.title_text_font = FONT
        bar.title_text_font_style = "normal"
        bar.title_text_font_size = bar.major_label_text_font_size = "12px"
        bar.background_fill_alpha = 0
        bar.bar_line_color = bar.major_tick_line_color = None
    for small_print in (part for part in parts if isinstance(part, Title) and part.name == "note"):
        small_print.text_color, small_print.text_font = ink, FONT
    return made


def note(made: figure, text: str) -> None:
    """Small print at the lower right: the machine that a measurement comes from."""
    if text:
        small_print = Title(text=text, name="note", align="right", text_font_size="11px", text_font_style="normal")
        made.add_layout(small_print, "below")


def legend_below(made: figure) -> Legend:
    """An empty legend under the plot, where it covers nothing; a click on an entry hides what it stands for.

    The plot keeps its height however many names there are: from here on the figure is as high as it needs to be.
    """
    legend = Legend(click_policy="hide", location="top_left", margin=0, padding=4)
    made.add_layout(legend, "below")
    made.frame_height, made.height = made.height - AROUND, None
    return legend


def arrange(legend: Legend) -> None:
    """Two columns when the labels are short enough for a phone, else one."""
    legend.ncols = 2 if all(len(item.label.value) <= 18 for item in legend.items) else 1
