"""A paper's study as a race: several seeds as bands, over any of its columns."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from workbench import measure
from workbench.paper import Study
from workbench.study import Size
from workbench_widgets.race import Race


def race_study(
    study: Study,
    *,
    size: Size = "laptop",
    seeds: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    costs: Sequence[str] = (),
    knobs: Mapping[str, Any] | None = None,
    floor: tuple[float, str] | None = None,
    caption: str = "",
) -> Race:
    """A paper's study as a race: its rows from several seeds (default: 3, and 1 where it has a knob ``seeds`` itself),
    over any of its columns. ``size`` and ``knobs`` as in ``Study.rows``; the rest as in ``race``.

    Raises ``ValueError`` for a study whose lines are not told apart by one column, and for a column that there is not.
    """
    if len(study.axes.by) != 1:
        raise ValueError(f"{study.name} tells its lines apart by {len(study.axes.by)} columns: a race needs one.")
    costs = tuple(costs) or (study.axes.x,)
    if unknown := [name for name in costs if name not in study.columns]:
        raise ValueError(f"The rows have no column {unknown[0]!r}: they have {', '.join(study.columns)}.")
    if reasons := study.why_not(device):
        raise ValueError(" ".join(reasons))
    seeds = (1 if "seeds" in study.knobs else 3) if seeds is None else seeds
    columns = {study.axes.by[0]: "", "seed": "", **study.columns}
    racing = dataclasses.replace(study, columns=columns)
    run = measure.StudyRun(size, device, seed, knobs or {})
    made = Race(racing, run, seeds=seeds, costs=costs, total=None, floor=floor, caption=caption)
    return made.run_in_cell()
