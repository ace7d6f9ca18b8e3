"""Several contestants over what they cost: the median of their seeds in a band, on an axis of anyone's choice."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from workbench.plots import svg
from workbench.plots.cells import short
from workbench.plots.looks import colors_of

SIZE = (560, 180)  # of a sketch, pixels
MOST_PLACES = 80  # of a line, where seeds do not report at the same costs


def over_cost(table: pd.DataFrame, x: str, y: str, *, by: str, seed: str = "seed") -> pd.DataFrame:
    """Each contestant's median over its seeds, with the band from the 20th to the 80th percentile, at equal costs.

    ``table`` has a row a report, with columns ``x`` (a cost that grows), ``y``, ``by`` and ``seed``. Where the seeds of
    a contestant report at different costs (seconds, for instance), each is taken on straight lines between its reports.
    Seeds that have not come that far do not count: ``repeats`` says how many do. Columns of the result: line, x, y,
    low, high, repeats.
    """
    found = [
        _line(str(line), runs, x, y) for line, runs in _runs(table, x, y, by, seed).items() if len(_places(runs))
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["line", x, y, *BAND])


BAND = ("low", "high", "repeats")


def reached_by_all(table: pd.DataFrame, x: str, y: str, *, by: str, seed: str = "seed") -> float | None:
    """The largest cost that every seed of every contestant has come to; None where there are no rows."""
    rows = table.dropna(subset=[x, y])
    return float(rows.groupby([by, seed])[x].max().min()) if len(rows) else None


def at_cost(table: pd.DataFrame, cost: float, x: str, y: str, *, by: str, seed: str = "seed") -> pd.DataFrame:
    """What each contestant has at ``cost``: median, low, high (20th and 80th percentile) and repeats, by contestant;
    between two reports on a straight line."""
    found = {}
    for line, runs in _runs(table, x, y, by, seed).items():
        values = np.array([np.interp(cost, *run) for run in runs])
        low, median, high = np.quantile(values, (0.2, 0.5, 0.8))
        found[line] = {"median": median, "low": low, "high": high, "repeats": len(values)}
    return pd.DataFrame.from_dict(found, orient="index")


def _runs(table: pd.DataFrame, x: str, y: str, by: str, seed: str) -> dict[str, list[np.ndarray]]:
    """For each contestant the (x, y) of its seeds, each (2, reports), in order of cost."""
    numbers = table.assign(**{name: pd.to_numeric(table[name]) for name in (x, y)}).dropna(subset=[x, y])
    return {
        line: [run.sort_values(x)[[x, y]].to_numpy(float).T for _, run in part.groupby(seed, sort=False)]
        for line, part in numbers.groupby(by, sort=False)
    }


def _places(runs: list[np.ndarray]) -> np.ndarray:
    """Where a line has its points: the reports themselves where all seeds have the same, else evenly between."""
    longest = max(runs, key=lambda run: run.shape[1])[0]
    if all(np.array_equal(run[0], longest[: run.shape[1]]) for run in runs):
        return longest
    first, last = max(run[0][0] for run in runs), max(run[0][-1] for run in runs)
    count = min(MOST_PLACES, len(longest))
    return np.linspace(first, last, count) if first < last else np.empty(0)


def _line(name: str, runs: list[np.ndarray], x: str, y: str) -> pd.DataFrame:
    places = _places(runs)
    values = np.stack([np.interp(places, *run, right=np.nan) for run in runs])
    low, middle, high = np.nanquantile(values, (0.2, 0.5, 0.8), axis=0)
    repeats = np.isfinite(values).sum(0)
    return pd.DataFrame({"line": name, x: places, y: middle, "low": low, "high": high, "repeats": repeats})


def sketch(
    lines: pd.DataFrame, x: str, y: str, heading: Callable[[str], str], *, log_x: bool = False, log_y: bool = False
) -> str:
    """What ``over_cost`` gives as a small SVG without a script, for a cell that is still running: medians alone."""
    width, height = SIZE
    kept = lines[(lines[x] > 0) | (not log_x)]
    kept = kept[np.isfinite(kept[y]) & ((kept[y] > 0) | (not log_y))]
    if not len(kept):
        return ""

    def scaled(name: str, log: bool, size: float) -> pd.Series:
        values = np.log(kept[name]) if log else kept[name]
        return size * (values - values.min()) / ((values.max() - values.min()) or 1.0)

    across, up = scaled(x, log_x, width), scaled(y, log_y, height)
    drawn = [svg.line(50, height + 10, width + 50, height + 10), svg.line(50, 10, 50, height + 10)]
    for place, value in ((14, kept[y].max()), (height + 10, kept[y].min())):
        drawn.append(svg.text(44, place, short(value), "end", size=12))
    drawn.append(svg.text(width + 50, height + 26, f"{heading(x)} {short(kept[x].max())}", "end", size=12))
    drawn.append(svg.text(56, 14, heading(y), size=12))
    left = 50.0
    for name, color in colors_of(kept["line"].unique()).items():
        own = kept["line"] == name
        places = " ".join(f"{50 + a:.1f},{height + 10 - b:.1f}" for a, b in zip(across[own], up[own], strict=True))
        drawn.append(f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2.5"/>')
        drawn += [svg.box(left, height + 36, 11, 11, color), svg.text(left + 16, height + 46, name)]
        left += 40 + 7.5 * len(name)
    return svg.picture(max(width + 60, left), height + 54, drawn, f"{heading(y)} over {heading(x)} so far")
