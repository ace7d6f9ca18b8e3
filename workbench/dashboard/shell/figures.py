"""Places for figures on a page, and the thread that draws them.

Panel's place for a figure makes its parts parts of the page: whatever changes anywhere, Bokeh walks through all figures
of the page; and it is drawn on the event loop, where every click waits. Here a figure is a document of its own (see
``sheets``), drawn beside the event loop, once for everybody who sees the same, and sent as text.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import param
from bokeh.plotting import figure as Plot

from workbench.dashboard.shell.asking import Asking
from workbench.dashboard.shell.sheets import Sheet, key_of, texts
from workbench.dashboard.shell.worker import give_way

STATIC = Path(__file__).parents[1] / "static"
NOT_DRAWN = "What was chosen last could not be drawn here. Nothing else was lost, and the next choice is drawn again."
Schedule = Callable[[Callable[[], None]], None]

log = logging.getLogger(__name__)
_painter = ThreadPoolExecutor(1, thread_name_prefix="workbench-painter", initializer=give_way)


@dataclass
class Stroke:
    """Something to be drawn: a new figure when it has a ``key``, else a change of the one that is there."""

    how: Callable[..., Any]
    arguments: tuple
    options: dict[str, Any]
    key: Any = None


class Figure(Asking):
    """A place for a figure. ``draw`` puts one there, ``change`` changes it, in the order in which they are called; both
    return at once. What was drawn is sent from a callback that is given to ``schedule``. When something could not be
    drawn the visitor is told so, and what was there before stays.

    ``on_pick`` is called with the indices that somebody picked in a data source with the tag "picked". Figures with
    another tag in common are linked: zoom and cross-hair.
    """

    drawing = param.Dict(default={"count": 0, "text": ""}, doc="The figure's document, and the number of its state.")
    trouble = param.String(doc="One sentence when the latest of it could not be drawn; empty when it could.")

    _esm = STATIC / "figure.js"
    _stylesheets = [(STATIC / "figure.css").read_text(encoding="utf-8")]

    def __init__(
        self,
        schedule: Schedule = lambda callback: callback(),
        on_pick: Callable[[list[int]], None] = lambda indices: None,
        **params: Any,
    ) -> None:
        super().__init__(sizing_mode="stretch_width", margin=0, **params)
        self._schedule, self._on_pick = schedule, on_pick
        self._guard = threading.Lock()  # of what follows, for a moment at a time
        self._waiting: deque[Stroke] = deque()
        self._sheet: Sheet | None = None
        self._count = 0  # of the states that there were; each has its number
        self._asked = 0  # how many figures were asked for
        self._missing = False  # the one that was asked for could not be drawn
        self._in_trouble = False  # in the painter's thread: the visitor was told of something that was not drawn

    @property
    def drawn(self) -> bool:
        """Whether there is the figure that was asked for, or will be in a moment. While there is none it can only be
        drawn anew: changes of it are for nothing."""
        return self._asked > 0 and not self._missing

    def draw(self, how: Callable[..., Plot], *arguments: Any, **options: Any) -> None:
        """Show ``how(*arguments, **options)``. It is called once for equal arguments, so it must depend on nothing
        else; and in another thread."""
        key = key_of(how, arguments, options)
        text = texts.get(key)
        with self._guard:
            self._asked += 1
            self._missing = False
            self._waiting.clear()
            if text is None:
                self._waiting.append(Stroke(how, arguments, options, key))
            else:
                number = self._put(Sheet(text))
        if text is None:
            _submit(self._paint)
        else:
            self._show(number, text)
            self._all_is_well()

    def change(self, how: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Call ``how(figure, *arguments, **options)`` in another thread, and show what it changed. Of several that wait
        the last one is called: it must show everything that an earlier one would."""
        stroke = Stroke(how, arguments, options)
        with self._guard:
            if self._waiting and self._waiting[-1].key is None and self._waiting[-1].how is how:
                self._waiting[-1] = stroke
                return
            self._waiting.append(stroke)
        _submit(self._paint)

    @property
    def object(self) -> Plot | None:
        """The figure as it is when all is drawn that was asked for; None when nothing was. Waits for that."""
        when_drawn(lambda: None).result()
        return None if self._sheet is None else self._sheet.plot

    def let_go(self) -> None:
        """Nobody looks at it any more."""
        with self._guard:
            self._asked += 1
            self._waiting.clear()
            self._put(None)

    # --- in the painter's thread ---

    def _paint(self) -> None:
        with self._guard:
            if not self._waiting:
                return  # another figure was asked for meanwhile
            stroke, sheet, asked = self._waiting.popleft(), self._sheet, self._asked
            if stroke.key is None and (sheet is None or self._missing):
                return  # what it would change is not there
        try:
            if stroke.key is not None:
                self._paint_new(stroke, asked)
            else:
                self._paint_change(stroke, sheet)
        except Exception:
            log.exception("A figure could not be drawn")
            with self._guard:
                self._missing |= stroke.key is not None and asked == self._asked
            self._in_trouble = True
            self._schedule(functools.partial(self._not_drawn, asked))
        else:
            if self._in_trouble:
                self._in_trouble = False
                self._schedule(self._all_is_well)

    def _paint_new(self, stroke: Stroke, asked: int) -> None:
        sheet = Sheet.make(stroke.key, stroke.how, stroke.arguments, stroke.options)
        text = sheet.text
        with self._guard:
            if asked != self._asked:
                return
            number = self._put(sheet)
        self._schedule(functools.partial(self._show, number, text))

    def _paint_change(self, stroke: Stroke, sheet: Sheet) -> None:
        with sheet.lock:
            patch = sheet.change(stroke.how, stroke.arguments, stroke.options)
            with self._guard:
                if not patch or sheet is not self._sheet:
                    return
                self._count += 1
                number = self._count
        self._schedule(functools.partial(self._send_msg, {"count": number, "patch": patch}))

    def _put(self, sheet: Sheet | None) -> int:
        before, self._sheet = self._sheet, sheet
        if before is not None:
            _submit(functools.partial(_let_go, before))
        self._count += 1
        return self._count

    # --- on the event loop ---

    def _not_drawn(self, asked: int) -> None:
        if asked == self._asked:  # else another figure was asked for meanwhile, and may be there already
            self.trouble = NOT_DRAWN

    def _all_is_well(self) -> None:
        self.trouble = ""

    def _show(self, number: int, text: str) -> None:
        if number > self.drawing["count"]:
            self.drawing = {"count": number, "text": text}

    def _show_whole(self) -> None:
        """Show the figure as it is now: patches that are on their way are part of it."""
        with self._guard:
            sheet = self._sheet
        if sheet is not None:
            with sheet.lock:
                with self._guard:
                    number, replaced = self._count, sheet is not self._sheet
                if not replaced:
                    self._show(number, sheet.text)

    def _get_model(self, *arguments: Any, **options: Any) -> Any:
        with param.parameterized.discard_events(self):
            self._show_whole()  # it is put on a page
        return super()._get_model(*arguments, **options)

    def hear(self, data: Any) -> None:
        if not isinstance(data, dict):
            return
        picked = data.get("picked")
        if isinstance(picked, list) and all(isinstance(each, int) for each in picked):
            self._on_pick(picked)
        elif "have" in data and data["have"] != self._count:
            self._show_whole()


def _submit(work: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the server has come to its end
        _painter.submit(work)


def _let_go(sheet: Sheet) -> None:
    with sheet.lock:
        sheet.let_go()


def stop() -> None:
    """For good: what is not drawn yet will not be."""
    _painter.shutdown(wait=False, cancel_futures=True)


def when_drawn(callback: Callable[[], Any]) -> Future:
    """Call ``callback`` in the painter's thread when everything is drawn that was asked for by now."""
    return _painter.submit(callback)
