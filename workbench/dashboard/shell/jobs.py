"""The one device, shared by everybody who looks at the dashboard.

A job is a generator that a ``Worker`` advances, one step at a time. Nothing here knows Panel: results go out through a
callable that the caller hands in (``Desk`` puts them on a session's event loop), and everything is tested without a
browser.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from workbench.dashboard.shell.worker import Worker

Lane = Literal["quick", "long"]
State = Literal["waiting", "running", "done", "failed", "cancelled"]
Cancelled = Callable[[], bool]
Steps = Callable[[Cancelled], Iterator[Any]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """A step may yield this beside its results: ``done`` of ``total`` steps, and what is happening now.

    ``alone``: the steps from here on take times, so none of them begins while another job's step is under way.
    ``pause_s``: so long the next step is not begun; others have the device meanwhile.
    """

    done: int
    total: int
    note: str = ""
    alone: bool = False
    pause_s: float = 0.0


@dataclass(eq=False)
class Job:
    """One piece of work. ``slot`` is the part of the screen that it is for: a newer job for it takes its place."""

    session: str
    slot: str
    steps: Steps
    deliver: Callable[[Job, Any], None]
    lane: Lane = "quick"
    state: State = "waiting"
    progress: Progress | None = None
    error: str = ""
    lacked_memory: bool = False
    alone: bool = False
    due: float = 0.0  # on the clock of ``time.monotonic``: no step begins before
    stop: threading.Event = field(default_factory=threading.Event)
    running: Iterator[Any] | None = None

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


class Desk:
    """One visitor's side of the worker: results come back on the visitor's own event loop, and never too late.

    ``schedule(callback)`` puts a callback on that loop from any thread. A result of a job that has been replaced, or
    that comes after ``close``, goes nowhere.
    """

    _names = itertools.count()

    def __init__(self, worker: Worker, schedule: Callable[[Callable[[], None]], None]) -> None:
        self.worker, self._schedule = worker, schedule
        self.session = f"session-{next(self._names)}"
        self.jobs: dict[str, Job] = {}
        self._ended: set[Job] = set()
        self.closed = False
        self.leaving: list[Callable[[], None]] = []  # what is called when the visitor has gone

    def schedule(self, callback: Callable[[], None]) -> None:
        """Put a callback on the visitor's event loop, from any thread; nothing once they have gone."""
        if not self.closed:
            self._schedule(callback)

    def run(
        self,
        slot: str,
        steps: Steps,
        on_value: Callable[[Any], None],
        on_end: Callable[[Job], None] = lambda job: None,
        lane: Lane = "quick",
    ) -> Job:
        """Start a job for a part of the screen: ``on_value`` gets what its steps yield, ``on_end`` the job when it is
        over, both on the visitor's event loop."""

        def deliver(job: Job, value: Any) -> None:
            self.schedule(lambda: arrive(job, value))

        def arrive(job: Job, value: Any) -> None:
            if self.closed or self.jobs.get(slot) is not job or job in self._ended:
                return
            if value is not None:
                on_value(value)
            elif job.over:
                self._ended.add(job)
                on_end(job)

        job = self.worker.submit(self.session, slot, steps, deliver, lane)
        self._ended.discard(self.jobs.get(slot))
        self.jobs[slot] = job
        return job

    @property
    def pending(self) -> list[Job]:
        """The jobs whose end has not been seen here: what they brought last may still be on its way."""
        return [job for job in self.jobs.values() if job not in self._ended]

    def cancel(self, slot: str | None = None) -> None:
        """Cancel the job for one part of the screen, or all of this visitor's jobs."""
        for name, job in self.jobs.items():
            if slot in (None, name) and not job.over:
                self.worker.cancel(job)

    def close(self) -> None:
        self.closed = True
        self.worker.drop(self.session)
        self.jobs.clear()
        for leave in self.leaving:
            leave()
        self.leaving.clear()


class Mailbox:
    """Keeps callbacks back until ``open`` is called, and hands them on from then on, always in order.

    A page that is still being loaded applies changes in any order: what came first could be what it shows in the end.
    """

    def __init__(self, hand_on: Callable[[Callable[[], None]], None]) -> None:
        self._hand_on = hand_on
        self._kept: list[Callable[[], None]] | None = []
        self._lock = threading.Lock()

    def put(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if self._kept is None:
                self._hand_on(callback)
            else:
                self._kept.append(callback)

    def open(self) -> None:
        with self._lock:
            for callback in self._kept or ():
                self._hand_on(callback)
            self._kept = None


class Cache:
    """Results by their full configuration, up to ``limit`` bytes; the one not asked for longest goes first."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep ``value``, which takes ``size`` bytes; what is larger than the whole cache is not kept."""
        with self._lock:
            if key in self._kept:
                self.bytes -= self._kept.pop(key)[1]
            if size > self.limit:
                return
            self._kept[key] = (value, size)
            self.bytes += size
            while self.bytes > self.limit:
                self.bytes -= self._kept.popitem(last=False)[1][1]

    def __len__(self) -> int:
        return len(self._kept)


def sentence(error: BaseException) -> str:
    """What a visitor is told about an exception: one sentence, and a way to go on. The rest goes to the log."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if is_out_of_memory(error):
        return "The device ran out of memory: choose a shorter text or a smaller size. Nothing else was lost."
    if isinstance(error, (ValueError, KeyError)) or type(error).__name__ == "Unavailable":
        return text
    log.error("Told the visitor about an unexpected error", exc_info=error)
    return (
        f"This could not be computed ({type(error).__name__}: {text.splitlines()[0][:200] if text else 'no message'})."
    )


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules or not isinstance(error, RuntimeError):
        return False
    from workbench.measure import rows

    return rows.is_out_of_memory(error)
