"""Many small images in one figure."""

import numpy as np
from bokeh.models import ColumnDataSource, GlyphRenderer, LinearColorMapper, Range1d
from bokeh.palettes import Greys256
from bokeh.plotting import figure

from workbench.plots.style import DIVERGING, blank, part

GAP = 1  # pixels of an image between two of them


def image_grid(images: np.ndarray, *, columns: int, title: str = "", signed: float | None = None) -> figure:
    """Grey images (n, height, width), -1 white as paper and 1 black as ink, in rows of ``columns``; pixels are square.

    ``signed`` makes it a picture of differences instead: blue above zero, orange below, strongest at that size.
    """
    images = _checked(images)
    made = blank(title, "", "", height=200, x_range=Range1d(0, 1), y_range=Range1d(1, 0))
    palette = list(DIVERGING) if signed is not None else list(reversed(Greys256))
    mapper = LinearColorMapper(palette=palette, low=-1, high=1, nan_color="rgba(0,0,0,0)")
    drawn = made.image(
        image="image", x=0, y=0, dw="width", dh="height", color_mapper=mapper,
        source=ColumnDataSource({"image": [], "width": [], "height": []}), name="images",
    )  # fmt: skip
    made.axis.visible = False
    made.grid.visible = False
    made.toolbar_location = None
    made.update(height=None, sizing_mode="scale_width", min_border=0)
    _fill(made, drawn, images, columns, title, signed)
    return made


def update_image_grid(
    made: figure, images: np.ndarray, *, columns: int, title: str = "", signed: float | None = None
) -> None:
    """Show other images in a figure made by ``image_grid``; their number and size may differ."""
    _fill(made, part(made, "images"), _checked(images), columns, title, signed)


def _fill(
    made: figure, drawn: GlyphRenderer, images: np.ndarray, columns: int, title: str, signed: float | None
) -> None:
    tiled = _tiled(images, columns)
    height, width = tiled.shape
    if signed is not None:
        drawn.glyph.color_mapper.update(low=-signed, high=signed)
    drawn.data_source.data = {"image": [tiled], "width": [width], "height": [height]}
    for range_, start, end in ((made.x_range, 0, width), (made.y_range, height, 0)):
        if (range_.start, range_.end) != (start, end):
            range_.update(start=start, end=end, reset_start=start, reset_end=end)
    if made.title.text != title:
        made.title.text = title
    ratio = width / height
    if made.aspect_ratio != ratio:
        made.aspect_ratio = ratio


def _checked(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, dtype=np.float32)
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3 or not len(images):
        raise ValueError(f"Images are (n, height, width) or (n, 1, height, width), n of 1 or more: not {images.shape}.")
    return images


def _tiled(images: np.ndarray, columns: int) -> np.ndarray:
    """All images on one sheet, see-through between them."""
    count, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), np.nan, dtype=np.float32)
    for index, image in enumerate(images):
        top, left = (place * (side + GAP) for place, side in zip(divmod(index, columns), (height, width), strict=True))
        sheet[top : top + height, left : left + width] = image
    return sheet
