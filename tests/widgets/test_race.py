"""The race: contestants, seeds as bands, an axis of equal cost; without a browser."""

import sys
from dataclasses import replace
from typing import Annotated

import numpy as np
import pandas as pd
import pytest
import torch

from toy import STROLL, STUDY
from workbench.controls import Range
from workbench.models import training
from workbench.models.transformer import TransformerConfig
from workbench.models.vit import ViTConfig
from workbench.plots.races import at_cost, over_cost, reached_by_all
from workbench.tasks import grammar
from workbench_widgets import page, race, race_models, race_study

COLUMNS = {"step": "", "seconds": "s", "loss": "nats"}


def contestant(pace, gain):
    """Each step takes ``pace`` seconds and brings the loss down by ``gain``; the seed is where it starts."""

    def run(seed):
        for step in range(1, 5):
            yield {"step": step, "seconds": pace * step * (1 + 0.1 * seed), "loss": 10 + seed - gain * step}

    return run


def made(**options):
    racers = {"slow and good": contestant(3.0, 2.0), "quick": contestant(1.0, 1.0)}
    return race(racers, COLUMNS, "loss", costs=("step", "seconds"), total=8, **options)


def test_seeds_are_a_band_around_their_median():
    run = made(caption="A caption.")
    assert len(run.table) == run.total == 2 * 3 * 4 and list(run.table["contestant"][:2]) == ["slow and good", "quick"]
    line = next(each.data_source for each in run.figure.renderers if each.data_source.name == "live: quick")
    assert list(line.data["x"]) == [1, 2, 3, 4] and list(line.data["y"]) == [10, 9, 8, 7]
    assert np.allclose(line.data["high"] - line.data["low"], 1.2) and set(line.data["repeats"]) == {3}
    assert "A caption." in run.still and "seeds 0 to 2" in run.still and "embed_items" in run.still


def test_at_equal_cost_another_one_may_lead():
    run = made()
    cost, found = run.at_equal_cost()
    assert cost == 4 and found["median"].idxmin() == "slow and good"
    run.cost = "seconds"
    cost, found = run.at_equal_cost()
    assert cost == 4.0 and found["median"].idxmin() == "quick", "4 s, in which the slow one makes hardly one step"
    assert "seconds (s)" in run._table.value and run.figure.xaxis[0].axis_label == "seconds (s)"
    assert run.live.children[0] is run._cost


def test_the_last_reports():
    last = made().final()
    assert list(last.index) == ["slow and good", "quick"]
    assert last.loc["quick"].to_dict() == {"mean": 7, "std": 1, "min": 6, "max": 8}


def test_a_function_with_knobs_races_again():
    def run(*, device, seed, steps: Annotated[int, Range(1, 9), "Steps."] = 2):
        for step in range(1, steps + 1):
            yield {"contestant": "it", "step": step, "loss": 1 / step}

    threads = torch.get_num_threads()
    began = race(run, {"step": "", "loss": ""}, "loss", seeds=2, steps=3, log_y=True, floor=(0.1, "a floor"))
    assert len(began.table) == 6 and began.table["seed"].tolist() == [0, 0, 0, 1, 1, 1]
    assert type(began.figure.xaxis[0].ticker).__name__ == "FixedTicker"
    began.widgets["steps"].value = 9
    began.start().join(60)
    assert len(began.table) == 18 and not began._start.disabled and "steps 9" in began._said.value
    assert type(began.figure.xaxis[0].ticker).__name__ == "BasicTicker", "nine places are too many to be named each"
    assert torch.get_num_threads() == threads
    began.run(lambda done, row: began.cancel() if done == 2 else None)
    began.build()
    assert "Stopped after 2 rows." in began.still


def test_the_stop_button_keeps_what_was_reported():
    def interrupted(seed):
        yield {"step": 1, "seconds": 1.0, "loss": 1.0}
        raise KeyboardInterrupt

    run = race({"it": interrupted}, COLUMNS, "loss")
    assert len(run.table) == 1 and run.at_equal_cost()[1].loc["it", "repeats"] == 1


def test_a_sketch_grows_under_the_cell(monkeypatch):
    seen = []
    monkeypatch.setattr(sys.modules["workbench_widgets.race"], "LOOK", -1.0)
    monkeypatch.setattr(page.Progress, "_tell", lambda self, content: seen.append(content))
    made(seeds=1)
    assert all("<polyline" in content and ">quick<" in content for content in seen[2:-2]) and seen[-1] == ""


def test_what_cannot_be_raced_is_refused():
    with pytest.raises(ValueError, match="seeds = 0"):
        made(seeds=0)
    with pytest.raises(ValueError, match="no column 'flops'"):
        race({"it": contestant(1, 1)}, COLUMNS, "loss", costs=("flops",))
    with pytest.raises(ValueError, match="no column 'accuracy'"):
        race({"it": contestant(1, 1)}, COLUMNS, "accuracy")
    with pytest.raises(ValueError, match="not those of the race: colour"):
        race({"it": lambda seed: iter([{"step": 1, "seconds": 1, "loss": 1, "colour": 1}])}, COLUMNS, "loss")
    with pytest.raises(TypeError, match="no knob 'steps'"):
        made(steps=3)


def test_seeds_that_report_at_other_costs_are_taken_on_straight_lines():
    rows = [("a", 0, 1.0, 0.0), ("a", 0, 3.0, 2.0), ("a", 1, 2.0, 10.0), ("a", 1, 4.0, 12.0), ("a", 1, None, 0.0)]
    table = pd.DataFrame(rows, columns=["by", "seed", "x", "y"])
    drawn = over_cost(table, "x", "y", by="by")
    assert drawn["x"].tolist() == [2, 4] and drawn["y"].tolist() == [5.5, 12] and drawn["repeats"].tolist() == [2, 1]
    assert reached_by_all(table, "x", "y", by="by") == 3
    assert at_cost(table, 3.0, "x", "y", by="by").loc["a", "median"] == 6.5
    nothing = table.iloc[:0]
    assert reached_by_all(nothing, "x", "y", by="by") is None and over_cost(nothing, "x", "y", by="by").empty


# --- studies ---


def test_a_papers_study_is_a_race_of_several_seeds():
    made = race_study(STUDY, size="ci", seeds=4)
    assert len(made.table) == made.total == 4 * 4 and set(made.table["seed"]) == {0, 1, 2, 3}
    assert made.final().loc["sober"].tolist() == [2, 0, 2, 2] and made.final().loc["drunk", "std"] > 0
    assert "place (m)" in made.still
    made.widgets["steps"].value = 5
    made.start().join(60)
    assert len(made.rows) == made._bar.value == made.total == 40


def test_a_study_that_has_seeds_itself_says_which():
    def run(*, device, seed, seeds: Annotated[int, Range(1, 9), "Seeds."] = 2):
        for each in range(seed, seed + seeds):
            yield {"who": "it", "seed": each, "step": 1, "place": each}

    study = replace(STUDY, run=run, columns={"who": "", "seed": "", "step": "", "place": "m"}, sizes={}, length=None)
    made = race_study(study, knobs={"seeds": 3})
    assert made.table["seed"].tolist() == [0, 1, 2] and made.total is None


def test_a_study_that_is_no_race_is_refused():
    with pytest.raises(ValueError, match="by 0 columns"):
        race_study(replace(STUDY, axes=replace(STUDY.axes, by=())))
    with pytest.raises(ValueError, match="no column 'flops'"):
        race_study(STUDY, costs=("flops",))
    with pytest.raises(ValueError, match="needs a GPU"):
        race_study(STROLL)
    with pytest.raises(TypeError, match="no knob 'colour'"):
        race_study(STUDY, knobs={"colour": 1})


# --- models ---


CONFIGS = {"ViT": ViTConfig(depth=1), "MLP-Mixer": ViTConfig(mixer="mlp_mixer", position="none", depth=1)}


def test_models_race_and_stay():
    made = race_models(CONFIGS, "digits", seeds=2, steps=2, lap=1, batch=4, caption="A caption.")
    assert len(made.table) == made.total == 8 and made.costs == ("step", "seconds")
    assert {name: len(models) for name, models in made.models.items()} == {"ViT": 2, "MLP-Mixer": 2}
    assert made.final()["mean"].between(0, 100).all() and made.final("loss")["mean"].gt(0).all()
    made.start().join(60)
    assert {name: len(models) for name, models in made.models.items()} == {"ViT": 2, "MLP-Mixer": 2}, "anew, not more"


def test_models_that_are_stopped_keep_what_they_reported(monkeypatch):
    original = training.train

    def stopped(*arguments, **options):
        yield next(original(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stopped)
    made = race_models(CONFIGS, "digits", seeds=1, steps=2, lap=1, batch=4)
    assert len(made.table) == 1 == len(made.final()) and "Stopped after 1 rows." in made.still


def test_models_of_a_language_have_a_loss_and_no_accuracy():
    seen = []
    made = race_models(
        {"it": TransformerConfig(len(grammar.ALPHABET), width=8, depth=1, heads=1, tokens=8)}, "grammar", seeds=1,
        steps=2, lap=1, batch=2, y="loss", floor=(0.1, "a floor"),
        watch=lambda seed, lap: seen.append((seed, lap.step)),
    )  # fmt: skip
    assert seen == [(0, 1), (0, 2)] and len(made.table.dropna(subset=["validation"])) == 1
    assert made.final().loc["it", "mean"] > 0 and made.final("accuracy").empty
