"""The lesson on PolyCom: what the text says is so."""

import pytest
import torch

from workbench import measure
from workbench.feedforward import polycom as paper
from workbench_widgets.lessons import polycom as lesson


def test_the_numbers_in_the_text():
    by_hand = lesson.by_hand(torch.tensor([1.0, 2.0, -2.0, 1.0], dtype=torch.float64))
    assert all(number in by_hand for number in ("(1, 4, 4, 1)", "8.5", "0.3430", "(0.343, 1.372, 1.372, 0.343)"))
    assert round(8256**0.5) == 91


def test_what_autograd_keeps_is_what_the_caption_says():
    kept = lesson.kept_for_backward()
    assert round(kept["PolyNorm, the formula"], 2) == 6.0 and round(kept["PolyReLU, the formula"]) == 3
    assert kept["PolyNorm, fused"] == pytest.approx(1.003, abs=1e-3)
    assert kept["SwiGLU, fused"] == pytest.approx(2, abs=1e-2) and kept["GELU"] == 1


def test_the_slopes_of_the_picture():
    for name, rows in lesson.spline_frame().groupby("activation"):
        slope = paper.rate(rows["units"][-3:], rows["error"][-3:])
        assert slope == pytest.approx(2 if name == "ReLU" else 4, abs=0.2)


def test_a_relu_network_is_a_poly_relu_network():
    assert lesson.relu_network_difference() == 0


def test_pictures_are_drawn():
    assert lesson.plain_activations().y_range.end == 5
    assert len(lesson.rows_with_outliers().legend[0].items) == 3
    assert lesson.curve(paper.poly_norm.example(2, hidden=8))


def test_what_the_text_says_about_the_recorded_measurements():
    rows = measure.recorded("polycom").query("method == 'poly_norm' and hidden == 8192 and size == 16384")
    rates = rows.pivot(index="implementation", columns="direction", values="gb_per_s")
    assert rates["forward"]["torch_compile"] > 0.9 * rates["forward"]["fast"]
    assert rates["backward"]["torch_compile"] < 0.5 * rates["backward"]["fast"]


def test_a_race_leaves_laps_coefficients_and_ranks():
    race = lesson.run_race(["swiglu", "poly_norm"], seeds=2, steps=2, lap=1, device="cpu", batch=1)
    assert len(race.laps) == 2 * 2 * 2 and set(race.laps["activation"]) == {"swiglu", "poly_norm"}
    assert list(race.coefficients.columns) == ["step", "layer", "a_0", "a_1", "a_2", "a_3"]
    assert (race.validation()["min"] <= race.validation()["max"]).all()
    assert set(race.ranks) == {"swiglu", "poly_norm"} and race.ranks["swiglu"] > 1
    assert lesson.race_figure(race, "machine") and lesson.coefficient_figure(race)
    assert "layer 3" in lesson.coefficient_table(race)


def test_a_race_that_is_stopped_keeps_its_laps(monkeypatch):
    original = lesson.language_model.race

    def stopped(*arguments, **options):
        yield next(original(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(lesson.language_model, "race", stopped)
    race = lesson.run_race(["poly_norm"], seeds=1, steps=2, lap=1, device="cpu", batch=1)
    assert len(race.laps) == 1 and len(race.validation()) == 0
