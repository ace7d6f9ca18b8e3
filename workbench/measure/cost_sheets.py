"""A cost sheet: from what methods say they cost to the least time on a machine, and what sets it. Nothing is timed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from workbench import controls
from workbench.measure.machines import Machine
from workbench.measure.rows import estimate_bytes
from workbench.paper import Cost, Example, Method

Passes = Literal["forward", "training"]
RESOURCES = ("compute", "memory", "link")


@dataclass(frozen=True)
class Line:
    """One line of a sheet: ``times`` calls of something.

    cost(size, dtype) -> Cost of one call; of its counts "sent" (in bytes) goes over the link
    held(size, dtype, passes) -> bytes of memory that one call needs at its peak, inputs and results included
    """

    name: str
    cost: Callable[[int, str], Cost]
    held: Callable[[int, str, Passes], float]
    times: int = 1


def line(method: Method, *, implementation: str = "fast", name: str = "", times: int = 1, **settings: Any) -> Line:
    """A line for a method; ``settings`` are knobs of its example and of its own. A size is what ``method.example``
    takes. Raises ``ValueError`` for an unknown implementation, and for knobs that the method does not have."""
    method.function(implementation)
    if unknown := set(settings) - set(method.knobs) - set(method.shape_knobs):
        raise ValueError(f"{method.name} has no knob {', '.join(sorted(unknown))}.")
    options = controls.validate(method.reference, {n: v for n, v in settings.items() if n in method.knobs})
    shape = controls.validate(method.example, {n: v for n, v in settings.items() if n in method.shape_knobs})

    def example(size: int, dtype: str) -> Example:
        made = method.example(size, device="meta", dtype=dtype, **shape)
        return Example(made.inputs, {**made.options, **options})

    def cost(size: int, dtype: str) -> Cost:
        made = example(size, dtype)
        return method.cost(*made.inputs.values(), **made.options)

    def held(size: int, dtype: str, passes: Passes) -> float:
        direction = "forward" if passes == "forward" else "backward"
        return estimate_bytes(method, implementation, example(size, dtype), direction)

    return Line(name or method.title, cost, held, times)


def cost_sheet(
    lines: Iterable[Line], machine: Machine, *, size: int, dtype: str = "bfloat16", passes: Passes = "forward"
) -> pd.DataFrame:
    """A row a line: what its calls cost together, and the least time that the machine needs for them.

    Columns: line, times, flops, bytes, sent (bytes), held (bytes, of one call), intensity (FLOPs a byte), compute_ms,
    memory_ms, link_ms, floor_ms and bound. The floor is the longest of the three times, as if they overlapped fully and
    every FLOP were one of a matrix product; ``bound`` names the one that it is. No implementation is quicker, unless
    its data stays in a cache. ``passes="training"`` adds the backward pass.

    Raises ``ValueError`` for a dtype that the machine has no rate for, for bytes to send where it has no link, and for
    two lines of one name.
    """
    rate, lines = machine.rate(dtype), list(lines)
    if len({each.name for each in lines}) < len(lines):
        raise ValueError(f"Every line needs a name of its own: {', '.join(each.name for each in lines)}.")
    rows = []
    for each in lines:
        cost = each.cost(size, dtype)
        training = passes == "training"
        flops = each.times * (cost.flops + training * cost.backward_flops)
        moved = each.times * (cost.bytes + training * cost.backward_bytes)
        sent = each.times * (cost.counts["sent"].value if "sent" in cost.counts else 0.0)
        if sent and not machine.link_bytes_per_s:
            raise ValueError(f"{each.name} sends {sent:,.0f} bytes, and {machine.name} has no link.")
        link_ms = 1e3 * sent / machine.link_bytes_per_s if sent else 0.0
        times = {"compute": 1e3 * flops / rate, "memory": 1e3 * moved / machine.bytes_per_s, "link": link_ms}
        rows.append(
            {
                "line": each.name, "times": each.times, "flops": flops, "bytes": moved, "sent": sent,
                "held": each.held(size, dtype, passes), "intensity": flops / moved if moved else float("inf"),
                **{f"{resource}_ms": time for resource, time in times.items()},
                "floor_ms": max(times.values()), "bound": max(times, key=times.__getitem__),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
