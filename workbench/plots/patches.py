"""What a vision transformer's map means on the image: where one patch looks, and which class comes out."""

from collections.abc import Mapping, Sequence

import numpy as np
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    HoverTool,
    LegendItem,
    LinearColorMapper,
    Range1d,
    TapTool,
)
from bokeh.palettes import Greys256
from bokeh.plotting import figure
from bokeh.transform import dodge

from workbench.plots.axes import spoken
from workbench.plots.looks import ORANGE, color_of
from workbench.plots.style import INK, SEQUENTIAL, blank, legend_below, part, themed

COVER = 0.62  # how much of the image the brightest patch covers


def patch_attention(
    image: np.ndarray, weights: np.ndarray, patch: int, *, high: float | None = None, title: str = ""
) -> figure:
    """An image (height, width), -1 black and 1 white, under the weights (patches,) with which one patch looks at all.

    ``patch`` is framed; a tap picks another: it sets ``patch_source(figure).selected.indices``. ``high`` is the weight
    of the brightest colour. Raises ``ValueError`` unless the patches make a square.
    """
    ranges = {"x_range": Range1d(0, 1), "y_range": Range1d(1, 0)}
    made = blank(title, "", "", height=300, aspect_ratio=1.18, max_width=420, **ranges)
    made.image(
        image="image", x=0, y=0, dw="width", dh="height", source=ColumnDataSource(), name="picture",
        color_mapper=LinearColorMapper(palette=list(reversed(Greys256)), low=-1, high=1),
    )  # fmt: skip
    mapper = LinearColorMapper(palette=list(SEQUENTIAL), low=0, high=1)
    cells = made.rect(
        "x", "y", "side", "side", fill_color={"field": "weight", "transform": mapper}, fill_alpha="cover",
        line_color="#FFFFFF", line_alpha=0.25, line_width=0.5, source=ColumnDataSource(), name="patches",
        selection_line_color=ORANGE, selection_line_alpha=1, selection_line_width=3, nonselection_fill_alpha="cover",
        nonselection_line_alpha=0.25, selection_fill_alpha="cover",
    )  # fmt: skip
    shown = [("patch (row, column)", "@name"), ("weight", "@weight{number}")]
    made.add_tools(TapTool(), HoverTool(renderers=[cells], tooltips=shown, formatters=spoken("@weight")))
    bar = ColorBar(color_mapper=mapper, width=10, title="weight", ticker=BasicTicker(desired_num_ticks=4), padding=8)
    made.add_layout(bar, "right")
    made.axis.visible = False
    made.grid.visible = False
    update_patch_attention(made, image, weights, patch, high=high)
    return themed(made, "neutral")


def update_patch_attention(
    made: figure, image: np.ndarray, weights: np.ndarray, patch: int, *, high: float | None = None
) -> None:
    """Show another image, other weights or another patch in a figure made by ``patch_attention``."""
    image, weights = np.asarray(image, dtype=np.float32), np.asarray(weights, dtype=np.float32)
    count = round(len(weights) ** 0.5)
    if count**2 != len(weights):
        raise ValueError(f"{len(weights)} patches do not make a square.")
    height, width = image.shape
    row, column = (grid.ravel() for grid in np.mgrid[:count, :count])
    high = high or float(weights.max(initial=0)) or 1.0
    cells = part(made, "patches")
    cells.glyph.fill_color.transform.update(low=0, high=high)
    part(made, "picture").data_source.data = {"image": [image], "width": [width], "height": [height]}
    cells.data_source.data = {
        "x": (column + 0.5) * width / count, "y": (row + 0.5) * height / count, "weight": weights,
        "side": np.full(count**2, width / count),
        "name": [f"{r + 1}, {c + 1}" for r, c in zip(row, column, strict=True)],
        "cover": COVER * np.sqrt(np.clip(weights / high, 0, 1)),
    }  # fmt: skip
    cells.data_source.selected.indices = [patch]
    made.x_range.update(start=0, end=width, reset_start=0, reset_end=width)
    made.y_range.update(start=height, end=0, reset_start=height, reset_end=0)


def patch_source(made: figure) -> ColumnDataSource:
    """The data source of a ``patch_attention`` whose selection is the patch that looks."""
    return part(made, "patches").data_source


def class_probabilities(classes: Sequence[str], sides: Mapping[str, np.ndarray], *, right: str = "") -> figure:
    """The probability of every class, a bar for each side ("A", "B"). ``right`` is the class that it should be."""
    made = blank("", "class", "probability", height=300, x_range=list(classes), y_range=Range1d(0, 1.02))
    source = ColumnDataSource({"class": list(classes), **{name: np.zeros(len(classes)) for name in sides}})
    legend = legend_below(made)
    for place, name in enumerate(sides):
        bars = made.vbar(
            x=dodge("class", 0.36 * (place - 0.5 * (len(sides) - 1)), range=made.x_range), top=name, width=0.32,
            source=source, color=color_of(name), name=f"bars {name}",
        )  # fmt: skip
        legend.items.append(LegendItem(label=name, renderers=[bars]))
        made.add_tools(HoverTool(renderers=[bars], tooltips=[("class", "@class"), (name, f"@{{{name}}}{{0.0 %}}")]))
    made.xgrid.grid_line_color = None
    made.xaxis.major_label_orientation = "horizontal" if max(map(len, classes)) < 3 else 0.9
    made.axis.axis_line_color = INK["neutral"]
    update_class_probabilities(made, sides, right=right)
    return themed(made, "neutral")


def update_class_probabilities(made: figure, sides: Mapping[str, np.ndarray], *, right: str = "") -> None:
    """Show other probabilities in a figure made by ``class_probabilities``; the classes stay."""
    source = part(made, f"bars {next(iter(sides))}").data_source
    source.data = {"class": source.data["class"], **{name: np.asarray(each) for name, each in sides.items()}}
    made.xaxis[0].axis_label = f"class (the image is of {right})" if right else "class"
