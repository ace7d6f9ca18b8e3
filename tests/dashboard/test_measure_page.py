"""The page Measure without a browser: estimate, refusal, rows as they come, cancel."""

from dataclasses import replace

import pytest

from dashboard.visitor import Visitor
from workbench import catalog, plots
from workbench.dashboard.measure import work as measuring
from workbench.dashboard.measure.page import MeasurePage, MeasureState
from workbench.dashboard.measure.work import Request
from workbench.dashboard.shell.worker import Worker


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(measuring, "BUDGET_S", 0.02)
    measuring.cache = type(measuring.cache)(limit=2**20)
    visitor = Visitor(Worker())
    told = []
    made = MeasurePage(visitor.desk, lambda: None, told.append)
    made.visitor, made.told = visitor, told
    return made


def test_rows_arrive_figures_follow_and_a_second_look_is_cached(page):
    page.open({"run": "softmax_attention:fast,flash_attention_2:fast", "from": "16", "to": "64"})
    page.run()
    page.visitor.until(lambda: not page.running)
    page.visitor.rest()
    assert [(row["size"], row["status"]) for row in page.rows] == [(s, "ok") for s in (16, 16, 32, 32, 64, 64)]
    for figure in page.figures.values():
        assert len(figure.object.legend[0].items) >= 2
    assert page.roof.object is not None
    assert page.csv().count("\n") == 7 and "machine_torch" in page.csv()
    other = MeasurePage(Visitor(Worker()).desk, lambda: None, lambda text: None)
    other.open(page.parameters())
    assert other.rows == page.rows


def test_a_double_click_starts_one_sweep(page):
    page.open({"run": "softmax_attention:fast", "from": "16", "to": "32"})
    page.run()
    job = page.desk.jobs["measure"]
    page.run()
    assert page.desk.jobs["measure"] is job
    page.visitor.until(lambda: not page.running)


def test_cancel_keeps_what_was_measured(page):
    page.open({"run": "softmax_attention:fast", "from": "16", "to": "4096"})
    page.run()
    page.visitor.until(lambda: page.rows)
    page.desk.cancel("measure")
    page.visitor.until(lambda: not page.running)
    page.visitor.rest()
    assert 1 <= len(page.rows) < 9 and "Cancelled" in page.told[-1]


def test_estimate_says_what_a_run_takes():
    guess = measuring.estimate(Request("attention", (("softmax_attention", "reference"),), 6, 8), "cpu")
    assert guess.rows == 3 and not guess.refused and guess.most_bytes > 0 and "estimate" in guess.words


def test_huge_sizes_are_refused_before_anything_runs(page):
    huge = {
        "run": "softmax_attention:reference",
        "from": "131072",
        "to": "131072",
        "shape.batch": "64",
        "shape.heads": "128",
    }
    page.open(huge)
    page.run()
    assert "allowed" in page.told[-1] and "estimate" in page.told[-1]
    assert not page.desk.jobs


def test_sizes_that_do_not_fit_are_left_out_and_say_what_would():
    chosen = (("softmax_attention", "reference"),)
    guess = measuring.estimate(Request("attention", chosen, 8, 17, shape={"heads": 128}), "cpu")
    assert guess.too_large and guess.rows and not guess.refused and "will not run" in guess.words


def test_nothing_chosen_and_too_much_chosen_are_refused():
    assert "Choose" in measuring.estimate(Request("attention", (), 6, 8), "cpu").refused
    many = tuple(("softmax_attention", "fast") for _ in range(60))
    assert "choose fewer" in measuring.estimate(Request("attention", many, 4, 8), "cpu").refused


def test_a_shape_that_cannot_be_is_refused_with_the_methods_sentence():
    request = Request("attention", (("flash_attention_2", "fast"),), 6, 7, shape={"heads": 4, "kv_heads": 3})
    assert "kv_heads" in measuring.estimate(request, "cpu").refused


def test_python_lines_run(page):
    page.open({"run": "softmax_attention:fast", "from": "16", "to": "16"})
    scope = {}
    exec(page.lines(), scope)
    assert list(scope["table"]["status"]) == ["ok"]


def test_every_family_opens_with_something_that_runs():
    state = MeasureState("cpu")
    for family in measuring.families():
        state.turn("what", family)
        assert state.chosen and all(not state.why_not(*pair) for pair in state.chosen)
        assert not measuring.estimate(state.request, "cpu").refused


def test_twenty_more_attentions_change_nothing_of_the_first_choice(monkeypatch):
    before = MeasureState("cpu")
    first = catalog.method("softmax_attention")
    mocks = {f"mock_{place}": replace(first, name=f"mock_{place}", title=f"Mock {place}") for place in range(20)}
    known = catalog.methods
    monkeypatch.setattr(catalog, "methods", lambda toggle=None: (
        known(toggle) | (mocks if toggle in (None, "attention") else {})))  # fmt: skip
    state = MeasureState("cpu")
    assert len(measuring.families()["attention"]) > 20 and state.chosen == before.chosen
    found = measuring.recorded(state.request)
    assert found is not None and len(found.table) and found.group == measuring.recorded(before.request).group
    assert {plots.look_of(*pair) for pair in state.chosen} == {plots.look_of(*pair) for pair in before.chosen}
    looks = {plots.look_of(name, "fast") for name in mocks} | {plots.look_of(name, "reference") for name in mocks}
    assert len(looks) == 40


def test_greyed_implementations_carry_a_sentence():
    fields = MeasureState("cpu").fields(running=False, refused="")
    options = [option for field in fields if field.kind == "many" for option in field.options]
    barred = [option for option in options if option.why]
    assert all(option.why.endswith(".") for option in barred)


def test_recorded_figures_stand_beside_what_is_most_like_them():
    state = MeasureState("cpu")
    found = measuring.recorded(state.request)
    assert set(found.table["status"]) == {"ok"} and set(found.table["group"]) == {found.group}
    assert found.machine and found.group in found.groups
    state.turn("option.is_causal", True)
    assert "causal" in measuring.recorded(state.request).group
    other = found.groups[-1]
    assert measuring.recorded(state.request, other).group == other


def test_nothing_recorded_is_said(page, monkeypatch):
    monkeypatch.setattr(measuring, "_read", lambda slug: None)
    page.open({})
    assert "No recorded figures yet" in page.beside.object
