"""The measurements that ship with the workbench: made on a real GPU, all of a paper in one run."""

from collections.abc import Iterator
from typing import Any

from workbench import catalog
from workbench.measure.records import RECORDED, save
from workbench.measure.sweeps import sweep
from workbench.paper import Paper


def record(paper: Paper, device: str, *, budget_s: float = 0.2, time_limit_s: float = 2.0) -> Iterator[dict[str, Any]]:
    """Make every recording of ``paper``, side by side on this machine; yields the rows as they come.

    After the last one all of them are written to ``workbench/recorded/<slug>.json``, with the machine. A run that is
    stopped early writes nothing.
    """
    rows = []
    for recording in paper.recordings:
        choices = [
            (method, implementation)
            for method in map(catalog.method, recording.methods)
            for implementation in recording.implementations or method.implementations
            if implementation in method.implementations
        ]
        settings = {"device": device, "dtype": recording.dtype, "directions": recording.directions}
        settings |= {"shape": recording.shape, "options": recording.options}
        settings["replayed"] = recording.replayed
        for row in sweep(choices, recording.sizes, **settings, budget_s=budget_s, time_limit_s=time_limit_s):
            rows.append({"group": recording.group, **row})
            yield rows[-1]
    save(rows, RECORDED / f"{paper.slug}.json", device)
