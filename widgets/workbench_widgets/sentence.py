"""A sentence of the reader's own in a real pretrained encoder, with one knob: how far a token may look."""

import ipywidgets
import torch
from jupyter_bokeh.widgets import BokehModel

from workbench import plots
from workbench.models import pretrained
from workbench.tasks.sentences import check_text
from workbench_widgets import page

WINDOWS = (("everything", None), ("8 tokens", 8), ("4 tokens", 4), ("2 tokens", 2), ("1 token", 1), ("itself only", 0))


class SentenceViewer(page.WithStill):
    """Made by ``sentence_viewer``: a text box, layer, head and window; the map, and what the window does to meaning."""

    def __init__(self, text: str, layer: int, head: int, device: str) -> None:
        self._encoder = pretrained.load(device)
        self._text = ipywidgets.Text(text, description="sentence", continuous_update=False, layout={"width": "46em"})
        maps = self._inspect(text, None).maps
        layers, heads = maps.shape[:2]
        slider = {"continuous_update": False, "layout": {"width": "20em"}}
        self._layer = ipywidgets.IntSlider(layer, 0, layers - 1, description="layer", **slider)
        self._head = ipywidgets.IntSlider(head, 0, heads - 1, description="head", **slider)
        self._window = ipywidgets.Dropdown(
            options=[(word, index) for index, (word, _) in enumerate(WINDOWS)], value=0, description="may look at"
        )
        self._said = ipywidgets.HTML()
        self.figure = self._new_figure()
        for control in (self._text, self._layer, self._head, self._window):
            control.observe(lambda _: self._draw(), "value")
        self._draw()
        knobs = ipywidgets.HBox([self._layer, self._head, self._window])
        self.live = ipywidgets.VBox([self._text, knobs, BokehModel(self.figure), self._said])
        self.still = page.figures_html([self._new_figure()]) + self._said.value

    def set(self, *, text: str | None = None, window: int | None = -1) -> None:
        """What a reader does: another sentence, or another window (tokens to each side; None is everything)."""
        if window != -1:
            self._window.value = [tokens for _, tokens in WINDOWS].index(window)
        if text is not None:
            self._text.value = text

    def weight(self, query: str, key: str) -> float:
        """How much token ``query`` attends to token ``key`` in the picture. Raises ``ValueError`` for another token."""
        tokens = self.inspection.tokens
        return float(self.inspection.maps[self._layer.value, self._head.value, tokens.index(query), tokens.index(key)])

    def _inspect(self, text: str, window: int | None) -> pretrained.Inspection:
        options = {"window_left": window, "window_right": window}
        return self._encoder.inspect(check_text(text), attention="softmax_attention", attention_options=options)

    def _shown(self) -> tuple:
        self.inspection = self._inspect(self._text.value, WINDOWS[self._window.value][1])
        weights = self.inspection.maps[self._layer.value, self._head.value].numpy()
        return weights, self.inspection.tokens, self.inspection.tokens

    def _new_figure(self):
        figure = plots.attention_map(*self._shown(), title=self._title())
        figure.max_width = 680
        return figure

    def _title(self) -> str:
        return f"layer {self._layer.value}, head {self._head.value}"

    def _draw(self) -> None:
        try:
            plots.update_attention_map(self.figure, *self._shown())
            full = self._inspect(self._text.value, None)
        except ValueError as error:
            self._said.value = f'<div class="wb-box wb-open">{page.escape(error)}</div>'
            return
        self.figure.title.text = self._title()
        cosine = float(torch.dot(full.vector, self.inspection.vector))
        self._said.value = page.caption_html(
            "A row is one token; bright cells are where it looks. The sentence vector has a cosine of "
            f"<b>{cosine:.3f}</b> with that of full attention."
        )


def sentence_viewer(text: str, *, layer: int = 0, head: int = 0, device: str = "cpu") -> SentenceViewer:
    """Look into the pretrained encoder with a sentence.

    Raises ``RuntimeError`` when the encoder is not installed, ``ValueError`` for an empty or too long text.
    """
    return SentenceViewer(text, layer, head, device)
