"""Machines that a cost can be reckoned for: rates, memory and link, and where each figure comes from."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import psutil
import torch

from workbench.measure.records import RECORDED, load_rows, machine
from workbench.measure.roofline import ceilings

CORNER = 0.98  # a row that moves this part of the best bytes a second may be limited by memory


@dataclass(frozen=True)
class Machine:
    """What one device can do at best.

    flops_per_s       of matrix products, by dtype ("bfloat16", "float32", "int8" ...), a multiply-add counting 2
    bytes_per_s       to and from its memory
    memory_bytes      that it has
    link_bytes_per_s  to its neighbours, in one direction; None: it has no link
    source            where the figures come from, in a sentence
    """

    name: str
    flops_per_s: Mapping[str, float]
    bytes_per_s: float
    memory_bytes: float
    link_bytes_per_s: float | None
    source: str

    def rate(self, dtype: str) -> float:
        """FLOPs a second in ``dtype``. Raises ``ValueError`` for one that the machine has no figure for."""
        if dtype not in self.flops_per_s:
            raise ValueError(f"{self.name} has no rate for {dtype}: it has {', '.join(self.flops_per_s)}.")
        return self.flops_per_s[dtype]

    def corner(self, dtype: str) -> float:
        """FLOPs a byte from which on arithmetic takes longer than memory."""
        return self.rate(dtype) / self.bytes_per_s


def _sheet(name: str, teraflops: Mapping[str, float], gigabytes_per_s: float, gigabytes: float, link: float, what: str):
    rates = {dtype: 1e12 * rate for dtype, rate in teraflops.items()}
    source = f"{what}: dense rates without sparsity, the link in one direction"
    return Machine(name, rates, 1e9 * gigabytes_per_s, 1e9 * gigabytes, 1e9 * link, source)


_HOPPER = {"bfloat16": 989, "float16": 989, "float32": 67, "float64": 67, "int8": 1979}
_AMPERE = {"bfloat16": 312, "float16": 312, "float32": 19.5, "float64": 19.5, "int8": 624}
_ADA = {"bfloat16": 165.2, "float16": 165.2, "float32": 82.6, "int8": 660.6}
DATA_SHEETS = (
    _sheet("NVIDIA H200", _HOPPER, 4800, 141, 450, "NVIDIA's data sheet of the H200 SXM"),
    _sheet("NVIDIA H100 80GB HBM3", _HOPPER, 3350, 80, 450, "NVIDIA's data sheet of the H100 SXM"),
    _sheet("NVIDIA A100 80GB SXM", _AMPERE, 2039, 80, 300, "NVIDIA's data sheet of the A100 80GB SXM"),
    _sheet("NVIDIA RTX 4090", _ADA, 1008, 24, 32, "NVIDIA's paper on Ada; its link is PCIe 4.0 x16"),
)


@functools.cache
def known_machines() -> Mapping[str, Machine]:
    """The declared machines by name: those that were measured first, "..., measured", then all by their data sheets."""
    measured = [found for sheet in DATA_SHEETS if (found := _measured(sheet))]
    sheets = [replace(sheet, name=f"{sheet.name}, data sheet") for sheet in DATA_SHEETS]
    return {each.name: each for each in (*measured, *sheets)}


def this_machine(device: str, dtype: str) -> Machine:
    """The one that this runs on: its rates in ``dtype``, measured now (under half a second, once per process)."""
    found = ceilings(device, dtype)
    on_gpu = device == "cuda"
    memory = torch.cuda.get_device_properties(0).total_memory if on_gpu else psutil.virtual_memory().total
    name = machine(device)["device"]
    source = "a large copy and a large matrix product, measured here"
    return Machine(name, {dtype: found.flops_per_s}, found.bytes_per_s, memory, None, source)


def _measured(sheet: Machine) -> Machine | None:
    """The machine with the rates that the recorded sweeps were held against; None: nothing was recorded on it.

    A row's floor is the larger one of flops / rate and bytes / rate, so one of the two rates can be read from it; which
    one, the other rows of the same run tell.
    """
    rates: dict[str, float] = {}
    bandwidth = 0.0
    for path in sorted(RECORDED.glob("*.json")):
        content = load_rows(path)
        if content["provenance"]["device"] != sheet.name:
            continue
        rows = [row for row in content["rows"] if row.get("floor_ms")]
        moved = [1e3 * row["bytes"] / row["floor_ms"] for row in rows]
        best = max(moved, default=0.0)
        bandwidth = max(bandwidth, best)
        for row, bytes_per_s in zip(rows, moved, strict=True):
            if bytes_per_s < CORNER * best:  # limited by arithmetic
                found = 1e3 * row["flops"] / row["floor_ms"]
                rates[row["dtype"]] = max(rates.get(row["dtype"], 0.0), found)
    if not rates:
        return None
    source = "a large copy and a large matrix product, measured on it and recorded; memory and link by its data sheet"
    return replace(sheet, name=f"{sheet.name}, measured", flops_per_s=rates, bytes_per_s=bandwidth, source=source)
