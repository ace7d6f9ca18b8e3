"""What section 6 of a lesson measures: the fast implementation beside what one would otherwise take."""

from collections.abc import Mapping, Sequence
from typing import Any

from IPython.display import display

from workbench import measure, naming, plots, writing
from workbench.paper import Method
from workbench_widgets import page
from workbench_widgets.benchmark import Benchmark, benchmark, runnable
from workbench_widgets.session import Session


def show_fast(
    method: Method,
    sizes: Sequence[int],
    session: Session,
    *,
    x_label: str,
    against: str = "reference",
    y: str = "median_ms",
    dtype: str = "float32",
    shape: Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
    caption: str = "",
    memory: str = "",
    roofline: str = "",
) -> Benchmark:
    """Measure all implementations of ``method`` that run here, ``without`` some, at ``sizes``; show curves of column
    ``y`` under ``caption``, and from which size on ``fast`` is ahead of ``against``.

    With a caption for them, ``memory`` and ``roofline`` show the same rows once more: peak memory over the size, and
    time against the ceilings of this machine, which are measured. ``shape`` and ``dtype`` are those of the method's
    example; ``x_label`` says what a size is. Returns the benchmark, for the claims.
    """
    made = benchmark(
        runnable(method, device=session.device, dtype=dtype, without=without), sizes, y=y, x_label=x_label,
        device=session.device, dtype=dtype, shape=shape, budget_s=session.pick(ci=0.05, laptop=0.3), caption=caption,
    )  # fmt: skip
    display(made)
    page.show_html(f"<p>{page.escape(ahead(made, against, x_label))}</p>")
    machine = measure.machine_line(measure.machine(session.device))
    look = {"group": "implementation", "machine": machine}
    if memory:
        page.show(plots.curves(made.frame, "size", "peak_bytes", x_label=x_label, **look), caption=memory)
    if roofline:
        ceilings = measure.ceilings(session.device, dtype)
        page.show(plots.roofline(made.frame, ceilings, group="implementation"), caption=f"{roofline} {machine}")
    return made


def ahead(made: Benchmark, slow: str, x_label: str, quick: str = "fast") -> str:
    """From which size on ``quick`` is ahead of ``slow``, and by how much at the largest, in a sentence."""
    ratios = made.ratios(slow, quick)
    named = naming.implementation(slow, made.choices[0][0].name)
    if not ratios:
        return f"{quick} and {named} were not both measured."
    size, ratio = list(ratios.items())[-1]
    start = made.crossover(slow, quick)
    where = "at none of these sizes" if start is None else f"from {start:,} {x_label} on"
    return f"{quick} is ahead of {named} {where}; at {size:,} {x_label} it is {writing.number(ratio, 2)} times as fast."
