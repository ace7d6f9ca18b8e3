"""A study: its settings are data, its rows come one by one, and who stops reading stops it."""

from dataclasses import replace
from typing import Annotated

import numpy as np
import pytest

from workbench.controls import Range
from workbench.paper import Axes, Study

CLOSED = []


def walk(
    *,
    device: str,
    seed: int,
    steps: Annotated[int, Range(1, 100), "How many."] = 10,
    width: Annotated[float, Range(0.0, 2.0), "Of a step."] = 1.0,
):
    """A drunkard on a line."""
    generator = np.random.default_rng(seed)
    place = 0.0
    try:
        for step in range(steps):
            place += width * generator.choice([-1, 1])
            yield {"place": place, "step": step, "who": device}
    finally:
        CLOSED.append(step)


STUDY = Study(
    name="walk",
    title="A walk",
    question="How far does a drunkard come?",
    run=walk,
    columns={"who": "", "step": "", "place": "m"},
    axes=Axes(x="step", y="place", by="who"),
    sizes={"ci": {"steps": 2}, "gpu": {"steps": 100, "width": 0.5}},
    length=lambda steps, width: steps,
)


def test_sizes_give_the_knobs():
    assert STUDY.settings() == STUDY.settings("laptop") == {"steps": 10, "width": 1.0}
    assert STUDY.settings("ci") == {"steps": 2, "width": 1.0}
    assert STUDY.settings("gpu", {"steps": np.int64(3)}) == {"steps": 3, "width": 0.5}
    assert STUDY.total(STUDY.settings("gpu")) == 100 and replace(STUDY, length=None).total({}) is None


def test_rows_have_the_studys_columns_in_order():
    rows = list(STUDY.rows("ci", device="cpu"))
    assert [list(row) for row in rows] == [["who", "step", "place"]] * 2
    assert rows == list(STUDY.rows("ci"))
    assert list(STUDY.rows(seed=1)) != list(STUDY.rows(seed=2))


def test_who_stops_reading_stops_it():
    CLOSED.clear()
    rows = STUDY.rows(steps=50)
    next(rows), next(rows)
    rows.close()
    assert CLOSED == [1]


def test_settings_that_are_not_allowed_are_refused_before_the_first_row():
    with pytest.raises(ValueError, match="steps = 0 is not allowed: choose a whole number from 1 to 100"):
        STUDY.rows(steps=0)
    with pytest.raises(TypeError, match="walk has no knob 'colour': it has steps, width"):
        STUDY.rows(colour="red")
    with pytest.raises(ValueError, match="size = 'huge' is not allowed: choose one of 'ci', 'laptop', 'gpu'"):
        STUDY.rows("huge")
    with pytest.raises(ValueError, match="A walk needs a GPU"):
        replace(STUDY, needs_cuda=True).rows()
    assert replace(STUDY, needs_cuda=True).why_not("cuda") == []


def test_a_description_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="walk draws a column 'time': it has who, step, place"):
        replace(STUDY, axes=Axes(x="time", y="place"))
    with pytest.raises(ValueError, match="steps = 101"):
        replace(STUDY, sizes={"gpu": {"steps": 101}})
    with pytest.raises(ValueError, match="gave a row whose columns are not its own: place"):
        list(replace(STUDY, columns={"who": "", "step": ""}, axes=Axes(x="who", y="step")).rows())


def test_headings_carry_units():
    assert STUDY.heading("place") == "place (m)" and STUDY.heading("who") == "who"
