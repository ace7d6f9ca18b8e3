"""A state over time: all of it as a heat map, the state at one moment, and the mixing map that it implies.

They share a pointer. Moving the mouse moves it, also on a page without a kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bokeh.events import MouseMove, Tap
from bokeh.models import (
    Axis,
    ColorBar,
    ColumnDataSource,
    CustomJS,
    CustomJSHover,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    Model,
    Range1d,
    Row,
    Span,
)  # fmt: skip
from bokeh.plotting import figure

from workbench.plots.looks import BLUE, ORANGE, PALETTE
from workbench.plots.style import DIVERGING, SEQUENTIAL, blank, themed

MOST_NUMBERS = 400_000
POINTER = PALETTE[5]
MOST_TICKS = 10
HEIGHT = 330

POINT = """
    const last = all.data.count[0] - 1, size = all.data.size[0];
    const t = Math.max(0, Math.min(last, Math.floor(along == "x" ? cb_obj.x : cb_obj.y)));
    span.location = t + 0.5;
    const part = all.data.values[0].slice(t * size, (t + 1) * size);
    if (now.data.image) { now.data.image[0].set(part); } else { now.data.right = Array.from(part); }
    now.change.emit();
    if (row) { row.data = {left: row.data.left, right: row.data.right, top: [t], bottom: [t + 1]}; }
    title.text = words + " " + t;
"""


@dataclass(frozen=True, eq=False)
class StatePicture:
    """The figures side by side in ``layout``; ``point`` moves the pointer that they share."""

    layout: Row
    states: np.ndarray
    mixing: np.ndarray | None
    span: Span
    now: figure
    row: ColumnDataSource | None
    what: str

    def point(self, time: int) -> None:
        """Show the state at ``time``, and which row of the mixing map is its own."""
        self.span.location = time + 0.5
        self.now.title.text = f"{self.what} {time}"
        source = self.now.renderers[0].data_source
        if self.states.ndim == 3:
            source.data = {**source.data, "image": [self.states[time]]}
        else:
            source.data = {**source.data, "right": self.states[time]}
        if self.row is not None:
            self.row.data = {**self.row.data, "top": [time], "bottom": [time + 1]}


def state_over_time(
    states: np.ndarray,
    mixing: np.ndarray | None = None,
    *,
    name: str = "state",
    channels: str = "channel",
    what: str = "step",
    mixes: str = "step that is mixed in",
    marks: Sequence[bool] = (),
    marked: str = "",
    strongest: float | None = None,
    time: int = 0,
) -> StatePicture:
    """Pictures of ``states`` (time, channels), or (time, rows, columns), and of ``mixing`` (time, sources).

    A matrix state is one row a number in the overview. Row t of ``mixing`` says what the output at t is mixed of.
    Numbers of both signs are blue above zero and orange below. ``marks`` are dots above some moments, ``marked`` says
    what they mean; ``strongest`` is the weight of the mixing map from which on colours are no stronger. Raises
    ``ValueError`` for other shapes, and for more than 400 000 numbers.
    """
    states = _checked(states, mixing, marks)
    count = len(states)
    flat = states.reshape(count, -1)
    channels = channels if states.ndim == 2 else "entry, row by row"
    over = _heat(flat.T, what, channels, name)
    span = Span(location=time + 0.5, dimension="height", line_color=POINTER, line_width=2)
    over.add_layout(span)
    if any(marks):
        at = np.flatnonzero(marks) + 0.5
        over.scatter(at, np.full(len(at), -0.03 * flat.shape[1]), marker="inverted_triangle", size=7, color=ORANGE)
        over.y_range.end = -0.07 * flat.shape[1]
        over.title.text = f"{name}; ▼ {marked}" if marked else name
    now = _bars(flat, channels, name) if states.ndim == 2 else _heat(states[time], "column", "row", name)
    if states.ndim == 3:
        now.renderers[0].glyph.color_mapper.update(**_limits(flat))
    figures, row = [over, now], None
    if mixing is not None:
        map = _heat(np.asarray(mixing, dtype=np.float32), mixes, what, "weight")
        map.title.text = "what each is mixed of"
        if strongest is not None:
            mapper = map.renderers[0].glyph.color_mapper
            mapper.update(low=-strongest if mapper.low < 0 else 0.0, high=strongest)
        row = ColumnDataSource({"left": [0], "right": [mixing.shape[1]], "top": [time], "bottom": [time + 1]})
        map.quad("left", "right", "top", "bottom", fill_alpha=0, line_color=POINTER, line_width=2, source=row)
        figures.append(map)
    every = {"values": [np.ascontiguousarray(flat).reshape(-1)], "count": [count], "size": [flat.shape[1]]}
    all_of_it, source = ColumnDataSource(every), now.renderers[0].data_source
    for made, along in zip((over, *figures[2:]), "xy", strict=False):
        arguments = {"all": all_of_it, "span": span, "now": source, "row": row, "title": now.title, "words": what}
        for event in (MouseMove, Tap):
            made.js_on_event(event, CustomJS(args={**arguments, "along": along}, code=POINT))
    layout = Row(children=list[Model](figures), sizing_mode="stretch_width", styles={"flex-wrap": "wrap"})
    picture = StatePicture(layout, states, mixing, span, now, row, what)
    picture.point(time)
    return picture


def _checked(states: np.ndarray, mixing: np.ndarray | None, marks: Sequence[bool]) -> np.ndarray:
    states = np.asarray(states, dtype=np.float32)
    if states.ndim not in (2, 3) or not states.size:
        raise ValueError(f"States are (time, channels) or (time, rows, columns), not {states.shape}.")
    if states.size > MOST_NUMBERS:
        raise ValueError(f"{states.size:,} numbers are too many to be seen: choose at most {MOST_NUMBERS:,}.")
    if mixing is not None and (np.ndim(mixing) != 2 or len(mixing) != len(states)):
        raise ValueError(f"The mixing map has the shape {np.shape(mixing)}: it needs a row for each of {len(states)}.")
    if len(marks) not in (0, len(states)):
        raise ValueError(f"{len(marks)} marks were given for {len(states)} moments.")
    return states


def _limits(matrix: np.ndarray) -> dict[str, float]:
    """The ends of the colours: symmetric where there are numbers of both signs."""
    low, high = float(np.nanmin(matrix)), float(np.nanmax(matrix))
    if low < 0:
        low, high = -max(-low, high), max(-low, high)
    return {"low": min(low, 0.0), "high": high or 1.0}


def _heat(matrix: np.ndarray, x_label: str, y_label: str, unit: str) -> figure:
    """A matrix as colours, the first row on top."""
    made = blank(unit, x_label, y_label, height=HEIGHT)
    made.min_width = 280
    made.x_range, made.y_range = Range1d(0, matrix.shape[1]), Range1d(matrix.shape[0], 0)
    palette = list(DIVERGING) if np.nanmin(matrix) < 0 else list(SEQUENTIAL)
    mapper = LinearColorMapper(palette=palette, nan_color="rgba(0,0,0,0)", **_limits(matrix))
    image = made.image(
        image="image", x=0, y=0, dw=matrix.shape[1], dh=matrix.shape[0], color_mapper=mapper,
        source=ColumnDataSource({"image": [np.ascontiguousarray(matrix)]}),
    )  # fmt: skip
    words = [(x_label, "$x{x}"), (y_label, "$y{y}"), (unit, "@image{0.0000}")]
    cell = CustomJSHover(code="return String(Math.floor(special_vars[format]))")  # a number format would round up
    made.add_tools(HoverTool(renderers=[image], tooltips=words, formatters={"$x": cell, "$y": cell}))
    made.add_layout(ColorBar(color_mapper=mapper, width=8, padding=4), "right")
    _number_cells(made.xaxis[0], matrix.shape[1])
    _number_cells(made.yaxis[0], matrix.shape[0])
    made.grid.grid_line_color = None
    return themed(made, "neutral")


def _bars(flat: np.ndarray, channels: str, name: str) -> figure:
    """The state at one moment, a bar a channel, on the scale of all moments."""
    made = blank("", name, channels, height=HEIGHT)
    made.min_width = 200
    count = flat.shape[1]
    low, high = min(float(np.nanmin(flat)), 0.0), max(float(np.nanmax(flat)), 0.0)
    room = 0.05 * (high - low or 1.0)
    made.x_range, made.y_range = Range1d(low - room, high + room), Range1d(count, 0)
    source = ColumnDataSource({"y": np.arange(count) + 0.5, "right": flat[0]})
    bars = made.hbar(y="y", right="right", height=0.7, source=source, fill_color=BLUE, fill_alpha=0.85, line_color=None)
    _number_cells(made.yaxis[0], count)
    made.add_tools(HoverTool(renderers=[bars], tooltips=[(channels, "@y{0}"), (name, "@right{0.0000}")]))
    return themed(made, "neutral")


def _number_cells(axis: Axis, count: int) -> None:
    """Numbers in the middle of cells: of many, every second, fifth, tenth ... one."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000, 10_000, count) if count / step <= MOST_TICKS)
    shown = range(0, count, step)
    axis.ticker = FixedTicker(ticks=[number + 0.5 for number in shown])
    axis.major_label_overrides = {number + 0.5: str(number) for number in shown}
