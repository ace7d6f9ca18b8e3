"""From which size on does a method pay? Read from what was measured, never typed."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Crossover:
    """Of one method in one setting: the smallest measured ``size`` from which on ``fast`` is quicker than every other
    implementation, beyond the spread of both; None: at the largest one it is not. ``opponent`` is the quickest of the
    others at the largest size, ``ratio`` its time over that of ``fast`` there; ``level`` says that the two cannot be
    told apart there.
    """

    method: str
    setting: str
    direction: str
    size: int | None
    largest: int
    opponent: str
    ratio: float
    level: bool = False

    def __str__(self) -> str:
        where = f"{self.method}, {self.direction}" + (f" ({self.setting})" if self.setting else "")
        if self.level:
            return f"{where}: level with {self.opponent} at size {self.largest:,}."
        there = f"{self.ratio:.2f} x as quick as {self.opponent} at {self.largest:,}"
        if self.size is None:
            return f"{where}: not ahead up to size {self.largest:,} ({there})."
        return f"{where}: ahead from size {self.size:,} on ({there})."


def crossovers(table: pd.DataFrame) -> Iterator[Crossover]:
    """One for each method, direction and group of a table of measurements (``measure.recorded``, ``measure.frame``) in
    which ``fast`` was measured beside something else."""
    rows = table[(table["status"] == "ok") & table["median_ms"].notna()]
    rows = rows.assign(group=rows["group"].fillna("") if "group" in rows else "")
    for (group, method, direction), part in rows.groupby(["group", "method", "direction"], sort=False):
        if (found := _crossover(part)) is not None:
            yield Crossover(method, group, direction, **found)


def _crossover(part: pd.DataFrame) -> dict | None:
    fast = part[part["implementation"] == "fast"].set_index("size").sort_index()
    others = part[part["implementation"] != "fast"]
    quickest = others.loc[others.groupby("size")["median_ms"].idxmin()].set_index("size")
    both = fast.index.intersection(quickest.index)
    if not len(both):
        return None
    fast, quickest = fast.loc[both], quickest.loc[both]
    ahead = fast["high_ms"] < quickest["low_ms"]
    behind = both[~ahead]
    after = both[both > behind[-1]] if len(behind) else both
    last = both[-1]
    return {
        "size": int(after[0]) if len(after) else None,
        "largest": int(last),
        "opponent": quickest.loc[last, "implementation"],
        "ratio": float(quickest.loc[last, "median_ms"] / fast.loc[last, "median_ms"]),
        "level": bool(not ahead[last] and quickest.loc[last, "high_ms"] >= fast.loc[last, "low_ms"]),
    }
