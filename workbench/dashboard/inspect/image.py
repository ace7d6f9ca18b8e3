"""The parts of the page Inspect that only an image has: which one, where a patch of it looks, what it is taken for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.plotting import figure as Plot

from workbench.dashboard.inspect import work_images as inspecting_images
from workbench.dashboard.inspect.parts import Gallery
from workbench.dashboard.inspect.seeing import SIDES, Maps
from workbench.dashboard.shell.figures import Figure
from workbench.dashboard.shell.knobs import Field, Option
from workbench.dashboard.shell.page import stack, three
from workbench.plots import patches as plots
from workbench.tasks import images

if TYPE_CHECKING:
    from workbench.dashboard.inspect.state import InspectState

SHOWN = 38  # images side by side; the slider reaches the others
NAMES = {"digits": "digits, 8 × 8", "fashion_mnist": "clothes (Fashion-MNIST), 28 × 28"}


class ImageView:
    """Which image, its patches on both sides, the classes."""

    def __init__(
        self, figure: Callable[..., Figure], chosen: InspectState, act: Callable[[str, str, Any], None]
    ) -> None:
        self.chosen, self.act = chosen, act
        self.gallery = Gallery(lambda index: act("page", "image", index), legend="Test images")
        self.pictures = {side: figure(on_pick=self._tapped, min_height=260) for side in SIDES}
        self.bars = figure(min_height=260)
        self.choice = stack(self.gallery)
        sheets = [stack(self.pictures[side], look=f"sheet {side}") for side in SIDES]
        self.patches = stack(three(*sheets, stack(self.bars, look="sheet")))
        self.choice.visible = self.patches.visible = False
        self._shown: dict[str, tuple] = {}
        self._classes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return images.load(self.chosen.collection).classes

    def fields(self) -> list[Field]:
        """The controls that choose an image."""
        known = tuple(Option(name, words, " ".join(images.why_not(name))) for name, words in NAMES.items())
        stops = tuple(map(str, range(inspecting_images.OFFERED)))
        return [
            Field("collection", "Images of", "choice", self.chosen.collection, known),
            Field("image", "Image", "slider", self.chosen.image, stops=stops),
        ]

    def controls(self) -> None:
        shown = self.chosen.source == "image" and not images.why_not(self.chosen.collection)
        if shown:
            data = images.load(self.chosen.collection)
            labels = [f"Image {place}: {data.classes[label]}" for place, label in
                      enumerate(data.test_labels[:SHOWN].tolist())]  # fmt: skip
            self.gallery.show(data.test[:SHOWN, 0].numpy(), labels, self.chosen.image)
        self.choice.visible = self.patches.visible = shown

    def maps(self, weights: Mapping[str, np.ndarray]) -> None:
        """Where the framed patch looks, over the image, on both sides."""
        image = images.load(self.chosen.collection).test[self.chosen.image, 0].numpy()
        patch = self.chosen.patch
        shared = max(float(each[patch].max()) for each in weights.values()) if weights else 1.0
        for side, each in weights.items():
            row = each[patch]
            high = float(row.max()) if self.chosen.scales == "own" else shared
            if not self._is_new(side, self.chosen.collection, self.chosen.image, patch, high, row.tobytes()):
                continue
            if not self.pictures[side].drawn:
                title = f"{side.upper()} · where the framed patch looks"
                self.pictures[side].draw(_patches, image, row, patch, high, title)
            else:
                self.pictures[side].change(plots.update_patch_attention, image, row, patch, high=high)

    def _is_new(self, what: str, *shown: Any) -> bool:
        """Whether this is something else than what the figure shows already."""
        before, self._shown[what] = self._shown.get(what), shown
        return before != shown

    def _tapped(self, indices: list[int]) -> None:
        if indices and indices[0] != self.chosen.patch:
            self.act("page", "patch", indices[0])

    def probabilities(self, found: Mapping[str, Maps]) -> None:
        """What both sides take the image for."""
        data = images.load(self.chosen.collection)
        sides = {side.upper(): each.vector for side, each in found.items()}
        if set(found) != set(SIDES) or any(len(each) != len(data.classes) for each in sides.values()):
            return
        right = data.classes[int(data.test_labels[self.chosen.image])]
        if not self._is_new("bars", data.classes, right, *(each.tobytes() for each in sides.values())):
            return
        if self._classes != data.classes or not self.bars.drawn:
            self._classes = data.classes
            self.bars.draw(plots.class_probabilities, data.classes, sides, right=right)
        else:
            self.bars.change(plots.update_class_probabilities, sides, right=right)


def _patches(image: np.ndarray, row: np.ndarray, patch: int, high: float, title: str) -> Plot:
    made = plots.patch_attention(image, row, patch, high=high, title=title)
    plots.patch_source(made).tags = ["picked"]
    return made
