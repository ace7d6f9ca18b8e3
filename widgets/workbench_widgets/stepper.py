"""Online softmax, one block after the other: what each row remembers, and how its output comes together.

The picture is drawn as SVG from a trace, so that the same drawing is live under a slider and, as a strip of frames,
stands in an exported page. A trace is any walk over blocks whose ``steps`` say, each, which block (``row_block``,
``column_block``, its ``rows`` and ``columns``), of which ``kind`` ("skipped", "masked", "full"), and the ``maximum``,
``normaliser``, ``rescale`` and ``accumulator`` after it.
"""

from collections.abc import Sequence
from typing import Any

import ipywidgets
import torch

from workbench.plots import BLUE, ORANGE
from workbench_widgets import page

GREY = "#8C8C8C"
WIDTH, HEIGHT = 940, 262
FONT = "font-family:system-ui,sans-serif;font-size:13px;fill:currentColor"
MOST_FRAMES = 4


class Stepper(page.WithStill):
    """Made by ``stepper``: a slider over the blocks, one row watched closely."""

    def __init__(self, trace: Any, row: int) -> None:
        self.trace = trace
        steps = trace.steps
        self._step = ipywidgets.IntSlider(0, 0, len(steps) - 1, description="block", layout={"width": "30em"})
        play = ipywidgets.Play(value=0, min=0, max=len(steps) - 1, interval=1200)
        ipywidgets.jslink((play, "value"), (self._step, "value"))
        tallest = max(step.rows.stop - step.rows.start for step in steps)
        self._row = ipywidgets.Dropdown(
            options=[(f"row {index} of its block", index) for index in range(tallest)],
            value=min(row, tallest - 1),
            description="watch",
            layout={"width": "18em"},
        )
        self._picture = ipywidgets.HTML(layout={"width": "100%"})
        for control in (self._step, self._row):
            control.observe(lambda _: self._draw(), "value")
        self.live = ipywidgets.VBox([ipywidgets.HBox([play, self._step, self._row]), self._picture])
        self._draw()
        self.still = "".join(frame_svg(trace, number, self._row.value) for number in key_frames(trace, self._row.value))

    @property
    def step(self) -> int:
        """The block that is shown, counted in the order of the walk."""
        return self._step.value

    @step.setter
    def step(self, number: int) -> None:
        self._step.value = number

    def _draw(self) -> None:
        self._picture.value = frame_svg(self.trace, self._step.value, self._row.value)


def stepper(trace: Any, *, row: int = 0) -> Stepper:
    """Walk through ``trace`` block by block, with ``row`` (counted inside its row block) watched closely."""
    return Stepper(trace, row)


def key_frames(trace: Any, row: int) -> list[int]:
    """The steps worth printing: of the last row block the first, those where the maximum grew, and the last."""
    block = trace.steps[-1].row_block
    walk = [n for n, step in enumerate(trace.steps) if step.row_block == block and step.kind != "skipped"]
    grew = [n for n in walk[1:] if float(trace.steps[n].rescale[_within(trace.steps[n], row)]) < 1]
    return sorted({*walk[:1], *grew[: MOST_FRAMES - 2], *walk[-1:]})


def frame_svg(trace: Any, number: int, row: int) -> str:
    """One frame: the block grid, the three numbers of a row over the blocks, its output so far, the sum written out."""
    step = trace.steps[number]
    row = _within(step, row)
    walk = [past for past in trace.steps[: number + 1] if past.row_block == step.row_block and past.kind != "skipped"]
    parts = [_grid(trace, number), _numbers(trace, step, walk, row), _output(trace, step, walk, row)]
    line = _sentence(step, walk, row)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 44}" width="100%" style="max-width:{WIDTH}px;display:block" role="img" '
        f'aria-label="{page.escape(line)}">{"".join(parts)}'
        f"{_text(0, HEIGHT + 26, line, 14)}</svg>"
    )


def _within(step: Any, row: int) -> int:
    return min(row, step.rows.stop - step.rows.start - 1)


def _text(x: float, y: float, text: str, size: int = 13, anchor: str = "start", opacity: float = 1) -> str:
    style = f"{FONT};font-size:{size}px;opacity:{opacity}"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{page.escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1, more: str = "") -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" '
        f'fill="{fill}" fill-opacity="{opacity}" {more}/>'
    )


# --- left: which block ---


def _grid(trace: Any, number: int) -> str:
    rows = 1 + max(step.row_block for step in trace.steps)
    columns = 1 + max(step.column_block for step in trace.steps)
    side = min(56.0, 190 / rows, 230 / columns)
    left, top = 2, 36
    drawn = [_text(left, 14, "scores, block by block"), _text(left, 29, "blocks of keys →", 11, opacity=0.75)]
    for index, step in enumerate(trace.steps):
        fill = {"full": BLUE, "masked": ORANGE, "skipped": GREY}[step.kind]
        done = index <= number and step.kind != "skipped"
        place = (left + step.column_block * side, top + step.row_block * side, side - 2, side - 2)
        drawn.append(_box(*place, fill, 0.9 if done else 0.13 if step.kind == "skipped" else 0.3))
        if index == number:
            drawn.append(_box(*place, "none", 1, 'stroke="currentColor" stroke-width="2.5"'))
    below = top + rows * side + 16
    legend = ((BLUE, "full"), (ORANGE, "masked"), (GREY, "skipped"))
    kinds = {step.kind for step in trace.steps}
    for index, (color, word) in enumerate(pair for pair in legend if pair[1] in kinds):
        drawn.append(_box(left + 72 * index, below - 9, 10, 10, color, 0.85 if color != GREY else 0.3))
        drawn.append(_text(left + 14 + 72 * index, below, word, 11))
    return "".join(drawn)


# --- middle: maximum, rescale factor, normaliser of the watched row ---


def _numbers(trace: Any, step: Any, walk: Sequence[Any], row: int) -> str:
    left, width, height = 330.0, 230.0, 54.0
    whole = [s for s in trace.steps if s.row_block == step.row_block and s.kind != "skipped"]
    columns = 1 + max(s.column_block for s in trace.steps)
    slot = width / columns
    maxima = [float(s.maximum[row]) for s in whole if torch.isfinite(s.maximum[row])] or [0.0]
    span = (max(maxima) - min(maxima)) or 1.0
    low = min(maxima) - span / 3  # only how far it grows matters: maxima may be negative
    largest = max(float(s.normaliser[row]) for s in whole) or 1.0
    drawn = [_text(left - 60, 14, f"what row {step.rows.start + row} remembers")]
    panels = (
        ("m", "maximum", "maximum", lambda v: (v - low) / (span * 4 / 3)),
        ("a", "rescale", "rescale", lambda v: v),
        ("ℓ", "normaliser", "normaliser", lambda v: v / largest),
    )
    for index, (symbol, word, name, scaled) in enumerate(panels):
        base = 34 + (index + 1) * (height + 18) - 18
        drawn.append(_text(left - 60, base - height / 2, symbol, 17))
        drawn.append(_text(left - 60, base - height / 2 + 15, word, 10, opacity=0.75))
        drawn.append(_box(left, base, width, 1, "currentColor", 0.5))
        for past in walk:
            value = float(getattr(past, name)[row])
            if not torch.isfinite(torch.tensor(value)):
                continue
            tall = max(0.0, min(1.0, scaled(value))) * (height - 12)
            place = left + past.column_block * slot
            color = ORANGE if name == "rescale" and value < 1 else BLUE
            drawn.append(_box(place + 3, base - tall, slot - 6, tall, color, 0.9 if past is walk[-1] else 0.45))
            if slot > 30 or past is walk[-1]:
                drawn.append(_text(place + slot / 2, base - tall - 3, _number(value), 11, "middle"))
    return "".join(drawn)


# --- right: the output of the watched row so far ---


def _output(trace: Any, step: Any, walk: Sequence[Any], row: int) -> str:
    left, width, middle, height = 640.0, 290.0, 130.0, 78.0
    final = trace.output[step.rows.start + row]
    drawn = [_text(left, 14, "output so far, and where it will end")]
    if walk:
        latest = walk[-1]
        normaliser = float(latest.normaliser[row])
        # A row that has seen nothing yet has nothing to divide by.
        estimate = latest.accumulator[row] / (normaliser or 1.0)
        raw = latest.accumulator[row]
    else:
        estimate = raw = torch.zeros_like(final)
    shown = min(len(final), 16)
    largest = max(float(final.abs().max()), float(estimate.abs().max()), 1e-9)
    slot = width / shown
    drawn.append(_box(left, middle, width, 1, "currentColor", 0.5))
    for index in range(shown):
        place = left + index * slot
        for value, fill, more in (
            (float(estimate[index]), BLUE, ""),
            (float(final[index]), "none", 'stroke="currentColor" stroke-width="1.3"'),
        ):
            tall = abs(value) / largest * height
            inset = 3 if fill == "none" else 6
            y = middle - tall if value > 0 else middle
            drawn.append(_box(place + inset, y, slot - 2 * inset, tall, fill, 0.75, more))
    error = float((estimate - final).norm() / final.norm().clamp_min(1e-12))
    drawn.append(_box(left, 224, 10, 10, BLUE, 0.75))
    drawn.append(_text(left + 15, 233, "õ / ℓ, if we stopped here", 11))
    drawn.append(_box(left + 165, 224, 10, 10, "none", 1, 'stroke="currentColor"'))
    drawn.append(_text(left + 180, 233, "the final output", 11))
    drawn.append(_text(left, 254, f"off by {error:.0%};  |õ| = {float(raw.norm()):.2f}, not yet divided", 12))
    return "".join(drawn)


# --- below: the update with its numbers ---


def _sentence(step: Any, walk: Sequence[Any], row: int) -> str:
    where = f"Rows {step.rows.start}-{step.rows.stop - 1}, keys {step.columns.start}-{step.columns.stop - 1}"
    if step.kind == "skipped":
        return f"{where}: skipped. No query of this block may see any of these keys; nothing is loaded."
    m, a, new = (float(tensor[row]) for tensor in (step.maximum, step.rescale, step.normaliser))
    before = walk[-2] if len(walk) > 1 else None
    old = float(before.normaliser[row]) if before else 0.0
    old_m = _number(float(before.maximum[row])) if before else "−∞"
    subtracted = f"({_number(m)})" if m < 0 else _number(m)
    return (
        f"{where}:  m: {old_m} → {_number(m)},   a = exp({old_m} − {subtracted}) = {a:.2f},   "
        f"ℓ = {a:.2f} · {old:.2f} + {new - a * old:.2f} = {new:.2f}"
    )


def _number(value: float) -> str:
    if value == -torch.inf:
        return "−∞"
    return f"{value:.2f}".replace("-", "−")
