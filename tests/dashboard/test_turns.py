"""Drawings take turns, clicks go between them; and garbage is looked for seldom."""

import gc
import weakref
from collections import deque

import pytest

from workbench.dashboard.shell import garbage
from workbench.dashboard.shell.turns import PATIENCE_S, Turns


class Loop:
    """An event loop turned by hand: what was put on it before a round is done in that round."""

    def __init__(self):
        self.due, self.timers = deque(), []

    def soon(self, callback):
        self.due.append(callback)

    def later(self, seconds, callback):
        self.timers.append((seconds, callback))

    def round(self):
        for _ in range(len(self.due)):
            self.due.popleft()()

    def until_idle(self):
        while self.due:
            self.round()


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def turns(loop):
    return Turns(loop.soon, loop.later)


def test_visitors_take_turns_and_each_is_served_in_order(loop, turns):
    done = []
    for visitor, count in (("a", 3), ("b", 1), ("c", 2)):
        for number in range(count):
            turns.put(visitor, loop.soon, lambda what=f"{visitor}{number}": done.append(what))
    loop.until_idle()
    assert done == ["a0", "b0", "c0", "a1", "c1", "a2"]


def test_a_click_waits_for_one_drawing_at_most(loop, turns):
    done = []
    for number in range(5):
        turns.put("a", loop.soon, lambda number=number: done.append(number))
    while not done:
        loop.round()

    def click(rounds):  # from the socket to its handler
        loop.soon(lambda: click(rounds - 1)) if rounds else done.append("click")

    click(3)
    loop.until_idle()
    assert done.index("click") <= 2 and done[-1] == 4


def test_one_that_fails_or_never_begins_keeps_nobody_waiting(loop, turns):
    done = []
    turns.put("gone", lambda callback: None, lambda: done.append("gone"))
    turns.put("broken", lambda callback: loop.soon(lambda: quietly(callback)), lambda: 1 / 0)
    turns.put("well", loop.soon, lambda: done.append("well"))

    def quietly(callback):
        with pytest.raises(ZeroDivisionError):
            callback()

    loop.until_idle()
    assert done == []
    seconds, over = loop.timers.pop(0)
    assert seconds == PATIENCE_S
    over()
    loop.until_idle()
    assert done == ["well"]
    over()  # late, and of no effect any more
    loop.until_idle()
    assert done == ["well"]


def test_nothing_is_drawn_for_a_visitor_who_has_gone(loop, turns):
    done = []
    turns.put("a", loop.soon, lambda: done.append("a"))
    turns.put("b", loop.soon, lambda: done.append("b"))
    turns.forget("a")
    loop.until_idle()
    assert done == ["b"]
    turns.put("a", loop.soon, lambda: done.append("again"))
    loop.until_idle()
    assert done == ["b", "again"]


class Ring:
    def __init__(self):
        self.itself = self


@pytest.fixture
def keeper():
    made = garbage.Keeper()
    yield made
    if garbage._pass_over in gc.callbacks:
        gc.callbacks.remove(garbage._pass_over)
    gc.unfreeze()


def test_a_collection_passes_over_what_an_earlier_one_left_until_all_have_gone(keeper):
    keeper.keep()
    ring = Ring()
    old = weakref.ref(ring)
    keeper.came()
    gc.collect()
    del ring
    young = weakref.ref(Ring())
    gc.collect()
    assert young() is None and old() is not None
    keeper.look()
    assert old() is not None  # somebody is there, and might click
    keeper.left()
    keeper.look()
    assert old() is None


def test_everything_is_looked_at_when_memory_grew_but_not_again_and_again(keeper, monkeypatch):
    now, held, made = [1000.0], [2**30], []
    monkeypatch.setattr(garbage.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(garbage, "held", lambda: held[0])
    monkeypatch.setattr(garbage.gc, "collect", lambda: made.append(now[0]))
    keeper.__init__()
    held[0] += garbage.GROWN + 1
    now[0] += garbage.AT_MOST_EVERY_S - 1
    keeper.look()
    assert made == []
    now[0] += 2
    keeper.look()
    assert made == [now[0]]
    now[0] += 10 * garbage.AT_MOST_EVERY_S
    keeper.look()
    assert len(made) == 1
