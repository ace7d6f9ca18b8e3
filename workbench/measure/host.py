"""What a call costs the host: how long Python is busy before the device may do the work.

With little data that is all that a call takes, so it is told for every method, beside what PyTorch's own GELU and
attention take on the same machine in the same run.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from workbench import catalog
from workbench.measure.correctness import Check, leaves
from workbench.measure.memory import tensors
from workbench.measure.records import RECORDED, load, save
from workbench.measure.timing import Stop, time_host
from workbench.paper import Example, Method, standard_normal
from workbench.writing import number

SIZE = 128  # rows or tokens: so few that a GPU has finished before the host asks for the next call
TIMES = ("call_us", "with_gradients_us", "backward_us")
COLUMNS = ("name", *TIMES, "device", "dtype", "status", "reason")


def host_times(
    device: str, *, methods: Iterable[Method] | None = None, budget_s: float = 0.1, cancelled: Stop = None
) -> Iterator[dict[str, Any]]:
    """Microseconds of one call that needs no gradient, of one that does, and of its backward pass; one row each.

    PyTorch's GELU and attention come first, then every method (or ``methods``) as a user calls it, with ``SIZE`` rows
    or tokens in bfloat16 (on a CPU float32) where it takes them. A method without a gradient has no times for it.
    ``status`` is ``"ok"``, or ``"wrong"`` with the ``reason``: what differs from the reference gets no time.
    """
    dtype = "bfloat16" if device == "cuda" else "float32"
    for name, function, shapes in (
        ("torch gelu", torch.nn.functional.gelu, [(SIZE, 1024)]),
        ("torch attention", torch.nn.functional.scaled_dot_product_attention, 3 * [(1, 8, SIZE, 64)]),
    ):
        inputs = {str(i): standard_normal(s, device=device, dtype=dtype, seed=i) for i, s in enumerate(shapes)}
        row = {"name": name, "device": device, "dtype": dtype, "status": "ok", "reason": ""}
        yield row | _times(function, Example(inputs), True, device, budget_s, cancelled)
    for method in catalog.methods().values() if methods is None else methods:
        known = method.traits.dtypes
        example = method.example(
            min(SIZE, method.largest or SIZE), device=device, dtype=dtype if dtype in known else known[0],
            **({"batch": 1} if "batch" in method.shape_knobs else {}),
        )  # fmt: skip
        row = {"name": method.name, "device": device, "dtype": str(_dtype(example))[6:], "status": "ok", "reason": ""}
        chosen = "reference" if method.why_not("fast", *example.inputs.values(), **example.options) else "fast"
        error, budget = Check(method, example).error(chosen)
        if error <= budget:
            gradients = method.traits.gradients > 0
            yield row | _times(method, example, gradients, device, budget_s, cancelled)
        else:
            reason = f"Differs from the reference by {number(error, 2)}; {number(budget, 2)} is allowed."
            yield row | {"status": "wrong", "reason": reason}


def record_host(device: str, cancelled: Stop = None) -> list[dict[str, Any]]:
    """``host_times`` of every method, kept in the package as what such a device's host takes."""
    rows = list(host_times(device, cancelled=cancelled))
    save(rows, _path(device), device)
    return rows


def recorded_host() -> list[pd.DataFrame]:
    """The tables that ship with the workbench, GPU first, each with its machine in ``.attrs["provenance"]``."""
    tables = [load(_path(device)) for device in ("cuda", "cpu") if _path(device).exists()]
    return [table[list(COLUMNS)] for table in tables]


def _path(device: str) -> Path:
    return RECORDED / "host" / f"{device}.json"


def _dtype(example: Example) -> torch.dtype:
    return next(tensor.dtype for tensor in tensors(example.inputs) if tensor.is_floating_point())


def _times(
    function: Callable[..., Any],
    example: Example,
    gradients: bool,
    device: str,
    budget_s: float,
    cancelled: Stop,
) -> Mapping[str, float]:
    def call() -> Any:
        return function(*example.inputs.values(), **example.options)

    def microseconds(call: Callable[[], Any]) -> float:
        return 1e3 * time_host(call, device, budget_s=budget_s, cancelled=cancelled).median_ms

    found = {"call_us": microseconds(call)}
    if gradients:
        example = leaves(example, _dtype(example), gradients=True)
        found["with_gradients_us"] = microseconds(call)
        outputs = [output for output in tensors(call()) if output.requires_grad]
        wanted = [tensor for tensor in tensors(example.inputs) if tensor.requires_grad]
        above = [torch.randn_like(output) for output in outputs]
        found["backward_us"] = microseconds(
            lambda: torch.autograd.grad(outputs, wanted, above, retain_graph=True, allow_unused=True)
        )
    return found
