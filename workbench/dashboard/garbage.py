"""When Python looks for garbage, in a server that must answer meanwhile.

Python's collector stops every thread while it looks. Young objects are looked through in a moment. A full collection
looks at everything that lives: half a second and more when fifty visitors are there, and Python makes one whenever
enough was made. Here what every server holds is passed over, and full collections are made when they are worth it. What
is free then goes back to the system.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time

import psutil

GROWN = 512 * 2**20  # bytes of memory since the last full collection
AT_MOST_EVERY_S = 60.0
AT_LEAST_EVERY_S = 300.0
NEVER = 2**30


class Keeper:
    """Makes full collections. ``look`` is to be called every few seconds."""

    def __init__(self) -> None:
        self._then, self._held = time.monotonic(), held()
        self._here, self._left = 0, False

    def keep(self) -> None:
        """What lives now stays. From now on full collections are made here only."""
        gc.collect()
        gc.freeze()
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)
        self._then, self._held = time.monotonic(), held()

    def came(self) -> None:
        self._here += 1

    def left(self) -> None:
        """A visitor left: what was his is garbage."""
        self._here -= 1
        self._left = True

    def look(self) -> None:
        """A full collection, if the last visitor has left, much was taken since the last one, or that was long ago."""
        since = time.monotonic() - self._then
        grown = since > AT_MOST_EVERY_S and held() - self._held > GROWN
        if grown or since > AT_LEAST_EVERY_S or (self._left and not self._here):
            gc.collect()
            give_back()
            self._then, self._held, self._left = time.monotonic(), held(), False


def held() -> int:
    """Bytes of memory that this process has."""
    return psutil.Process().memory_info().rss


def give_back() -> None:
    """Give what is free back to the system, where the C library keeps it otherwise (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


keeper = Keeper()  # of this server
