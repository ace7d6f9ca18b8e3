"""Every layer and head of a model's attention, one of them large."""

from collections.abc import Sequence

import ipywidgets
import numpy as np
from jupyter_bokeh.widgets import BokehModel

from workbench import plots
from workbench_widgets import page


class AttentionViewer(page.WithStill):
    """Made by ``attention_viewer``: sliders for layer and head, an overview of all, and the one that is picked."""

    def __init__(self, maps: np.ndarray, tokens: Sequence[str], layer: int, head: int) -> None:
        self.maps, self.tokens = np.asarray(maps), list(tokens)
        if self.maps.ndim != 4:
            raise ValueError(f"Maps have the shape (layers, heads, queries, keys), not {self.maps.shape}.")
        layers, heads = self.maps.shape[:2]
        self._layer = ipywidgets.IntSlider(layer, 0, layers - 1, description="layer")
        self._head = ipywidgets.IntSlider(head, 0, heads - 1, description="head")
        self.overview, self.figure = self._figures()
        for slider in (self._layer, self._head):
            slider.observe(lambda _: self._draw(), "value")
        plots.heads_source(self.overview).selected.on_change("indices", self._picked)
        self.live = ipywidgets.VBox(
            [ipywidgets.HBox([self._layer, self._head]), BokehModel(self.overview), BokehModel(self.figure)]
        )
        self.still = page.figures_html(self._figures())

    @property
    def picked(self) -> tuple[int, int]:
        """(layer, head) that is shown."""
        return self._layer.value, self._head.value

    def pick(self, layer: int, head: int) -> None:
        """Show another one."""
        self._layer.value, self._head.value = layer, head

    def _figures(self) -> tuple:
        overview = plots.head_overview(self.maps, selected=self.picked)
        overview.height, overview.max_width = 40 + 46 * self.maps.shape[0], 640
        figure = plots.attention_map(self.maps[self.picked], self.tokens, self.tokens, title=self._title())
        figure.max_width = 640
        return overview, figure

    def _title(self) -> str:
        return "layer {}, head {}".format(*self.picked)

    def _draw(self) -> None:
        plots.update_attention_map(self.figure, self.maps[self.picked], self.tokens, self.tokens)
        self.figure.title.text = self._title()
        source = plots.heads_source(self.overview)
        index = self._layer.value * self.maps.shape[1] + self._head.value
        if source.selected.indices != [index]:
            source.selected.indices = [index]

    def _picked(self, attribute: str, old: list[int], new: list[int]) -> None:
        if new:
            self.pick(*divmod(new[0], self.maps.shape[1]))


def attention_viewer(maps: np.ndarray, tokens: Sequence[str], *, layer: int = 0, head: int = 0) -> AttentionViewer:
    """Look at attention maps (layers, heads, tokens, tokens): pick a layer and a head with sliders, or tap one.

    Raises ``ValueError`` when maps and tokens do not fit together.
    """
    return AttentionViewer(maps, tokens, layer, head)
