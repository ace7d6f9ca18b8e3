"""A machine with round figures, and lines of a cost sheet that are bound by each of its parts."""

from workbench import measure
from workbench.paper import Cost, Count

CHIP = measure.Machine("a chip", {"bfloat16": 1e12, "float32": 1e11}, 1e9, 2e9, 1e8, "made up")


def fixed(name: str, flops=0.0, moved=0.0, sent=0.0, held=0.0, **more) -> measure.Line:
    """A line whose cost depends on nothing; backward it has twice the FLOPs and three times the bytes."""
    counts = {"sent": Count(sent, "bytes")} if sent else {}
    cost = Cost(flops, moved, 2 * flops, 3 * moved, counts=counts)
    return measure.Line(name, lambda size, dtype: cost, lambda size, dtype, passes: held, **more)


LINES = [
    fixed("product", flops=2e12, moved=1e9), fixed("sum", flops=1e9, moved=1e9, times=3),
    fixed("all-reduce", moved=1e8, sent=1e8),
]  # fmt: skip
