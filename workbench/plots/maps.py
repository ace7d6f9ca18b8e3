"""Matrices as pictures: attention maps, their differences, all heads at once, block grids, similarities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    CustomJSHover,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    Range1d,
    TapTool,
)  # fmt: skip
from bokeh.plotting import figure

from workbench.plots.axes import spoken
from workbench.plots.looks import BLUE, ORANGE
from workbench.plots.style import DIVERGING, FONT, INK, SEQUENTIAL, blank, legend_below, part, themed
from workbench.plots.trees import Group, add_tree, show_tree

MOST_LABELS = 26
STRIP = 0.09  # how much of the map's side the sums at its edges take
GAP = STRIP * 0.15  # between the map and the bars
HEAD_PIXELS = 40
SUMS = ("left", "right", "top", "bottom", "sum", "what")
ONES = ("x0", "y0", "x1", "y1")


def attention_map(
    weights: np.ndarray,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    *,
    title: str = "",
    high: float | None = None,
    tree: Sequence[Group] = (),
    levels: int | None = None,
    overlay: tuple[np.ndarray, int, int] | None = None,
) -> figure:
    """One head's weights (queries, keys): a row for every query, its tokens at the sides, row and column sums as bars
    at the edges, with a line where they are 1.

    ``high`` is the weight of the brightest colour (default: the largest weight); give two maps the same to compare
    them. ``tree`` are groups of tokens, see ``trees``, drawn above and on the map; there is room for ``levels`` levels
    of them, so that two maps stand alike. ``overlay`` is (kinds, block_rows, block_columns) of
    ``block_kinds``: the blocks that a kernel walks over.
    Raises ``ValueError`` when weights and tokens do not fit together.
    """
    made = _matrix(title, "attended to (key)", "attends (query)", SEQUENTIAL, "weight")
    add_tree(made)
    update_attention_map(made, weights, query_tokens, key_tokens, high=high, tree=tree, levels=levels)
    if overlay is not None:
        _outline(made, *overlay)
    return made


def update_attention_map(
    made: figure,
    weights: np.ndarray,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    *,
    high: float | None = None,
    tree: Sequence[Group] = (),
    levels: int | None = None,
) -> None:
    """Show other weights, tokens and groups in a figure made by ``attention_map``; sizes may differ."""
    weights = np.asarray(weights, dtype=np.float32)
    room = show_tree(made, tree, len(key_tokens), len(query_tokens), levels)
    high = high or float(np.nanmax(weights, initial=0)) or 1.0
    _fill(made, weights, query_tokens, key_tokens, low=0.0, high=high, room=room)


def difference_map(a: np.ndarray, b: np.ndarray, query_tokens: Sequence[str], key_tokens: Sequence[str]) -> figure:
    """Where A attends more (blue) and where B does (orange): A - B, both (queries, keys)."""
    made = _matrix("A − B", "attended to (key)", "attends (query)", DIVERGING, "A − B")
    update_difference_map(made, a, b, query_tokens, key_tokens)
    return made


def update_difference_map(
    made: figure, a: np.ndarray, b: np.ndarray, query_tokens: Sequence[str], key_tokens: Sequence[str]
) -> None:
    """Show another difference in a figure made by ``difference_map``."""
    difference = np.asarray(a, dtype=np.float32) - np.asarray(b, dtype=np.float32)
    largest = float(np.nanmax(np.abs(difference), initial=0)) or 1e-6
    _fill(made, difference, query_tokens, key_tokens, low=-largest, high=largest)


def head_overview(weights: np.ndarray, *, selected: tuple[int, int] = (0, 0)) -> figure:
    """Every head's map, small: weights (layers, heads, queries, keys), a row for a layer, a column for a head.

    A tap picks a head: it sets ``heads_source(figure).selected.indices`` to ``[layer * heads + head]``. Brightness is
    the square root of the weight, so that faint patterns show; long texts are pooled to 40 cells a side.
    """
    made = blank("", "head", "layer", height=320)
    made.add_tools(TapTool(), HoverTool(tooltips=[("layer", "@layer"), ("head", "@head")], renderers=[]))
    mapper = LinearColorMapper(palette=SEQUENTIAL, low=0, high=1, nan_color="rgba(0,0,0,0)")
    made.image(
        image="image", x=0, y=0, dw="width", dh="height", color_mapper=mapper, source=ColumnDataSource(),
        name="mosaic", level="underlay",
    )  # fmt: skip
    frames = made.rect(
        "x", "y", width=1, height=1, fill_alpha=0, line_alpha=0, source=ColumnDataSource(), name="heads",
        selection_line_color=ORANGE, selection_line_alpha=1, selection_line_width=3, selection_fill_alpha=0,
        nonselection_fill_alpha=0, nonselection_line_alpha=0, hover_line_color=INK["neutral"], hover_line_alpha=1,
        hover_fill_alpha=0,
    )  # fmt: skip
    made.select_one(HoverTool).renderers = [frames]
    made.grid.grid_line_color = None
    update_head_overview(made, weights, selected=selected)
    return made


def update_head_overview(made: figure, weights: np.ndarray, *, selected: tuple[int, int]) -> None:
    """Show other maps, or another selection, in a figure made by ``head_overview``."""
    weights = np.asarray(weights, dtype=np.float32)
    if weights.ndim != 4:
        raise ValueError(f"Maps of all heads have the shape (layers, heads, queries, keys), not {weights.shape}.")
    layers, heads = weights.shape[:2]
    largest = float(np.nanmax(weights, initial=0)) or 1.0
    small = np.sqrt(np.clip(_pooled(weights, HEAD_PIXELS) / largest, 0, 1))
    gap = 1 + max(small.shape[-2:]) // 14
    tiles = np.pad(small, [(0, 0), (0, 0), (gap, gap), (gap, gap)], constant_values=np.nan)
    mosaic = tiles.transpose(0, 2, 1, 3).reshape(layers * tiles.shape[2], heads * tiles.shape[3])
    layer, head = (grid.ravel() for grid in np.mgrid[:layers, :heads])
    part(made, "mosaic").data_source.data = {"image": [mosaic], "width": [heads], "height": [layers]}
    source = heads_source(made)
    source.data = {"x": head + 0.5, "y": layer + 0.5, "layer": layer, "head": head}
    select_head(made, selected)
    if not isinstance(made.x_range, Range1d):
        made.x_range, made.y_range = Range1d(0, heads), Range1d(layers, 0)
    made.x_range.update(start=0, end=heads)
    made.y_range.update(start=layers, end=0)
    for axis, count in ((made.xaxis[0], heads), (made.yaxis[0], layers)):
        _label(axis, [str(index) for index in range(count)])


def select_head(made: figure, selected: tuple[int, int]) -> None:
    """Pick another (layer, head) in a figure made by ``head_overview``."""
    source = heads_source(made)
    source.selected.indices = [selected[0] * (1 + max(source.data["head"])) + selected[1]]


def heads_source(made: figure) -> ColumnDataSource:
    """The data source of a ``head_overview`` whose selection is the picked head."""
    return part(made, "heads").data_source


def block_grid(kinds: np.ndarray) -> figure:
    """What a kernel does with each block of the score matrix: kinds (row blocks, column blocks) of 0 skipped, 1 masked
    inside, 2 full."""
    kinds = np.asarray(kinds)
    made = blank("", "block of keys", "block of queries", height=300)
    made.x_range, made.y_range = Range1d(0, kinds.shape[1]), Range1d(kinds.shape[0], 0)
    legend_below(made).orientation = "horizontal"
    styles = {2: ("full", BLUE, 0.85), 1: ("masked inside", ORANGE, 0.9), 0: ("skipped", INK["neutral"], 0.15)}
    for kind, (word, color, alpha) in styles.items():
        row, column = np.nonzero(kinds == kind)
        made.rect(
            x=column + 0.5, y=row + 0.5, width=0.92, height=0.92, fill_color=color, fill_alpha=alpha, line_color=None,
            hatch_pattern="/" if kind == 1 else None, hatch_color="white", hatch_alpha=0.6, name=word,
            legend_label=f"{word} ({len(row)})",
        )  # fmt: skip
    made.add_tools(HoverTool(tooltips="$name"))
    made.grid.grid_line_color = None
    for axis, count in ((made.xaxis[0], kinds.shape[1]), (made.yaxis[0], kinds.shape[0])):
        _label(axis, [str(index) for index in range(count)])
    return themed(made, "neutral")


def similarity(matrix: np.ndarray, labels: Sequence[str]) -> figure:
    """Cosine similarities (n, n) between n texts, with the numbers written in."""
    made = _matrix("", "", "", DIVERGING[127:], "cosine")
    update_similarity(made, matrix, labels)
    return made


def update_similarity(made: figure, matrix: np.ndarray, labels: Sequence[str]) -> None:
    """Show other similarities in a figure made by ``similarity``."""
    matrix = np.asarray(matrix, dtype=np.float32)
    short = [label if len(label) <= 28 else label[:27] + "…" for label in labels]
    numbered = [f"{label}  {index}" for index, label in enumerate(short, start=1)]
    _fill(made, matrix, numbered, numbered, low=0.0, high=1.0, sums=False)
    _label(made.xaxis[0], [str(index) for index in range(1, len(short) + 1)])
    made.xaxis.major_label_orientation = "horizontal"
    texts = part(made, "numbers") or made.text(
        "x", "y", "text", text_align="center", text_baseline="middle", text_font_size="12px", text_font=value(FONT),
        text_color="color", source=ColumnDataSource(), name="numbers",
    )  # fmt: skip
    row, column = (grid.ravel() for grid in np.indices(matrix.shape))
    cosines = matrix.ravel()
    texts.data_source.data = {
        "x": column + 0.5,
        "y": row + 0.5,
        "text": [f"{cosine:.2f}" for cosine in cosines],
        "color": ["white" if cosine > 0.6 else "#222222" for cosine in cosines],
    }


# --- shared ----------------------------------------------------------------------------------------------------------


def _matrix(title: str, x_label: str, y_label: str, palette: Sequence[str], unit: str) -> figure:
    """A figure that shows one matrix, the first row on top; ``_fill`` gives it its content."""
    made = blank(title, x_label, y_label, height=460, x_axis_location="above")
    mapper = LinearColorMapper(palette=list(palette), low=0, high=1, nan_color="rgba(0,0,0,0)", name="colors")
    source = ColumnDataSource()
    cells = made.image(
        image="image", x=0, y=0, dw="width", dh="height", color_mapper=mapper, source=source, name="matrix"
    )
    # The tokens under the pointer are looked up in the source, so that they follow when it is replaced.
    token = """
        const names = source.data[format][0];
        const place = Math.floor(format == "columns" ? special_vars.x : special_vars.y);
        return names[place] ?? "";
    """
    named = CustomJSHover(args={"source": source}, code=token)
    hover = HoverTool(
        renderers=[cells],
        tooltips=[("from", "$y{rows}"), ("to", "$x{columns}"), (unit, "@image{number}")],
        formatters={"$x": named, "$y": named, **spoken("@image")},
    )
    bars = made.quad(
        "left", "right", "top", "bottom", fill_color=INK["neutral"], fill_alpha=0.55, line_color=None,
        source=ColumnDataSource(), name="sums",
    )  # fmt: skip
    made.segment(
        "x0", "y0", "x1", "y1", line_color=ORANGE, line_width=1.5, source=ColumnDataSource(), name="ones"
    )  # fmt: skip
    made.add_tools(hover, HoverTool(renderers=[bars], tooltips="@what: @sum{number}", formatters=spoken("@sum")))
    bar = ColorBar(color_mapper=mapper, width=10, title=unit, ticker=BasicTicker(desired_num_ticks=5), padding=8)
    made.add_layout(bar, "right")
    made.grid.grid_line_color = None
    made.xaxis.major_label_orientation = 0.9
    made.x_range, made.y_range = Range1d(0, 1), Range1d(1, 0)
    return themed(made, "neutral")


def _fill(
    made: figure, matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, low: float, high: float,
    sums: bool = True, room: float = 0.0,
) -> None:  # fmt: skip
    if matrix.shape != (len(rows), len(columns)):
        raise ValueError(f"A map of shape {matrix.shape} does not fit {len(rows)} queries and {len(columns)} keys.")
    height, width = matrix.shape
    mapper = part(made, "matrix").glyph.color_mapper
    mapper.update(low=low, high=high)
    part(made, "matrix").data_source.data = {
        "image": [matrix], "width": [width], "height": [height], "rows": [list(rows)], "columns": [list(columns)],
    }  # fmt: skip
    part(made, "sums").data_source.data = _edge_sums(matrix, rows, columns) if sums else dict.fromkeys(SUMS, [])
    part(made, "ones").data_source.data = _ones(matrix) if sums and low == 0 else dict.fromkeys(ONES, [])
    edge = STRIP if sums else 0
    made.x_range.update(start=0, end=width * (1 + edge), reset_start=0, reset_end=width * (1 + edge))
    made.y_range.update(start=height * (1 + edge), end=-room, reset_start=height * (1 + edge), reset_end=-room)
    _label(made.xaxis[0], columns)
    _label(made.yaxis[0], rows)


def _edge_sums(matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """Bars at the right (what each row sums to) and below (what each column does), each side scaled to its largest sum,
    or to 1."""
    height, width = matrix.shape
    given, received = np.nan_to_num(matrix).sum(1), np.nan_to_num(matrix).sum(0)
    row, column = np.arange(height), np.arange(width)
    gap_x, gap_y = width * GAP, height * GAP
    return {
        "left": np.r_[np.full(height, width + gap_x), column + 0.1],
        "right": np.r_[width + gap_x + np.abs(given) * _length(given, width), column + 0.9],
        "top": np.r_[row + 0.1, np.full(width, height + gap_y)],
        "bottom": np.r_[row + 0.9, height + gap_y + np.abs(received) * _length(received, height)],
        "sum": np.r_[given, received],
        "what": [f"“{name}” gives" for name in rows] + [f"“{name}” receives" for name in columns],
    }


def _ones(matrix: np.ndarray) -> dict[str, Any]:
    """The lines at which a bar of ``_edge_sums`` stands for a sum of 1."""
    height, width = matrix.shape
    given, received = np.nan_to_num(matrix).sum(1), np.nan_to_num(matrix).sum(0)
    x, y = width * (1 + GAP) + _length(given, width), height * (1 + GAP) + _length(received, height)
    return {"x0": [x, 0], "y0": [0, y], "x1": [x, width], "y1": [height, y]}


def _length(sums: np.ndarray, side: int) -> float:
    """How long the bar of a sum of 1 is."""
    return side * STRIP * 0.8 / max(1.0, float(np.abs(sums).max(initial=0)))


def _label(axis: Any, names: Sequence[str]) -> None:
    """Names in the middle of cells; of many, every second, third ... one."""
    step = -(-len(names) // MOST_LABELS)
    places = [index + 0.5 for index in range(0, len(names), step)]
    overrides = {place: names[int(place)] for place in places}
    if axis.major_label_overrides == overrides:
        return  # the page would lay out the whole figure anew for labels that it shows already
    axis.ticker = FixedTicker(ticks=places)
    axis.major_label_overrides = overrides
    axis.axis_line_color = axis.major_tick_line_color = None


def _pooled(maps: np.ndarray, most: int) -> np.ndarray:
    """The largest value of each patch, so that no side has more than ``most`` cells."""
    for axis in (-2, -1):
        step = -(-maps.shape[axis] // most)
        maps = np.maximum.reduceat(maps, np.arange(0, maps.shape[axis], step), axis=axis)
    return maps


def _outline(made: figure, kinds: np.ndarray, block_rows: int, block_columns: int) -> None:
    height, width = part(made, "matrix").data_source.data["image"][0].shape
    row, column = np.indices(kinds.shape)
    colors = np.array([INK["neutral"], ORANGE, "#FFFFFF"])
    made.quad(
        left=(column * block_columns).ravel(), right=np.minimum((column + 1) * block_columns, width).ravel(),
        top=(row * block_rows).ravel(), bottom=np.minimum((row + 1) * block_rows, height).ravel(), fill_color=None,
        line_color=colors[kinds.ravel()], line_alpha=0.8, line_width=np.array([0.5, 2, 1])[kinds.ravel()],
        hatch_pattern=np.array(["x", " ", " "])[kinds.ravel()], hatch_color=INK["neutral"], hatch_alpha=0.35,
    )  # fmt: skip
