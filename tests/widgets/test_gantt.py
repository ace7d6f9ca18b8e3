"""The Gantt instrument: lanes, idle time, knobs that make another timeline."""

import re
from typing import Annotated

import pytest

from workbench.controls import Range
from workbench.models.timeline import Task, Timeline, simulate
from workbench_widgets import gantt


def pipeline(*, stages: Annotated[int, Range(1, 4), "Stages."] = 2, batches: Annotated[int, Range(1, 8), "."] = 3):
    """Every batch passes every stage, 1 ms each."""
    if batches == 8:
        raise ValueError("Eight do not fit.")
    tasks = [
        Task(f"{batch} at {stage}", f"stage {stage}", 1.0, (f"{batch} at {stage - 1}",) if stage else ())
        for batch in range(batches)
        for stage in range(stages)
    ]
    return simulate(tasks)


def test_idle_time_is_counted_and_shown():
    made = gantt(pipeline, caption="A caption.")
    assert made.timeline.makespan == 4 and made.timeline.idle("stage 0") == made.timeline.idle("stage 1") == 1
    cells = re.search(r"<td>stage 1</td>(.*?)</tr>", made.still)[1]
    assert re.findall(r">([^<]+)</td>", cells) == ["3", "3", "1", "25%"]
    assert "The whole takes 4 ms" in made.still and "A caption." in made.still
    idle = next(each for each in made.figure.renderers if each.name == "idle").data_source.data
    assert list(zip(idle["left"], idle["right"], strict=True)) == [(3, 4), (0, 1)]


def test_knobs_make_another_timeline():
    made = gantt(pipeline, stages=1)
    assert list(made.widgets) == ["stages", "batches"] and made.timeline.makespan == 3
    made.set(stages=4)
    assert made.timeline.makespan == 6 and "<td>stage 3</td>" in made._said.value
    assert len(made.figure.y_range.factors) == 4
    with pytest.raises(ValueError, match="stages = 9"):
        made.set(stages=9)
    made.set(batches=8)
    assert "Eight do not fit." in made._said.value
    made.set(batches=2)
    assert "The whole takes 5 ms" in made._said.value


def test_a_timeline_alone_and_one_of_nothing():
    assert not gantt(pipeline(), unit="µs").widgets
    assert "The whole takes 0 ms." in gantt(simulate([])).still


def test_gaps_of_several_servers_sum_up_to_the_idle_time():
    tasks = [Task("a", "pool", 3.0), Task("b", "pool", 1.0), Task("c", "pool", 1.0, ("b",)), Task("d", "link", 5.0)]
    made = simulate(tasks, servers={"pool": 2})
    assert made.places("pool") == {"b": 0, "a": 1, "c": 0}
    assert made.gaps("pool") == [(0, 2.0, 5.0), (1, 3.0, 5.0)]
    assert sum(end - start for _, start, end in made.gaps("pool")) == made.idle("pool") == 5
    assert gantt(made).still.count("pool (× 2)") == 1
    assert isinstance(made, Timeline)
