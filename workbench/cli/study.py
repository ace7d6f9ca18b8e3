"""``workbench study``: the studies of a paper, and one of them run here."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import catalog, measure
from workbench.cli.papers import aligned
from workbench.measure.studies import cell, settings_line
from workbench.paper import Study
from workbench.study import SIZES, Size


def show_studies(slug: str) -> int:
    """The studies of a paper: what each asks, its knobs, its sizes, and whether it was recorded."""
    paper = catalog.paper(slug)
    if not paper.studies:
        raise ValueError(f"{slug} has no studies.")
    for study in paper.studies:
        print(f"{study.name}: {study.question}")
        for name, knob in study.knobs.items():
            values = ", ".join(f"{size} {study.settings(size)[name]}" for size in SIZES)
            print(f"  {name}: {knob.help} Allowed: {knob.allowed}. At {values}.")
        recorded = measure.recorded_study(paper, study)
        print(f"  recorded: {'no' if recorded is None else _origin(recorded)}\n")
    return 0


def show_recorded(slug: str, name: str) -> int:
    """The rows of a study that ship with the workbench."""
    paper = catalog.paper(slug)
    study = paper.study(name)
    recorded = measure.recorded_study(paper, study)
    if recorded is None:
        raise ValueError(f"{slug} {name} was not recorded: run it without --recorded.")
    print(f"{study.title}, recorded on {_origin(recorded)}\n")
    print("\n".join(lines(study, recorded)))
    return 0


def run_here(
    slug: str,
    name: str,
    *,
    size: Size,
    device: str,
    seed: int,
    knobs: Mapping[str, Any],
    record: bool = False,
    output: str | None = None,
) -> int:
    """Run a study on this machine, say how far it is, print its rows, and write them down where that is asked for.

    Interrupted (Ctrl-C), it prints what it has and writes that to ``output``; what ships with the workbench is only
    replaced by a whole run. Exit code 130 then.
    """
    paper = catalog.paper(slug)
    study = paper.study(name)
    run = measure.StudyRun(size, measure.pick_device(device), seed, knobs)
    rows: list[dict[str, Any]] = []
    stopped = False
    running = measure.record_study(paper, study, run) if record else run.rows(study)
    total, start = run.total(study), time.monotonic()
    try:
        for row in running:
            rows.append(row)
            _say(study, len(rows), total, row, time.monotonic() - start)
    except KeyboardInterrupt:
        stopped = True
    finally:
        running.close()
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if stopped:
        print(f"stopped after {_of(len(rows), total)} rows", file=sys.stderr)
    print(f"{study.title}, run on {measure.machine_line(measure.machine(run.device))}\n")
    print("\n".join(lines(study, measure.study_frame(study, rows))))
    if output:
        measure.save_study(study, rows, Path(output), run)
    return 130 if stopped else 0


def lines(study: Study, table: pd.DataFrame) -> list[str]:
    """The rows as aligned text, units in the headings, numbers to the right."""
    headings = {name: study.heading(name) for name in table}
    numbers = [headings[name] for name in table if pd.api.types.is_numeric_dtype(table[name])]
    rows = [{headings[name]: cell(value) for name, value in row.items()} for row in table.to_dict("records")]
    return aligned(rows, right=tuple(numbers))


def _say(study: Study, done: int, total: int | None, row: Mapping[str, Any], seconds: float) -> None:
    """How far it is, and the newest figure, on a line that is written over."""
    if sys.stderr.isatty():
        newest = f"{study.axes.x} {cell(row[study.axes.x])}: {study.axes.y} {cell(row[study.axes.y])}"
        print(f"\r\033[K{_of(done, total)}, {seconds:.0f} s, {newest}"[:100], end="", file=sys.stderr, flush=True)


def _of(done: int, total: int | None) -> str:
    return str(done) if total is None else f"{done} of {total}"


def _origin(recorded: pd.DataFrame) -> str:
    where, run = recorded.attrs["provenance"], recorded.attrs["run"]
    return f"{measure.machine_line(where)} ({settings_line(run)})"


