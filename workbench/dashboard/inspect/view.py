"""How the page Inspect looks: controls, maps, all heads, the line that compares; for a text its phrases and other
sentences, for an image its patches (``inspect_image``)."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.models import CrosshairTool, Span
from bokeh.plotting import figure as Plot

from workbench import plots
from workbench.dashboard.inspect import words as inspect_words
from workbench.dashboard.inspect.image import ImageView
from workbench.dashboard.inspect.parts import Phrases
from workbench.dashboard.inspect.seeing import SIDES, USES, Figures, Maps, Sums
from workbench.dashboard.inspect.work import Similarity
from workbench.dashboard.inspect.work_images import TIMED, Accuracy
from workbench.dashboard.shell import toggles
from workbench.dashboard.shell.figures import Figure
from workbench.dashboard.shell.knobs import Field, Form, Option
from workbench.dashboard.shell.page import pair, retext, stack, text
from workbench.tasks.sentences import EXAMPLES

if TYPE_CHECKING:
    from workbench.dashboard.inspect.state import InspectState

SOURCES = (Option("text", "a text"), Option("image", "an image"))


class InspectView:
    """The parts of the page and how to bring each of them up to date. Knows nothing of jobs."""

    def __init__(
        self,
        figure: Callable[..., Figure],
        chosen: InspectState,
        pick: Callable[[int, int], None],
        act: Callable[[str, str, Any], None],
    ) -> None:
        self.chosen, self.pick = chosen, pick
        self.introduction = text()
        self.subject = Form(lambda name, given: act("page", name, given), legend="What is looked at")
        self.cards = {
            side: Form(lambda name, given, side=side: act(side, name, given), look="card", badge=side.upper(),
                       legend=f"Configuration {side.upper()}")
            for side in SIDES
        }  # fmt: skip
        self.phrases = Phrases(act)
        self.image = ImageView(figure, chosen, act)
        self.pickers = Form(lambda name, given: act("page", name, given), legend="Layer and head")
        self.others = Form(lambda name, given: act("page", name, given), legend="Sentences to compare with")
        self.heads = {side: figure(on_pick=self._tapped, min_height=260) for side in SIDES}
        self.drawn: dict[tuple[str, str], tuple[Any, tuple]] = {}
        self.pictures = {side: figure(min_height=460) for side in SIDES}
        self.below = {side: text(inspect_words.sums(None)) for side in SIDES}
        self.difference = stack(figure(), look="sheet")
        self.matrices = {side: figure(min_height=460) for side in SIDES}
        self.strip = text()
        self.reading = text()
        self.compared = stack(
            text("<h2>Sentences compared</h2><p class='small'>Cosine of the sentence vectors: 1 is the same meaning to "
                 "this encoder, 0 unrelated.</p>"),
            self.others,
            pair(*(stack(self.matrices[side], look=f"sheet {side}") for side in SIDES)),
        )  # fmt: skip
        self.difference.visible = False
        silent = toggles.silent(USES)
        self.layout = stack(
            self.introduction,
            self.subject,
            self.image.choice,
            pair(self.cards["a"], self.cards["b"]),
            self.phrases.layout,
            self.pickers,
            self.reading,
            self.image.patches,
            pair(*(stack(self.pictures[side], self.below[side], look=f"sheet {side}") for side in SIDES)),
            self.difference,
            text("<h2>All layers and heads</h2><p class='small'>Tap one to see it large.</p>"),
            pair(*(stack(self.heads[side], look=f"sheet {side}") for side in SIDES)),
            self.compared,
            text(f"<p class='small'>{html.escape(silent)}</p>", visible=bool(silent)),
            stack(self.strip, look="stick"),
        )  # fmt: skip

    def controls(self) -> None:
        chosen = self.chosen
        of_text = chosen.source == "text"
        retext(self.introduction, inspect_words.introduction(chosen.source))
        subject = [Field("source", "Look at", "choice", chosen.source, SOURCES)]
        if of_text:
            example = chosen.text if chosen.text in EXAMPLES else ""
            subject += [
                Field("text", "Your sentence", "text", chosen.text),
                Field("example", "Examples", "choice", example,
                      (Option("", "choose one"), *(Option(each, each) for each in EXAMPLES))),
            ]  # fmt: skip
            self.others.show([Field("others", "One sentence a line", "lines", "\n".join(chosen.others))])
        else:
            subject += self.image.fields()
        self.subject.show(subject)
        for side in SIDES:
            self.cards[side].show(chosen.card(side))
        layers, heads = chosen.size
        self.pickers.show([
            Field("layer", "Layer", "slider", chosen.layer, stops=tuple(map(str, range(layers)))),
            Field("head", "Head", "slider", chosen.head, stops=tuple(map(str, range(heads)))),
            Field("own", "Own colour scale for each map", "flag", chosen.scales == "own"),
            Field("difference", "Show the difference", "flag", chosen.difference),
            Field("swap", "Swap A and B", "button"),
            Field("copy", "Copy A to B", "button"),
        ])  # fmt: skip
        self.compared.visible = of_text
        self.phrases.layout.visible = chosen.has_phrases
        self.phrases.own.visible = chosen.splits is not None
        self.image.controls()

    def maps(self, found: Mapping[str, Maps]) -> None:
        """Draw the chosen layer and head of both sides."""
        chosen = self.chosen.layer, self.chosen.head
        weights = {side: each.maps[chosen] for side, each in found.items()}
        shared = max((float(each.max()) for each in weights.values()), default=1.0)
        highs = {side: float(each.max()) if self.chosen.scales == "own" else shared for side, each in weights.items()}
        levels = max((group[2] for each in found.values() for group in each.groups), default=0)
        for side, each in found.items():
            if not self._is_new("map", side, each.maps, chosen, highs[side], each.groups, levels):
                continue
            title = f"{side.upper()} · layer {chosen[0]}, head {chosen[1]}"
            place, options = self.pictures[side], {"high": highs[side], "tree": each.groups, "levels": levels}
            if not place.drawn:
                place.draw(_map, weights[side], each.tokens, title, **options)
            else:
                place.change(_other_map, weights[side], each.tokens, title, **options)
        both = set(found) == set(SIDES) and found["a"].tokens == found["b"].tokens
        if self.chosen.source == "image":
            self.image.maps(weights)
            names = found["a"].tokens if both else []
            words = inspect_words.where_a_patch_looks(weights, names, self.chosen.patch) if both else ""
        else:
            words = inspect_words.biggest_change(weights, found["a"].tokens) if both else ""
        retext(self.reading, words)
        self.difference.visible = both and self.chosen.difference
        if self.difference.visible:
            matrices, tokens = (weights["a"], weights["b"]), found["a"].tokens
            if not self.difference[0].drawn:
                self.difference[0].draw(plots.difference_map, *matrices, tokens, tokens)
            else:
                self.difference[0].change(plots.update_difference_map, *matrices, tokens, tokens)

    def _is_new(self, what: str, side: str, array: np.ndarray, *settings: Any) -> bool:
        """Whether this array, with these settings, is something else than what the figure shows already."""
        before, self.drawn[what, side] = self.drawn.get((what, side)), (array, settings)
        return before is None or before[0] is not array or before[1] != settings

    def sums(self, told: Mapping[str, Sums]) -> None:
        for side in SIDES:
            retext(self.below[side], inspect_words.sums(told.get(side)))

    def overviews(self, found: Mapping[str, Maps]) -> None:
        """All heads of both sides, small."""
        chosen = self.chosen.layer, self.chosen.head
        for side, each in found.items():
            place, before = self.heads[side], self.drawn.get(("heads", side))
            if not self._is_new("heads", side, each.maps, chosen):
                continue
            if not place.drawn:
                place.draw(_heads, each.maps, chosen)
            elif before is not None and before[0] is each.maps:
                place.change(plots.select_head, chosen)
            else:
                place.change(plots.update_head_overview, each.maps, selected=chosen)

    def _tapped(self, indices: list[int]) -> None:
        if indices:
            self.pick(*divmod(indices[0], self.chosen.size[1]))

    def similarity(self, found: Mapping[str, Similarity]) -> None:
        for side, each in found.items():
            if not self._is_new("similarity", side, each.cosines, each.texts):
                continue
            if not self.matrices[side].drawn:
                self.matrices[side].draw(plots.similarity, each.cosines, inspect_words.short(each.texts))
            else:
                self.matrices[side].change(plots.update_similarity, each.cosines, inspect_words.short(each.texts))

    def costs(
        self, figures: Figures | None, found: Mapping[str, Maps], tested: Mapping[str, Accuracy], waiting: bool
    ) -> None:
        """The line from A to B."""
        if self.chosen.source == "text":
            line = inspect_words.comparison(figures, inspect_words.cosine(found), waiting)
        else:
            seen = inspect_words.predictions(found, tested, self.image.classes)
            line = inspect_words.comparison(figures, seen, waiting, f"{TIMED} images at once")
        retext(self.strip, line)


def _map(weights: np.ndarray, tokens: Sequence[str], title: str, **options: Any) -> Plot:
    """A map tied to that of the other side: same zoom, same cross-hair."""
    made = plots.attention_map(weights, tokens, tokens, title=title, **options)
    cross = [Span(dimension=dimension, line_color="#808080", line_alpha=0.8) for dimension in ("width", "height")]
    made.add_tools(CrosshairTool(overlay=cross))
    made.tags = ["map"]
    return made


def _other_map(shown: Plot, weights: np.ndarray, tokens: Sequence[str], title: str, **options: Any) -> None:
    plots.update_attention_map(shown, weights, tokens, tokens, **options)
    shown.title.text = title


def _heads(maps: np.ndarray, chosen: tuple[int, int]) -> Plot:
    made = plots.head_overview(maps, selected=chosen)
    plots.heads_source(made).tags = ["picked"]
    return made
