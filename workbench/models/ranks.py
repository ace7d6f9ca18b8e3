"""Ranks of a distributed program in one process and one thread: real tensors, and every byte that is sent is counted.

A program reads as one for ``torch.distributed``: an ``async`` function that every rank runs, with ``await`` wherever it
waits for the network::

    async def total(rank, mine):
        arriving, found = mine, mine
        for _ in range(rank.size - 1):
            arriving = await rank.ring_exchange(arriving)
            found = found + arriving
        return found

    run(total, 3, [torch.ones(2), torch.ones(2), torch.ones(2)]).results

An operation starts when it is called, and ``await`` waits for what it brings: work between the two overlaps with it.
The ranks take turns, always in the same order; an error is raised where it arises; where nobody can go on, the program
is refused with what every rank waits for. As with NCCL a message is delivered when one rank sends it and the other
receives it, so that two ranks that both send first are stuck. What arrives is a copy, through which gradients flow.
"""

from __future__ import annotations

import inspect
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workbench.models import collectives


class Stuck(RuntimeError):
    """Nobody can go on, or something was never waited for; the message says what each rank waits for."""


@dataclass(frozen=True)
class Transfer:
    """One message of ``bytes``. ``step`` counts from 1: it comes after all that its two ranks had waited for when they
    started it. ``operation`` is what the program called, ``what`` the name that it gave to the message.
    """

    step: int
    source: int
    target: int
    operation: str
    bytes: int
    shape: tuple[int, ...]
    what: str = ""


@dataclass(frozen=True)
class Holding:
    """From ``step`` on ``rank`` holds ``what`` under that ``name``."""

    step: int
    rank: int
    name: str
    what: str


@dataclass(frozen=True)
class Run:
    """What a program did: what each rank returned, every message in order of steps, what ranks said that they hold."""

    results: tuple[Any, ...]
    transfers: tuple[Transfer, ...]
    holdings: tuple[Holding, ...]

    @property
    def size(self) -> int:
        return len(self.results)

    @property
    def steps(self) -> int:
        """The last step in which something was sent or began to be held."""
        return max((each.step for each in (*self.transfers, *self.holdings)), default=0)

    def held(self, rank: int, step: int) -> dict[str, str]:
        """What ``rank`` holds after ``step``, by name, as it said with ``Rank.hold``."""
        return {each.name: each.what for each in self.holdings if each.rank == rank and each.step <= step}

    def bytes_by_link(self, until: int | None = None) -> dict[tuple[int, int], int]:
        """Bytes from rank to rank, up to the end of step ``until`` (None: the last). Links that nothing ever takes are
        left out."""
        counted = dict.fromkeys(sorted((each.source, each.target) for each in self.transfers), 0)
        for each in self.transfers:
            counted[each.source, each.target] += each.bytes * (until is None or each.step <= until)
        return counted

    def bytes_by_operation(self) -> dict[str, int]:
        """Bytes that all ranks sent together, by the operation that the program called."""
        counted: dict[str, int] = defaultdict(int)
        for each in self.transfers:
            counted[each.operation] += each.bytes
        return dict(counted)

    def bytes_sent(self, rank: int) -> int:
        """Bytes that one rank sent in all."""
        return sum(each.bytes for each in self.transfers if each.source == rank)


def run(worker: Callable[..., Coroutine[Any, Any, Any]], size: int, *inputs: Sequence[Any]) -> Run:
    """Run ``worker(rank, input, ...)`` on ``size`` ranks, each with its own of every one of ``inputs``.

    Raises ``Stuck`` where the ranks wait for one another for ever, ``ValueError`` for inputs that are not one a rank,
    and what the worker raises, with the rank in a note.
    """
    if size < 1 or any(len(each) != size for each in inputs):
        raise ValueError(f"{size} ranks need {size} of every input, not {[len(each) for each in inputs]}.")
    world = _World(size)
    programs = [world.start(rank, "come to the end", worker, [each[rank] for each in inputs]) for rank in range(size)]
    try:
        world.turn()
        world.refuse_stuck(programs)
    finally:
        for task in world.tasks:
            task.work.close()
    transfers = tuple(sorted(world.transfers, key=lambda each: (each.step, each.source)))
    return Run(tuple(each.result for each in programs), transfers, tuple(world.holdings))


@dataclass(eq=False)
class Handle:
    """Something that was started. ``await handle`` waits for it and gives what it brings. ``doing`` says what it is,
    ``started`` after which step, ``step`` when it was over."""

    doing: str
    started: int
    done: bool = False
    result: Any = None
    step: int = 0

    def __await__(self) -> Generator[Handle, None, Any]:
        yield self
        return self.result


@dataclass(frozen=True, eq=False)
class Exchange:
    """A message sent and one received at once; ``await`` gives the one received."""

    sent: Handle
    received: Handle

    def __await__(self) -> Generator[Handle, None, Tensor]:
        arrived = yield from self.received.__await__()
        yield from self.sent.__await__()
        return arrived


class Rank:
    """One of ``size`` ranks, as its program sees it. Operations start at once, and are waited for with ``await``.

    They raise ``ValueError`` for a rank that is not there, for what is no tensor, and for tensors whose shape or dtype
    does not fit that of the other ranks. Collectives have to be called by all ranks in the same order.
    """

    def __init__(self, world: _World, task: _Task) -> None:
        self.index, self.size = task.rank, world.size
        self.next, self.previous = (task.rank + 1) % world.size, (task.rank - 1) % world.size
        self._world, self._task = world, task

    def hold(self, **things: Any) -> None:
        """Say what this rank holds from here on, for the picture: words, or tensors, whose shape is shown."""
        for name, thing in things.items():
            words = collectives.describe(thing) if isinstance(thing, Tensor) else str(thing)
            self._world.holdings.append(Holding(self._task.step, self.index, name, words))

    def send(self, tensor: Tensor, *, to: int, what: str = "", operation: str = "send") -> Handle:
        """To the rank ``to``. It is over when that one receives; ``what`` names the message in the picture."""
        doing = f"send {collectives.describe(tensor)} to rank {to}"
        half = _Half(Handle(doing, self._task.step), tensor, self._task.operation or operation, what)
        return self._world.post(half, (self.index, to, self._task.channel), sends=True)

    def recv(self, *, source: int, like: Tensor | None = None) -> Handle:
        """A tensor from the rank ``source``; with ``like``, one of another shape or dtype than that is refused."""
        half = _Half(Handle(f"receive from rank {source}", self._task.step), like)
        return self._world.post(half, (source, self.index, self._task.channel), sends=False)

    def exchange(
        self, tensor: Tensor, *, to: int, source: int, what: str = "", operation: str = "exchange"
    ) -> Exchange:
        """Send to one rank and receive from one at once."""
        return Exchange(self.send(tensor, to=to, what=what, operation=operation), self.recv(source=source))

    def ring_exchange(self, tensor: Tensor, *, what: str = "") -> Exchange:
        """Send to the next rank in the ring and receive from the previous one, at once."""
        return self.exchange(tensor, to=self.next, source=self.previous, what=what, operation="ring exchange")

    def all_reduce(self, tensor: Tensor) -> Handle:
        """The sum over all ranks, on each of them. A rank sends 2 (size - 1) / size of the tensor around the ring."""
        return self._collective("all-reduce", collectives.describe(tensor), collectives.all_reduce, tensor)

    def all_gather(self, tensor: Tensor) -> Handle:
        """The tensors of all ranks, as a list. Every rank sends size - 1 tensors around the ring."""
        return self._collective("all-gather", collectives.describe(tensor), collectives.all_gather, tensor)

    def reduce_scatter(self, tensor: Tensor) -> Handle:
        """This rank's share, along the first axis, of the sum over all ranks. Every rank sends (size - 1) / size of the
        tensor around the ring."""
        words = collectives.describe(tensor)
        if not tensor.ndim or len(tensor) % self.size:
            raise ValueError(f"The first axis of {words} cannot be shared out evenly among {self.size} ranks.")
        return self._collective("reduce-scatter", words, collectives.reduce_scatter, tensor)

    def all_to_all(self, tensors: Sequence[Tensor]) -> Handle:
        """Tensor number i goes to rank i: what comes to this rank, in the order of the ranks."""
        if len(tensors) != self.size:
            raise ValueError(f"All-to-all takes one tensor for each of {self.size} ranks, not {len(tensors)}.")
        return self._collective("all-to-all", "a tensor for each rank", collectives.all_to_all, list(tensors))

    def broadcast(self, tensor: Tensor | None, *, source: int) -> Handle:
        """The tensor of rank ``source`` on all of them, handed on along the ring; elsewhere ``tensor`` is not read."""
        self._world.check(source)
        return self._collective("broadcast", f"a tensor of rank {source}", collectives.broadcast, tensor, source)

    def _collective(self, operation: str, of: str, work: Callable[..., Coroutine], *arguments: Any) -> Handle:
        channel = self._world.join(self.index, operation, of)
        doing = f"finish an {operation} of {of}".replace("an r", "a r").replace("an b", "a b")
        return self._world.start(self.index, doing, work, arguments, operation, channel, self._task.step)


# --- who waits for whom ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Task:
    """The program of a rank, or a collective that it started, and the step up to which it has come."""

    rank: int
    operation: str
    channel: int  # messages of a collective are its own; 0 is that of the programs
    handle: Handle
    step: int
    work: Coroutine | None = None


@dataclass(eq=False)
class _Half:
    """One side of a message: what is sent, or what is expected."""

    handle: Handle
    tensor: Tensor | None
    operation: str = ""
    what: str = ""


class _World:
    """All tasks: they go on in the order in which they became ready."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.tasks: list[_Task] = []
        self.transfers: list[Transfer] = []
        self.holdings: list[Holding] = []
        self._ready: deque[_Task] = deque()
        self._waiting: dict[Handle, _Task] = {}
        self._posted: dict[Any, deque[_Half]] = defaultdict(deque)
        self._collectives: list[tuple[int, str, str]] = []
        self._joined = [0] * size

    def check(self, rank: int) -> None:
        if not 0 <= rank < self.size:
            raise ValueError(f"There is no rank {rank}: there are ranks 0 to {self.size - 1}.")

    def start(self, rank: int, doing: str, work: Callable, arguments: Sequence, operation="", channel=0, step=0):
        """A task that begins at its next turn; its handle."""
        task = _Task(rank, operation, channel, Handle(doing, step), step)
        task.work = work(Rank(self, task), *arguments)
        if not inspect.iscoroutine(task.work):
            raise TypeError(f"{work.__name__} is no async function: write async def, and await what is sent.")
        self.tasks.append(task)
        self._ready.append(task)
        return task.handle

    def join(self, rank: int, operation: str, of: str) -> int:
        """The number of this collective, counted on each rank from 1: it has to be the same one on all of them."""
        number = self._joined[rank]
        self._joined[rank] += 1
        if number == len(self._collectives):
            self._collectives.append((rank, operation, of))
        first, *before = self._collectives[number]
        if before != [operation, of]:
            raise ValueError(
                f"Rank {rank} calls {operation} of {of} where rank {first} calls {before[0]} of {before[1]}: all ranks "
                "call the same collectives in the same order, with tensors of one shape and dtype."
            )
        return number + 1

    def post(self, half: _Half, place: tuple[int, int, int], *, sends: bool) -> Handle:
        """Half a message; it is delivered when the other half is there."""
        source, target, _ = place
        self.check(source)
        self.check(target)
        if source == target:
            raise ValueError(f"Rank {source} cannot send to itself.")
        others = self._posted[not sends, place]
        if not others:
            self._posted[sends, place].append(half)
        else:
            other = others.popleft()
            self._deliver(source, target, *((half, other) if sends else (other, half)))
        return half.handle

    def _deliver(self, source: int, target: int, sent: _Half, received: _Half) -> None:
        tensor, words = sent.tensor, collectives.describe(sent.tensor)
        if received.tensor is not None and collectives.describe(received.tensor) != words:
            expected = collectives.describe(received.tensor)
            raise ValueError(f"Rank {target} expects {expected} from rank {source}, which sends {words}.")
        step = 1 + max(sent.handle.started, received.handle.started)
        shape = tuple(tensor.shape)
        self.transfers.append(Transfer(step, source, target, sent.operation, tensor.nbytes, shape, sent.what))
        self._finish(sent.handle, None, step)
        self._finish(received.handle, tensor.clone(), step)

    def _finish(self, handle: Handle, result: Any, step: int) -> None:
        handle.done, handle.result, handle.step = True, result, step
        if handle in self._waiting:
            task = self._waiting.pop(handle)
            task.step = max(task.step, step)
            self._ready.append(task)

    def turn(self) -> None:
        """Go on as long as anybody can."""
        while self._ready:
            task = self._ready.popleft()
            try:
                while (handle := _handle(task.work.send(None))).done:
                    task.step = max(task.step, handle.step)
                self._waiting[handle] = task
            except StopIteration as end:
                self._finish(task.handle, end.value, task.step)
            except Exception as error:
                error.add_note(f"This was on rank {task.rank}.")
                raise

    def refuse_stuck(self, programs: Sequence[Handle]) -> None:
        """Raise ``Stuck`` unless every program has come to its end and every message was sent and received."""
        alone = [(place, half) for (_, place), queue in self._posted.items() for half in queue]
        if all(each.done for each in programs) and not alone:
            return
        waits = {task.rank: handle.doing for handle, task in self._waiting.items() if not task.channel}
        words = [f"rank {rank} waits to {waits[rank]}" if rank in waits else f"rank {rank} has come to its end"
                 for rank in range(self.size)]
        unmet = [f"from rank {source} to rank {target}" for (source, target, _), half in alone
                 if half.handle not in self._waiting]
        also = f" Messages that only one side knows of, and does not wait for: {', '.join(unmet)}." if unmet else ""
        raise Stuck(f"Nobody can go on: {'; '.join(words)}.{also}")


def _handle(found: Any) -> Handle:
    if not isinstance(found, Handle):
        raise TypeError("A program for ranks can await what its rank starts, and nothing else.")
    return found
