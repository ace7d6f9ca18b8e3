"""What a paper claims beside what was measured: judged, shown, written down.

A lesson ends with its claims settled: ``settle(PAPER, {...})``. What it writes is merged by ``table`` with what was
recorded on other machines, CPU and GPU, and ships with the workbench.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from workbench import catalog, measure, writing
from workbench.paper import Claim, Paper, Scale

RECORDED = Path(__file__).parent / "recorded" / "claims"

COLUMNS = ("paper", "claim", "statement", "where", "reported", "measured", "verdict", "scale", "source", "caveat")


class ClaimFailed(AssertionError):
    """A claim that must hold at this scale does not, or was not measured."""


@dataclass(frozen=True)
class Settled:
    """The claims of one paper, judged: ``frame`` has a row for each, with what was measured on this ``machine`` beside
    what was recorded on a GPU, the machine ``recorded_on`` (empty: nothing was)."""

    frame: pd.DataFrame
    machine: str
    recorded_on: str = ""

    def __str__(self) -> str:
        rows = self.frame.itertuples()
        lines = [
            f"{row.statement} Paper: {row.paper}. Here: {row.here}. Recorded: {row.recorded}. Verdict: {row.verdict}."
            for row in rows
        ]
        return "\n".join([*lines, self.machines])

    @property
    def machines(self) -> str:
        """Which machine each column of numbers comes from, in a line."""
        return f"Here: {self.machine}." + (f" Recorded: {self.recorded_on}." if self.recorded_on else "")


def settle(
    paper: Paper, measured: Mapping[str, float], *, scale: Literal["ci", "laptop", "gpu"], device: str
) -> Settled:
    """Judge the paper's claims by the numbers measured here, and write those down.

    ``measured`` are numbers by claim name, in the claim's unit. Claims are judged as ``"gpu"`` claims when ``scale`` is
    ``"gpu"`` or ``device`` is ``"cuda"``, else as ``"cpu"`` claims. Raises ``ClaimFailed`` (the table in its message)
    when one that must hold there is missing or outside its interval, ``KeyError`` for an unknown name.
    """
    if scale not in ("ci", "laptop", "gpu"):
        raise ValueError(f"scale = {scale!r} is not allowed: choose one of 'ci', 'laptop', 'gpu'.")
    names = [claim.name for claim in paper.claims]
    if unknown := sorted(set(measured) - set(names)):
        raise KeyError(f"{paper.slug} has no claim {', '.join(unknown)}: it has {', '.join(names) or 'none'}.")
    level: Scale = "gpu" if scale == "gpu" or device == "cuda" else "cpu"
    numbers = {name: float(value) for name, value in measured.items()}
    provenance = measure.machine(measure.pick_device(device))
    _write(paper.slug, level, scale, numbers, provenance)

    recording = _read(RECORDED / f"{paper.slug}.gpu.json")
    known = recording["measured"]
    machine = measure.machine_line(recording["provenance"]) if known else ""
    rows = []
    for claim in paper.claims:
        row = {"statement": claim.statement, "paper": f"{claim.reported} ({claim.where})"}
        row |= {"here": _in_words(claim, numbers.get(claim.name))}
        row |= {"recorded": _in_words(claim, known.get(claim.name)), "verdict": _verdict(claim, numbers, level)}
        rows.append(row | {"caveat": claim.caveat})
    columns = ["statement", "paper", "here", "recorded", "verdict", "caveat"]
    settled = Settled(pd.DataFrame(rows, columns=columns), measure.machine_line(provenance), machine)
    if failed := [claim.name for claim in paper.claims if _fails(claim, numbers, level)]:
        raise ClaimFailed(f"{paper.slug}: {', '.join(failed)} must hold at scale {scale!r} and does not.\n{settled}")
    return settled


def table(slug: str | None = None) -> pd.DataFrame:
    """Every claim of every paper (or of one) with what was measured for it: a row for each number, recorded ones first,
    and one row for a claim that has none yet."""
    papers = catalog.papers() if slug is None else [catalog.paper(slug)]
    rows = [row for paper in papers for claim in paper.claims for row in _rows(paper, claim)]
    return pd.DataFrame(rows, columns=COLUMNS)


def results_folder() -> Path:
    """Where measured numbers are kept: the environment's ``WORKBENCH_RESULTS``, or a folder in the user's cache."""
    if given := os.environ.get("WORKBENCH_RESULTS"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transformer-workbench"


def _write(slug: str, level: Scale, scale: str, numbers: Mapping[str, float], provenance: Mapping[str, str]) -> None:
    path = results_folder() / "claims" / f"{slug}.{level}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    content = {"provenance": provenance, "scale": scale, "measured": plain}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """What ``_write`` wrote; nothing measured where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"measured": {}, "provenance": {}}


def _fails(claim: Claim, numbers: Mapping[str, float], level: Scale) -> bool:
    return level in claim.must_hold and not claim.holds(numbers.get(claim.name, math.nan))


def _verdict(claim: Claim, numbers: Mapping[str, float], level: Scale) -> str:
    value = numbers.get(claim.name)
    if value is None:
        return "missing" if level in claim.must_hold else "not measured at this scale"
    if claim.low is None and claim.high is None:
        return "shown, not judged"
    if claim.holds(value):
        return "holds"
    return "fails" if level in claim.must_hold else "does not hold here"


def _in_words(claim: Claim, value: float | None) -> str:
    return writing.quantity(value, claim.unit)


def _rows(paper: Paper, claim: Claim) -> Iterator[dict[str, Any]]:
    row = {"paper": paper.slug, "claim": claim.name, "statement": claim.statement, "where": claim.where}
    row |= {"reported": claim.reported, "caveat": claim.caveat}
    found = False
    for source, folder in (("recorded", RECORDED), ("here", results_folder() / "claims")):
        for level in ("cpu", "gpu"):
            content = _read(folder / f"{paper.slug}.{level}.json")
            if claim.name in content["measured"]:
                value = content["measured"][claim.name]
                value = math.nan if value is None else value
                found = True
                verdict = _verdict(claim, {claim.name: value}, level)
                where = f"{source}: {measure.machine_line(content['provenance'])}"
                yield row | {"measured": _in_words(claim, value), "verdict": verdict, "scale": level, "source": where}
    if not found:
        yield row | {"measured": writing.NOTHING, "verdict": "not measured yet", "scale": "", "source": ""}
