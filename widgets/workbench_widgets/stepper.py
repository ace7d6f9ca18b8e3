"""A stepper for any algorithm: its values in cells, what just happened in a sentence, a pointer at the line of source.

An algorithm gives frames, made by hand or by ``record``. Each is drawn as HTML, so that the same picture is live under
a slider and, as a strip of the frames that matter, stands in an exported page.
"""

from collections.abc import Callable, Mapping, Sequence

import ipywidgets

from workbench.plots.cells import Bars, Cells
from workbench_widgets import page
from workbench_widgets.recorder import Frame, record
from workbench_widgets.source import code_html, excerpt

__all__ = ["Frame", "Stepper", "record", "stepper"]

MOST_KEYS = 4

STYLE = """
<style>
.wb-frame {margin: .2em 0 1em}
.wb-frame .wb-said {line-height: 1.45; min-height: 2.9em; max-width: 60em}
.wb-frame .wb-values {display: flex; flex-wrap: wrap; gap: .8em 2em; align-items: flex-start}
.wb-frame .wb-values > div {max-width: 100%; min-width: 0}
.wb-frame .wb-name {font-size: .9em; margin-bottom: .25em}
.wb-still-frames .wb-said {min-height: 0}
</style>"""

Source = Callable | str | tuple
"""What ``show_source`` takes: a function, or (function, first, last)."""


class Stepper(page.WithStill):
    """Made by ``stepper``: a slider over frames, and a menu if there are several walks."""

    def __init__(
        self, walks: Mapping[str, Sequence[Frame]], source: Source | None, what: str, keys: Sequence[int] | None
    ) -> None:
        self.walks = {name: list(frames) for name, frames in walks.items()}
        self._source = None if source is None else excerpt(*(source if isinstance(source, tuple) else (source,)))
        first = next(iter(self.walks))
        self._reach = {name: _reach(frames) for name, frames in self.walks.items()}
        self._step = ipywidgets.IntSlider(0, 0, 0, description=what, layout={"width": "26em", "max_width": "100%"})
        self._play = ipywidgets.Play(value=0, min=0, max=0, interval=1200, show_repeat=False)
        ipywidgets.jslink((self._play, "value"), (self._step, "value"))
        back, on = (_button(*way) for way in (("‹", "one step back"), ("›", "one step on")))
        back.on_click(lambda _: self._move(-1))
        on.on_click(lambda _: self._move(1))
        self._walk = ipywidgets.Dropdown(options=list(self.walks), value=first, layout={"width": "16em"})
        self._picture = ipywidgets.HTML(layout={"width": "100%"})
        self._step.observe(lambda _: self._draw(), "value")
        self._walk.observe(lambda _: self._draw(), "value")
        controls = [self._play, back, self._step, on, *([self._walk] if len(self.walks) > 1 else [])]
        row = ipywidgets.HBox(controls, layout={"flex_flow": "row wrap", "align_items": "center"})
        self.live = ipywidgets.VBox([row, self._picture])
        self._draw()
        shown = key_frames(self.walks[first]) if keys is None else keys
        strip = "".join(self.frame_html(number, first, pointed=False) for number in shown)
        self.still = f'{STYLE}<div class="wb-still-frames">{strip}{self._code("")}</div>'

    @property
    def frame(self) -> Frame:
        """The frame that is shown."""
        return self.walks[self._walk.value][self._step.value]

    def go(self, step: int, walk: str | None = None) -> str:
        """What a reader does: another step, another walk. Returns what is shown, as HTML."""
        if walk is not None:
            self._walk.value = walk
        self._step.value = step
        return self._picture.value

    def frame_html(self, number: int, walk: str, *, pointed: bool = True) -> str:
        """A frame as HTML: the sentence, the values, the source with its pointer."""
        frames = self.walks[walk]
        frame, before = frames[number], frames[number - 1].shown() if number else {}
        values = []
        for name, value in frame.shown().items():
            drawn = value
            if not isinstance(value, str):
                known = before.get(name)
                known = known if type(known) is type(value) else None
                drawn = value.draw(name, self._reach[walk][name], known)
            above = f'<div class="wb-name">{page.escape(name)}</div>' if name else ""
            values.append(f"<div>{above}{drawn}</div>")
        said = f'<div class="wb-said">{page.escape(frame.sentence)}</div>'
        code = self._code(frame.line) if pointed else ""
        return f'<div class="wb-frame">{said}<div class="wb-values">{"".join(values)}</div>{code}</div>'

    def check(self) -> None:
        """Raises ``ValueError`` for a frame that points at a line that the source does not have."""
        for frames in self.walks.values():
            for frame in frames:
                self._here(frame.line)

    def _code(self, line: str | int) -> str:
        return "" if self._source is None else code_html(*self._source[:2], self._here(line))

    def _here(self, line: str | int) -> int | None:
        """Where the pointer stands, counted from 1; None: nowhere in the part that is shown."""
        if self._source is None or line == "":
            return None
        code, _, first = self._source
        lines = code.splitlines()
        if isinstance(line, int):
            return line - first + 1 if first <= line < first + len(lines) else None
        found = [number for number, text in enumerate(lines, start=1) if line in text]
        if not found:
            raise ValueError(f"The source that is shown has no line with {line!r}: the frames must follow the code.")
        return found[0]

    def _move(self, by: int) -> None:
        self._step.value = min(max(self._step.value + by, 0), self._step.max)

    def _draw(self) -> None:
        walk = self._walk.value
        last = len(self.walks[walk]) - 1
        if self._step.max != last:
            self._step.value = min(self._step.value, last)
            self._step.max = self._play.max = last
        self._picture.value = STYLE + self.frame_html(self._step.value, walk)


def _button(word: str, tip: str) -> ipywidgets.Button:
    return ipywidgets.Button(description=word, tooltip=tip, layout={"width": "2.6em"})


def stepper(
    frames: Sequence[Frame] | Mapping[str, Sequence[Frame]],
    *,
    source: Source | None = None,
    what: str = "step",
    keys: Sequence[int] | None = None,
) -> Stepper:
    """Walk through an algorithm frame by frame.

    frames  the frames in order, as ``record`` gives them or made by hand; or several walks by name, for a menu
    source  the function whose lines the frames point at, or (function, first, last) as ``show_source`` takes them
    what    the name of a step, beside the slider
    keys    which frames the still shows (default: the first, the last and two between)

    Values of one name are coloured on one scale over the whole walk; an orange corner marks a number that is another
    one than in the frame before. Raises ``ValueError`` where there is no frame, for a key that there is not, and for a
    frame whose line is not in the source.
    """
    walks = dict(frames) if isinstance(frames, Mapping) else {"": frames}
    if not walks or not all(walks.values()):
        raise ValueError("A stepper needs at least one frame in every walk.")
    last = len(next(iter(walks.values()))) - 1
    if wrong := [key for key in keys or () if not 0 <= key <= last]:
        raise ValueError(f"There is no frame {wrong[0]}: the last one is {last}.")
    made = Stepper(walks, source, what, keys)
    made.check()
    return made


def key_frames(frames: Sequence[Frame]) -> list[int]:
    """Frames worth printing: the first, the last, and two between."""
    last = len(frames) - 1
    return sorted({round(last * part / (MOST_KEYS - 1)) for part in range(MOST_KEYS)})


def _reach(frames: Sequence[Frame]) -> dict[str, float]:
    """The scale of every name: its largest value in any frame."""
    found: dict[str, float] = {}
    for frame in frames:
        for name, value in frame.shown().items():
            if isinstance(value, Cells | Bars):
                found[name] = max(found.get(name, 0.0), value.reach())
    return found
