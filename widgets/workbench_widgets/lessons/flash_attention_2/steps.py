"""Online softmax, one block after the other: what each row remembers, and how its output comes together."""

from collections.abc import Sequence

import torch

from workbench.attention import flash_attention_2 as paper
from workbench.plots import BLUE, ORANGE, Bars, svg
from workbench.plots.cells import short
from workbench_widgets.stepper import Frame, Stepper, stepper

MOST_KEYS = 4
COLORS = {"full": (BLUE, 0.3, 0.9), "masked": (ORANGE, 0.3, 0.9), "skipped": (svg.GREY, 0.13, 0.13)}


def online_softmax(trace: paper.Trace, *, row: int = 0) -> Stepper:
    """Walk through ``trace`` block by block; a menu says which row of its block is watched, ``row`` at first."""
    tallest = max(step.rows.stop - step.rows.start for step in trace.steps)
    order = sorted(range(tallest), key=lambda each: each != row)
    walks = {f"row {each} of its block": frames(trace, each) for each in order}
    source = (paper.forward, "for j, columns", "logsumexp_i = finish")
    return stepper(walks, source=source, what="block", keys=key_frames(trace, row))


def key_frames(trace: paper.Trace, row: int) -> list[int]:
    """The steps worth printing: of the last row block the first, those where the maximum grew, and the last."""
    block = trace.steps[-1].row_block
    walk = [n for n, step in enumerate(trace.steps) if step.row_block == block and step.kind != "skipped"]
    grew = [n for n in walk[1:] if float(trace.steps[n].rescale[_within(trace.steps[n], row)]) < 1]
    return sorted({*walk[:1], *grew[: MOST_KEYS - 2], *walk[-1:]})


def frames(trace: paper.Trace, row: int) -> list[Frame]:
    """A frame a block: the block grid, the three numbers of a row over the blocks, its output so far."""
    return [_frame(trace, number, row) for number in range(len(trace.steps))]


def _frame(trace: paper.Trace, number: int, row: int) -> Frame:
    step = trace.steps[number]
    row = _within(step, row)
    walk = [past for past in trace.steps[: number + 1] if past.row_block == step.row_block and past.kind != "skipped"]
    values = {"scores, block by block": _grid(trace, number)}
    values |= _remembered(trace, step, walk, row)
    final = trace.output[step.rows.start + row]
    estimate, raw = torch.zeros_like(final), torch.zeros_like(final)
    if walk:  # a row that has seen nothing yet has nothing to divide by
        raw = walk[-1].accumulator[row]
        estimate = raw / (float(walk[-1].normaliser[row]) or 1.0)
    error = float((estimate - final).norm() / final.norm().clamp_min(1e-12))
    name = "Õ / ℓ, if we stopped here; outlined: the final output"
    values[name] = Bars(estimate[:16], outlines=final[:16], width=40)
    line = "continue" if step.kind == "skipped" else "maximum, normaliser, accumulator, _"
    said = _sentence(step, walk, row) + f"  The output is off by {error:.0%}; |Õ| = {float(raw.norm()):.2f}."
    return Frame(said, values, line)


def _within(step: paper.Step, row: int) -> int:
    return min(row, step.rows.stop - step.rows.start - 1)


def _remembered(trace: paper.Trace, step: paper.Step, walk: Sequence[paper.Step], row: int) -> dict[str, Bars]:
    """m, a and ℓ of the watched row after every block so far."""
    columns = 1 + max(each.column_block for each in trace.steps)
    whole = [each for each in trace.steps if each.row_block == step.row_block and each.kind != "skipped"]
    maxima = [float(each.maximum[row]) for each in whole if torch.isfinite(each.maximum[row])] or [0.0]
    low = min(maxima) - ((max(maxima) - min(maxima)) or 1.0) / 3  # only how far it grows matters
    found = {}
    panels = (("m", "maximum", low), ("a", "rescale", 0.0), ("ℓ", "normaliser", 0.0))
    for symbol, name, start in panels:
        numbers = torch.full((columns,), torch.nan, dtype=torch.float64)
        for past in walk:
            value = getattr(past, name)[row]
            numbers[past.column_block] = value if torch.isfinite(value) else torch.nan
        strong = torch.zeros(columns, dtype=torch.bool)
        strong[[past.column_block for past in walk[-1:]]] = True
        grown = numbers < 1 if name == "rescale" else None
        title = f"{symbol}, the {name if name != 'rescale' else 'factor'} of row {step.rows.start + row}"
        found[title] = Bars(numbers, strong=strong, orange=grown, low=start, height=60, width=33)
    return found


def _grid(trace: paper.Trace, number: int) -> str:
    """All blocks: those that are done in full colour, the present one framed."""
    rows, columns = (1 + max(getattr(step, side) for step in trace.steps) for side in ("row_block", "column_block"))
    side = min(56.0, 190 / rows, 230 / columns)
    drawn = [svg.text(2, 12, "blocks of keys →", size=12)]
    for index, step in enumerate(trace.steps):
        color, waiting, done = COLORS[step.kind]
        place = (2 + step.column_block * side, 20 + step.row_block * side)
        edge = 2.5 if index == number else 0
        drawn.append(svg.box(*place, side - 2, side - 2, color, done if index <= number else waiting, edge=edge))
    kinds = [kind for kind in COLORS if any(step.kind == kind for step in trace.steps)]
    for index, kind in enumerate(kinds):
        x, y = 2 + 76 * index, 38 + rows * side
        drawn += [svg.box(x, y - 9, 10, 10, COLORS[kind][0], 0.85), svg.text(x + 14, y, kind, size=12)]
    width = max(columns * side, 76 * len(kinds), 110)
    return svg.picture(width + 4, 44 + rows * side, drawn, f"block {number} of {len(trace.steps)}")


def _sentence(step: paper.Step, walk: Sequence[paper.Step], row: int) -> str:
    """The update with its numbers."""
    where = f"Rows {step.rows.start}-{step.rows.stop - 1}, keys {step.columns.start}-{step.columns.stop - 1}"
    if step.kind == "skipped":
        return f"{where}: skipped. No query of this block may see any of these keys; nothing is loaded."
    m, a, new = (float(tensor[row]) for tensor in (step.maximum, step.rescale, step.normaliser))
    before = walk[-2] if len(walk) > 1 else None
    old = float(before.normaliser[row]) if before else 0.0
    old_m = short(float(before.maximum[row])) if before else "−∞"
    subtracted = f"({short(m)})" if m < 0 else short(m)
    return (
        f"{where}:  m: {old_m} → {short(m)},  a = exp({old_m} − {subtracted}) = {a:.2f},  "
        f"ℓ = {a:.2f} · {old:.2f} + {new - a * old:.2f} = {new:.2f}."
    )
