"""The page Train without a browser: races, curves, what cannot be raced, links."""

import numpy as np
import pytest

from dashboard.visitor import Visitor
from workbench.dashboard import first_runs
from workbench.dashboard.shell import state
from workbench.dashboard.shell.jobs import Cache, Progress
from workbench.dashboard.shell.worker import Worker
from workbench.dashboard.train import racers
from workbench.dashboard.train import work as racing
from workbench.dashboard.train.page import TrainPage, TrainState
from workbench.dashboard.train.view import TRY, comparison
from workbench.dashboard.train.work import Point, Result, Start
from workbench.tasks import images

SMALL = {"steps": "20", "shape.width": "16", "shape.depth": "1", "shape.batch": "8"}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(racing, "cache", Cache(limit=2**20))
    visitor = Visitor(Worker())
    told = []
    made = TrainPage(visitor.desk, lambda: None, told.append)
    made.visitor, made.told = visitor, told
    return made


def run(page):
    page.act("page", "run", None)
    page.visitor.until(lambda: not page.running)
    page.visitor.rest()


def request(task="digits", **changes):
    sides = racers.start(task)
    return racers.Request(task, sides, **{"steps": 4, "shape": {"width": 16, "depth": 1, "batch": 4}, **changes})


@pytest.mark.parametrize("task", ["digits", racers.GRAMMAR])
def test_a_race_brings_its_start_points_of_both_sides_and_a_result(task):
    parts = [part for part in racing.compute(request(task), "cpu")(lambda: False) if not isinstance(part, Progress)]
    assert isinstance(parts[0], Start) and isinstance(parts[-1], Result)
    points = parts[1:-1]
    assert [(point.side, point.step) for point in points] == [(s, n) for n in range(1, 5) for s in "ab"]
    assert all(point.loss > 0 and point.step_ms > 0 for point in points)
    assert racing.known(request(task)) == parts[-1]
    assert points[-1].score is not None


def test_weights_are_counted_without_making_them():
    asked = request()
    counts = racing.estimate(asked, "cpu").parameters
    for side in racers.SIDES:
        model = racing.training.build(racers.config(asked, side))
        assert counts[side] == sum(weight.numel() for weight in model.parameters())


def test_another_visitors_click_is_answered_between_two_steps():
    turns = [part for part in racing.compute(request(steps=40), "cpu")(lambda: False) if isinstance(part, Progress)]
    assert len(turns) >= 40 and turns[-1].done == turns[-1].total == 40


def test_a_race_can_be_left_between_the_parts_of_what_it_is_scored_on():
    job = racing.compute(request(), "cpu")(lambda: False)
    ticks = list(racing.training.train({"a": racers.config(request(), "a")}, "digits", steps=1, ticks=True))
    assert ticks[:-1] == (1 + -(-len(images.load("digits").test) // racing.training.PART)) * [None]
    done = [part.done for part in job if isinstance(part, Progress)]
    assert done == sorted(done) and done[-1] == 4


def test_first_screen_is_there_before_anything_ran(page):
    page.open({})
    curve = page.look.figures["second"].object.renderers[1].data_source.data
    assert len(curve["x"]) > 20 and page.start.parameters["a"] > 10_000
    assert "computed beforehand" in page.look.strip.object and "one step" not in page.look.strip.object
    assert not page.desk.jobs


def test_first_screen_agrees_with_a_fresh_computation():
    kept, fresh = first_runs.race(), []
    for part in racing.compute(first_runs.RACE, "cpu")(lambda: False):
        if isinstance(part, Point):
            fresh.append(part)
        if len(fresh) == 4:
            break
    for old, new in zip(kept.points, fresh, strict=False):
        assert (old.side, old.step) == (new.side, new.step)
        assert old.loss == pytest.approx(new.loss, abs=0.02)
    assert kept.start.parameters == racing.estimate(first_runs.RACE, "cpu").parameters


def test_curves_grow_and_a_second_look_is_cached(page):
    page.open({**SMALL, "b.mixing": "mlp_mixer"})
    run(page)
    assert page.told[-1] == ""
    for name in ("loss", "second"):
        for line in page.look.figures[name].object.renderers[1:]:
            assert len(line.data_source.data["x"]) == 20
    strip = page.look.strip.object
    assert all(words in strip for words in ("weights", "one step", "training loss", "held-out accuracy"))
    assert page.csv().count("\n") == 41 and "machine_torch" in page.csv() and "MLP-Mixer" in page.csv()
    other = TrainPage(Visitor(Worker()).desk, lambda: None, lambda text: None)
    other.open(page.parameters())
    assert other.points == page.points


def test_the_language_model_shows_loss_over_time_and_the_floor(page):
    page.open({"task": "grammar", "steps": "20", "shape.width": "16", "shape.depth": "1", "shape.batch": "4"})
    run(page)
    assert page.look.figures["second"].object.xaxis[0].axis_label == "seconds of training"
    assert "held-out loss" in page.look.strip.object
    height, _ = racers.floor("grammar")
    assert 0.3 < height < min(point.loss for point in page.points)


def test_stop_keeps_what_was_drawn(page):
    page.open({"steps": "4000", "shape.width": "16", "shape.depth": "1"})
    page.act("page", "run", None)
    page.visitor.until(lambda: len(page.points) >= 2)
    button = next(field for field in page.state.common(page.running, "") if field.name == "run")
    assert button.label == "Stop"
    page.act("page", "run", None)
    page.visitor.until(lambda: not page.running)
    assert len(page.points) >= 2 and "Stopped at step" in page.told[-1]
    assert racing.known(page.state.request) is None


def test_another_choice_while_curves_are_shown_is_said(page):
    page.open({})
    page.act("page", "seed", 5)
    assert "These curves are of another choice" in page.look.hint.object
    page.act("page", "task", "grammar")
    assert "Nothing is trained yet" in page.look.hint.object


def test_a_loss_that_is_no_number_is_told(page, monkeypatch):
    page.open(SMALL)
    real = racing.training.train

    def broken(*arguments, **options):
        for lap in real(*arguments, **options):
            yield lap if lap is None else racing.training.Lap(**{**vars(lap), "loss": float("nan")})

    monkeypatch.setattr(racing.training, "train", broken)
    run(page)
    assert "choose a smaller learning rate" in page.told[-1]


# --- what cannot be ---------------------------------------------------------------------------------------------------


def option(fields, field, value):
    return next(o for f in fields if f.name == field for o in f.options if o.value == value)


def test_what_excludes_each_other_is_greyed_with_the_reason(page):
    page.open({})
    card = page.state.card("b")
    assert "Activator mixes the tokens" in option(card, "attention", "softmax_attention").why
    assert not option(page.state.card("a"), "attention", "flash_attention_2").why
    page.act("a", "doubly_stochastic", "sinkhorn_attention")
    assert "replaces softmax attention" in option(page.state.card("a"), "attention", "softmax_attention").why
    page.act("b", "mixing", "none")
    assert "nothing would be left" in option(page.state.card("b"), "feed_forward", "off").why


def test_the_language_model_greys_what_cannot_be_causal():
    shown = TrainState(task="grammar", **racers.start("grammar"))
    why = option(shown.card("b"), "doubly_stochastic", "sinkhorn_attention").why
    assert "causal" in why.lower() and why.endswith(".")
    assert "look back" in option(shown.card("b"), "mixing", "mlp_mixer").why


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ({"steps": "20", "shape.width": "512", "shape.depth": "6", "shape.batch": "512"}, "One step would take about"),
        ({"steps": "5000", "shape.width": "128", "shape.depth": "6", "shape.batch": "128"}, "choose at most"),
    ],
)
def test_a_link_to_a_race_that_cannot_be_opens_and_is_refused(page, link, told, monkeypatch):
    monkeypatch.setattr(racing, "_pace", {})  # whatever this machine was found to do
    page.open(link)
    assert told in page.look.hint.object
    button = next(field for field in page.state.common(False, "x") if field.name == "run")
    assert button.why
    page.act("page", "run", None)
    assert told in page.told[-1] and not page.desk.jobs


def test_every_mixer_has_a_model_or_a_reason():
    for task in ("digits", racers.GRAMMAR):
        for toggle in ("attention", "hierarchy", "doubly_stochastic"):
            for name in racers.toggles.methods(toggle):
                side = racers.Side(racers.start(task)["a"].configuration.choose(toggle, name))
                asked = racers.Request(task, {"a": side, "b": side}, steps=4)
                if not racers.conflict(asked, "a", toggle, name):
                    assert racers.config(asked, "a")


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_view_survives_its_link():
    assert TrainState().written() == {}
    shown = TrainState()
    shown.turn("b", "mixing", "attention")
    shown.turn("b", "attention", "flash_attention_2")
    shown.turn("b", "attention.window_left", 3)
    shown.turn("a", "doubly_stochastic", "sinkhorn_attention")
    shown.turn("a", "feed_forward", "off")
    shown.turn_common("steps", 3)
    shown.turn_common("seed", 4)
    shown.turn_common("shape.batch", 1)
    opened = TrainState()
    assert opened.read(state.split(state.join(shown.written()))) == []
    assert opened.request == shown.request and opened.request.key == shown.request.key


@pytest.mark.parametrize(
    "link",
    [
        "?task=chess&steps=1e9&seed=-1&shape.width=5000&a.mixing=glue&b.feed_forward=maybe",
        "?a.hierarchy=nothing&a.doubly_stochastic=sinkhorn_attention&a.doubly_stochastic.iterations=9999",
        "?%ff%fe=%00&&&===&task=",
    ],
)
def test_a_broken_link_never_raises(link):
    assert all("\n" not in phrase for phrase in TrainState().read(state.split(link)))


def test_examples_on_the_page_are_links_without_a_mistake():
    for view in TRY.values():
        assert TrainState().read(view) == []


def test_python_lines_run(page):
    page.open({**SMALL, "steps": "20"})
    run(page)
    scope = {}
    exec(page.lines(), scope)
    assert scope["lap"].step == 20
    assert scope["lap"].loss == pytest.approx(page.points[-1].loss, rel=1e-3)


def test_noise_is_called_noise():
    start = Start({"a": 10, "b": 10}, "a machine")
    points = [Point(side, step, 1.0, 0.5, ms) for side in "ab" for step, ms in ((1, 9.0), (2, 5.0), (3, 6.0), (4, 7.0))]
    line = comparison(request(), start, points)
    assert "within the noise" in line and "a machine" in line and np.isclose(racing.pace(points, "a").median, 6.0)
