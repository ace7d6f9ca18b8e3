"""The runner of a study: what a reader does with it, done without a browser."""

from dataclasses import replace

import pytest

from toy import PAPER, STUDY
from workbench import measure
from workbench_widgets import run_study


def test_it_runs_and_shows():
    made = run_study(PAPER, "walk", size="ci", caption="A caption.")
    assert len(made.table) == made.total == 4
    assert "A caption." in made.still and "Size ci, seed 0, steps 2" in made.still and "place (m)" in made.still
    assert made.live.children[-1].value in made.still


def test_it_runs_again_with_other_knobs():
    made = run_study(PAPER, "walk", size="ci")
    made.widgets["steps"].value = 5
    made.start().join(60)
    assert len(made.rows) == made._bar.value == 10 and not made._start.disabled
    sober = next(line.data_source for line in made.figure.renderers if line.data_source.name == "live: sober")
    assert list(sober.data["y"]) == [1, 2, 3, 4, 5]
    assert "<td" in made._table.value and "steps 5" in made._said.value


def test_it_can_be_cancelled_and_says_so():
    made = run_study(PAPER, "walk", size="ci")
    made.run(lambda done, row: made.cancel() if done == 3 else None)
    made.build()
    assert len(made.rows) == 3 and "Stopped after 3 rows." in made.still


def test_the_stop_button_keeps_the_rows():
    def interrupted(**settings):
        yield from list(STUDY.rows("ci"))[:2]
        raise KeyboardInterrupt

    made = run_study(replace(PAPER, studies=(replace(STUDY, run=interrupted, sizes={}, length=None),)), "walk")
    assert len(made.table) == 2 and "Stopped after 2 rows." in made.still


def test_what_was_recorded_is_drawn_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(measure.studies, "RECORDED", tmp_path)
    list(measure.record_study(PAPER, STUDY, measure.StudyRun("ci")))
    made = run_study(PAPER, "walk", size="ci", beside_recorded=True)
    assert any(line.data_source.name == "recorded: sober" for line in made.figure.renderers)


def test_an_error_while_it_runs_is_said():
    def broken(**settings):
        yield {"who": "drunk", "step": 0, "place": 1.0}
        raise RuntimeError("it fell")

    made = run_study(PAPER, "walk", size="ci")
    made.study = replace(STUDY, run=broken, sizes={}, length=None)
    made.widgets = {}
    made.start().join(60)
    assert made._said.value == "Stopped: it fell"


def test_another_name_is_refused():
    with pytest.raises(KeyError, match="toy has no study 'run': it has walk"):
        run_study(PAPER, "run")
