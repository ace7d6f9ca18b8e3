"""How long a call takes, on which device."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.benchmark import Timer

Stop = Callable[[], bool] | None

FEWEST_REPEATS = 3
HOST_BLOCK = 10  # some of our calls launch a dozen kernels, and about a thousand launches fit into a device's queue


class Cancelled(Exception):
    """The caller's ``cancelled()`` became true; what was measured before has been handed out already."""


def stop_if(cancelled: Stop) -> None:
    """Raise ``Cancelled`` when the caller wants no more."""
    if cancelled is not None and cancelled():
        raise Cancelled


def pick_device(name: str = "auto") -> str:
    """``"cuda"`` when there is one, else ``"cpu"``. Raises ``ValueError`` for a device that is not there."""
    there = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    if name == "auto":
        return there[0]
    if name not in there:
        raise ValueError(f"There is no device {name!r} here: choose auto or {' or '.join(there)}.")
    return name


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: the median of ``repeats``, with the 20th and the 80th percentile."""

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int


def time_call(
    call: Callable[[], Any], device: str, *, budget_s: float = 0.3, replayed: bool = False, cancelled: Stop = None
) -> Timing:
    """How long ``call()`` takes, repeated for about ``budget_s`` seconds and at least three times after a warm-up.

    GPU: CUDA events around each call, the L2 cache flushed before it. CPU: ``torch.utils.benchmark``, with the threads
    that PyTorch uses; a call of some microseconds is timed in blocks, so its percentiles are those of block means.
    ``replayed``: the call is captured as a CUDA graph and its replays are timed, so without the host's time for
    launching. Raises ``ValueError`` for that without CUDA.
    ``cancelled()`` is asked between repetitions; ``Cancelled`` is raised when it says yes.
    """
    stop_if(cancelled)
    if replayed:
        call = _as_graph(call, device)
    call()  # compiles what is compiled on first use
    stop_if(cancelled)
    times = (_times_on_cuda if device == "cuda" else _times_on_cpu)(call, budget_s, cancelled)
    return _timing(times)


TURNS = 4  # at least, of every call
WIDE = 0.25  # of the median: a band that is wider is measured on
SAME = "same configuration"
NOISE = "within the noise"


def time_in_turns(
    calls: Mapping[str, Callable[[], Any]],
    device: str,
    *,
    budget_s: float = 0.3,
    most_s: float = 1.5,
    cancelled: Stop = None,
) -> Iterator[dict[str, Timing]]:
    """How long several calls take, side by side: each has its turn, again and again, so that whatever else the machine
    does meets all of them alike; every second round goes the other way. Yields what is known after each round.

    About ``budget_s`` seconds a call; where a band (20 to 80 %) is wide, on until ``most_s``. Else as ``time_call``.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        stop_if(cancelled)
        call()  # compiles what is compiled on first use
    measured = _times_on_cuda if device == "cuda" else _times_on_cpu
    start, rounds = time.perf_counter(), 0
    while True:
        for name in list(calls)[:: -1 if rounds % 2 else 1]:
            times[name] += measured(calls[name], budget_s / TURNS, cancelled)
        rounds += 1
        found = {name: _timing(each) for name, each in times.items()}
        yield found
        spent = (time.perf_counter() - start) / max(1, len(calls))
        wide = any(each.high_ms - each.low_ms > WIDE * each.median_ms for each in found.values())
        if spent >= most_s or (rounds >= TURNS and spent >= budget_s and not wide):
            return


def verdict(a: Timing, b: Timing, *, same: bool = False) -> str:
    """What to make of the times of A and B, measured in turns: "faster" or "slower" (B than A) only where their bands,
    20 to 80 % of the repeats, do not overlap. ``same``: they are one configuration, of which there is nothing to say.
    """
    if same:
        return SAME
    if a.low_ms <= b.high_ms and b.low_ms <= a.high_ms:
        return NOISE
    return "faster" if b.median_ms < a.median_ms else "slower"


def time_host(call: Callable[[], Any], device: str, *, budget_s: float = 0.1, cancelled: Stop = None) -> Timing:
    """How long the host is busy with ``call()``: until it returns, whether or not the device has finished by then.

    Repeated for about ``budget_s`` seconds after a warm-up, in blocks of ``HOST_BLOCK`` calls; a block begins when the
    device is idle and ends before its queue is full, so that nobody waits for it. On a CPU this is what the call takes.
    """
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(3):
        call()
    times, stop = [], time.perf_counter() + budget_s
    while len(times) < FEWEST_REPEATS or time.perf_counter() < stop:
        stop_if(cancelled)
        synchronise()
        start = time.perf_counter()
        for _ in range(HOST_BLOCK):
            call()
        times.append((time.perf_counter() - start) / HOST_BLOCK)
    synchronise()
    low, median, high = np.quantile(times, [0.2, 0.5, 0.8]) * 1e3
    return Timing(float(median), float(low), float(high), len(times) * HOST_BLOCK)


def _timing(times: list[float]) -> Timing:
    low, median, high = np.quantile(times, [0.2, 0.5, 0.8]) * 1e3
    return Timing(float(median), float(low), float(high), len(times))


def _as_graph(call: Callable[[], Any], device: str) -> Callable[[], None]:
    if device != "cuda":
        raise ValueError(f"Only calls on CUDA can be replayed from a CUDA graph, not on {device!r}.")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what happens on the first call only must not be captured
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _times_on_cpu(call: Callable[[], Any], budget_s: float, cancelled: Stop) -> list[float]:
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    once = _seconds(call)
    stop_if(cancelled)
    times: list[float] = []
    while len(times) < FEWEST_REPEATS:
        enough = max(budget_s, (FEWEST_REPEATS - len(times) - 0.5) * once)
        measured = timer.blocked_autorange(callback=lambda number, spent: stop_if(cancelled), min_run_time=enough)
        times += measured.times
    return times


def _times_on_cuda(call: Callable[[], Any], budget_s: float, cancelled: Stop) -> list[float]:
    # As triton.testing.do_bench does it, but in short batches (what is queued cannot be cancelled), without its six
    # extra runs of a slow call, and whether or not Triton is installed.
    flushed = torch.empty(256 * 2**20, dtype=torch.int8, device="cuda")

    def batch(count: int) -> list[float]:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for start, end in events:
            flushed.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        stop_if(cancelled)
        return [start.elapsed_time(end) / 1e3 for start, end in events]

    torch.cuda.synchronize()
    count = min(100, max(1, int(budget_s / 10 / _seconds(lambda: batch(1)))))
    warm_until = time.perf_counter() + max(0.025, budget_s / 4)
    while count > 1 and time.perf_counter() < warm_until:
        batch(count)
    times, stop = [], time.perf_counter() + budget_s
    while len(times) < FEWEST_REPEATS or time.perf_counter() < stop:
        times += batch(count)
    return times


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
