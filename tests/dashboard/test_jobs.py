"""The job queue, without a browser: turns, cancel, replacement, failure, and sessions that go away."""

import threading
import time

import pytest

from dashboard.visitor import PATIENCE_S, Visitor
from workbench.dashboard.shell.jobs import Cache, Mailbox, Progress, sentence
from workbench.dashboard.shell.worker import Worker


@pytest.fixture
def worker():
    """One that waits for every step: what is first does not depend on how long things take."""
    return Worker(patience_s=PATIENCE_S)


@pytest.fixture
def impatient():
    """One that waits for no step."""
    return Worker(patience_s=0.0)


def visitor(worker):
    made = Visitor(worker)
    return made.desk, made


class Gate:
    """A long job whose every step waits until the test lets it pass."""

    def __init__(self, count=100):
        self.passes, self.entered, self.count, self.done = threading.Semaphore(0), threading.Semaphore(0), count, 0

    def __call__(self, cancelled):
        for index in range(self.count):
            self.entered.release()
            assert self.passes.acquire(timeout=PATIENCE_S)
            self.done = index + 1
            yield Progress(index + 1, self.count)


def one(value):
    def steps(cancelled):
        yield value

    return steps


def test_values_arrive_in_order_and_then_the_end(worker):
    desk, loop = visitor(worker)
    seen, ended = [], []

    def steps(cancelled):
        yield from (1, 2, 3)

    desk.run("map", steps, seen.append, ended.append)
    loop.until(lambda: ended)
    assert seen == [1, 2, 3]
    assert ended[0].state == "done" and not desk.pending


def test_a_click_is_answered_between_two_steps_of_somebody_elses_sweep(worker):
    (first, _), (second, loop) = visitor(worker), visitor(worker)
    gate, seen = Gate(), []
    first.run("sweep", gate, lambda value: None, lane="long")
    assert gate.entered.acquire(timeout=PATIENCE_S)
    second.run("map", one("here"), seen.append)  # returns while the step is under way: that one waits for the gate
    assert gate.done == 0
    gate.passes.release()
    loop.until(lambda: seen)
    assert gate.done == 1
    first.cancel()
    gate.passes.release()


def test_a_click_is_answered_inside_a_step_that_asks(worker):
    (first, _), (second, loop) = visitor(worker), visitor(worker)
    asks, goes_on, seen = threading.Event(), threading.Event(), []

    def sweep(cancelled):
        while not goes_on.is_set():
            assert not cancelled()
            asks.set()
        yield "row"

    first.run("sweep", sweep, lambda value: None, lane="long")
    assert asks.wait(PATIENCE_S)
    second.run("map", one("here"), seen.append)
    loop.until(lambda: seen)
    assert not goes_on.is_set()
    goes_on.set()
    loop.until(lambda: not worker.busy)


def test_a_step_that_asks_goes_on_however_busy_the_quick_lane_is(worker):
    (busy, _), (patient, loop) = visitor(worker), visitor(worker)
    ended = []

    def forever(cancelled):
        while True:
            yield Progress(0, 1)

    def sweep(cancelled):
        for _ in range(5):
            assert not cancelled()
        yield "row"

    busy.run("drag", forever, lambda value: None)
    patient.run("sweep", sweep, lambda value: None, ended.append, lane="long")
    loop.until(lambda: ended)
    assert ended[0].state == "done"
    busy.cancel()


def test_a_step_that_does_not_ask_is_not_waited_for_but_by_those_who_must_be_alone(impatient):
    (first, _), (second, loop), (third, _) = (visitor(impatient) for _ in range(3))
    gate, seen = Gate(), []

    def timed(cancelled):
        yield Progress(0, 1, "measuring", alone=True)
        seen.append("timed")
        yield "time"

    first.run("sweep", gate, lambda value: None, lane="long")
    assert gate.entered.acquire(timeout=PATIENCE_S)
    third.run("times", timed, lambda value: None)
    second.run("map", one("here"), seen.append)
    loop.until(lambda: seen)
    assert seen == ["here"] and gate.done == 0  # the long step is still under way
    first.cancel()
    gate.passes.release()
    loop.until(lambda: not impatient.busy)
    assert seen == ["here", "timed"]


def test_a_job_that_pauses_keeps_nobody_waiting_and_ends_at_once_when_it_is_cancelled(worker):
    (patient, loop), (other, _) = visitor(worker), visitor(worker)
    heard, ended = [], []

    def pausing(cancelled):
        heard.append("begun")
        yield Progress(0, 1, pause_s=PATIENCE_S)
        heard.append("after the pause")

    def asks(cancelled):
        assert not cancelled()
        yield "row"

    patient.run("map", pausing, heard.append, ended.append)
    loop.until(lambda: "begun" in heard)
    for lane in ("quick", "long"):
        mine = []
        other.run(lane, asks, lambda value: None, mine.append, lane=lane)
        loop_of_other = Visitor.seen[-1]
        loop_of_other.until(lambda mine=mine: mine)
    patient.cancel()
    loop.until(lambda: ended and not worker.busy)
    assert "after the pause" not in heard


def test_a_job_goes_on_after_its_pause(worker):
    desk, loop = visitor(worker)
    ended = []

    def pausing(cancelled):
        yield Progress(0, 1, pause_s=0.01)
        yield "later"

    desk.run("map", pausing, lambda value: None, ended.append)
    loop.until(lambda: ended)


def test_cancel_does_not_wait_for_the_step_and_nothing_of_it_is_heard(worker):
    (first, loop), (second, other) = visitor(worker), visitor(worker)
    gate, heard, ended = Gate(), [], []
    first.run("sweep", gate, heard.append, ended.append, lane="long")
    behind = second.run("sweep", one("row"), heard.append, ended.append, lane="long")
    assert gate.entered.acquire(timeout=PATIENCE_S)
    for desk, turns in ((first, loop), (second, other)):
        desk.cancel()
        turns.until(lambda desk=desk: not desk.pending)
    assert gate.done == 0 and [job.state for job in ended] == ["cancelled", "cancelled"] and behind.over
    first.run("map", one("next"), heard.append)
    gate.passes.release()
    loop.until(lambda: "next" in heard)
    loop.rest()
    assert heard == ["next"] and len(ended) == 2


def test_long_jobs_of_two_sessions_take_turns(worker):
    order, release = [], threading.Event()

    def blocker(cancelled):
        release.wait(PATIENCE_S)
        yield None

    def steps(name):
        def run(cancelled):
            for _ in range(3):
                order.append(name)
                yield Progress(1, 1)

        return run

    (first, _), (second, loop), (third, _) = visitor(worker), visitor(worker), visitor(worker)
    third.run("block", blocker, lambda value: None)
    ended = []
    first.run("sweep", steps("a"), lambda value: None, lane="long")
    second.run("sweep", steps("b"), lambda value: None, ended.append, lane="long")
    release.set()
    loop.until(lambda: ended)
    assert order == ["a", "b"] * 3


def test_a_busy_quick_lane_does_not_starve_a_long_job(worker):
    (busy, _), (patient, loop) = visitor(worker), visitor(worker)
    ended = []

    def forever(cancelled):
        while not cancelled():
            yield Progress(0, 1)

    busy.run("drag", forever, lambda value: None)
    patient.run("sweep", one("row"), lambda value: None, ended.append, lane="long")
    loop.until(lambda: ended)
    busy.cancel()


def test_a_newer_request_replaces_the_older_and_stale_results_go_nowhere(worker):
    desk, loop = visitor(worker)
    gate, seen = Gate(), []
    desk.run("map", gate, lambda value: seen.append("stale"))
    assert gate.entered.acquire(timeout=PATIENCE_S)
    waiting = desk.run("map", one("older"), seen.append)
    desk.run("map", one("newest"), seen.append)
    gate.passes.release()
    loop.until(lambda: "newest" in seen)
    loop.rest()
    assert seen == ["newest"]
    assert waiting.state == "cancelled" and gate.done == 1


def test_cancel_works_inside_a_step_that_asks(worker):
    desk, loop = visitor(worker)
    inside, ended = threading.Event(), []

    def steps(cancelled):
        inside.set()
        while not cancelled():
            time.sleep(0.005)
        raise RuntimeError("stopped in the middle of timing")
        yield

    desk.run("sweep", steps, lambda value: None, ended.append, lane="long")
    assert inside.wait(PATIENCE_S)
    desk.cancel("sweep")
    loop.until(lambda: ended)
    assert ended[0].state == "cancelled" and not ended[0].error


def test_a_job_that_fails_says_so_in_a_sentence_and_the_worker_lives_on(worker):
    desk, loop = visitor(worker)
    ended, seen = [], []

    def broken(cancelled):
        yield "something"
        raise ZeroDivisionError("division by zero")

    desk.run("map", broken, seen.append, ended.append)
    loop.until(lambda: ended)
    assert ended[0].state == "failed" and "ZeroDivisionError" in ended[0].error
    desk.run("map", one("alive"), seen.append)
    loop.until(lambda: "alive" in seen)


def test_a_job_that_cannot_be_closed_does_not_take_the_worker_with_it(worker):
    desk, loop = visitor(worker)
    begun, seen = [], []

    def stubborn(cancelled):
        try:
            while True:
                yield Progress(0, 1)
        finally:
            raise RuntimeError("not so fast")

    desk.run("map", stubborn, begun.append)
    loop.until(lambda: begun)
    desk.cancel()
    desk.run("next", one("alive"), seen.append)
    loop.until(lambda: seen and not worker.busy)


def test_a_worker_that_was_stopped_begins_no_step_and_leaves_none_behind():
    worker, seen, begun = Worker(), [], threading.Event()

    def steps(cancelled):
        for number in range(100):
            seen.append(number)
            begun.set()
            while not cancelled():
                time.sleep(0.001)  # asking is all that a step can do
            yield number

    for session in ("a", "b"):
        worker.submit(session, "x", steps, lambda job, value: None)
    assert begun.wait(PATIENCE_S)
    worker.stop(wait_s=PATIENCE_S)
    assert not any(thread.is_alive() for thread in worker._threads) and len(seen) == 1
    worker.submit("c", "x", steps, lambda job, value: None)
    assert len(seen) == 1


def test_out_of_memory_is_caught_and_said(worker):
    torch = pytest.importorskip("torch")
    desk, loop = visitor(worker)
    ended = []

    def greedy(cancelled):
        torch.empty(2**60)
        yield

    desk.run("map", greedy, lambda value: None, ended.append)
    loop.until(lambda: ended)
    assert "out of memory" in ended[0].error


def test_a_session_that_goes_takes_its_jobs_with_it(worker):
    (gone, _), (other, loop) = visitor(worker), visitor(worker)
    gate, seen = Gate(), []
    gone.run("sweep", gate, seen.append, lane="long")
    waiting = gone.run("map", one("late"), seen.append)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    gone.close()
    gate.passes.release()
    ended = []
    other.run("map", one("x"), lambda value: None, ended.append)
    loop.until(lambda: ended)
    loop.until(lambda: not worker.busy)
    assert seen == [] and gate.done == 1 and waiting.over


def test_place_in_the_queue(worker):
    desks = [visitor(worker) for _ in range(3)]
    gate = Gate()
    jobs = [desks[0][0].run("sweep", gate, lambda value: None, lane="long")]
    assert gate.entered.acquire(timeout=PATIENCE_S)
    jobs += [desk.run("sweep", one("row"), lambda value: None, lane="long") for desk, _ in desks[1:]]
    assert [worker.ahead(job) for job in jobs] == [0, 1, 2]
    quick = desks[2][0].run("map", one("x"), lambda value: None)
    assert worker.ahead(quick) == 1
    desks[0][0].cancel()
    gate.passes.release()
    desks[1][1].until(lambda: not worker.busy)
    assert all(job.over for job in jobs)


def test_mailbox_keeps_the_order_and_waits_until_it_is_opened():
    handed = []
    mailbox = Mailbox(handed.append)
    mailbox.put(1)
    mailbox.put(2)
    assert handed == []
    mailbox.open()
    mailbox.put(3)
    mailbox.open()
    assert handed == [1, 2, 3]


def test_cache_is_bounded_and_keeps_what_was_used_last():
    cache = Cache(limit=100)
    cache.put("a", 1, 40)
    cache.put("b", 2, 40)
    assert cache.get("a") == 1
    cache.put("c", 3, 40)
    assert cache.get("b") is None and cache.get("a") == 1 and cache.get("c") == 3
    cache.put("huge", 4, 1000)
    assert cache.get("huge") is None and cache.bytes <= 100 and len(cache) == 2
    cache.put("a", 5, 10)
    assert cache.bytes == 50


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("window_left = -1 is not allowed: choose ..."), "window_left = -1"),
        (KeyError("No method is called 'x'."), "No method is called 'x'."),
        (MemoryError(), "ran out of memory"),
        (RuntimeError("first line\nsecond line"), "first line"),
    ],
)
def test_a_visitor_is_told_one_sentence(error, told):
    text = sentence(error)
    assert told in text and "\n" not in text and "Traceback" not in text


def test_others_go_first_before_every_step():
    turns = []
    desk, loop = visitor(Worker(before_a_step=lambda: turns.append("others")))

    def steps(cancelled):
        for number in range(3):
            turns.append(number)
            yield number

    ended = []
    desk.run("map", steps, lambda value: None, ended.append)
    loop.until(lambda: ended)
    assert turns == ["others", 0, "others", 1, "others", 2, "others"]
