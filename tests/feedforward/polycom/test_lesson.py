"""The lesson on PolyCom: what the text says is so."""

import pytest
import torch

from workbench import measure
from workbench.feedforward import polycom as paper
from workbench_widgets import race_models
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
    assert len(lesson.one_row().legend[0].items) == 2
    assert lesson.curve(paper.poly_norm.example(2, hidden=8))


def test_what_the_text_says_about_the_recorded_measurements():
    rows = measure.recorded("polycom").query("method == 'poly_norm' and hidden == 8192 and size == 16384")
    rates = rows.pivot(index="implementation", columns="direction", values="gb_per_s")
    assert rates["forward"]["torch_compile"] > 0.9 * rates["forward"]["fast"]
    assert rates["backward"]["torch_compile"] < 0.5 * rates["backward"]["fast"]


def test_a_race_leaves_coefficients_and_models():
    coefficients = lesson.Coefficients()
    race = race_models(
        lesson.racers(["swiglu", "poly_norm"]), "grammar", batch=1, steps=2, lap=1, seeds=2, y="loss", by="activation",
        watch=coefficients.watch,
    )  # fmt: skip
    assert set(race.table["activation"]) == {"SwiGLU", "PolyNorm"}
    assert race.table["loss"].min() > lesson.entropy() > 0
    assert lesson.rank(race, "SwiGLU") > 1 and lesson.rank(race, "PolyNorm") > 1
    frame = coefficients.frame
    assert list(frame.index) == [(step, layer) for step in (1, 2) for layer in range(4)], "of the first seed alone"
    assert frame.loc[1].sub(lesson.START).abs().to_numpy().max() < 0.1
    assert coefficients.figure() and "layer 3" in coefficients.table()
