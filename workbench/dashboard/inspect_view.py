"""How the page Inspect looks: controls, head overviews, maps, the line that compares, similarities."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.models import CrosshairTool, Span

from workbench import plots
from workbench.dashboard import inspecting, state, toggles
from workbench.dashboard.inspecting import Figures, Maps, Similarity
from workbench.dashboard.knobs import Field, Form, Option
from workbench.dashboard.page import figure, give, pair, retext, settled, stack, text
from workbench.measure.memory import in_words
from workbench.tasks.sentences import EXAMPLES

if TYPE_CHECKING:
    from workbench.dashboard.inspect_page import InspectState

SIDES = ("a", "b")

FULL = {"b.attention.window_left": "None", "b.attention.window_right": "None"}

# Links to views with something to see, each one click away from the first screen.
TRY = {
    "What does “it” stand for?": {},
    "… and now, with “wide”?": {"text": EXAMPLES[1]},
    "See only two neighbours": {"b.attention.window_left": "2", "b.attention.window_right": "2"},
    "Look only backwards": {**FULL, "b.attention.is_causal": "True"},
    "ReLU for GELU": {**FULL, "b.activation": "relu"},
    "A polynomial for GELU": {**FULL, "b.activation": "poly_norm"},
    "A repeated sentence": {"text": EXAMPLES[7], "layer": "2", "head": "9"},
}  # fmt: skip


class InspectView:
    """The parts of the page and how to bring each of them up to date. Knows nothing of jobs."""

    def __init__(
        self,
        chosen: InspectState,
        pick: Callable[[int, int], None],
        act: Callable[[str, str, Any], None],
    ) -> None:
        self.chosen, self.pick = chosen, pick
        self.sentence = Form(lambda name, given: act("page", name, given), legend="Sentence")
        self.cards = {
            side: Form(lambda name, given, side=side: act(side, name, given), look="card", badge=side.upper(),
                       legend=f"Configuration {side.upper()}")
            for side in SIDES
        }  # fmt: skip
        self.pickers = Form(lambda name, given: act("page", name, given), legend="Layer and head")
        self.others = Form(lambda name, given: act("page", name, given), legend="Sentences to compare with")
        self.heads = {side: figure(None, min_height=260) for side in SIDES}
        self.drawn: dict[tuple[str, str], tuple[np.ndarray, tuple]] = {}
        self.pictures = {side: figure(None, min_height=460) for side in SIDES}
        self.difference = stack(figure(None), look="sheet")
        self.difference.visible = False
        self.cross = [
            Span(dimension=dimension, line_color="#808080", line_alpha=0.8) for dimension in ("width", "height")
        ]
        self.matrices = {side: figure(None, min_height=460) for side in SIDES}
        self.strip = text()
        self.reading = text()
        self.layout = stack(
            text(_introduction()),
            self.sentence,
            pair(self.cards["a"], self.cards["b"]),
            self.pickers,
            self.reading,
            pair(*(stack(self.pictures[side], look=f"sheet {side}") for side in SIDES)),
            self.difference,
            text("<h2>All layers and heads</h2><p class='small'>Tap one to see it large.</p>"),
            pair(*(stack(self.heads[side], look=f"sheet {side}") for side in SIDES)),
            text("<h2>Sentences compared</h2><p class='small'>Cosine of the sentence vectors: 1 is the same meaning to "
                 "this encoder, 0 unrelated.</p>"),
            self.others,
            pair(*(stack(self.matrices[side], look=f"sheet {side}") for side in SIDES)),
            text(f"<p class='small'>{html.escape(toggles.silent())}</p>", visible=bool(toggles.silent())),
            stack(self.strip, look="stick"),
        )  # fmt: skip

    def controls(self) -> None:
        chosen = self.chosen
        example = chosen.text if chosen.text in EXAMPLES else ""
        self.sentence.show([
            Field("text", "Your sentence", "text", chosen.text),
            Field("example", "Examples", "choice", example,
                  (Option("", "choose one"), *(Option(each, each) for each in EXAMPLES))),
        ])  # fmt: skip
        for side in SIDES:
            self.cards[side].show(chosen.card(side))
        self.pickers.show([
            Field("layer", "Layer", "slider", chosen.layer, stops=tuple(map(str, range(inspecting.LAYERS)))),
            Field("head", "Head", "slider", chosen.head, stops=tuple(map(str, range(inspecting.HEADS)))),
            Field("own", "Own colour scale for each map", "flag", chosen.scales == "own"),
            Field("difference", "Show the difference", "flag", chosen.difference),
            Field("swap", "Swap A and B", "button"),
            Field("copy", "Copy A to B", "button"),
        ])  # fmt: skip
        self.others.show([Field("others", "One sentence a line", "lines", "\n".join(chosen.others))])

    def maps(self, found: Mapping[str, Maps]) -> None:
        """Draw the chosen layer and head of both sides, and the overviews."""
        chosen = self.chosen.layer, self.chosen.head
        weights = {side: each.maps[chosen] for side, each in found.items()}
        shared = max((float(each.max()) for each in weights.values()), default=1.0)
        for side, each in found.items():
            high = float(weights[side].max()) if self.chosen.scales == "own" else shared
            title = f"{side.upper()} · layer {chosen[0]}, head {chosen[1]}"
            if not self._is_new("map", side, each.maps, chosen, high):
                continue
            if not settled(self.pictures[side]):
                self._draw(side, each, weights[side], high, title)
            else:
                shown = self.pictures[side].object
                plots.update_attention_map(shown, weights[side], each.tokens, each.tokens, high=high)
                shown.title.text = title
        both = set(found) == set(SIDES) and found["a"].tokens == found["b"].tokens
        retext(self.reading, biggest_change(weights, found["a"].tokens) if both else "")
        self.difference.visible = both and self.chosen.difference
        if self.difference.visible:
            matrices, tokens = (weights["a"], weights["b"]), found["a"].tokens
            if not settled(self.difference[0]):
                give(self.difference[0], plots.difference_map(*matrices, tokens, tokens))
            else:
                plots.update_difference_map(self.difference[0].object, *matrices, tokens, tokens)

    def _is_new(self, what: str, side: str, array: np.ndarray, *settings: Any) -> bool:
        """Whether this array, with these settings, is something else than what the figure shows already."""
        before, self.drawn[what, side] = self.drawn.get((what, side)), (array, settings)
        return before is None or before[0] is not array or before[1] != settings

    def _draw(self, side: str, found: Maps, weights: np.ndarray, high: float, title: str) -> None:
        """A new map for one side, tied to that of the other: same zoom, same cross-hair."""
        picture = plots.attention_map(weights, found.tokens, found.tokens, high=high, title=title)
        picture.add_tools(CrosshairTool(overlay=list(self.cross)))
        other = self.pictures["b" if side == "a" else "a"].object
        if other is not None:
            picture.x_range, picture.y_range = other.x_range, other.y_range
        give(self.pictures[side], picture)

    def overviews(self, found: Mapping[str, Maps]) -> None:
        """All heads of both sides, small."""
        chosen = self.chosen.layer, self.chosen.head
        for side, each in found.items():
            if not self._is_new("heads", side, each.maps, chosen):
                continue
            if not settled(self.heads[side]):
                overview = plots.head_overview(each.maps, selected=chosen)
                plots.heads_source(overview).selected.on_change("indices", self._tapped)
                give(self.heads[side], overview)
            else:
                plots.update_head_overview(self.heads[side].object, each.maps, selected=chosen)

    def _tapped(self, attribute: str, old: list[int], new: list[int]) -> None:
        if new:
            self.pick(*divmod(new[0], inspecting.HEADS))

    def similarity(self, found: Mapping[str, Similarity]) -> None:
        for side, each in found.items():
            if not self._is_new("similarity", side, each.cosines, each.texts):
                continue
            if not settled(self.matrices[side]):
                give(self.matrices[side], plots.similarity(each.cosines, short(each.texts)))
            else:
                plots.update_similarity(self.matrices[side].object, each.cosines, short(each.texts))

    def costs(self, figures: Figures | None, found: Mapping[str, Maps], waiting: bool) -> None:
        """The line from A to B."""
        retext(self.strip, comparison(figures, found, waiting))


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
    words = []
    for side in SIDES:
        column = int(weights[side][row].argmax())
        words.append(f"in <b>{side.upper()}</b> it looks most at “{html.escape(tokens[column])}” "
                     f"({100 * weights[side][row, column]:.0f} %)")  # fmt: skip
    return f"<p>Follow the row “{html.escape(tokens[row])}”: {', '.join(words)}.</p>"


def comparison(figures: Figures | None, found: Mapping[str, Maps], waiting: bool) -> str:
    """A to B in one line: time, peak memory, and how far the sentence vector moved."""
    parts = []
    if figures is not None:
        a, b = (figures.timings[side] for side in SIDES)
        ratio, verdict = inspecting.compared(figures.timings)
        spread = " · ".join(f"{side.upper()} {each.low_ms:.3g}–{each.high_ms:.3g} ms, n = {each.repeats}"
                            for side, each in (("a", a), ("b", b)))  # fmt: skip
        parts.append(
            _part("one forward pass", f"{a.median_ms:.3g} ms", f"{b.median_ms:.3g} ms", f"{ratio}, {verdict}", spread)
        )
        peaks = [figures.peaks[side] for side in SIDES]
        ratio = f"×{peaks[1] / peaks[0]:.2f}" if peaks[0] else ""
        parts.append(
            _part("peak memory", *map(in_words, peaks), ratio, "bytes of live tensors at the peak of one forward pass")
        )
    else:
        words = "measuring time and memory …" if waiting else "time and memory were not measured"
        parts.append(f"<div class='note'>{words}</div>")
    if set(found) == set(SIDES):
        cosine = float(found["a"].vector @ found["b"].vector)
        parts.append(f"<div><span class='what'>sentence vectors agree, cosine</span> <b>{cosine:.4f}</b></div>")
    if figures is not None:
        machine = html.escape(figures.machine)
        parts.append(f"<div class='note where' title='{machine}'>{machine}</div>")
    return f"<div class='strip' role='status'><span class='what'>A → B</span>{''.join(parts)}</div>"


def _part(what: str, a: str, b: str, ratio: str, more: str) -> str:
    return (
        f"<div title='{html.escape(more)}'><span class='what'>{what}</span> "
        f"<b class='a'>{a}</b> → <b class='b'>{b}</b> <span class='note'>{ratio}</span></div>"
    )


def _introduction() -> str:
    links = " · ".join(
        f'<a href="{html.escape(state.join({"page": "inspect", **view}))}">{name}</a>' for name, view in TRY.items()
    )
    return (
        "<p>A real sentence encoder reads your sentence twice, as <b>A</b> and as <b>B</b>. "
        f"Change B and watch where its words look. <span class='small'>Try: {links}</span></p>"
    )


def short(texts: Sequence[str], longest: int = 16) -> list[str]:
    """Labels that fit beside a matrix: the beginning of each text, or its end where two begin alike."""
    begin = [text if len(text) <= longest else text[: longest - 1].rstrip() + "…" for text in texts]
    return [each if begin.count(each) == 1 else "…" + text[1 - longest :].lstrip()
            for each, text in zip(begin, texts, strict=True)]  # fmt: skip
