"""When Python looks for garbage, in a server that must answer meanwhile.

Python's collector stops every thread, and looks at everything that lives: with fifty visitors for half a second and
more, again and again. Here what a full collection left alone is passed over by the next ones, which are short
therefore. What of it becomes garbage later is found by ``tidy``, which looks at everything: after visitors have left,
and now and then.
"""

from __future__ import annotations

import gc
import time

AFTER_S = 20.0  # after the last visitor left
AT_LEAST_EVERY_S = 900.0


class Keeper:
    """Knows when it is time to tidy up. ``look`` is to be called now and then."""

    def __init__(self) -> None:
        self._tidied = time.monotonic()
        self._left: float | None = None

    def left(self) -> None:
        """A visitor left: what was his is garbage soon."""
        self._left = time.monotonic()

    def look(self) -> None:
        now = time.monotonic()
        if now - self._tidied > AT_LEAST_EVERY_S or (self._left is not None and now - self._left > AFTER_S):
            self._left = None
            tidy()
            self._tidied = time.monotonic()


def keep() -> None:
    """From now on full collections are short."""
    gc.callbacks.append(_after)
    tidy()


def tidy() -> None:
    """Look at everything, once."""
    gc.unfreeze()
    gc.collect()


def _after(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()
