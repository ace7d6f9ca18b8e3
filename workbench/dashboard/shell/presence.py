"""Whether a visitor's page is still there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bokeh.document import Document
from bokeh.events import ConnectionLost

COMES_BACK_S = 1.0  # a page whose connection broke has so long to be back


def when_left(document: Document, later: Callable[[float, Callable[[], None]], Any], left: Callable[[], None]) -> None:
    """Call ``left()`` when nothing shows ``document`` any more: its tab was closed, or loaded anew as another session.

    Bokeh keeps such a session for half a minute, in case its page comes back, and destroys it then. What the session
    computes should not go on that long: the visitor may be waiting for the same on a new page.

    ``later(seconds, callback)`` calls back on the event loop, like ``IOLoop.call_later``.
    """

    def look() -> None:
        context = document.session_context
        session = None if context is None else context.session
        if session is not None and not session.destroyed and not session.connection_count:
            left()

    document.on_event(ConnectionLost, lambda event: later(COMES_BACK_S, look))
