"""What the page Inspect says in words: its introduction, what a row looks at, sums, and the line from A to B."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence

import numpy as np

from workbench.dashboard.inspect import seeing
from workbench.dashboard.inspect.seeing import SIDES, Figures, Maps, Sums
from workbench.dashboard.inspect.work_images import Accuracy
from workbench.dashboard.shell import state, views
from workbench.measure.memory import in_words
from workbench.tasks.sentences import EXAMPLES
from workbench.writing import duration, number
from workbench.writing import ratio as times

FULL = {"b.attention.window_left": "None", "b.attention.window_right": "None"}

# Links to views with something to see, each one click away from the first screen.
OWN = {
    "… and now, with “wide”?": {"text": EXAMPLES[1]},
    "A repeated sentence": {"text": EXAMPLES[7], "layer": "2", "head": "9"},
    "ReLU for GELU": {**FULL, "b.activation": "relu"},
}
TRY = views.worth_seeing("inspect", OWN)


def introduction(source: str) -> str:
    links = " · ".join(
        f'<a href="{html.escape(state.join({"page": "inspect", **view}))}">{name}</a>' for name, view in TRY.items()
    )
    what = (
        "A real sentence encoder reads your sentence twice, as <b>A</b> and as <b>B</b>. "
        "Change B and watch where its words look."
        if source == "text"
        else "A small vision transformer looks at an image twice, as <b>A</b> and as <b>B</b>, patch by patch. "
        "Change B and watch where its patches look, and whether it still knows what it sees."
    )
    return f"<p>{what} <span class='small'>Try: {links}</span></p>"


def biggest_change(weights: Mapping[str, np.ndarray], tokens: list[str]) -> str:
    """The word whose attention differs most between A and B, read aloud.

    Words that look at a marker ([CLS], [SEP]) in A are passed over where there is another: heads park their attention
    there when they have nothing to say.
    """
    moved = np.abs(weights["a"] - weights["b"]).sum(1)
    if moved.max() < 1e-3:
        return "<p>In this head A and B look at the same words: the two maps are equal.</p>"
    marker = np.array([token in ("[CLS]", "[SEP]") for token in tokens])
    telling = ~marker & ~marker[weights["a"].argmax(1)] & (moved > 0.2)
    row = int(np.where(telling, weights["a"].max(1) * moved, 0).argmax()) if telling.any() else int(moved.argmax())
    words = [f"in <b>{side.upper()}</b> it looks most at {_most(weights[side][row], tokens)}" for side in SIDES]
    return f"<p>Follow the row “{html.escape(tokens[row])}”: {', '.join(words)}.</p>"


def where_a_patch_looks(weights: Mapping[str, np.ndarray], names: Sequence[str], patch: int) -> str:
    """Where the framed patch looks in A and in B, read aloud."""
    words = [f"in <b>{side.upper()}</b> it looks most at {_most(each[patch], names)}" for side, each in weights.items()]
    return f"<p>The framed patch, “{names[patch]}” (row, column): {', '.join(words)}. Tap another one.</p>"


def _most(row: np.ndarray, names: Sequence[str]) -> str:
    column = int(row.argmax())
    return f"“{html.escape(names[column])}” ({100 * row[column]:.0f} %)"


def sums(told: Sums | None) -> str:
    """How far a map is from doubly stochastic, in a line under it."""
    if told is None:
        return "<p class='small'>&nbsp;</p>"
    parts = (
        ("rows miss a sum of 1 by", f"{told.row_error:.2f}"),
        ("columns by", f"{told.column_error:.2f}"),
        ("distance to doubly stochastic", f"{told.distance:.2f}"),
        ("entropy", f"{told.entropy:.2f} of {told.most:.2f} nats"),
    )
    words = " · ".join(f"{what} <b>{number}</b>" for what, number in parts)
    return f"<p class='small'>{words}</p>"


# --- the line from A to B ---------------------------------------------------------------------------------------------


def comparison(figures: Figures | None, agreement: str, waiting: bool, what: str = "one forward pass") -> str:
    """A to B in one line: time, peak memory, and how far the outcome moved."""
    parts = []
    if figures is not None:
        a, b = (figures.timings[side] for side in SIDES)
        said = ", ".join(filter(None, seeing.compared(figures.timings, figures.same)))
        spread = " · ".join(f"{side.upper()} {number(each.low_ms)} to {duration(each.high_ms)}, n = {each.repeats}"
                            for side, each in (("a", a), ("b", b)))  # fmt: skip
        when = time.strftime("%H:%M:%S", time.localtime(figures.at))
        note = f"{said} <small>({spread}; measured in turns at {when})</small>"
        parts.append(_part(what, duration(a.median_ms), duration(b.median_ms), note, "median; 20 to 80 % of the runs"))
        peaks = [figures.peaks[side] for side in SIDES]
        ratio = times(peaks[1] / peaks[0]) if peaks[0] else ""
        parts.append(
            _part("peak memory", *map(in_words, peaks), ratio, "bytes of live tensors at the peak of one forward pass")
        )
    else:
        words = "measuring time and memory …" if waiting else "time and memory were not measured"
        parts.append(f"<div class='note'>{words}</div>")
    parts.append(agreement)
    if figures is not None:
        machine = html.escape(figures.machine)
        parts.append(f"<div class='note where' title='{machine}'>{machine}</div>")
    return f"<div class='strip' role='status'><span class='what'>A → B</span>{''.join(parts)}</div>"


def cosine(found: Mapping[str, Maps]) -> str:
    """How far the sentence vector moved."""
    if set(found) != set(SIDES):
        return ""
    agree = float(found["a"].vector @ found["b"].vector)
    return f"<div><span class='what'>sentence vectors agree, cosine</span> <b>{agree:.4f}</b></div>"


def predictions(found: Mapping[str, Maps], tested: Mapping[str, Accuracy], classes: Sequence[str]) -> str:
    """What the networks see, and how often they are right."""
    parts = []
    if set(found) == set(SIDES):
        seen = []
        for side in SIDES:
            best = int(found[side].vector.argmax())
            seen.append(f"{html.escape(classes[best])} ({100 * found[side].vector[best]:.0f} %)")
        parts.append(_part("it sees", *seen, "", "the likeliest class, and its probability"))
    if set(tested) == set(SIDES):
        rights = [f"{100 * tested[side].right / tested[side].total:.1f} %" for side in SIDES]
        total = tested["a"].total
        parts.append(_part(f"right on {total} test images", *rights, "", "images that it has not learned from"))
    return "".join(parts)


def _part(what: str, a: str, b: str, ratio: str, more: str) -> str:
    return (
        f"<div title='{html.escape(more)}'><span class='what'>{what}</span> "
        f"<b class='a'>{a}</b> → <b class='b'>{b}</b> <span class='note'>{ratio}</span></div>"
    )


def short(texts: Sequence[str], longest: int = 16) -> list[str]:
    """Labels that fit beside a matrix: the beginning of each text, or its end where two begin alike."""
    begin = [text if len(text) <= longest else text[: longest - 1].rstrip() + "…" for text in texts]
    return [each if begin.count(each) == 1 else "…" + text[1 - longest :].lstrip()
            for each, text in zip(begin, texts, strict=True)]  # fmt: skip
