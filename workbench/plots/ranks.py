"""Ranks in a ring: what each holds, what is sent in one step, and the bytes that every link has carried so far."""

import math
from collections.abc import Sequence

from workbench.measure.memory import in_words
from workbench.models.ranks import Run, Transfer
from workbench.plots import svg
from workbench.plots.looks import BLUE, ORANGE

MOST_RANKS = 16
MOST_LINKS = 16  # of more, only what each rank sends is drawn
WIDTH, WIDE, TALL = 480, 178, 140  # of the picture, and the half axes of the ring
LINE = 15


def ranks_picture(run: Run, step: int) -> str:
    """Step ``step`` of a run (0: before the first) as HTML. Raises ``ValueError`` for more than 16 ranks, or a step
    that the run does not have."""
    if run.size > MOST_RANKS:
        raise ValueError(f"{run.size} ranks are too many for a ring that can be read: at most {MOST_RANKS}.")
    if not 0 <= step <= run.steps:
        raise ValueError(f"There is no step {step}: the run has {run.steps}.")
    now = [each for each in run.transfers if each.step == step]
    words = in_sentence(run, step)
    sides = "".join(f'<div style="flex:1 1 320px;min-width:0;max-width:{WIDTH}px">{side}</div>' for side in (
        _ring(run, step, now, words), _links(run, step)
    ))  # fmt: skip
    style = "display:flex;flex-wrap:wrap;gap:1.5em;align-items:center"
    return f'<div style="margin:.8em 0 .4em">{words}</div><div style="{style}">{sides}</div>'


def in_sentence(run: Run, step: int) -> str:
    """What is sent in this step, and how far the bytes are."""
    whole = sum(each.bytes for each in run.transfers)
    so_far = sum(each.bytes for each in run.transfers if each.step <= step)
    now = [each for each in run.transfers if each.step == step]
    if not now:
        what = "before anything is sent" if step == 0 else "nothing is sent"
    else:
        count = f"{len(now)} message" + ("s" if len(now) > 1 else "")
        names = ", ".join(dict.fromkeys(each.operation for each in now))
        what = f"{names}: {count}, {in_words(sum(each.bytes for each in now))}"
    return f"Step {step} of {run.steps} · {what} · {in_words(so_far)} of {in_words(whole)} are sent."


def _ring(run: Run, step: int, now: Sequence[Transfer], words: str) -> str:
    small = run.size > 8
    lines = max((len(run.held(rank, run.steps)) for rank in range(run.size)), default=0) * (not small)
    width, height = (44, 24) if small else ((104 if run.size <= 6 else 82) if lines else 72, 24 + LINE * lines)
    tall = TALL + height / 2
    middle = (WIDTH / 2, tall + height / 2 + 4)
    places = []
    for rank in range(run.size):
        angle = 2 * math.pi * rank / run.size - math.pi / 2
        places.append((middle[0] + WIDE * math.cos(angle), middle[1] + tall * math.sin(angle)))
    if run.size == 1:
        places = [middle]
    drawn = []
    for source, target in run.bytes_by_link():
        drawn.append(_arrow(places[source], places[target], (width, height), "currentColor", 1, ".3"))
    for each in now:
        size = in_words(each.bytes)
        label = "" if small else each.what or size if run.size > 4 else " · ".join(filter(None, (each.what, size)))
        ends = places[each.source], places[each.target]
        drawn.append(_arrow(*ends, (width, height), ORANGE, 3, "1", label, middle))
    for rank, (x, y) in enumerate(places):
        left, top = x - width / 2, y - height / 2
        drawn.append(svg.box(left, top, width, height, BLUE, 0.14, round=6))
        drawn.append(svg.text(x, top + 16, rank if small else f"rank {rank}", "middle", more=";font-weight:600"))
        for line, (name, what) in enumerate([] if small else run.held(rank, step).items()):
            shown = f"{name}: {what}"
            most = width // 6
            shown = shown if len(shown) <= most else shown[: most - 1] + "…"
            drawn.append(svg.text(x, top + 16 + LINE * (line + 1), shown, "middle", size=11))
    return svg.picture(WIDTH, 2 * tall + height + 8, drawn, words)


def _arrow(start, end, box, color, width, opacity, label="", middle=(0.0, 0.0)) -> str:
    """From the edge of one box to that of another, a little to the right of the line between their middles, so that
    there and back lie side by side. The label stands on the side that is turned away from the ring's middle."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    far = math.hypot(dx, dy)
    ux, uy = dx / far, dy / far
    # How far a ray from a box's middle runs until it leaves it.
    inside = min(box[0] / 2 / abs(ux) if abs(ux) > 1e-9 else far, box[1] / 2 / abs(uy) if abs(uy) > 1e-9 else far) + 5
    side = 5
    x1, y1 = start[0] + ux * inside - uy * side, start[1] + uy * inside + ux * side
    x2, y2 = end[0] - ux * inside - uy * side, end[1] - uy * inside + ux * side
    # A marker would be found by its id, and that of a still that is hidden is found first.
    back_x, back_y = x2 - 11 * ux, y2 - 11 * uy
    corners = ((x2, y2), (back_x - 6 * uy, back_y + 6 * ux), (back_x + 6 * uy, back_y - 6 * ux))
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    end_x, end_y = (back_x, back_y) if color == ORANGE else (x2, y2)
    drawn = (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{end_x:.1f}" y2="{end_y:.1f}" stroke="{color}" stroke-width="{width}" '
        f'opacity="{opacity}"/>'
    )
    if color == ORANGE:
        drawn += f'<polygon points="{points}" fill="{color}"/>'
    if not label:
        return drawn
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    outwards = 1 if (x - middle[0]) * uy - (y - middle[1]) * ux >= 0 else -1
    away_x, away_y = outwards * uy * 12, -outwards * ux * 12
    anchor = "middle" if abs(away_x) < 6 else "start" if away_x > 0 else "end"
    return drawn + svg.text(x + away_x, y + away_y + 4, label, anchor, size=11)


def _links(run: Run, step: int) -> str:
    """A bar a link: what it carried before this step (blue), in it (orange), and what is still to come (outline)."""
    whole, before, after = (run.bytes_by_link(until) for until in (None, step - 1, step))
    names = {link: f"{link[0]} → {link[1]}" for link in whole}
    heading = "bytes over each link"
    if len(whole) > MOST_LINKS:
        whole, before, after = (_by_source(counted) for counted in (whole, before, after))
        names, heading = {rank: f"rank {rank}" for rank in whole}, "bytes that each rank sends"
    drawn = [svg.text(0, 14, heading if whole else "one rank alone sends nothing")]
    left, room, row = 58, 290, 22
    largest = max(whole.values(), default=0) or 1
    for place, link in enumerate(whole):
        y = 28 + place * row
        drawn.append(svg.text(left - 8, y + 12, names[link], "end"))
        wide, old, new = (room * counted[link] / largest for counted in (whole, before, after))
        drawn += [svg.box(left, y, old, 15, BLUE, 0.8), svg.box(left + old, y, new - old, 15, ORANGE, 0.95)]
        drawn.append(svg.box(left, y, wide, 15, "none", edge=0.75))
        drawn.append(svg.text(left + wide + 8, y + 12, in_words(after[link]), size=12))
    return svg.picture(WIDTH, 36 + row * len(whole), drawn, f"Bytes so far: {sum(after.values())}")


def _by_source(counted: dict[tuple[int, int], int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for (source, _), bytes_ in counted.items():
        found[source] = found.get(source, 0) + bytes_
    return found
