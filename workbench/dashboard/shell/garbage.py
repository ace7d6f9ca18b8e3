"""When Python looks for garbage, in a server that must answer meanwhile.

Python's collector stops every thread, and a full collection looks at everything that lives: half a second and more
when fifty visitors are there, again and again. Here what one collection left alone is passed over by the next ones,
which are short therefore. What of it becomes garbage later waits until nobody is there, or until memory has grown; but
what is large does not wait: figures and samplers are taken apart when they are done with.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time

import psutil

GROWN = 2**30  # bytes of memory since everything was looked at
AT_MOST_EVERY_S = 60.0


class Keeper:
    """Looks at everything when it is worth it. ``look`` is to be called every few seconds."""

    def __init__(self) -> None:
        self._then, self._held = time.monotonic(), held()
        self._here, self._left = 0, False

    def keep(self) -> None:
        """From now on collections are short."""
        gc.callbacks.append(_pass_over)
        self._look_at_everything()

    def came(self) -> None:
        self._here += 1

    def left(self) -> None:
        """A visitor left, and with them what was only theirs."""
        self._here -= 1
        self._left = True

    def look(self) -> None:
        """Look at everything, if the last visitor has left, or memory has grown."""
        grown = time.monotonic() - self._then > AT_MOST_EVERY_S and held() - self._held > GROWN
        if grown or (self._left and not self._here):
            self._look_at_everything()

    def _look_at_everything(self) -> None:
        gc.unfreeze()
        gc.collect()
        give_back()
        self._then, self._held, self._left = time.monotonic(), held(), False


def _pass_over(phase: str, info: dict[str, int]) -> None:
    """What a full collection left alone is passed over from now on."""
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def held() -> int:
    """Bytes of memory that this process has."""
    return psutil.Process().memory_info().rss


def give_back() -> None:
    """Give what is free back to the system, where the C library keeps it otherwise (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


keeper = Keeper()  # of this server
