"""A study: its settings are data, its rows come one by one, and who stops reading stops it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from toy import CLOSED, PAPER, STUDY
from workbench import catalog, measure, plots
from workbench.paper import Axes


def test_sizes_give_the_knobs():
    assert STUDY.settings() == STUDY.settings("laptop") == {"steps": 10, "width": 1.0}
    assert STUDY.settings("ci") == {"steps": 2, "width": 1.0}
    assert STUDY.settings("gpu", {"steps": np.int64(3)}) == {"steps": 3, "width": 0.5}
    assert STUDY.total(STUDY.settings("gpu")) == 200 and replace(STUDY, length=None).total({}) is None


def test_rows_have_the_studys_columns_in_order():
    rows = list(STUDY.rows("ci", device="cpu"))
    assert [list(row) for row in rows] == [["who", "step", "place"]] * 4
    assert rows == list(STUDY.rows("ci"))
    assert list(STUDY.rows(seed=1)) != list(STUDY.rows(seed=2))


def test_who_stops_reading_stops_it():
    CLOSED.clear()
    rows = STUDY.rows(steps=50)
    next(rows), next(rows), next(rows)
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


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(measure.studies, "RECORDED", tmp_path)
    return tmp_path


def test_it_is_recorded_like_a_sweep(shelf):
    assert measure.recorded_study(PAPER, STUDY) is None
    run = measure.StudyRun("ci", seed=3, knobs={"width": 0.5})
    rows = list(measure.record_study(PAPER, STUDY, run))
    content = json.loads((shelf / "studies" / "toy.walk.json").read_text())
    assert content["run"] == {"study": "walk", "size": "ci", "seed": 3, "knobs": {"steps": 2, "width": 0.5}}
    table = measure.recorded_study(PAPER, STUDY)
    assert table.to_dict("records") == rows and table.attrs["units"] == STUDY.columns
    assert table.attrs["provenance"]["torch"] and table.attrs["run"] == content["run"]


def test_a_run_that_is_stopped_early_is_not_recorded(shelf):
    running = measure.record_study(PAPER, STUDY, measure.StudyRun("ci"))
    next(running)
    running.close()
    assert measure.recorded_study(PAPER, STUDY) is None


def test_its_curve_grows():
    rows = list(STUDY.rows("ci"))
    made = plots.study_curves(STUDY, measure.study_frame(STUDY, rows[:2]), machine="Test")
    assert [item.label.value for item in made.legend[0].items] == ["drunk", "sober"]
    assert made.xaxis[0].axis_label == "step" and made.yaxis[0].axis_label == "place (m)"
    plots.update_study_curves(made, STUDY, measure.study_frame(STUDY, rows))
    sober = next(line.data_source for line in made.renderers if line.data_source.name == "live: sober")
    assert list(sober.data["y"]) == [1, 2]


def test_seeds_are_drawn_as_one_line_with_their_spread():
    rows = [row for seed in range(5) for row in STUDY.rows("ci", seed=seed, width=1 + seed / 10)]
    made = plots.study_curves(STUDY, measure.study_frame(STUDY, rows))
    sober = next(line.data_source for line in made.renderers if line.data_source.name == "live: sober").data
    np.testing.assert_allclose(sober["y"], [1.2, 2.4])
    np.testing.assert_allclose(sober["low"], [1.08, 2.16])
    assert list(sober["repeats"]) == [5, 5]
    alone = replace(STUDY, axes=Axes(x="step", y="place", points=True))
    made = plots.study_curves(alone, measure.study_frame(alone, rows))
    assert [item.label.value for item in made.legend[0].items] == ["A walk"]
    assert not any(line.visible for line in made.renderers if line.name == "lines")


def test_a_figure_of_no_rows_is_empty_and_can_be_filled():
    made = plots.study_curves(STUDY, measure.study_frame(STUDY, []))
    plots.update_study_curves(made, STUDY, measure.study_frame(STUDY, STUDY.rows("ci")))
    assert len(made.legend[0].items) == 2


# --- those of the papers ---------------------------------------------------------------------------------------------

STUDIES = {f"{paper.slug}.{study.name}": (paper, study) for paper in catalog.papers() for study in paper.studies}


@pytest.mark.parametrize(("paper", "study"), STUDIES.values(), ids=STUDIES)
def test_a_papers_study_runs_at_the_size_of_ci(paper, study):
    """It yields as many rows as it says, the same for the same seed, and there is something to draw."""
    if study.needs_cuda:
        pytest.skip(" ".join(study.why_not("cpu")))
    assert study.question.endswith("?") and study.run.__doc__
    rows = list(study.rows("ci"))
    total = study.total(study.settings("ci"))
    assert rows and total in (None, len(rows))
    made = plots.study_curves(study, measure.study_frame(study, rows))
    assert any(len(line.data_source.data["x"]) for line in made.renderers)
    again = study.rows("ci")
    timed = {name for name, unit in study.columns.items() if unit in ("s", "ms", "us")}
    first = {name: value for name, value in rows[0].items() if name not in timed}
    assert first == {name: value for name, value in next(again).items() if name not in timed}
    again.close()
