"""The rows of a table as lines: which there are, what they are called, how they look, where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from workbench import naming
from workbench.measure.records import conditions, machine_line
from workbench.measure.studies import settings_line
from workbench.plots.looks import MARKERS, Look, colors_of, look_of

RATES = ("tflops_per_s", "gb_per_s", "roofline")  # larger when the time is smaller
AXES = {
    "median_ms": ("time of one call (ms)", 1.0),
    "peak_bytes": ("peak memory (MiB)", 2.0**20),
    "tflops_per_s": ("throughput (TFLOP/s)", 1.0),
    "gb_per_s": ("memory traffic (GB/s)", 1.0),
    "roofline": ("fraction of this machine's limit", 1.0),
    "error": ("relative error", 1.0),
    "tokens": ("tokens", 1.0),
    "size": ("size", 1.0),
}
COMPARED = ("x", "y", "low", "high", "label", "settings")


@dataclass(frozen=True)
class Line:
    """One line: its name in the legend, the rows it is made of, and what a figure shows of them, by column."""

    label: str
    recorded: bool
    rows: pd.DataFrame
    data: Mapping[str, np.ndarray]

    @property
    def name(self) -> str:
        """Unique in a figure."""
        return f"{'recorded' if self.recorded else 'live'}: {self.label}"

    def shows(self, data: Mapping[str, Sequence]) -> bool:
        """Whether a figure's columns hold just this."""
        return all(np.array_equal(data[column], self.data[column]) for column in COMPARED)


def axis(column: str) -> tuple[str, float]:
    """What stands at an axis that shows a column, and the unit in which it does."""
    return AXES.get(column, (naming.plain(column), 1.0))


def labels(frame: pd.DataFrame, group: str | Sequence[str]) -> pd.Series:
    """What the line of each row is called: the values of ``group``, as people call them."""
    columns = [group] if isinstance(group, str) else list(group)
    words = [" · ".join(naming.cell(column, row) for column in columns) for row in frame.to_dict("records")]
    return pd.Series(words, index=frame.index, dtype=str)


def lines(frame: pd.DataFrame, x: str, y: str, group: str | Sequence[str], *, recorded: bool = False) -> list[Line]:
    """The lines of column ``y`` over ``x``, in the order in which they first appear; rows without a number are left
    out. Recorded ones of several machines are told apart by their names."""
    if not len(frame):
        return []
    rows = frame[frame[y].notna()].sort_values(x, kind="stable")
    names = labels(rows, group)
    if recorded and (machines := places(rows)).nunique() > 1:
        names = names + ", " + machines
    about = [x, y, *([group] if isinstance(group, str) else group)]
    return [Line(label, recorded, part, _columns(part, x, y, label, recorded, about))
            for label, part in rows.groupby(names.to_numpy(), sort=False)]  # fmt: skip


def places(rows: pd.DataFrame) -> pd.Series:
    """The machine and the date of each recorded row, in words."""
    if "machine" in rows:
        return rows["machine"] + " · " + rows["date"]
    brief = {name: rows.attrs["provenance"][name] for name in ("device", "date")}
    return pd.Series(machine_line(brief), index=rows.index)


def provenance(rows: pd.DataFrame) -> Iterable[str]:
    """A sentence for every machine on which something of ``rows`` was recorded: when, in which dtype and shape."""
    for where, part in rows.groupby(places(rows).to_numpy(), sort=False):
        run = settings_line(rows.attrs["run"]) if "run" in rows.attrs else conditions(part.to_dict("records"))
        yield ", ".join(filter(None, (f"hollow: recorded on {where}", run)))


def looks(shown: Iterable[Line], group: str | Sequence[str]) -> dict[str, Look]:
    """A look for each name, no two alike: that of its method and implementation where the names say them, else a
    colour for each name. Live and recorded lines of one name look alike, but for the hollow markers."""
    columns = [group] if isinstance(group, str) else list(group)
    first = {line.label: line.rows.iloc[0] for line in reversed(list(shown))}
    names = list(dict.fromkeys(line.label for line in shown))
    colors = colors_of(names)
    found: dict[str, Look] = {}
    for place, name in enumerate(names):
        row = first[name]
        if {"method", "implementation"} & set(columns) and "implementation" in row:
            method = row.get("method")
            look = look_of(method if isinstance(method, str) else "", row["implementation"])
            if "direction" in columns and row["direction"] == "backward":
                look = replace(look, marker=_after(look.marker, 3))
        else:
            look = Look(colors[name], marker=MARKERS[place % len(MARKERS)])
        found[name] = _free(look, found.values(), colors[name])
    return found


def _free(wanted: Look, taken: Iterable[Look], color: str) -> Look:
    """The look that is wanted, with another marker where there is one like it, or with a colour of its own."""
    others = (replace(wanted, marker=_after(wanted.marker, step)) for step in range(len(MARKERS)))
    return next((look for look in others if look not in taken), replace(wanted, color=color))


def _after(marker: str, steps: int) -> str:
    return MARKERS[(MARKERS.index(marker) + steps) % len(MARKERS)]


def _columns(
    part: pd.DataFrame, x: str, y: str, label: str, recorded: bool, about: Sequence[str]
) -> dict[str, np.ndarray]:
    middle = part[y].to_numpy(dtype=float) / axis(y)[1]
    low, high = _band(part, y, middle)
    said = [conditions([row], without=about) for row in part.to_dict("records")]
    where = ("recorded on " + places(part)).tolist() if recorded else ["measured here"] * len(part)
    return {
        "x": part[x].to_numpy(dtype=float),
        "y": middle,
        "low": low,
        "high": high,
        "label": np.array([label] * len(part)),
        "repeats": part["repeats"].to_numpy() if "repeats" in part else np.ones(len(part)),
        "settings": np.array(said),
        "where": np.array(where),
    }


def _band(part: pd.DataFrame, y: str, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if {"low", "high"} <= set(part):
        return part["low"].to_numpy(dtype=float), part["high"].to_numpy(dtype=float)
    if "low_ms" not in part or (y != "median_ms" and y not in RATES):
        return middle, middle
    low, median, high = (part[name].to_numpy(dtype=float) for name in ("low_ms", "median_ms", "high_ms"))
    return (low, high) if y == "median_ms" else (middle * median / high, middle * median / low)


def empty(data: Mapping[str, Any]) -> dict[str, list]:
    return {column: [] for column in data}
