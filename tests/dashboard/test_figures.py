"""Figures in documents of their own: what is drawn, what is sent, and what happens when it is lost."""

import gc
import json
import queue
import socket
import threading
import weakref

import numpy as np
import panel as pn
import pytest
from bokeh.document import Document

from dashboard.visitor import answered
from workbench import plots
from workbench.dashboard.shell.figures import NOT_DRAWN, Figure, when_drawn
from workbench.dashboard.shell.sheets import texts


class Place:
    """A figure on a page, with what figure.js makes of what it is sent, in Python."""

    def __init__(self, **options):
        self.due, self.messages = queue.Queue(), []
        self.figure = Figure(self.due.put, **options)
        self.figure._send_msg = self.messages.append
        self.figure.get_root()
        self.count, self.document = 0, None

    def settle(self):
        """Everything is drawn, and what is due on the event loop is done."""
        for _ in range(2):  # what is drawn may leave something behind it
            when_drawn(lambda: None).result()
        while not self.due.empty():
            self.due.get()()

    def look(self):
        """The page takes what it was sent."""
        drawing = self.figure.drawing
        if drawing["count"] > self.count:
            self.count, self.document = drawing["count"], Document.from_json(json.loads(drawing["text"]))
        for message in self.messages:
            if message["count"] > self.count:
                assert message["count"] == self.count + 1
                self.document.apply_json_patch(json.loads(message["patch"]))
                self.count = message["count"]
        self.messages.clear()
        return self.document.roots[0]

    def shown(self):
        return self.look().select_one("matrix").data_source.data["image"][0]


@pytest.fixture
def place():
    return Place()


def maps(seed, size=5):
    return np.random.default_rng(seed).random((size, size), dtype=np.float32)


def names(size=5):
    return [f"w{place}" for place in range(size)]


def drawn(place, seed):
    place.figure.draw(plots.attention_map, maps(seed), names(), names())
    place.settle()
    return place


def change(place, seed, size=5):
    place.figure.change(plots.update_attention_map, maps(seed, size), names(size), names(size))


def test_equal_figures_are_made_once_beside_the_loop_and_are_one_text():
    made = []

    def make(weights):
        made.append(threading.current_thread().name)
        return plots.attention_map(weights, names(), names())

    first, second, other = (Place() for _ in range(3))
    for place, seed in ((first, 0), (second, 0), (other, 1)):
        place.figure.draw(make, maps(seed))
        assert place.figure.drawn
        place.settle()
    assert len(made) == 2 and all("painter" in name for name in made)
    assert second.figure.drawing["text"] is first.figure.drawing["text"] != other.figure.drawing["text"]
    np.testing.assert_array_equal(second.shown(), maps(0))


def test_what_somebody_has_seen_is_there_at_once(place):
    drawn(Place(), 2)
    place.figure.draw(plots.attention_map, maps(2), names(), names())
    assert place.due.empty()
    np.testing.assert_array_equal(place.shown(), maps(2))


def test_a_change_is_sent_as_what_changed_and_only_to_the_one_who_sees_it():
    first, second = drawn(Place(), 3), drawn(Place(), 3)
    for each in (first, second):
        np.testing.assert_array_equal(each.shown(), maps(3))
    for seed, size in ((4, 5), (5, 7)):  # another size: axes have new parts too
        change(first, seed, size)
        first.settle()
    assert len(first.messages) == 2 and len(first.messages[0]["patch"]) < len(first.figure.drawing["text"])
    np.testing.assert_array_equal(first.shown(), maps(5, 7))
    assert first.look().xaxis[0].major_label_overrides[6.5] == "w6"
    np.testing.assert_array_equal(second.shown(), maps(3))


def test_changes_that_wait_are_one_and_a_new_figure_takes_the_place_of_all(place):
    drawn(place, 6)
    go_on = threading.Event()
    when_drawn(go_on.wait)
    for seed in (7, 8, 9):
        change(place, seed)
    go_on.set()
    place.settle()
    assert len(place.messages) == 1
    np.testing.assert_array_equal(place.shown(), maps(9))
    go_on.clear()
    when_drawn(go_on.wait)
    change(place, 10)
    place.figure.draw(plots.attention_map, maps(11), names(), names())
    place.figure.draw(plots.attention_map, maps(12), names(), names())
    go_on.set()
    place.settle()
    assert place.messages == []
    np.testing.assert_array_equal(place.shown(), maps(12))


def test_a_figure_that_was_replaced_while_it_was_drawn_is_not_shown(place):
    begun, go_on = threading.Event(), threading.Event()

    def slow(weights):
        begun.set()
        go_on.wait()
        return plots.attention_map(weights, names(), names())

    drawn(Place(), 13)
    place.figure.draw(slow, maps(14))
    begun.wait()
    place.figure.draw(plots.attention_map, maps(13), names(), names())
    go_on.set()
    place.settle()
    np.testing.assert_array_equal(place.shown(), maps(13))


def test_nothing_is_sent_when_nothing_changed_and_an_error_is_not_the_end(place):
    drawn(place, 15)
    place.figure.change(lambda shown: None)
    place.figure.change(lambda shown: 1 / 0)
    place.settle()
    assert place.messages == []
    change(place, 16)
    place.settle()
    np.testing.assert_array_equal(place.shown(), maps(16))


def fails(*anything):
    raise ZeroDivisionError


def test_a_figure_that_could_not_be_drawn_is_told_until_another_one_is(place):
    place.figure.draw(fails)
    place.settle()
    assert place.figure.trouble == NOT_DRAWN and not place.figure.drawn
    drawn(place, 30)
    assert place.figure.trouble == "" and place.figure.drawn
    place.figure.draw(fails)
    change(place, 31)  # of what could not be drawn: not of what is still there
    place.settle()
    assert place.figure.trouble == NOT_DRAWN and not place.figure.drawn
    np.testing.assert_array_equal(place.shown(), maps(30))
    drawn(place, 30)  # from memory, without the painter
    assert place.figure.trouble == "" and place.figure.drawn


def test_a_change_that_could_not_be_drawn_is_told_until_the_next_one(place):
    drawn(place, 32)
    place.figure.change(fails)
    place.settle()
    assert place.figure.trouble == NOT_DRAWN and place.figure.drawn
    np.testing.assert_array_equal(place.shown(), maps(32))
    change(place, 32)  # what is there already
    place.settle()
    assert place.figure.trouble == ""
    np.testing.assert_array_equal(place.shown(), maps(32))


def test_a_figure_that_could_not_be_drawn_and_was_replaced_meanwhile_is_not_told(place):
    drawn(Place(), 33)
    place.figure.draw(fails)
    when_drawn(lambda: None).result()
    place.figure.draw(plots.attention_map, maps(33), names(), names())  # there at once
    place.settle()
    assert place.figure.trouble == "" and place.figure.drawn
    np.testing.assert_array_equal(place.shown(), maps(33))


def test_the_visitor_reads_it_where_the_figure_stands(browser):
    loaded, places = threading.Event(), []

    def visit():
        due = pn.state.curdoc.add_next_tick_callback
        places.append((due, Figure(due, min_height=300)))
        pn.state.onload(loaded.set)
        return places[-1][1]

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = pn.serve(visit, port=port, threaded=True, show=False)
    page = browser.new_page()
    try:
        assert answered(f"http://localhost:{port}", server.is_alive)
        page.goto(f"http://localhost:{port}")
        assert loaded.wait(30)
        [(due, figure)] = places
        words, canvas = page.get_by_text(NOT_DRAWN), page.locator(".bk-Figure canvas")
        due(lambda: figure.draw(plots.attention_map, maps(34), names(), names()))
        canvas.first.wait_for(state="attached")
        assert not words.is_visible()
        due(lambda: figure.draw(fails))
        words.wait_for()
        assert canvas.count()
        due(lambda: figure.draw(plots.attention_map, maps(35), names(), names()))
        words.wait_for(state="hidden")
        assert canvas.count()
    finally:
        page.close()
        server.stop()


def test_a_figure_that_is_put_on_a_page_again_comes_as_it_is_now(place):
    drawn(place, 17)
    change(place, 18)
    place.settle()
    place.messages.clear()  # the page was another one
    assert place.figure.drawing["count"] == 1
    place.figure.get_root()
    np.testing.assert_array_equal(place.shown(), maps(18))


def test_what_was_lost_on_the_way_is_sent_whole_and_what_follows_fits(place):
    drawn(place, 19)
    place.look()
    change(place, 20)
    place.settle()
    place.messages.clear()
    place.figure._handle_msg({"have": place.count})
    np.testing.assert_array_equal(place.shown(), maps(20))
    before = place.figure.drawing
    place.figure._handle_msg({"have": place.count})
    assert place.figure.drawing is before
    change(place, 21)
    when_drawn(lambda: None).result()  # drawn, and not sent yet
    place.figure._handle_msg({"have": place.count})
    np.testing.assert_array_equal(place.shown(), maps(21))
    place.settle()
    change(place, 22, 6)
    place.settle()
    np.testing.assert_array_equal(place.shown(), maps(22, 6))


def test_drawing_leaves_the_current_document_alone(monkeypatch):
    # It is one for all threads: another one meanwhile would be in the way of whoever clicks on his page.
    made_current = []
    monkeypatch.setattr("bokeh.document.callbacks.invoke_with_curdoc", lambda doc, f: made_current.append(doc))
    first, second = drawn(Place(), 23), drawn(Place(), 23)
    for place in (first, second):
        change(place, 24, 6)
        place.settle()
        place.figure.get_root()
    assert second.figure.object.select_one("matrix").data_source.data["image"][0].shape == (6, 6)
    assert made_current == []


def test_a_pick_is_handed_on_and_nonsense_is_not():
    picked = []
    figure = Figure(on_pick=picked.append)
    for message in ({"picked": [3]}, {"picked": "3"}, {"picked": [None]}, {}, None, {"have": 0}, {"have": 5}):
        figure._handle_msg(message)
    assert picked == [[3]]


def test_a_figure_that_is_done_with_is_gone_without_the_collector(place):
    drawn(place, 25)
    models = [weakref.ref(model) for model in place.figure.object.references()]
    assert len(models) > 50
    gc.disable()
    try:
        place.figure.draw(plots.attention_map, maps(26), names(), names())
        place.settle()
        assert sum(model() is not None for model in models) <= len(models) // 10
        change(place, 27)
        models = [weakref.ref(model) for model in place.figure.object.references()]
        place.figure.let_go()
        place.settle()
        assert sum(model() is not None for model in models) <= len(models) // 10
    finally:
        gc.enable()
    assert place.figure.object is None


def test_the_texts_are_bounded():
    assert 0 < texts.bytes <= texts.limit
