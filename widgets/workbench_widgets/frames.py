"""A picture that is drawn anew for each step: a slider and a player over it; as a still, the steps that matter."""

from collections.abc import Callable, Iterable, Sequence

import ipywidgets

from workbench_widgets import page

WRAP = ipywidgets.Layout(flex_flow="row wrap", width="100%")


def fitted(content: str) -> str:
    """HTML for a live widget that is as wide as its place: what is wider scrolls instead of stretching the widget."""
    return f'<div style="width:0;min-width:100%">{content}</div>'


class Frames(page.WithStill):
    """A slider over ``steps``; ``draw(step)`` gives the picture as HTML.

    what       the word beside the slider; ``first`` is the step that is shown first
    shown      the steps that stand in the still, which has no slider
    more       further widgets beside the slider: a change of their value draws the picture again
    """

    def __init__(
        self,
        draw: Callable[[int], str],
        steps: range,
        *,
        what: str,
        first: int,
        shown: Iterable[int],
        more: Sequence[ipywidgets.ValueWidget] = (),
    ) -> None:
        self._draw_step = draw
        low, high = steps[0], steps[-1]
        self._step = ipywidgets.IntSlider(first, low, high, description=what, layout={"width": "22em"})
        play = ipywidgets.Play(value=first, min=low, max=high, interval=1000)
        ipywidgets.jslink((play, "value"), (self._step, "value"))
        self._picture = ipywidgets.HTML(layout={"width": "100%"})
        for control in (self._step, *more):
            control.observe(lambda _: self._draw(), "value")
        self.live = ipywidgets.VBox([ipywidgets.HBox([play, self._step, *more], layout=WRAP), self._picture])
        self._draw()
        self.still = "".join(draw(step) for step in dict.fromkeys(shown))

    @property
    def step(self) -> int:
        """The step that is shown."""
        return self._step.value

    @step.setter
    def step(self, step: int) -> None:
        self._step.value = step

    @property
    def picture(self) -> str:
        """What is shown, as HTML."""
        return self._picture.value

    def _draw(self) -> None:
        self._picture.value = fitted(self._draw_step(self.step))
