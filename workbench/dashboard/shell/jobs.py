"""The one device, shared by everybody who looks at the dashboard.

A job is a generator. One worker thread advances one job by one step at a time, so that a click of one visitor is
answered between two steps of another visitor's long sweep. Nothing here knows Panel: results go out through a callable
that the caller hands in (``Desk`` puts them on a session's event loop), and everything is tested without a browser.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Lane = Literal["quick", "long"]
State = Literal["waiting", "running", "done", "failed", "cancelled"]
Cancelled = Callable[[], bool]
Steps = Callable[[Cancelled], Iterator[Any]]

LONG_TURN = 5  # however busy the quick lane is, every fifth step belongs to a long job

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """A step may yield this beside its results: ``done`` of ``total`` steps, and what is happening now."""

    done: int
    total: int
    note: str = ""


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
    stop: threading.Event = field(default_factory=threading.Event)
    running: Iterator[Any] | None = None

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


class Worker:
    """One thread that advances jobs, step by step.

    Quick jobs go before long ones; within a lane the sessions take turns. ``deliver(job, value)`` is called in the
    worker's thread for every value that a step yields, and once with None when the job is over; it must return at once.

    ``before_a_step`` is called in that thread before every step: there the worker can let others go first.
    """

    def __init__(self, before_a_step: Callable[[], None] = lambda: None) -> None:
        self._before_a_step = before_a_step
        self._changed = threading.Condition()
        self._lanes: dict[Lane, OrderedDict[str, deque[Job]]] = {"quick": OrderedDict(), "long": OrderedDict()}
        self._now: Job | None = None
        self._since_long = 0
        self._thread: threading.Thread | None = None
        self._stopped = False

    # --- called from any thread; none of these waits for a step ---

    def submit(
        self, session: str, slot: str, steps: Steps, deliver: Callable[[Job, Any], None], lane: Lane = "quick"
    ) -> Job:
        """Queue ``steps(cancelled)``. An older job of the same session and slot is cancelled."""
        job = Job(session, slot, steps, deliver, lane)
        with self._changed:
            for older in self._of(session):
                if older.slot == slot:
                    older.stop.set()
            self._lanes[lane].setdefault(session, deque()).append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="workbench-device", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Stop ``job`` at the next boundary between steps, or inside a step that asks ``cancelled``."""
        with self._changed:
            job.stop.set()
            self._changed.notify()

    def drop(self, session: str) -> None:
        """Forget a session that has gone: its jobs are cancelled and hear nothing any more."""
        with self._changed:
            for job in self._of(session):
                job.deliver = _to_nobody
                job.stop.set()
            self._changed.notify()

    def stop(self, wait_s: float) -> None:
        """For good: no further step is begun. Waits so long at most for the one that is under way."""
        with self._changed:
            self._stopped = True
            if self._now is not None:
                self._now.stop.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(wait_s)

    def ahead(self, job: Job) -> int:
        """How many jobs will have a turn before ``job`` has its next one."""
        with self._changed:
            if self._now is job or job.over:
                return 0
            lane = self._lanes[job.lane]
            own = lane.get(job.session, deque())
            depth = next((place for place, other in enumerate(own) if other is job), 0)
            before, seen_own = depth, False
            for session, jobs in lane.items():
                seen_own = seen_own or session == job.session
                if session != job.session:
                    before += min(sum(not other.stop.is_set() for other in jobs), depth + (not seen_own))
            if job.lane == "long":
                before += sum(len(jobs) for jobs in self._lanes["quick"].values())
            # A long job that is half way stays out of the queue while its step runs; it is ahead once.
            return before + (self._now is not None and self._now.session != job.session)

    @property
    def busy(self) -> bool:
        with self._changed:
            return self._now is not None or any(self._lanes.values())

    # --- the thread ---

    def _work(self) -> None:
        give_way()
        while True:
            with self._changed:
                while not self._stopped and (job := self._next()) is None:
                    self._changed.wait()
                if self._stopped:
                    return
                self._now = job
            self._before_a_step()
            unfinished = self._advance(job)
            with self._changed:
                self._now = None
                if unfinished:
                    self._lanes[job.lane].setdefault(job.session, deque()).appendleft(job)

    def _next(self) -> Job | None:
        quick, long = self._lanes["quick"], self._lanes["long"]
        take_long = bool(long) and (not quick or self._since_long >= LONG_TURN - 1)
        lane = long if take_long else quick
        if not lane:
            return None
        self._since_long = 0 if take_long else self._since_long + 1
        session, jobs = lane.popitem(last=False)
        job = jobs.popleft()
        if jobs:
            lane[session] = jobs  # at the end: the next session has the next turn
        return job

    def _advance(self, job: Job) -> bool:
        """One step; whether there is more to do."""
        if job.stop.is_set():
            return self._finish(job, "cancelled")
        try:
            if job.running is None:
                job.running = job.steps(job.stop.is_set)
                job.state = "running"
            value = next(job.running)
        except StopIteration:
            return self._finish(job, "done")
        except Exception as error:
            if job.stop.is_set():
                return self._finish(job, "cancelled")
            job.error, job.lacked_memory = sentence(error), _is_out_of_memory(error)
            return self._finish(job, "failed")
        if isinstance(value, Progress):
            job.progress = value
        if not job.stop.is_set():
            self._hand_out(job, value)
        return True

    def _finish(self, job: Job, state: State) -> bool:
        if job.running is not None:
            job.running.close()
        job.running = None
        job.steps = _nothing  # whatever it held on to may be freed now
        job.state = state
        self._hand_out(job, None)
        if job.lacked_memory:
            gc.collect()
            _empty_device_cache()
        return False

    def _hand_out(self, job: Job, value: Any) -> None:
        try:
            job.deliver(job, value)
        except Exception:
            log.exception("A result could not be delivered to %s", job.slot)

    def _of(self, session: str) -> list[Job]:
        waiting = [job for lane in self._lanes.values() for job in lane.get(session, ())]
        return waiting + ([self._now] if self._now is not None and self._now.session == session else [])


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
            if self.closed or self.jobs.get(slot) is not job:
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
    if _is_out_of_memory(error):
        return "The device ran out of memory: choose a shorter text or a smaller size. Nothing else was lost."
    if isinstance(error, (ValueError, KeyError)) or type(error).__name__ == "Unavailable":
        return text
    log.error("Told the visitor about an unexpected error", exc_info=error)
    return (
        f"This could not be computed ({type(error).__name__}: {text.splitlines()[0][:200] if text else 'no message'})."
    )


def give_way() -> None:
    """Let the event loop go first where both want a core: clicks take a moment, and jobs have time.

    The threads that PyTorch starts for this one inherit it; they spin while they wait, and would fill every core.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 4)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules or not isinstance(error, RuntimeError):
        return False
    from workbench.measure.rows import is_out_of_memory

    return is_out_of_memory(error)


def _empty_device_cache() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _nothing(cancelled: Cancelled) -> Iterator[Any]:
    return iter(())


def _to_nobody(job: Job, value: Any) -> None:
    pass
