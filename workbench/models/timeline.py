"""What runs when: tasks with a duration, the resource that each needs, and what each waits for.

``simulate`` gives every task a start and an end, deterministically. It is a model of anything with queues: streams of a
GPU and the link beside them, arrays of an accelerator, stages of a pipeline, channels of a memory.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Order = Literal["given", "arrival"]


@dataclass(frozen=True)
class Task:
    """A piece of work. ``duration`` is its time alone on its ``resource``, in any unit; it begins when all of ``after``
    have ended. ``kind`` is what a figure colours it by.
    """

    name: str
    resource: str
    duration: float
    after: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Span:
    """When a task ran, and what it waited for last (a task it comes after, or the one before it on its resource; None:
    it began at once)."""

    task: Task
    start: float
    end: float
    waited_for: str | None = None


@dataclass(frozen=True)
class Timeline:
    """Every task's span by name, in order of starts. ``servers`` is how many tasks each resource runs at a time."""

    spans: Mapping[str, Span]
    servers: Mapping[str, int]

    @property
    def makespan(self) -> float:
        """When the last task ends."""
        return max((span.end for span in self.spans.values()), default=0.0)

    def on(self, resource: str) -> list[Span]:
        """The spans of one resource, in order of starts."""
        return [span for span in self.spans.values() if span.task.resource == resource]

    def busy(self, resource: str) -> float:
        """Time that a resource worked, of all its servers together."""
        return math.fsum(span.end - span.start for span in self.on(resource))

    def idle(self, resource: str) -> float:
        """Time that a resource stood still before the whole was finished, of all its servers together."""
        return self.servers[resource] * self.makespan - self.busy(resource)

    def places(self, resource: str) -> dict[str, int]:
        """Which of a resource's servers each of its tasks runs on, counted from 0, by name of the task."""
        found: dict[str, int] = {}
        ends = [0.0] * self.servers[resource]
        for span in self.on(resource):
            place = next(index for index, end in enumerate(ends) if end <= span.start)
            ends[place] = span.end
            found[span.task.name] = place
        return found

    def gaps(self, resource: str) -> list[tuple[int, float, float]]:
        """When a resource stood still before the whole was finished: (server, from, to). They sum up to ``idle``."""
        places, found = self.places(resource), []
        ends = [0.0] * self.servers[resource]
        for span in self.on(resource):
            server = places[span.task.name]
            if span.start > ends[server]:
                found.append((server, ends[server], span.start))
            ends[server] = span.end
        return found + [(server, end, self.makespan) for server, end in enumerate(ends) if end < self.makespan]

    def utilisation(self, resource: str) -> float:
        """Which part of the whole time a resource worked, 0 to 1."""
        return self.busy(resource) / (self.servers[resource] * self.makespan) if self.makespan else 0.0

    def critical_path(self) -> list[Span]:
        """The tasks without which the whole would have ended earlier: each waited for the one before it."""
        path = []
        last = max(self.spans.values(), key=lambda span: span.end, default=None)
        while last is not None:
            path.append(last)
            last = self.spans[last.waited_for] if last.waited_for is not None else None
        return path[::-1]


def simulate(
    tasks: Sequence[Task],
    *,
    servers: Mapping[str, int] | None = None,
    order: Order = "given",
    speed: Callable[[Sequence[Task]], Mapping[str, float]] | None = None,
) -> Timeline:
    """Run all tasks, each as soon as it can be.

    servers  how many tasks a resource runs at a time; 1 where nothing is said
    order    "given": a resource takes its tasks in the order of ``tasks``, and one that has to wait holds up those
             behind it, as in a stream; "arrival": it takes whichever has been ready longest
    speed    contention: of the tasks that run at this moment, those that are slowed down, by name, with the part of
             their speed alone that is left (above 0). Asked whenever a task begins or ends

    Raises ``ValueError`` for two tasks of one name, for a task after one that there is not, for a negative duration,
    and where tasks wait for each other. n log n steps; with ``speed``, n times the tasks that run at a time.
    """
    return _Simulation(tasks, servers or {}, order, speed).run()


class _Simulation:
    def __init__(self, tasks, servers, order, speed) -> None:
        self.tasks = {task.name: task for task in tasks}
        _check(tasks, self.tasks, order)
        self.speed = speed
        resources = dict.fromkeys(task.resource for task in tasks)
        self.servers = {name: servers.get(name, 1) for name in resources}
        self.free = dict(self.servers)
        self.last_freed: dict[str, str | None] = dict.fromkeys(resources)
        self.missing = {task.name: len(set(task.after)) for task in tasks}
        self.followers: dict[str, list[str]] = {name: [] for name in self.tasks}
        for task in tasks:
            for name in set(task.after):
                self.followers[name].append(task.name)
        self.queues = {name: (_Given if order == "given" else _Arrival)() for name in resources}
        for place, task in enumerate(tasks):
            self.queues[task.resource].announce(place, task.name)
        self.released_by: dict[str, str | None] = dict.fromkeys(self.tasks)
        self.running = _Steady() if speed is None else _Slowed(speed, self.tasks)
        self.spans: dict[str, Span] = {}
        self.starts: dict[str, tuple[float, str | None]] = {}

    def run(self) -> Timeline:
        for name, count in self.missing.items():
            if not count:
                self.queues[self.tasks[name].resource].ready(name)
        now = 0.0
        self._start(now, self.queues)
        while len(self.running):
            now, ended = self.running.advance(now)
            touched = dict.fromkeys(self._end(name, now) for name in ended)
            for name in ended:
                for follower in self.followers[name]:
                    self.missing[follower] -= 1
                    if not self.missing[follower]:
                        self.released_by[follower] = name
                        self.queues[self.tasks[follower].resource].ready(follower)
                        touched[self.tasks[follower].resource] = None
            self._start(now, touched)
        if waiting := [name for name in self.tasks if name not in self.spans]:
            raise ValueError(f"{', '.join(waiting[:5])} can never begin: tasks wait for each other.")
        return Timeline(dict(sorted(self.spans.items(), key=lambda item: item[1].start)), self.servers)

    def _start(self, now: float, resources) -> None:
        for resource in resources:
            while self.free[resource] and (name := self.queues[resource].take()) is not None:
                self.free[resource] -= 1
                self.starts[name] = (now, self._waited_for(name, now))
                self.running.begin(name, now, self.tasks[name].duration)

    def _waited_for(self, name: str, now: float) -> str | None:
        """The task whose end let this one begin: one that it comes after, else the one before it on its resource."""
        for other in (self.released_by[name], self.last_freed[self.tasks[name].resource]):
            if other is not None and self.spans[other].end == now:
                return other
        return None

    def _end(self, name: str, now: float) -> str:
        start, waited_for = self.starts.pop(name)
        task = self.tasks[name]
        self.spans[name] = Span(task, start, now, waited_for)
        self.free[task.resource] += 1
        self.last_freed[task.resource] = name
        return task.resource


class _Given:
    """A resource's tasks in their order: the first one that is not ready holds up the others."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._ready: set[str] = set()

    def announce(self, place: int, name: str) -> None:
        self._waiting.append(name)

    def ready(self, name: str) -> None:
        self._ready.add(name)

    def take(self) -> str | None:
        if not self._waiting or self._waiting[0] not in self._ready:
            return None
        return self._waiting.popleft()


class _Arrival:
    """A resource's tasks as they become ready; those that do at once, in their order."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._batch: list[tuple[int, str]] = []
        self._waiting: deque[str] = deque()

    def announce(self, place: int, name: str) -> None:
        self._places[name] = place

    def ready(self, name: str) -> None:
        heapq.heappush(self._batch, (self._places[name], name))

    def take(self) -> str | None:
        while self._batch:
            self._waiting.append(heapq.heappop(self._batch)[1])
        return self._waiting.popleft() if self._waiting else None


class _Steady:
    """Tasks that run at their own speed: their ends are known when they begin."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, int, str]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._ends)

    def begin(self, name: str, now: float, duration: float) -> None:
        self._count += 1
        heapq.heappush(self._ends, (now + duration, self._count, name))

    def advance(self, now: float) -> tuple[float, list[str]]:
        """The next time at which tasks end, and which ones."""
        end, _, name = heapq.heappop(self._ends)
        ended = [name]
        while self._ends and self._ends[0][0] == end:
            ended.append(heapq.heappop(self._ends)[2])
        return end, ended


class _Slowed:
    """Tasks that slow each other down: what is left of each, brought up to date whenever one begins or ends."""

    def __init__(self, speed: Callable[[Sequence[Task]], Mapping[str, float]], tasks: Mapping[str, Task]) -> None:
        self._speed, self._tasks = speed, tasks
        self._left: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._left)

    def begin(self, name: str, now: float, duration: float) -> None:
        self._left[name] = duration

    def advance(self, now: float) -> tuple[float, list[str]]:
        told = self._speed([self._tasks[name] for name in self._left])
        speeds = {name: told.get(name, 1.0) for name in self._left}
        if slow := [name for name, factor in speeds.items() if not factor > 0]:
            raise ValueError(f"{slow[0]} has a speed of {speeds[slow[0]]}: a task that runs needs more than 0.")
        needed = {name: left / speeds[name] for name, left in self._left.items()}
        step = min(needed.values())
        ended = [name for name, time in needed.items() if time <= step * (1 + 1e-12)]
        for name in ended:
            del self._left[name]
        for name in self._left:
            self._left[name] -= step * speeds[name]
        return now + step, ended


def _check(tasks: Sequence[Task], known: Mapping[str, Task], order: str) -> None:
    if order not in ("given", "arrival"):
        raise ValueError(f"order = {order!r} is not allowed: choose 'given' or 'arrival'.")
    if len(known) < len(tasks):
        names = [task.name for task in tasks]
        raise ValueError(f"Two tasks are called {next(name for name in names if names.count(name) > 1)!r}.")
    for task in tasks:
        if not 0 <= task.duration < math.inf:
            raise ValueError(f"{task.name} takes {task.duration}: a duration is a number from 0 on.")
        for name in task.after:
            if name not in known:
                raise ValueError(f"{task.name} comes after {name!r}, which is no task.")
