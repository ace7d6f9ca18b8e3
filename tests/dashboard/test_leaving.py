"""Every page's job can be left in its middle: it ends without an error, and the worker is free for the next."""

import pytest

import needs
from dashboard.visitor import Visitor
from toy import STUDY
from workbench import measure
from workbench.dashboard.generate import work as generating
from workbench.dashboard.inspect import work as inspecting
from workbench.dashboard.inspect import work_images as inspecting_images
from workbench.dashboard.inspect.state import InspectState
from workbench.dashboard.measure import work as measuring
from workbench.dashboard.papers import studies
from workbench.dashboard.papers import work as papers
from workbench.dashboard.shell.jobs import Progress
from workbench.dashboard.shell.worker import Worker
from workbench.dashboard.train import racers
from workbench.dashboard.train import work as racing

SWEEP = measuring.Request("attention", (("softmax_attention", "fast"), ("softmax_attention", "reference")), 4, 6)
RACE = racers.Request("digits", racers.start("digits"), 20)
SAMPLES = generating.Request(generating.Setting(count=10, steps=10), {"a": generating.OFF, "b": generating.OFF})
JOBS = {
    "inspect": lambda: inspecting.compute(InspectState(text="It rains again.").request, "cpu"),
    "images": lambda: inspecting_images.compute(InspectState(source="image").request, "cpu"),
    "measure": lambda: measuring.compute(SWEEP, "cpu"),
    "train": lambda: racing.compute(RACE, "cpu"),
    "generate": lambda: generating.compute(SAMPLES, "cpu"),
    "papers": lambda: papers.compute(papers.Request("softmax_attention", 64)),
    "study": lambda: studies.compute(STUDY, measure.StudyRun("ci")),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs.encoder if name == "inspect" else ()) for name in JOBS]
)
def test_a_job_is_left_in_its_middle(name):
    visitor = Visitor(Worker())
    heard, ended, steps = [], [], JOBS[name]()

    def leave(part):
        heard.append(part)
        if not isinstance(part, Progress):
            visitor.desk.cancel(name)

    job = visitor.desk.run(name, steps, leave, ended.append, lane="long")
    visitor.until(lambda: ended)
    visitor.rest()
    assert job.state in ("cancelled", "done") and not job.error and job.running is None  # a short one was quicker
    assert ended == [job]
    visitor.desk.run("next", lambda cancelled: (each for each in ["next"]), heard.append)
    visitor.until(lambda: heard[-1] == "next")
