"""Inspect without a browser, when something else than softmax attention mixes the words: trees, splits, sums."""

import numpy as np
import pytest

import needs
from dashboard.visitor import Visitor
from workbench.dashboard.inspect import seeing
from workbench.dashboard.inspect import work as inspecting
from workbench.dashboard.inspect.fitting import why_not
from workbench.dashboard.inspect.page import InspectPage
from workbench.dashboard.inspect.parts import TreeEditor, places
from workbench.dashboard.inspect.state import InspectState
from workbench.dashboard.inspect.words import TRY
from workbench.dashboard.inspect.work import Request
from workbench.dashboard.shell import state, toggles
from workbench.dashboard.shell.jobs import Cache
from workbench.dashboard.shell.worker import Worker

pytestmark = needs.encoder

TEXT = "The cat sleeps, the dog runs."
TOKENS = ["[CLS]", "the", "cat", "sleeps", ",", "the", "dog", "runs", ".", "[SEP]"]
TREE = {"text": TEXT, "with": "", "b.hierarchy": "hierarchical_attention"}
SINKHORN = {"text": TEXT, "with": "", "b.doubly_stochastic": "sinkhorn_attention"}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(seeing, "cache", Cache(limit=2**26))
    monkeypatch.setattr(seeing, "BUDGET_S", 0.01)
    monkeypatch.setattr(seeing, "SETTLE_S", 0.0)
    visitor = Visitor(Worker())
    told = []
    made = InspectPage(visitor.desk, lambda: None, told.append)
    made.visitor, made.told = visitor, told
    return made


def finished(page):
    page.visitor.until(lambda: page.figures is not None)
    page.complete()
    page.visitor.until(lambda: not page.desk.pending)


def tied(found, rows, columns):
    """Whether a block of every map holds one weight only."""
    block = found.maps[:, :, rows, columns]
    return np.ptp(block, axis=(2, 3)).max() < 1e-6


def test_phrases_come_from_punctuation_and_tie_the_map(page):
    page.open(TREE)
    finished(page)
    found = page.maps["b"]
    assert found.tokens == TOKENS
    assert (1, 5, 1) in found.groups and (5, 9, 1) in found.groups and found.groups[0][:2] == (0, 10)
    assert tied(found, slice(1, 5), slice(5, 9)) and not tied(page.maps["a"], slice(1, 5), slice(5, 9))
    np.testing.assert_allclose(found.maps.sum(-1), 1, atol=1e-5)
    shown = page.look.pictures["b"].object
    assert len(shown.select_one("brackets").data_source.data["xs"]) == len(found.groups)
    assert page.look.phrases.layout.visible and page.look.phrases.editor.splits == [5]


def test_editing_a_split_changes_tree_map_link_and_costs(page):
    page.open(TREE)
    finished(page)
    before, vector = page.figures, page.maps["b"].vector
    page.look.phrases.editor._handle_msg({"place": 3})
    assert page.state.splits == (3, 5) and page.figures is None and page.look.phrases.own.visible
    finished(page)
    assert tied(page.maps["b"], slice(1, 3), slice(3, 5)) and page.figures is not before
    assert np.abs(page.maps["b"].vector - vector).max() > 1e-4
    assert page.parameters()["splits"] == "3,5"
    page.look.phrases.editor._handle_msg({"place": 5, "to": 6})
    assert page.state.splits == (3, 6)
    other = InspectState()
    assert other.read(page.parameters()) == [] and other.request == page.state.request
    page.act("page", "punctuation", None)
    assert page.state.splits is None and not page.look.phrases.own.visible
    page.act("page", "splits", ())
    assert page.parameters()["splits"] == ""
    assert InspectState().read({**TREE, "splits": ""}) == []


def test_another_text_has_other_phrases(page):
    page.open({**TREE, "splits": "3"})
    page.act("page", "text", "All is well.")
    assert page.state.splits is None


def test_splits_that_are_not_in_the_text_get_a_sentence(page):
    [told] = page.open({**TREE, "splits": "3,90"})
    assert "begins at place 90" in told and page.state.splits == (3,)


def test_the_editor_takes_places_between_words_only():
    tokens = ["[CLS]", "un", "##be", "cat", ".", "[SEP]"]
    assert places(tokens) == [3, 4]
    heard = []
    editor = TreeEditor(heard.append)
    editor.show(tokens, (3,))
    for message in ({"place": 2}, {"place": 1}, {"place": 5}, {"place": 3, "to": 5}, {"to": 3}, "x", None, {}):
        editor._handle_msg(message)
    assert heard == []
    editor._handle_msg({"place": 3})
    editor._handle_msg({"place": 4})
    editor._handle_msg({"place": 3, "to": 4})
    assert heard == [(), (3, 4), (4,)]


def test_windows_bring_their_knobs_and_their_groups(page):
    page.open(TREE)
    assert "hierarchy.block" not in {field.name for field in page.state.card("b")}
    page.act("b", "hierarchy.tree", "windows")
    fields = {field.name: field for field in page.state.card("b")}
    page.act("b", "hierarchy.block", fields["hierarchy.block"].stops.index("4"))
    finished(page)
    assert {group[:2] for group in page.maps["b"].groups} >= {(0, 4), (4, 8), (8, 10)}
    assert tied(page.maps["b"], slice(0, 4), slice(4, 8))
    assert not page.look.phrases.layout.visible


def test_sums_tell_how_far_from_doubly_stochastic(page):
    page.open({**SINKHORN, "b.doubly_stochastic.iterations": "51"})
    finished(page)
    assert set(page.sums) == {"a", "b"}
    assert page.sums["b"].column_error < 0.05 < 0.5 < page.sums["a"].column_error
    assert page.sums["b"].distance < 0.05 < page.sums["a"].distance
    assert 0 < page.sums["b"].entropy < page.sums["b"].most == pytest.approx(np.log(10))
    assert "distance to doubly stochastic" in page.look.below["b"].object
    before = page.sums["a"]
    page.act("page", "head", 5)
    page.visitor.until(lambda: page.sums["a"] is not before)


def test_swapped_layers_leave_the_others_alone(page):
    page.open({**SINKHORN, "b.doubly_stochastic.swapped_layers": "later half", "b.doubly_stochastic.iterations": "51"})
    finished(page)
    a, b = page.maps["a"].maps, page.maps["b"].maps
    np.testing.assert_allclose(a[:3], b[:3], atol=1e-5)
    assert np.abs(b[3:].sum(-2) - 1).max() < 0.3 < np.abs(a[3:].sum(-2) - 1).max()


def test_attention_is_greyed_out_while_it_is_replaced():
    for toggle, other in (("hierarchy", "doubly_stochastic"), ("doubly_stochastic", "hierarchy")):
        shown = InspectState()
        shown.turn("b", toggle, next(iter(toggles.methods(toggle))))
        fields = {field.name: field for field in shown.card("b")}
        assert all("replaces softmax attention" in option.why for option in fields["attention"].options)
        assert [bool(option.why) for option in fields[other].options][0] is False
        assert all(option.why for option in fields[other].options[1:])
        assert not any(name.startswith("attention.") for name in fields)


def test_simulated_circuits_are_refused_where_they_would_take_long(page):
    text = "word " * 40
    [told] = page.open({"text": text, "with": "", "b.doubly_stochastic": "qontot_attention"})
    assert "at most 32 tokens" in told and page.state.b.methods["doubly_stochastic"] != "qontot_attention"
    page.act("page", "text", "word")
    page.act("b", "doubly_stochastic", "qontot_attention")
    assert page.state.b.mixer.name == "qontot_attention"
    page.act("page", "text", text)
    assert "at most 32 tokens" in page.told[-1] and page.state.text == text


def test_python_lines_compute_what_is_shown(page):
    page.open({**TREE, "with": "A man sleeps.", "splits": "3,5", "b.hierarchy.swapped_layers": "every second"})
    finished(page)
    scope = {}
    exec(page.lines(), scope)
    for side in ("a", "b"):
        shown = page.maps[side].maps[page.state.layer, page.state.head]
        np.testing.assert_allclose(scope["maps"][side], shown, atol=1e-6)
        np.testing.assert_allclose(scope["cosines"][side], page.similarities[side].cosines, atol=1e-5)


def test_maps_are_kept_by_what_they_depend_on():
    one, two = InspectState(), InspectState()
    one.read(TREE)
    two.read({**TREE, "splits": "4"})
    assert one.request.key("a") == two.request.key("a") and one.request.key("b") != two.request.key("b")
    plain = InspectState()
    plain.read({"text": TEXT, "with": "", "splits": "4"})
    assert plain.request == Request(TEXT, (), plain.sides)


@pytest.mark.parametrize("name", TRY)
def test_links_to_try_are_right_and_different(name):
    shown = InspectState()
    assert shown.read(TRY[name]) == []
    assert [shown.written() == InspectState(**{}).written()] == [not TRY[name]]


def test_every_mixer_can_be_chosen_on_text():
    for toggle in toggles.REPLACING:
        for name in toggles.methods(toggle):
            assert why_not("text", toggle, name) == ""
            options = inspecting.options(InspectState().b.choose(toggle, name))
            assert options["attention"] == name and not set(options.get("attention_options", {})) & set(seeing.OURS)


def test_old_links_still_work():
    shown = InspectState()
    assert shown.read(state.split("?page=inspect&b.attention.window_left=2&b.activation=relu&layer=5")) == []
    assert shown.b.mixer.name == "flash_attention_2" and shown.b.mixer_options["window_left"] == 2
