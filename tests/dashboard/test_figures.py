"""Figures in documents of their own: what is sent, to whom, and what happens when it is lost."""

import json
import queue

import numpy as np
import pytest
from bokeh.document import Document

from workbench import plots
from workbench.dashboard.figures import Figure, drawings


@pytest.fixture
def sent(monkeypatch):
    """The messages that figures send."""
    messages = []
    monkeypatch.setattr(Figure, "_send_msg", lambda self, message: messages.append(message))
    return messages


def on_a_page():
    """A figure that somebody sees."""
    figure = Figure()
    figure.get_root()
    return figure


class OnPage:
    """What figure.js does with a figure, in Python."""

    def __init__(self, figure):
        self.count = figure.drawing["count"]
        self.document = Document.from_json(json.loads(figure.drawing["text"]))

    def take(self, message):
        assert message["count"] == self.count + 1
        self.document.apply_json_patch(json.loads(message["patch"]))
        self.count = message["count"]

    def data(self, name):
        return self.document.roots[0].select_one(name).data_source.data


def maps(seed, size=5):
    return np.random.default_rng(seed).random((size, size), dtype=np.float32)


def names(size=5):
    return [f"w{place}" for place in range(size)]


def test_equal_figures_are_made_once_and_are_one_text():
    made = []

    def make(weights):
        made.append(1)
        return plots.attention_map(weights, names(), names())

    first, second, other = Figure(), Figure(), Figure()
    first.draw(make, maps(0))
    second.draw(make, maps(0))
    other.draw(make, maps(1))
    assert len(made) == 2
    assert second.drawing["text"] is first.drawing["text"] != other.drawing["text"]
    np.testing.assert_array_equal(second.object.select_one("matrix").data_source.data["image"][0], maps(0))


def test_a_change_is_sent_as_what_changed_and_only_to_the_one_who_sees_it(sent):
    first, second = on_a_page(), on_a_page()
    for each in (first, second):
        each.draw(plots.attention_map, maps(2), names(), names())
    pages = [OnPage(first), OnPage(second)]
    first.change(plots.update_attention_map, maps(3), names(), names())
    first.change(plots.update_attention_map, maps(4, 7), names(7), names(7))  # another size: axes have new parts too
    assert len(sent) == 2 and len(sent[0]["patch"]) < len(first.drawing["text"])
    for message in sent:
        pages[0].take(message)
    np.testing.assert_array_equal(pages[0].data("matrix")["image"][0], maps(4, 7))
    assert pages[0].document.roots[0].xaxis[0].major_label_overrides[6.5] == "w6"
    np.testing.assert_array_equal(second.object.select_one("matrix").data_source.data["image"][0], maps(2))


def test_nothing_is_sent_when_nothing_changed(sent):
    figure = on_a_page()
    figure.draw(plots.attention_map, maps(5), names(), names())
    figure.change(lambda shown: None)
    assert sent == []


def test_a_figure_that_is_put_on_a_page_again_comes_as_it_is_now(sent):
    figure = Figure()
    figure.draw(plots.attention_map, maps(9), names(), names())
    figure.change(plots.update_attention_map, maps(10), names(), names())
    assert sent == []
    figure.get_root()
    np.testing.assert_array_equal(OnPage(figure).data("matrix")["image"][0], maps(10))


def test_what_was_lost_on_the_way_is_sent_whole(sent):
    figure = on_a_page()
    figure.draw(plots.attention_map, maps(6), names(), names())
    behind = figure.drawing["count"]
    figure.change(plots.update_attention_map, maps(7), names(), names())
    assert figure.drawing["count"] == behind
    figure._handle_msg({"have": behind})
    page = OnPage(figure)
    assert page.count == behind + 1
    np.testing.assert_array_equal(page.data("matrix")["image"][0], maps(7))
    before = figure.drawing
    figure._handle_msg({"have": page.count})
    assert figure.drawing is before
    figure.change(plots.update_attention_map, maps(8), names(), names())
    page.take(sent[-1])
    np.testing.assert_array_equal(page.data("matrix")["image"][0], maps(8))


def test_what_is_made_beside_the_loop_is_shown_there_unless_something_else_was_asked_for_meanwhile():
    waiting = queue.Queue()
    figure, again = Figure(), Figure()
    figure.draw_later(waiting.put, plots.attention_map, maps(11), names(), names())
    figure.draw_later(waiting.put, plots.attention_map, maps(12), names(), names())
    assert not figure.drawn
    waiting.get(timeout=20)()
    assert not figure.drawn
    waiting.get(timeout=20)()
    np.testing.assert_array_equal(figure.object.select_one("matrix").data_source.data["image"][0], maps(12))
    again.draw_later(waiting.put, plots.attention_map, maps(11), names(), names())
    assert again.drawn and waiting.empty()


def test_a_pick_is_handed_on_and_nonsense_is_not():
    picked = []
    figure = Figure(on_pick=picked.append)
    for message in ({"picked": [3]}, {"picked": "3"}, {"picked": [None]}, {}, None, {"have": 0}):
        figure._handle_msg(message)
    assert picked == [[3]]


def test_the_texts_are_bounded():
    assert 0 < drawings.bytes <= drawings.limit
