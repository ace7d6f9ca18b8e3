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

RECORDED = Path(__file__).parents[1] / "recorded"

COLUMNS = (
    "method", "implementation", "direction", "size", "dtype", "device", "replayed", "status", "reason", "median_ms",
    "low_ms", "high_ms", "repeats", "peak_bytes", "error", "budget", "flops", "bytes", "tflops_per_s", "gb_per_s",
    "floor_ms", "roofline",
)  # fmt: skip


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
    """What ``save`` wrote, with the machine in ``.attrs["provenance"]``."""
    content = load_rows(path)
    table = frame(content["rows"])
    table.attrs["provenance"] = content["provenance"]
    return table


def load_rows(path: str | Path) -> dict[str, Any]:
    """The content of a file that ``save`` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def recorded(slug: str) -> pd.DataFrame | None:
    """The measurements that ship with the workbench for the paper ``slug``; None when there are none."""
    path = RECORDED / f"{slug}.json"
    return load(path) if path.exists() else None


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
    parts = [provenance.get("device", "unknown device")]
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
