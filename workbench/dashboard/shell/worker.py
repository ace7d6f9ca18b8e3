"""Who has the one device, and when: the threads that advance everybody's jobs."""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

from workbench.dashboard.shell.jobs import Cancelled, Job, Lane, Progress, State, Steps, is_out_of_memory, sentence

LONG_TURN = 5  # however busy the quick lane is, every fifth step belongs to a long job
PATIENCE_S = 0.3  # so long a quick job waits for a long one's step that does not ask whether it is to stop

log = logging.getLogger(__name__)


class Worker:
    """Two threads that advance jobs, step by step: one takes the quick jobs, the other the long ones.

    They take turns. Quick jobs go before long ones; within a lane the sessions take turns. The long lane rests between
    two steps, and inside a step whenever that calls ``cancelled``. A step that does neither is waited for no longer
    than ``patience_s``: then quick jobs go on beside it, but for those that said that they must be ``alone``.

    ``deliver(job, value)`` is called for every value that a step yields, in a thread of the worker, and once with None
    when the job is over; it must return at once. Whoever is cancelled is over at once: what a step that is still under
    way brings is thrown away.

    ``before_a_step`` is called in the thread before every step: there the worker can let others go first.
    """

    def __init__(self, before_a_step: Callable[[], None] = lambda: None, patience_s: float = PATIENCE_S) -> None:
        self._before_a_step, self._patience_s = before_a_step, patience_s
        self._changed = threading.Condition()
        self._lanes: dict[Lane, OrderedDict[str, deque[Job]]] = {"quick": OrderedDict(), "long": OrderedDict()}
        self._now: dict[Lane, Job | None] = {"quick": None, "long": None}
        self._rests = False  # the long lane's step has asked whether it is to stop, and waits for the quick ones
        self._asked_at: float | None = None  # when it began, or went on after it had asked; None: it is about to
        self._since_long = 0  # quick steps since then
        self._threads: list[threading.Thread] = []
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
            if not self._threads:
                self._threads = [
                    threading.Thread(target=self._work, args=(each,), name=f"workbench-{each}", daemon=True)
                    for each in self._lanes
                ]
                for thread in self._threads:
                    thread.start()
            self._changed.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """End ``job``, now. Its step, if one is under way, is left at its end, or where it asks ``cancelled``."""
        with self._changed:
            if job.over:
                return
            job.stop.set()
            job.state = "cancelled"
            self._changed.notify_all()
        self._hand_out(job, None)

    def drop(self, session: str) -> None:
        """Forget a session that has gone: its jobs are cancelled and hear nothing any more."""
        with self._changed:
            for job in self._of(session):
                job.deliver = _to_nobody
                job.stop.set()
            self._changed.notify_all()

    def stop(self, wait_s: float) -> None:
        """For good: no further step is begun. Waits so long at most for those that are under way."""
        with self._changed:
            self._stopped = True
            for job in filter(None, self._now.values()):
                job.stop.set()
            self._changed.notify_all()
        end = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def ahead(self, job: Job) -> int:
        """How many jobs will have a turn before ``job`` has its next one."""
        with self._changed:
            if job in self._now.values() or job.over:
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
            # A job that is half way stays out of the queue while its step runs; it is ahead once.
            return before + sum(now is not None and now.session != job.session for now in self._now.values())

    @property
    def busy(self) -> bool:
        with self._changed:
            return any(self._now.values()) or any(self._lanes.values())

    # --- the threads ---

    def _work(self, lane: Lane) -> None:
        give_way()
        count_threads()
        while (job := self._next(lane)) is not None:
            self._before_a_step()
            if lane == "long":
                self._go_on()
            unfinished = self._advance(job)
            with self._changed:
                self._now[lane] = None
                if lane == "quick":
                    self._since_long += 1
                if unfinished:
                    self._lanes[lane].setdefault(job.session, deque()).appendleft(job)
                self._changed.notify_all()

    def _next(self, lane: Lane) -> Job | None:
        """The job whose turn it is in this lane, once it is this lane's turn; None when the worker has been stopped."""
        with self._changed:
            while not self._stopped:
                wait_s = self._wait_s(lane)
                if wait_s is not None and wait_s <= 0:
                    break
                self._changed.wait(wait_s)
            else:
                return None
            session = self._whose_turn(lane)
            jobs = self._lanes[lane].pop(session)
            job = self._now[lane] = jobs.popleft()
            if lane == "long":
                self._asked_at = None
            if jobs:
                self._lanes[lane][session] = jobs  # at the end: the next session has the next turn
            return job

    def _wait_s(self, lane: Lane) -> float | None:
        """How long a lane has to wait before its next step; None: until something changes."""
        if self._whose_turn(lane) is None:
            return self._pause_s(lane)
        if lane == "long":
            return 0.0 if self._is_longs_turn() else None
        if self._rests or self._now["long"] is None:
            long_waits = self._rests or self._whose_turn("long") is not None
            return None if long_waits and self._since_long >= LONG_TURN - 1 else 0.0
        return None if self._asked_at is None else self._asked_at + self._patience_s - time.monotonic()

    def _is_longs_turn(self) -> bool:
        """Whether a long step may begin, or go on after it has asked."""
        quick_waits = self._whose_turn("quick") is not None
        return self._now["quick"] is None and (not quick_waits or self._since_long >= LONG_TURN - 1)

    def _whose_turn(self, lane: Lane) -> str | None:
        """The session that is next in a lane. Not one that pauses, nor, while a long step is under way, one that must
        be alone."""
        beside, now = lane == "quick" and self._now["long"] is not None and not self._rests, time.monotonic()
        for session, (first, *_) in self._lanes[lane].items():
            if first.stop.is_set() or not (first.due > now or beside and first.alone):
                return session
        return None

    def _pause_s(self, lane: Lane) -> float | None:
        """Until the first that pauses in a lane goes on; None: nobody does."""
        now = time.monotonic()
        return min((jobs[0].due - now for jobs in self._lanes[lane].values() if jobs[0].due > now), default=None)

    def _asked(self, job: Job) -> bool:
        """A step asks whether it is to stop. Between two calls of a long one the quick jobs go first."""
        if job.lane == "long":
            with self._changed:
                self._rests = True
                if not self._is_longs_turn():
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._stopped or job.stop.is_set() or self._is_longs_turn())
                self._rests = False
                self._go_on()
        return job.stop.is_set()

    def _go_on(self) -> None:
        """A long step begins, or goes on after it has asked."""
        with self._changed:
            self._asked_at, self._since_long = time.monotonic(), 0
            self._changed.notify_all()

    def _advance(self, job: Job) -> bool:
        """One step; whether there is more to do."""
        if job.stop.is_set():
            return self._finish(job, "cancelled")
        try:
            if job.running is None:
                job.running = job.steps(functools.partial(self._asked, job))
                with self._changed:
                    if not job.over:
                        job.state = "running"
            value = next(job.running)
        except StopIteration:
            return self._finish(job, "done")
        except Exception as error:
            if job.stop.is_set():
                return self._finish(job, "cancelled")
            job.error, job.lacked_memory = sentence(error), is_out_of_memory(error)
            return self._finish(job, "failed")
        if isinstance(value, Progress):
            job.progress = value
            job.alone = job.alone or value.alone
            job.due = time.monotonic() + value.pause_s if value.pause_s else 0.0
        if not job.stop.is_set():
            self._hand_out(job, value)
        return True

    def _finish(self, job: Job, state: State) -> bool:
        running, job.running = job.running, None
        if running is not None:
            try:
                running.close()
            except Exception:  # the thread must live on: it is everybody's
                log.exception("A job for %s could not be closed", job.slot)
        job.steps = _nothing  # whatever it held on to may be freed now
        with self._changed:
            told, job.state = job.over, job.state if job.over else state
        if not told:
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
        return waiting + [now for now in self._now.values() if now is not None and now.session == session]


def give_way() -> None:
    """Let the event loop go first where both want a core: clicks take a moment, and jobs have time.

    The threads that PyTorch starts for this one inherit it; they spin while they wait, and would fill every core.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 4)


def count_threads() -> None:
    """Have PyTorch use as many threads in this one as anywhere.

    Each thread keeps that number for itself, and takes it over from whoever set it last when it first computes: that
    may have been another job, for a moment.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(torch.get_num_threads())


def _empty_device_cache() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _nothing(cancelled: Cancelled) -> Iterator[Any]:
    return iter(())


def _to_nobody(job: Job, value: Any) -> None:
    pass
