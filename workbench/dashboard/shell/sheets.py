"""A figure in a document of its own, as the text that a page takes. No Panel here."""

from __future__ import annotations

import hashlib
import json
import pickle
import threading
from collections.abc import Callable, Hashable
from typing import Any

import bokeh
from bokeh.core.json_encoder import serialize_json
from bokeh.core.serialization import Deserializer, Serializer
from bokeh.document import Document
from bokeh.model import Model
from bokeh.plotting import figure as Plot

from workbench.dashboard.shell.jobs import Cache

texts = Cache(64 * 2**20)  # of figures, by how they were made


class Sheet:
    """One figure. It is text at first; the figure is made of it when something is to be changed.

    Whoever changes it, or asks for its text, holds ``lock``.
    """

    def __init__(self, text: str, document: Document | None = None) -> None:
        self.lock = threading.Lock()
        self._text: str | None = text
        self._document = document

    @classmethod
    def make(cls, key: Hashable, how: Callable[..., Plot], arguments: tuple, options: dict[str, Any]) -> Sheet:
        """Call ``how``, and keep the text for all who ask for the same ``key``."""
        document = _document_of(how(*arguments, **options))
        text = _written(document)
        texts.put(key, text, len(text))
        return cls(text, document)

    @property
    def text(self) -> str:
        """The whole figure as it is now."""
        if self._text is None:
            self._text = _written(self._document)
        return self._text

    @property
    def plot(self) -> Plot:
        return self._read().roots[0]

    def change(self, how: Callable[..., Any], arguments: tuple, options: dict[str, Any]) -> str:
        """Call ``how(figure, *arguments, **options)``; what that changed, as text. Empty when it changed nothing."""
        document = self._read()
        how(document.roots[0], *arguments, **options)
        events = _taken(document)
        if not events:
            return ""
        self._text = None
        serializer = _OfChanges(document)
        patch = serialize_json({"events": serializer.encode(events)})
        document.models.flush_synced(lambda model: not serializer.has_ref(model))
        return patch

    def let_go(self) -> None:
        """The figure is not needed any more. A document and its models refer to each other: left alone, they would wait
        for Python's collector. The sheet cannot be used afterwards."""
        document, self._document = self._document, None
        if document is not None:
            for model in list(document.models):
                vars(model).clear()

    def _read(self) -> Document:
        if self._document is None:
            [plot] = Deserializer().deserialize(json.loads(self._text)["roots"])
            self._document = _document_of(plot)
        return self._document


def key_of(how: Callable[..., Plot], arguments: tuple, options: dict[str, Any]) -> Hashable:
    """What stands for a call, equal for equal arguments (now and then different, which does no harm)."""
    given = pickle.dumps((arguments, options), pickle.HIGHEST_PROTOCOL)
    return (how.__module__, how.__qualname__, hashlib.blake2b(given).digest())


def _document_of(plot: Plot) -> Document:
    """A document that keeps what happens to it until it is asked.

    Told at once, Bokeh would make it the current document meanwhile, for all threads.
    """
    document = Document()
    document.hold("combine")
    document.add_root(plot)
    document.models.flush_synced()
    _taken(document)
    return document


class _OfChanges(Serializer):
    """Writes down what changed in a document. Models that the browser has are looked up as they are met: Bokeh's own
    list of all of them takes longer than the change of one."""

    def __init__(self, document: Document) -> None:
        super().__init__(deferred=False)
        self._there = document.models.synced_references

    def get_ref(self, obj: Any) -> Any:
        if isinstance(obj, Model) and obj in self._there:
            return obj.ref
        return super().get_ref(obj)


def _taken(document: Document) -> list[Any]:
    """What happened since it was asked last."""
    events, document.callbacks._held_events = document.callbacks._held_events, []
    return events


def _written(document: Document) -> str:
    """As ``Document.to_json``, without the definitions of this server's components in every figure."""
    roots = Serializer(deferred=False).encode(document.roots)
    return serialize_json({"version": bokeh.__version__, "title": "", "config": None, "roots": roots})
