"""The cost sheet: what a reader does with it, done without a browser."""

import pytest
from traitlets import TraitError

from doubles.costs import CHIP, LINES, fixed
from toy import PAPER
from workbench import plots
from workbench_widgets import cost_sheet


def test_it_tells_the_floor_of_every_line_and_says_that_it_is_an_estimate():
    made = cost_sheet(LINES, size=16, machine=CHIP, caption="A layer.")
    still = made.still
    assert made.floor_ms == 6000 and "the least time of all lines, one after the other, is 6,000 ms" in still
    assert still.count("data-root-id") == 2 and "A layer. An estimate, not a measurement" in still
    for words in ("<td>product</td>", "<td>link</td>", "From 1,000 FLOPs a byte on", "Rates: made up."):
        assert words in still


def test_it_follows_its_knobs():
    made = cost_sheet([PAPER.methods[0]], size=8)
    before = made.floor_ms
    made.set(size=16)
    assert made.floor_ms == pytest.approx(2 * before)
    made.set(passes="training", machine="NVIDIA A100 80GB SXM, data sheet")
    assert made.floor_ms > 2 * before and "A100" in made._said.value
    with pytest.raises(TraitError):
        made.set(dtype="int7")


def test_a_dtype_without_a_rate_is_said_and_it_lives_on():
    made = cost_sheet(LINES, size=8, machine=CHIP)
    made.set(dtype="int8")
    assert "a chip has no rate for int8" in made._said.value
    made.set(dtype="float32")
    assert "An estimate" in made._said.value


def test_what_does_not_fit_into_memory():
    made = cost_sheet([fixed("a", 1, 1, held=1e9), fixed("b", 1, 1, held=3e9)], size=1, machine=CHIP)
    assert "The largest line does not fit: 2.79 GiB of 1.86 GiB" in made._said.value
    assert "The largest line fits" in cost_sheet([fixed("a", 1, 1, held=1e9)], size=1, machine=CHIP)._said.value


def test_bars_show_what_sets_the_floor():
    made = cost_sheet(LINES, size=1, machine=CHIP)
    bars, _ = made._figures()
    data = {name: bars.select_one(name).data_source.data for name in ("compute", "memory", "link")}
    assert list(data["compute"]["words"]) == ["2,000", "", ""] and list(data["link"]["words"]) == ["", "", "1,000"]
    assert [max(data[name]["alpha"]) for name in data] == [0.95] * 3
    alone = plots.cost_bars(made.table[:2])
    assert alone.select_one("link") is None, "where nothing is sent there is no link"


@pytest.mark.parametrize(
    "lines, options, words",
    [
        ([], {}, "one line or more"),
        (LINES, {"machine": "an abacus"}, "There is no machine 'an abacus': there are NVIDIA"),
        (LINES, {"dtype": "int7"}, "a dtype one of bfloat16"),
        (LINES, {"passes": "backward"}, "A pass is one of forward, training"),
    ],
)
def test_wrong_settings_are_refused(lines, options, words):
    with pytest.raises(ValueError, match=words):
        cost_sheet(lines, size=1, **options)
