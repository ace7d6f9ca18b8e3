"""Two controls of the page Inspect that are no form: where phrases begin, and which image is looked at."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import param

from workbench.dashboard.shell.asking import Asking
from workbench.dashboard.shell.knobs import Field, Form
from workbench.dashboard.shell.page import stack, text

STATIC = Path(__file__).parents[1] / "static"
PHRASES = (
    "<p class='small'>The phrases of the tree: tap between two words to split or join. A word looks at every word of "
    "its own phrase; to another phrase it gives one weight, shared by all words there.</p>"
)
STYLE = (STATIC / "parts.css").read_text(encoding="utf-8")


class TreeEditor(Asking):
    """The tokens of a text in their phrases; ``on_splits`` is called with the places at which they are to begin."""

    tokens = param.List(default=[], doc="Word pieces, [CLS] and [SEP] included.")
    splits = param.List(default=[], doc="Where phrases begin, as places in tokens; the first one's is not said.")
    places = param.List(default=[], doc="Where they could begin: before a word, not inside one.")

    _esm = STATIC / "tree.js"
    _stylesheets = [STYLE]

    def __init__(self, on_splits: Callable[[tuple[int, ...]], None], **params: Any) -> None:
        super().__init__(sizing_mode="stretch_width", margin=0, **params)
        self._on_splits = on_splits

    def show(self, tokens: Sequence[str], splits: Sequence[int]) -> None:
        self.param.update(tokens=list(tokens), splits=list(splits), places=places(tokens))

    def hear(self, data: Any) -> None:
        place = data.get("place") if isinstance(data, dict) else None
        to = data.get("to") if isinstance(data, dict) else None
        if place not in self.places or (to is not None and to not in self.places):
            return  # an answer to a text that has been replaced meanwhile
        self._on_splits(tuple(sorted(set(self.splits) ^ {place} ^ ({to} if to is not None else set()))))


class Phrases:
    """The tree editor in its sheet, with the way back to what punctuation says."""

    def __init__(self, act: Callable[[str, str, Any], None]) -> None:
        self.editor = TreeEditor(lambda splits: act("page", "splits", splits))
        back = Form(lambda name, given: act("page", name, given), legend="Phrases")
        back.show([Field("punctuation", "Phrases as punctuation has them", "button")])
        self.own = stack(back)  # while the phrases are the visitor's own
        self.layout = stack(text(PHRASES), self.editor, self.own, look="sheet")
        self.layout.visible = False

    def show(self, tokens: Sequence[str], splits: Sequence[int]) -> None:
        self.editor.show(tokens, splits)


def places(tokens: Sequence[str]) -> list[int]:
    """Where a phrase can begin after the first one: before any word but the first, and not before [SEP]."""
    return [place for place in range(2, len(tokens) - 1) if not tokens[place].startswith("##")]


class Gallery(Asking):
    """Small images side by side; ``on_choice`` is called with the place of the one that was tapped."""

    images = param.Dict(
        default={"pixels": "", "size": 1, "labels": []},
        doc="All images after one another, a byte a pixel, base64; pixels on a side; what each is, in words.",
    )
    chosen = param.Integer(default=0, doc="Which one is framed.")
    legend = param.String(default="Images")

    _esm = STATIC / "gallery.js"
    _stylesheets = [STYLE]

    def __init__(self, on_choice: Callable[[int], None], **params: Any) -> None:
        super().__init__(sizing_mode="stretch_width", margin=0, **params)
        self._on_choice = on_choice

    def show(self, images: np.ndarray, labels: Sequence[str], chosen: int) -> None:
        """Images (n, size, size) from -1 to 1, and which of them is chosen."""
        grey = np.clip((np.asarray(images) + 1) * 127.5, 0, 255).astype(np.uint8)
        pixels = base64.b64encode(grey.tobytes()).decode()
        shown = {"pixels": pixels, "size": int(images.shape[-1]), "labels": list(labels)}
        if shown != self.images:
            self.images = shown
        self.chosen = chosen

    def hear(self, data: Any) -> None:
        index = data.get("index") if isinstance(data, dict) else None
        if isinstance(index, int) and 0 <= index < len(self.images["labels"]):
            self._on_choice(index)
