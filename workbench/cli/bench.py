"""``workbench bench``: recorded measurements as a table, or live ones."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from workbench import catalog, measure
from workbench.cli.papers import aligned
from workbench.measure.records import ABOUT
from workbench.writing import number

COMPUTE_BOUND = 30  # FLOPs per byte from which on TFLOP/s say more than GB/s
LABELS = ("method", "implementation", "direction", "size", "status", "reason", *ABOUT)


def show_recorded(slug: str | None) -> int:
    """Print what was recorded for one paper, or for all."""
    papers = [catalog.paper(slug)] if slug else list(catalog.papers())
    found = {paper.slug: measure.recorded(paper.slug) for paper in papers}
    if all(table is None for table in found.values()):
        raise ValueError(
            f"Nothing is recorded for {slug or 'any paper'}: measure here with workbench bench SLUG --live."
        )
    for name, table in found.items():
        if table is not None:
            print(f"{name}, recorded on {measure.machine_line(table.attrs['provenance'])}\n")
            print("\n".join(lines(table)))
    for table in [] if slug else measure.recorded_host():
        print("\n".join(host_lines(table.to_dict("records"), table.attrs["provenance"])))
    return 0


def record_here(slug: str) -> None:
    """Make the recordings of one paper on this machine and write them into the package."""
    paper, device = catalog.paper(slug), measure.pick_device("auto")
    if not paper.recordings:
        raise ValueError(f"{slug} names no recordings.")
    for row in measure.record(paper, device):
        figure = f"{row['median_ms']:.3f} ms" if row["status"] == "ok" else f"{row['status']}: {row['reason']}"
        print(row["group"], row["method"], row["implementation"], row["direction"], row["size"], figure, flush=True)


def measure_host(slug: str | None, record: bool) -> int:
    """Measure what a call costs the host, for one paper's methods or for all, and print it; ``record`` keeps it."""
    device = measure.pick_device("auto")
    if record and slug:
        raise ValueError("--host --record keeps one table of all methods: name no paper.")
    methods = catalog.paper(slug).methods if slug else None
    rows = measure.record_host(device) if record else measure.host_times(device, methods=methods)
    print("\n".join(host_lines(rows, measure.machine(device))))
    return 0


def host_lines(rows: Iterable[Mapping[str, Any]], machine: Mapping[str, str]) -> list[str]:
    """Microseconds a call as aligned text, under a heading, with what is wrong at its end."""
    columns = {"call": "call_us", "with gradients": "with_gradients_us", "backward": "backward_us"}
    rows, cells = list(rows), []
    for row in rows:
        times = {title: row.get(name) for title, name in columns.items()}
        shown = {title: "" if time is None or time != time else number(time) for title, time in times.items()}
        cells.append({"": row["name"], "dtype": row["dtype"], **shown})
    notes = [f"{row['name']}: {row['reason']}" for row in rows if row["reason"]]
    heading = f"microseconds of the host for one call, {measure.machine_line(machine)}"
    return [heading, "", *aligned(cells, right=tuple(columns)), "", *notes]


def measure_here(
    slug: str,
    *,
    methods: Sequence[str] | None,
    implementations: Sequence[str] | None,
    directions: Sequence[str] | None,
    sizes: str,
    device: str,
    dtype: str,
    seconds: float,
    time_limit: float,
    output: str | None,
    shape: Mapping[str, Any],
    options: Mapping[str, Any],
) -> int:
    """Measure on this machine, print the table, write the rows down when ``output`` names a file.

    Interrupted (Ctrl-C), it prints what it has.
    """
    paper, device = catalog.paper(slug), measure.pick_device(device)
    chosen = [paper.method(name) for name in methods] if methods else paper.methods
    choices = [
        (method, name)
        for method in chosen
        for name in method.implementations
        if not implementations or name in implementations
    ]
    if unknown := set(implementations or ()) - {name for method in chosen for name in method.implementations}:
        known = dict.fromkeys(name for method in chosen for name in method.implementations)
        raise ValueError(f"No implementation {', '.join(sorted(unknown))} here: choose {', '.join(known)}.")
    try:
        numbers = [int(size) for size in sizes.split(",")]
    except ValueError:
        raise ValueError(f"--sizes takes whole numbers with commas between them, not {sizes!r}.") from None
    directions = directions or ["forward", "backward"]
    settings = {"device": device, "dtype": dtype, "shape": shape, "options": options, "directions": directions}
    sweep = measure.sweep(choices, numbers, budget_s=seconds, time_limit_s=time_limit, **settings)

    rows, total = [], len(choices) * len(numbers) * len(directions)
    try:
        for row in sweep:
            rows.append(row)
            if sys.stderr.isatty():
                print(f"\r{len(rows)} of {total}", end="\r", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(f"stopped after {len(rows)} of {total}", file=sys.stderr)
    print(f"{slug}, measured on {measure.machine_line(measure.machine(device))}\n")
    print("\n".join(lines(measure.frame(rows))))
    if output:
        measure.save(rows, output, device)
    return 0


def lines(table: pd.DataFrame) -> list[str]:
    """The table as aligned text: a block for each group, method, direction and dtype, with the settings that are the
    same everywhere in its heading."""
    table = table.assign(group=table["group"].fillna("") if "group" in table else "")
    made = []
    for (*names, dtype), part in table.groupby(["group", "method", "direction", "dtype"], sort=False):
        settings = part[[name for name in part if name not in (*LABELS, *measure.COLUMNS)]]
        settings = settings.apply(lambda column: column.map(_plain))
        varying = [name for name in settings if settings[name].nunique() > 1]
        fixed = [name for name in settings if name not in varying and settings[name].iloc[0]]
        made.append(", ".join([*filter(None, names), dtype, *(f"{name} {settings[name].iloc[0]}" for name in fixed)]))
        speed_ups = _speed_ups(part, settings)
        against = dict.fromkeys(name for found in speed_ups.values() for name in found)
        cells = []
        for index, row in zip(part.index, part.to_dict("records"), strict=True):
            found = speed_ups.get(index, {})
            cells.append(_cells(row, settings.loc[index, varying]) | {name: found.get(name, "") for name in against})
        made += aligned(cells, right=tuple(name for name in cells[0] if name not in ("implementation", "shape")))
        made += ["", *_notes(part)]
    return made


def _cells(row: Mapping[str, Any], shape: pd.Series) -> dict[str, str]:
    cells = {"size": f"{row['size']:,.0f}"}
    if len(shape):
        cells["shape"] = ", ".join(f"{name} {value}" for name, value in shape.items() if value)
    cells["implementation"] = row["implementation"]
    if row["status"] != "ok":
        return {**cells, "ms": row["status"], "20 % to 80 %": "", "rate": "", "of the limit": ""}
    by_flops = row["flops"] >= COMPUTE_BOUND * row["bytes"]
    rate = f"{number(row['tflops_per_s'])} TFLOP/s" if by_flops else f"{number(row['gb_per_s'])} GB/s"
    cells |= {"ms": number(row["median_ms"]), "20 % to 80 %": f"{number(row['low_ms'])} to {number(row['high_ms'])}"}
    return {**cells, "rate": rate, "of the limit": f"{row['roofline']:.0%}" if pd.notna(row["roofline"]) else ""}


def _speed_ups(part: pd.DataFrame, settings: pd.DataFrame) -> dict[Any, dict[str, str]]:
    """For every row of ``fast``: how many times faster it is than each other implementation of the same call."""
    keys = pd.concat([part["size"], settings], axis=1).astype(str).agg("|".join, axis=1)
    times = {
        (key, name): time
        for key, name, time in zip(keys, part["implementation"], part["median_ms"], strict=True)
        if pd.notna(time)
    }
    others = [name for name in dict.fromkeys(part["implementation"]) if name != "fast"]
    return {
        index: {f"x {name}": f"{times[key, name] / times[key, 'fast']:.2f}" for name in others if (key, name) in times}
        for index, key, name in zip(part.index, keys, part["implementation"], strict=True)
        if name == "fast" and (key, "fast") in times
    }


def _notes(part: pd.DataFrame) -> list[str]:
    """What the rows have to say, each sentence once, with whom it is about."""
    about: dict[str, dict[str, None]] = {}
    for name, reason in zip(part["implementation"], part["reason"], strict=True):
        if isinstance(reason, str) and reason:
            about.setdefault(reason, {})[name] = None
    notes = [f"{', '.join(names)}: {reason}" for reason, names in about.items()]
    return [*notes, ""] if notes else []


def _plain(value: Any) -> str:
    """A setting in words; an empty one is not mentioned."""
    if value is None or value is False or value != value:
        return ""
    return "yes" if value is True else number(value) if isinstance(value, float) else str(value)
