"""Who is next on the event loop: drawings of all visitors take turns, and clicks go between them."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any

PATIENCE_S = 0.05  # so long the others wait for one that does not begin: its page may be gone
ROUNDS = 3  # of the event loop between two drawings; a click needs as many from the socket to its handler

Callback = Callable[[], None]


class Turns:
    """Callbacks of all visitors, one at a time: those of one visitor in order, the visitors in turn.

    The event loop does everything that is due before it looks for clicks again. Fifty drawings at once would keep a
    click waiting for all of them; here it waits for one.

    ``soon(callback)`` puts a callback on the event loop from any thread, ``later(seconds, callback)`` does it from the
    loop's own; both exist as methods of an ``IOLoop``.
    """

    def __init__(self, soon: Callable[[Callback], Any], later: Callable[[float, Callback], Any]) -> None:
        self._soon, self._later = soon, later
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Hashable, deque[Callback]] = OrderedDict()
        self._going = False

    def put(self, visitor: Hashable, begin: Callable[[Callback], None], callback: Callback) -> None:
        """Have ``begin(callback)`` called when it is the visitor's turn; the turn is over when the callback returned.
        Called from any thread."""
        with self._lock:
            self._waiting.setdefault(visitor, deque()).append(lambda over: begin(_then(callback, over)))
            idle, self._going = not self._going, True
        if idle:
            self._soon(self._next)

    def forget(self, visitor: Hashable) -> None:
        """The visitor has gone: nothing of theirs is begun any more."""
        with self._lock:
            self._waiting.pop(visitor, None)

    def _next(self, rounds: int = ROUNDS) -> None:
        if rounds:
            self._soon(lambda: self._next(rounds - 1))
            return
        with self._lock:
            self._going = bool(self._waiting)
            if not self._going:
                return
            visitor, callbacks = self._waiting.popitem(last=False)
            begin = callbacks.popleft()
            if callbacks:
                self._waiting[visitor] = callbacks  # at the end: the next visitor has the next turn
        passed = []

        def over() -> None:
            if not passed:
                passed.append(True)
                self._soon(self._next)

        self._later(PATIENCE_S, over)
        begin(over)


def _then(callback: Callback, over: Callback) -> Callback:
    def both() -> None:
        try:
            callback()
        finally:
            over()

    return both
