"""Studies on a paper's page, without a browser: chosen, turned, run, cancelled, drawn, in a link and taken away."""

from dataclasses import replace

import pytest

from dashboard.visitor import Visitor
from toy import PAPER, STROLL, STUDY
from workbench import catalog, measure
from workbench.dashboard.papers.studies import Studies, compute
from workbench.dashboard.shell.figures import Figure
from workbench.dashboard.shell.worker import Worker

WALKS = replace(PAPER, studies=(STUDY, STROLL))


@pytest.fixture
def studies(monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "paper", lambda slug: {"toy": WALKS, "idle": replace(PAPER, studies=())}[slug])
    monkeypatch.setattr(measure.studies, "RECORDED", tmp_path)
    visitor, told = Visitor(Worker()), []
    made = Studies(visitor.desk, lambda **options: Figure(visitor.desk.schedule, **options), lambda: None, told.append)
    made.visitor, made.told = visitor, told
    assert made.open("toy", {}) == []
    return made


def finished(studies):
    studies.visitor.until(lambda: not studies.desk.pending)


def fields(studies):
    return {field.name: field for field in studies.state.fields(studies.running)}


def test_a_paper_without_studies_shows_none(studies):
    assert studies.layout.visible
    studies.open("idle", {})
    assert not studies.layout.visible and studies.written() == {} and studies.lines() == ""


def test_it_runs_and_draws_what_comes(studies):
    assert "Nothing was run here yet" in studies.words.object
    studies.act("size", "ci")
    studies.act("run", None)
    finished(studies)
    assert len(studies.rows) == 4 and "4 rows of 4." in studies.words.object
    assert "place (m)" in studies.table.object and "sober" in studies.table.object
    assert studies.csv().startswith("who,step,place,machine_device")


def test_its_knobs_are_turned_and_refused(studies):
    studies.act("size", "ci")
    studies.act("run", None)
    finished(studies)
    stops = fields(studies)["knob.steps"].stops
    studies.act("knob.steps", stops.index("4"))
    assert studies.state.settings["steps"] == 4 and "These rows are of another choice" in studies.words.object
    assert studies.written() == {"study.size": "ci", "study.steps": "4"}
    studies.act("run", None)
    finished(studies)
    assert len(studies.rows) == 8
    studies.act("size", "laptop")
    assert studies.state.knobs == {}


def test_it_is_cancelled_and_keeps_its_rows(studies):
    def endless(*, device, seed):
        for step in range(10**9):
            yield {"who": "drunk", "step": step, "place": 0.0}

    walk = replace(STUDY, run=endless, sizes={}, length=None)
    studies.asked = (walk, measure.StudyRun())
    studies.desk.run(studies.slot, compute(*studies.asked), studies._arrived, studies._ended, lane="long")
    studies.visitor.until(lambda: len(studies.rows) > 3)
    assert fields(studies)["run"].label == "Cancel"
    studies.act("run", None)
    finished(studies)
    assert len(studies.rows) > 3 and "Stopped after" in studies.note
    assert fields(studies)["run"].label == "Run"


def test_a_link_says_what_is_shown(studies):
    assert studies.written() == {}
    assert studies.open("toy", {"study": "stroll", "study.size": "gpu", "study.width": "0.25"}) == []
    assert studies.state.chosen == "stroll" and studies.state.settings == {"steps": 100, "width": 0.25}
    assert studies.written() == {"study": "stroll", "study.size": "gpu", "study.width": "0.25"}
    wrong = studies.open("toy", {"study": "run", "study.steps": "0"})
    assert len(wrong) == 2 and studies.state.chosen == "walk"


def test_what_cannot_run_here_says_why(studies):
    studies.act("study", "stroll")
    assert fields(studies)["run"].why == "A stroll needs a GPU."


def test_what_was_recorded_is_drawn_beside(studies):
    list(measure.record_study(WALKS, STUDY, measure.StudyRun("ci")))
    studies.update()
    assert "Recorded on" in studies.words.object and "steps 2" in studies.words.object


def test_the_lines_run_the_study(studies):
    studies.act("size", "ci")
    space = {"catalog": catalog}
    exec(studies.lines(), space)
    assert len(space["rows"]) == 4


def test_a_study_that_fails_says_so(studies):
    def broken(*, device, seed):
        yield {"who": "drunk", "step": 0, "place": 1.0}
        raise RuntimeError("it fell")

    studies.asked = (replace(STUDY, run=broken, sizes={}, length=None), measure.StudyRun())
    studies.desk.run(studies.slot, compute(*studies.asked), studies._arrived, studies._ended, lane="long")
    finished(studies)
    assert any("it fell" in told for told in studies.told)
