"""The rows of a paper's studies: as a table, kept in a file, and the ones that ship with the workbench."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import writing
from workbench.measure.records import RECORDED, load_rows, save
from workbench.paper import Paper, Study
from workbench.study import Size


@dataclass(frozen=True)
class StudyRun:
    """How a study was run: everything that its rows depend on, beside the machine."""

    size: Size = "laptop"
    device: str = "cpu"
    seed: int = 0
    knobs: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, study: Study) -> Iterator[dict[str, Any]]:
        """``study.rows`` with these settings; errors as there."""
        return study.rows(self.size, device=self.device, seed=self.seed, **self.knobs)

    def total(self, study: Study) -> int | None:
        """How many rows there will be; None when that is not known beforehand."""
        return study.total(study.settings(self.size, self.knobs))


def study_frame(study: Study, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row of the study a row, its columns in order; units in ``.attrs["units"]``."""
    table = pd.DataFrame(list(rows), columns=list(study.columns))
    table.attrs["units"] = dict(study.columns)
    return table


def save_study(study: Study, rows: Iterable[Mapping[str, Any]], path: str | Path, run: StudyRun) -> None:
    """Write the rows with the machine, and with everything that it takes to run the study again."""
    settings = {"study": study.name, "size": run.size, "seed": run.seed}
    save(rows, path, run.device, run={**settings, "knobs": study.settings(run.size, run.knobs)})


def load_study(study: Study, path: str | Path) -> pd.DataFrame:
    """What ``save_study`` wrote, with the machine in ``.attrs["provenance"]`` and the settings in ``.attrs["run"]``."""
    content = load_rows(path)
    table = study_frame(study, content["rows"])
    table.attrs |= {"provenance": content["provenance"], "run": content["run"]}
    return table


def recorded_study(paper: Paper, study: Study) -> pd.DataFrame | None:
    """The rows of a study that ship with the workbench; None when there are none."""
    path = study_path(paper, study)
    return load_study(study, path) if path.exists() else None


def record_study(paper: Paper, study: Study, run: StudyRun) -> Iterator[dict[str, Any]]:
    """StudyRun a study; yields its rows as they come. After the last one all of them are written to
    ``workbench/recorded/studies``, with the machine. A run that is stopped early writes nothing.
    """
    rows = []
    for row in run.rows(study):
        rows.append(row)
        yield row
    save_study(study, rows, study_path(paper, study), run)


def study_path(paper: Paper, study: Study) -> Path:
    return RECORDED / "studies" / f"{paper.slug}.{study.name}.json"


def cell(value: Any) -> str:
    """A value for people."""
    value = value.item() if hasattr(value, "item") else value
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return writing.number(value, 4) if isinstance(value, float | int) else str(value)


def settings_line(run: Mapping[str, Any]) -> str:
    """The settings of a recorded run in a line: size, seed and knobs."""
    knobs = (f"{name.replace('_', ' ')} {value}" for name, value in run["knobs"].items())
    return ", ".join([f"size {run['size']}", f"seed {run['seed']}", *knobs])
