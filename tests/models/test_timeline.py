"""Tasks on resources: hand-made timelines, closed forms, bounds."""

import itertools

import numpy as np
import pytest

from workbench import plots
from workbench.models.timeline import Task, simulate


def spans(timeline):
    return {name: (span.start, span.end) for name, span in timeline.spans.items()}


def test_a_task_waits_for_its_resource_and_for_what_it_comes_after():
    first, second = Task("a", "cpu", 2), Task("b", "gpu", 1, after=("a",))
    made = simulate([first, second, Task("c", "cpu", 3), Task("d", "gpu", 1, after=("b", "c"))])
    assert spans(made) == {"a": (0, 2), "b": (2, 3), "c": (2, 5), "d": (5, 6)}
    assert made.makespan == 6
    assert made.busy("cpu") == 5 and made.idle("cpu") == 1 and made.utilisation("gpu") == pytest.approx(1 / 3)
    assert [span.task.name for span in made.critical_path()] == ["a", "c", "d"]


def test_in_the_given_order_a_task_that_waits_holds_up_those_behind_it():
    tasks = [Task("slow", "x", 5), Task("first", "y", 1, after=("slow",)), Task("second", "y", 1)]
    assert spans(simulate(tasks))["second"] == (6, 7)
    assert spans(simulate(tasks, order="arrival"))["second"] == (0, 1)


def test_what_is_ready_longest_goes_first_and_ties_go_in_order():
    tasks = [
        Task("z", "x", 2), Task("late", "y", 1, after=("z",)), Task("early", "y", 3), Task("next", "y", 1),
        Task("w", "x", 0.5),
    ]  # fmt: skip
    made = spans(simulate(tasks, order="arrival"))
    assert made["early"] == (0, 3) and made["next"] == (3, 4) and made["late"] == (4, 5)


def test_several_servers_share_a_queue():
    made = simulate([Task(str(n), "pool", 1) for n in range(5)], servers={"pool": 2})
    assert [span.start for span in made.spans.values()] == [0, 0, 1, 1, 2]
    assert made.makespan == 3 and made.idle("pool") == 1 and made.utilisation("pool") == pytest.approx(5 / 6)


def ladder(modules, compute, reduce, stale):
    """Modules on one stream, their all-reduces on another; module j reads what was reduced ``stale`` modules before."""
    tasks = []
    for j in range(modules):
        after = (f"reduce {j - stale}",) if j >= stale else ()
        tasks += [
            Task(f"module {j}", "compute", compute, after, "compute"),
            Task(f"reduce {j}", "link", reduce, (f"module {j}",), "all-reduce"),
        ]
    return tasks


@pytest.mark.parametrize(("compute", "reduce"), [(1.0, 0.4), (0.4, 1.0), (1.0, 1.0), (1.0, 0.0)])
def test_closed_forms_of_overlapped_communication(compute, reduce):
    """With every module waiting for the reduction before it: 2n (c + a); with one module's delay: 2n max + min."""
    standard = simulate(ladder(12, compute, reduce, 1)).makespan
    delayed = simulate(ladder(12, compute, reduce, 2)).makespan
    assert standard == pytest.approx(12 * (compute + reduce), rel=1e-12)
    assert delayed == pytest.approx(12 * max(compute, reduce) + min(compute, reduce), rel=1e-12)
    assert delayed <= standard


def test_contention_slows_down_what_runs_meanwhile():
    def slowed(running):
        both = {task.resource for task in running} == {"compute", "link"}
        return {task.name: 0.5 for task in running if both and task.resource == "compute"}

    tasks = [Task("c", "compute", 3), Task("a", "link", 2)]
    made = simulate(tasks, speed=slowed)
    assert spans(made) == {"c": (0, 4), "a": (0, 2)}  # one unit of work in the first two, two in the rest
    plain, alone = simulate(ladder(8, 1.0, 0.4, 2), speed=lambda running: {}), simulate(ladder(8, 1.0, 0.4, 2))
    for name, span in spans(alone).items():
        assert spans(plain)[name] == pytest.approx(span)
    with pytest.raises(ValueError, match="c has a speed of 0"):
        simulate(tasks, speed=lambda running: {"c": 0})


def test_shared_bandwidth_is_work_conserving():
    """Two clients of one memory at half speed each: together they take what one after the other takes."""
    tasks = [Task("x", "one", 3), Task("y", "two", 3), Task("z", "two", 1, after=("x", "y"))]
    made = simulate(tasks, speed=lambda running: {task.name: 1 / len(running) for task in running})
    assert made.makespan == pytest.approx(7)


def random_tasks(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 40))
    tasks = []
    for n in range(count):
        earlier = random.choice(n, size=min(n, int(random.integers(0, 4))), replace=False) if n else []
        duration = float(random.choice([0, 1, 2, 0.25, 3.5]))
        tasks.append(Task(f"t{n}", f"r{random.integers(3)}", duration, tuple(f"t{m}" for m in earlier)))
    return tasks


@pytest.mark.parametrize("order", ["given", "arrival"])
@pytest.mark.parametrize("seed", range(20))
def test_any_timeline_keeps_the_rules(seed, order):
    tasks = random_tasks(seed)
    made = simulate(tasks, order=order)
    assert set(made.spans) == {task.name for task in tasks}
    for task in tasks:
        span = made.spans[task.name]
        assert span.end == span.start + task.duration
        assert all(made.spans[name].end <= span.start for name in task.after)
    for resource in made.servers:
        own = sorted((span.start, span.end) for span in made.on(resource))
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(own))
    path = made.critical_path()
    assert path[0].start == 0 and path[-1].end == made.makespan
    assert all(before.end == after.start for before, after in itertools.pairwise(path))
    assert made.makespan >= max(made.busy(resource) for resource in made.servers)


def test_nothing_takes_no_time():
    made = simulate([])
    assert made.makespan == 0 and made.critical_path() == []


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([Task("a", "x", 1), Task("a", "y", 1)], "Two tasks are called 'a'"),
        ([Task("a", "x", 1, after=("b",))], "a comes after 'b', which is no task"),
        ([Task("a", "x", -1)], "a takes -1"),
        ([Task("a", "x", float("nan"))], "a takes nan"),
        ([Task("a", "x", 1, after=("b",)), Task("b", "x", 1, after=("a",))], "a, b can never begin"),
        ([Task("a", "x", 1, after=("b",)), Task("b", "x", 1)], "a, b can never begin"),
    ],
)
def test_what_cannot_be_is_refused(tasks, words):
    with pytest.raises(ValueError, match=words):
        simulate(tasks)
    with pytest.raises(ValueError, match="order = 'random' is not allowed"):
        simulate([], order="random")


def test_many_tasks_are_no_trouble():
    tasks = [Task(f"{n} in", "bus", 0.01) for n in range(20_000)] + [
        Task(str(n), f"r{n % 32}", 1.0, (f"{n} in",)) for n in range(20_000)
    ]
    made = simulate(tasks, order="arrival")
    assert made.makespan == pytest.approx(625 + 0.32, abs=0.4)


def test_a_timeline_is_drawn():
    made = plots.gantt(simulate(ladder(4, 1.0, 0.4, 1)), unit="ms", machine="Test")
    assert list(made.y_range.factors) == ["link (29%)", "compute (71%)"]
    assert [item.label.value for item in made.legend[0].items] == ["idle", "compute", "all-reduce"]
    bars = made.legend[0].items[1].renderers[0].data_source.data
    assert bars["left"] == pytest.approx([0, 1.4, 2.8, 4.2]) and set(bars["path"]) == {"on the critical path"}
    assert made.xaxis[0].axis_label == "time (ms)"
    plots.gantt(simulate([]))
