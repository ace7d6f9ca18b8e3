"""Rows as a tidy table and as a file that says where they came from."""

import datetime
import functools
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.writing import number

RECORDED = Path(__file__).parents[1] / "recorded"

COLUMNS = (
    "method", "implementation", "direction", "size", "dtype", "device", "replayed", "status", "reason", "median_ms",
    "low_ms", "high_ms", "repeats", "peak_bytes", "error", "budget", "flops", "bytes", "tflops_per_s", "gb_per_s",
    "floor_ms", "roofline",
)  # fmt: skip
ABOUT = ("group", "machine", "date")  # what else a recorded row says: in which setting, on which machine, when


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A tidy table: one row a measurement, ``COLUMNS`` first, then shape knobs and options (empty where a method has
    none of that name)."""
    rows = list(rows)
    others = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    return pd.DataFrame(rows, columns=[*COLUMNS, *others])


def save(rows: Iterable[Mapping[str, Any]], path: str | Path, device: str, **settings: Any) -> None:
    """Write ``{"provenance": machine(device), <settings>, "rows": [...]}`` as JSON, one row a line, missing numbers as
    null."""
    lines = ",\n".join("  " + json.dumps({name: _plain(value) for name, value in row.items()}) for row in rows)
    head = json.dumps({"provenance": machine(device), **settings}, indent=1).removesuffix("\n}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(f'{head},\n "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def load(path: str | Path) -> pd.DataFrame:
    """What ``save`` wrote, every row with its ``machine`` and ``date``; all that is known of the machine is in
    ``.attrs["provenance"]``. Raises ``ValueError`` as ``load_rows`` does."""
    content = load_rows(path)
    provenance = content["provenance"]
    table = frame({**row, "machine": provenance["device"], "date": provenance["date"]} for row in content["rows"])
    table.attrs["provenance"] = provenance
    return table


def load_rows(path: str | Path) -> dict[str, Any]:
    """The content of a file that ``save`` wrote. Raises ``ValueError`` for one that does not say on which machine and
    when it was made: a number belongs to the machine that made it."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    missing = [name for name in ("device", "date") if not content.get("provenance", {}).get(name)]
    if missing:
        raise ValueError(f"{Path(path).name} does not say its {' and '.join(missing)}: record it again with measure.")
    return content


def recorded(slug: str) -> pd.DataFrame | None:
    """The measurements that ship with the workbench for the paper ``slug``; None when there are none."""
    path = RECORDED / f"{slug}.json"
    return load(path) if path.exists() else None


def conditions(rows: Iterable[Mapping[str, Any]], *, without: Iterable[str] = ()) -> str:
    """What all these measurements share, in words: dtype, shape, knobs, but for the columns ``without``. A knob that is
    empty or off is not mentioned."""
    said = [_settings(row) for row in rows]
    first = said[0] if said else {}
    shared = [name for name in first if name not in without and all(each.get(name) == first[name] for each in said)]
    return ", ".join(first[name] for name in shared)


def _settings(row: Mapping[str, Any]) -> dict[str, str]:
    """The words for each setting of one measurement, by column."""
    found = {}
    if isinstance(row.get("dtype"), str):
        found["dtype"] = row["dtype"]
    if row.get("replayed") is True:
        found["replayed"] = "as a CUDA graph"
    if "method" in row:
        for name, value in row.items():
            if name in COLUMNS or name in ABOUT or value is None or value is False or value != value:
                continue
            words = name.replace("_", " ")
            # A column of whole numbers with gaps is one of floats.
            plain = int(value) if isinstance(value, float) and value.is_integer() else value
            found[name] = words if value is True else f"{words} {number(plain) if _is_number(plain) else plain}"
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def machine(device: str) -> dict[str, str]:
    """Where a measurement was made: device, cores, versions, date, and the commit when this is a checkout."""
    import torch

    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "date": datetime.date.today().isoformat(),
    }
    if device == "cuda":
        found["cuda"] = torch.version.cuda
    if commit := _commit():
        found["commit"] = commit
    return found


def machine_line(provenance: Mapping[str, str]) -> str:
    """One line for the corner of a figure or the top of a table."""
    parts = [provenance["device"]]
    if "cuda" not in provenance and "cores" in provenance:
        parts.append(f"{provenance['cores']} cores")
    parts += [f"{name} {provenance[name]}" for name in ("torch", "triton") if provenance.get(name, "none") != "none"]
    return " · ".join([*parts, *(provenance[name] for name in ("date",) if name in provenance)])


@functools.cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


@functools.cache
def _commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _plain(value: Any) -> Any:
    """``value`` as JSON knows it: NaN and infinity have no place there."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
