"""One look for every figure: its paper, ink and type, its axes, its legend. What its lines look like: ``looks``."""

from textwrap import fill
from typing import Any, Literal

from bokeh.models import ColorBar, Legend, LogAxis, Title
from bokeh.palettes import Viridis256, interp_palette
from bokeh.plotting import figure

from workbench.plots.axes import readable

SEQUENTIAL = Viridis256
DIVERGING = interp_palette(("#7A4A00", "#C98700", "#F2C879", "#F4F4F2", "#8CC4E3", "#1F86BF", "#003E66"), 255)

Theme = Literal["neutral", "light", "dark"]
INK = {"neutral": "#787878", "light": "#3D4248", "dark": "#C8CDD3"}
FONT = "system-ui, sans-serif"
SMALL_PRINT = 60  # letters of a line of small print: what a phone shows
AROUND = 120  # pixels of a figure's height for its tools, an axis, one row of a legend and small print


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
    readable(made)
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
            if isinstance(axis, LogAxis):
                axis.minor_tick_line_color, axis.minor_tick_line_alpha = ink, 0.35
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


def note(made: figure, text: str, about: str = "") -> None:
    """Small print at the lower right: the machine that a measurement comes from. What was said before ``about`` the
    same is replaced; empty text says nothing. Long lines are broken so that they fit on a phone."""
    words = "\n".join(fill(line, SMALL_PRINT) for line in text.splitlines())
    before = next((each for each in made.below if isinstance(each, Title) and about and about in each.tags), None)
    if before is not None:
        before.update(text=words, visible=bool(words))
    elif words or about:
        made.add_layout(
            Title(
                text=words, visible=bool(words), name="note", tags=[about], align="right", text_font_size="11px",
                text_font_style="normal",
            ),
            "below",
        )  # fmt: skip


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
