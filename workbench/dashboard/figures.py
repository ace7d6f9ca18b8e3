"""Figures that live in documents of their own, and are drawn once for everybody who sees the same.

Panel's place for a figure makes its parts parts of the page: whatever changes anywhere, Bokeh then walks through all
figures of the page, and every visitor has figures of their own even where they look the same. Here a figure is sent as
the text of a small document. Equal figures are one text, whoever looks at them; the figure itself is made for a visitor
only when something in it changes.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import panel as pn
import param
from bokeh.core.json_encoder import serialize_json
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.plotting import figure as Plot

from workbench.dashboard.jobs import Cache, give_way

STATIC = Path(__file__).parent / "static"
drawings = Cache(64 * 2**20)  # texts of figures
_painter = ThreadPoolExecutor(1, thread_name_prefix="workbench-painter", initializer=give_way)


class Figure(pn.custom.JSComponent):
    """A place for a figure. ``draw`` puts one there, ``change`` changes it; ``on_pick`` is called with the indices that
    somebody picked in a data source with the tag "picked".

    Figures with another tag in common are linked: zoom and cross-hair.
    """

    drawing = param.Dict(default={"count": 0, "text": ""}, doc="The figure's document, and the number of its state.")

    _esm = STATIC / "figure.js"

    def __init__(self, on_pick: Callable[[list[int]], None] = lambda indices: None, **params: Any) -> None:
        super().__init__(sizing_mode="stretch_width", margin=0, **params)
        self._on_pick = on_pick
        self._count = 0
        self._document: Document | None = None
        self._wanted: Hashable = None

    @property
    def drawn(self) -> bool:
        """Whether there is a figure."""
        return self._count > 0

    @property
    def object(self) -> Plot | None:
        """The figure; None when there is none yet. What is done to it here is not sent, see ``change``."""
        if self._document is None and self.drawn:
            self._document = Document.from_json(json.loads(self.drawing["text"]))
            self._document.models.flush_synced()
        return None if self._document is None else self._document.roots[0]

    def draw(self, make: Callable[..., Plot], *arguments: Any, **options: Any) -> None:
        """Show ``make(*arguments, **options)``; made once for equal arguments, so it must depend on nothing else."""
        self._wanted = key = _key(make, arguments, options)
        text, self._document = drawings.get(key), None
        if text is None:
            text, self._document = _made(key, make, arguments, options)
        self._count += 1
        self.drawing = {"count": self._count, "text": text}

    def draw_later(
        self, schedule: Callable[[Callable[[], None]], None], make: Callable[..., Plot], *arguments: Any, **options: Any
    ) -> None:
        """As ``draw``; but what nobody has seen yet is made beside the event loop, and shown with ``schedule``, unless
        another figure was asked for meanwhile."""
        self._wanted = key = _key(make, arguments, options)

        def show() -> None:
            if self._wanted == key:
                self.draw(make, *arguments, **options)

        def paint() -> None:
            _made(key, make, arguments, options)
            schedule(show)

        if drawings.get(key) is None:
            _painter.submit(paint)
        else:
            show()

    def change(self, how: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Call ``how(figure, *arguments, **options)``, and show what it changed."""
        plot, document, events = self.object, self._document, []

        def note(event: Any) -> None:
            events.append(event)

        document.on_change(note)
        document.hold("combine")
        try:
            how(plot, *arguments, **options)
        finally:
            document.unhold()
            document.remove_on_change(note)
        if events:
            self._count += 1
            if self._models:  # it is on the page; else it will be sent whole
                self._send_msg({"count": self._count, "patch": _patch(document, events)})

    def _get_model(self, *arguments: Any, **options: Any) -> Any:
        with param.parameterized.discard_events(self):
            self._send_whole()  # it is put on the page: as it is now
        return super()._get_model(*arguments, **options)

    def _send_whole(self) -> None:
        if self.drawing["count"] != self._count:
            self.drawing = {"count": self._count, "text": _written(self._document)}

    def _handle_msg(self, data: Any) -> None:
        if not isinstance(data, dict):
            return
        picked = data.get("picked")
        if isinstance(picked, list) and all(isinstance(each, int) for each in picked):
            self._on_pick(picked)
        elif "have" in data and data["have"] != self._count:
            self._send_whole()


def _key(make: Callable[..., Plot], arguments: tuple, options: dict[str, Any]) -> Hashable:
    given = pickle.dumps((arguments, options), pickle.HIGHEST_PROTOCOL)
    return (make.__module__, make.__qualname__, hashlib.blake2b(given).digest())


def _made(key: Hashable, make: Callable[..., Plot], arguments: tuple, options: dict[str, Any]) -> tuple[str, Document]:
    document = Document()
    document.add_root(make(*arguments, **options))
    document.models.flush_synced()
    text = _written(document)
    drawings.put(key, text, len(text))
    return text, document


def _written(document: Document) -> str:
    return serialize_json(document.to_json(deferred=False))


def _patch(document: Document, events: list[Any]) -> str:
    """Events of a document as the text that its copy on the page takes (see Bokeh's ``patch_doc`` message)."""
    serializer = Serializer(references=document.models.synced_references, deferred=False)
    text = serialize_json({"events": serializer.encode(events)})
    document.models.flush_synced(lambda model: not serializer.has_ref(model))
    return text
