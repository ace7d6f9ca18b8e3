"""The quantiser: what a reader does with it, done without a browser."""

import numpy as np
import pytest
import torch

from workbench import plots
from workbench_widgets import quantiser

WEIGHT = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


def test_it_follows_its_knobs():
    made = quantiser(WEIGHT, bits=4, caption="A caption.")
    assert made.quantiser.high == 7 and "15 levels, one scale" in made._said.value and "A caption." in made._said.value
    made.widgets["bits"].value = 8
    assert "255 levels, one scale" in made._said.value and "0.00% of all numbers are clipped" in made._said.value
    made.set(scheme="asymmetric", per="channel", percentile=90.0, part=3)
    assert "8 scales (part 3 is shown)" in made._said.value and "0.00%" not in made._said.value
    assert made.settings == {"bits": 8, "scheme": "asymmetric", "per": "channel", "percentile": 90.0}


def test_the_still_shows_the_settings_as_they_stand():
    made = quantiser(WEIGHT, "bits", per="group", group=16)
    assert made.still.count("data-root-id") == 3 and "32 scales (part 0 is shown)" in made.still
    assert list(made.widgets) == ["bits"]


def test_what_cannot_be_cut_is_said_and_it_lives_on():
    made = quantiser(torch.randn(12), "bits", "per", bits=4)
    made.set(per="channel")
    assert "A scale per channel needs rows" in made._said.value
    made.set(per="tensor")
    assert "15 levels" in made._said.value


def test_wrong_settings_are_refused_at_once():
    with pytest.raises(ValueError, match="has no knob colour"):
        quantiser(WEIGHT, "colour")
    with pytest.raises(ValueError, match="bits = 1 is not allowed"):
        quantiser(WEIGHT, bits=1)
    with pytest.raises(ValueError, match="groups of 48"):
        quantiser(WEIGHT, per="group", group=48)
    with pytest.raises(ValueError, match="finite"):
        quantiser(torch.tensor([np.inf]))


def test_the_staircase_goes_through_the_levels():
    source = plots.staircase(np.array([-1.0, 0, 1]), -3, 3).select_one("staircase").data_source.data
    assert list(source["y"]) == [-1, -1, 0, 0, 1, 1] and list(source["x"][1:-1]) == [-0.5, -0.5, 0.5, 0.5]


def test_the_histogram_tells_what_is_clipped():
    numbers = np.concatenate([np.linspace(-1, 1, 90), np.full(10, 4.0)])
    made = plots.levels_histogram(numbers, np.array([-1.0, 0, 1]))
    kept, clipped = (made.select_one(name).data_source.data["top"].sum() for name in ("kept", "clipped"))
    assert (kept, clipped) == (90, 10)
    wide = plots.levels_histogram(numbers, np.array([-1.0, 4]))
    assert [item.label.value for item in wide.legend[0].items] == ["kept"]


def test_lines_of_what_has_no_error_are_left_out():
    made = plots.noise_over_bits({"per tensor": {2: 10.0, 3: float("inf")}}, chosen=("per tensor", 3))
    line = next(each for each in made.renderers if each.data_source.name == "per tensor")
    assert list(line.data_source.data["x"]) == [2]
