"""A quantiser for a tensor: its knobs, its staircase, its levels among the numbers, and its error over the bits."""

from typing import Any

import ipywidgets
from jupyter_bokeh.widgets import BokehModel
from torch import Tensor

from workbench import controls, plots
from workbench.models.quantisation import Quantiser, fit, signal_to_noise
from workbench.writing import number
from workbench_widgets import knobs, page
from workbench_widgets.frames import WRAP, fitted

SHOWN = ("bits", "scheme", "per", "percentile")
BITS = range(2, 13)
SIDE_BY_SIDE = "display:grid;grid-template-columns:repeat(auto-fit,minmax(280px,1fr));gap:1em"


class QuantiserViewer(page.WithStill):
    """Made by ``quantiser``. ``set(name=value)`` turns a knob as a reader would; ``quantiser`` is what is shown."""

    def __init__(self, tensor: Tensor, shown: tuple[str, ...], part: int, caption: str, fixed: dict[str, Any]) -> None:
        self.tensor, self._caption, self._fixed = tensor.detach(), caption, fixed
        self._turning = False
        self.knobs = {name: controls.knobs(fit)[name] for name in shown}
        self.widgets = {name: knobs.widget(knob, fixed.get(name, ...)) for name, knob in self.knobs.items()}
        self._part = ipywidgets.BoundedIntText(
            part, 0, tensor.numel(), description="shown part", style=knobs.LABEL, layout=knobs.LAYOUT
        )
        for each in (*self.widgets.values(), self._part):
            each.observe(lambda _: self._draw(), "value")
        self._said = ipywidgets.HTML(layout={"width": "100%"})
        self._places = [BokehModel(made) for made in self._figures()]
        for place in self._places:
            place.layout = ipywidgets.Layout(flex="1 1 280px", min_width="240px")
        self._said.value = self._sentence()
        rows = ipywidgets.HBox([*self.widgets.values(), self._part], layout=WRAP)
        self.live = ipywidgets.VBox([rows, ipywidgets.HBox(self._places, layout=WRAP), self._said])

    @property
    def still(self) -> str:
        """The three figures of the settings as they stand, side by side where there is room."""
        return f'<div style="{SIDE_BY_SIDE}">{page.figures_html(self._figures())}</div>{self._sentence()}'

    @property
    def settings(self) -> dict[str, Any]:
        """The keywords of ``fit``, as the knobs stand."""
        return {**self._fixed, **{name: knobs.value_of(widget) for name, widget in self.widgets.items()}}

    @property
    def quantiser(self) -> Quantiser:
        return fit(self.tensor, **self.settings)

    def set(self, **values: Any) -> None:
        """Turn knobs, or show another ``part``. ``ValueError`` for a value out of bounds, ``KeyError`` for a knob that
        is not shown."""
        checked = {name: self.knobs[name].check(value) for name, value in values.items() if name != "part"}
        self._turning = True  # drawn once, when all are turned
        self._part.value = values.get("part", self._part.value)
        for name, value in checked.items():
            knobs.turn(self.widgets[name], value)
        self._turning = False
        self._draw()

    def _draw(self) -> None:
        if self._turning:
            return
        try:
            figures, said = self._figures(), self._sentence()
        except ValueError as error:
            self._said.value = f'<div class="wb-box wb-open">{page.escape(error)}</div>'
            return
        for place, made in zip(self._places, figures, strict=True):
            place.update_from_model(made)
        self._said.value = said

    def _figures(self) -> list[Any]:
        made = self.quantiser
        part = min(self._part.value, made.parts - 1)
        numbers = self.tensor.double().reshape(made.parts, -1)[part].cpu().numpy()
        levels = made.levels[part].double().cpu().numpy()
        chosen = f"per {self.settings.get('per', 'tensor')}", self.settings.get("bits", 8)
        return [
            plots.staircase(levels, float(numbers.min()), float(numbers.max())),
            plots.levels_histogram(numbers, levels),
            plots.noise_over_bits(self._noise(), chosen=chosen),
        ]

    def _noise(self) -> dict[str, dict[int, float]]:
        """dB over bits, for each granularity into which the tensor can be cut."""
        found: dict[str, dict[int, float]] = {}
        for per in ("tensor", "channel", "group"):
            settings = {**self.settings, "per": per}
            try:
                made = {bits: fit(self.tensor, **{**settings, "bits": bits})(self.tensor) for bits in BITS}
            except ValueError:
                continue
            found[f"per {per}"] = {bits: signal_to_noise(self.tensor, back) for bits, back in made.items()}
        return found

    def _sentence(self) -> str:
        made = self.quantiser
        part = min(self._part.value, made.parts - 1)
        decibels = signal_to_noise(self.tensor, made(self.tensor))
        scales = "one scale" if made.parts == 1 else f"{made.parts:,} scales (part {part} is shown)"
        words = (
            f"{made.high - made.low + 1:,} levels, {scales}; step {number(float(made.scale[part]))}. "
            f"{made.clipped(self.tensor):.2%} of all numbers are clipped. Signal over noise {decibels:.1f} dB. "
            f"{number(made.bits_per_number(self.tensor))} bits a number, 16 for each scale included."
        )
        return fitted(page.caption_html(" ".join(filter(None, [self._caption, words]))))


def quantiser(tensor: Tensor, *shown: str, part: int = 0, caption: str = "", **fixed: Any) -> QuantiserViewer:
    """Quantise ``tensor`` (rows, ...) and see what becomes of it.

    ``shown`` names the knobs of ``workbench.models.quantisation.fit`` to show, in order (default: bits, scheme, per,
    percentile); ``fixed`` sets knobs, shown or not. Of the parts that have a scale of their own, number ``part`` is
    drawn. Raises ``ValueError`` for an unknown knob, and for numbers that cannot be quantised.
    """
    known = controls.knobs(fit)
    if unknown := {*shown, *fixed}.difference(known):
        raise ValueError(f"A quantiser has no knob {', '.join(sorted(unknown))}: it has {', '.join(known)}.")
    checked = {name: known[name].check(value) for name, value in fixed.items()}
    fit(tensor, **checked)
    return QuantiserViewer(tensor, shown or SHOWN, part, caption, checked)
