"""How long the longest step of every kind of job takes at sizes near the largest that are allowed.

``PYTHONPATH=.:kernels:widgets python -m tests.load.steps`` runs each job for some seconds in this process, as the
worker would, and prints its longest step. One that asks whether it is to stop counts as several: there it is left.
"""

import contextlib
import sys
import time

from workbench import catalog, measure
from workbench.dashboard.generate import work as generating
from workbench.dashboard.inspect import work as inspecting
from workbench.dashboard.inspect.state import InspectState
from workbench.dashboard.measure import work as measuring
from workbench.dashboard.papers import studies
from workbench.dashboard.papers import work as papers
from workbench.dashboard.shell import toggles, views
from workbench.dashboard.train import racers
from workbench.dashboard.train import work as racing

SECONDS = 20.0  # of each job
LONG_TEXT = " ".join(["the old bank by the river lent the young man who fished there enough money"] * 9)


def jobs():
    """Name -> the steps of a job."""
    state = InspectState()
    state.change(text=LONG_TEXT)
    found = {"Inspect, 140 tokens": inspecting.compute(state.request, "cpu")}
    attention = ("softmax_attention", "reference"), ("flash_attention_2", "fast")
    sweep = measuring.Request("attention", attention, 8, 14, directions=("forward", "backward"))
    found["Measure, up to 16,384 tokens"] = measuring.compute(sweep, "cpu")
    race = racers.Request("digits", racers.start("digits"), 200, 0, {"width": 128, "batch": 256})
    found["Train, width 128, batch 256"] = racing.compute(race, "cpu")
    cached = toggles.decode("b", generating.OFF, generating.knobs_of, views.first("generate"))[0]
    guided = generating.Setting(count=200, steps=50, guidance=2.0)
    asked = generating.Request(guided, {"a": generating.OFF, "b": cached})
    found["Generate, 200 samples, guided"] = generating.compute(asked, "cpu")
    for method in catalog.methods().values():
        if method.largest:
            found[f"Papers, {method.name}"] = papers.compute(papers.Request(method.name, method.largest))
    for paper in catalog.papers():
        for study in paper.studies:
            if not study.why_not("cpu"):
                found[f"Study {study.name} of {paper.slug}"] = studies.compute(study, measure.StudyRun("laptop"))
    return found


def longest(steps):
    """(longest seconds without a chance to stop, how many such chances) of a job that is left after ``SECONDS``."""
    start = last = time.monotonic()
    spans = []

    def between(*_):
        nonlocal last
        now = time.monotonic()
        spans.append(now - last)
        last = now
        return now - start > SECONDS

    running = steps(between)
    with contextlib.suppress(measure.Cancelled, StopIteration), contextlib.closing(running):
        while not between():
            next(running)
    return max(spans), len(spans)


def main():
    print(f"{'job':40} {'longest step (ms)':>18} {'chances to stop':>16}")
    for name, steps in jobs().items():
        seconds, count = longest(steps)
        print(f"{name:40} {1000 * seconds:18.0f} {count:16}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
