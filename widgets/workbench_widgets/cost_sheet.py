"""A cost sheet for a chosen machine: what every line of a network costs at least, and why. Nothing is timed."""

from collections.abc import Sequence
from typing import Any, get_args

import ipywidgets
import pandas as pd
from jupyter_bokeh.widgets import BokehModel

from workbench import measure, plots
from workbench.measure.cost_sheets import Line, Passes
from workbench.measure.machines import Machine, known_machines
from workbench.measure.memory import in_words
from workbench.paper import Method
from workbench.writing import number
from workbench_widgets import page
from workbench_widgets.frames import WRAP, fitted

DTYPES = ("bfloat16", "float16", "float32", "float64", "int8")
LARGEST = 2**20
HEADINGS = ("", "calls", "GFLOP", "memory traffic", "FLOPs a byte", "least time (ms)", "set by", "memory of a call")


class CostSheet(page.WithStill):
    """Made by ``cost_sheet``. ``set(machine=, dtype=, size=, passes=)`` turns a knob; ``table`` holds the sheet."""

    def __init__(self, lines: list[Line], known: dict[str, Machine], x_label: str, caption: str, **start: Any) -> None:
        self.lines, self.machines, self._caption = lines, known, caption
        self._turning = False
        sizes = sorted({2**power for power in range(LARGEST.bit_length())} | {start["size"]})
        choices = {
            "machine": list(known),
            "size": [(f"{size:,}", size) for size in sizes],
            "dtype": list(DTYPES),
            "passes": [("forward", "forward"), ("forward and backward", "training")],
        }
        words = {"size": x_label, "passes": "pass"}
        self.widgets = {
            name: ipywidgets.Dropdown(
                options=options, value=start[name], description=words.get(name, name), layout={"width": "22em"},
                style={"description_width": "5em"},
            )
            for name, options in choices.items()
        }  # fmt: skip
        for each in self.widgets.values():
            each.observe(lambda _: self._draw(), "value")
        self.table = self._sheet()
        self._said = ipywidgets.HTML(self._words(), layout={"width": "100%"})
        self._places = [BokehModel(made) for made in self._figures()]
        for place in self._places:
            place.layout = ipywidgets.Layout(flex="1 1 320px", min_width="240px")
        controls, figures = (
            ipywidgets.HBox(parts, layout=WRAP) for parts in (list(self.widgets.values()), self._places)
        )
        self.live = ipywidgets.VBox([controls, figures, self._said])

    @property
    def still(self) -> str:
        """The sheet as the knobs stand."""
        columns = "display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:1em"
        return f'<div style="{columns}">{page.figures_html(self._figures())}</div>{self._words()}'

    @property
    def machine(self) -> Machine:
        """The one that is chosen."""
        return self.machines[self.widgets["machine"].value]

    @property
    def floor_ms(self) -> float:
        """The floors of all lines, one after the other."""
        return float(self.table["floor_ms"].sum())

    def set(self, **values: Any) -> None:
        """Turn knobs; traitlets' ``TraitError`` for what is not on a menu, ``KeyError`` for another name."""
        self._turning = True  # drawn once, when all are turned
        try:
            for name, value in values.items():
                self.widgets[name].value = value
        finally:
            self._turning = False
        self._draw()

    def _sheet(self) -> pd.DataFrame:
        chosen = {name: self.widgets[name].value for name in ("size", "dtype", "passes")}
        return measure.cost_sheet(self.lines, self.machine, **chosen)

    def _draw(self) -> None:
        if self._turning:
            return
        try:
            self.table = self._sheet()
        except ValueError as error:
            self._said.value = f'<div class="wb-box wb-open">{page.escape(error)}</div>'
            return
        for place, made in zip(self._places, self._figures(), strict=True):
            place.update_from_model(made)
        self._said.value = self._words()

    def _figures(self) -> list[Any]:
        rate, size = self.machine.rate(self.widgets["dtype"].value), self.widgets["size"].value
        limits = {"bytes_per_s": self.machine.bytes_per_s, "flops_per_s": rate}
        computed = self.table[self.table["flops"] > 0]  # a line that only moves bytes has no place on a log axis
        rates = computed["flops"] / computed["floor_ms"] / 1e9
        dots = computed.assign(tflops_per_s=rates, roofline=1.0, size=size)
        return [plots.cost_bars(self.table, machine=self.machine.name), plots.roofline(dots, limits, group="line")]

    def _words(self) -> str:
        rows = [
            (page.escape(row.line), row.times, number(row.flops / 1e9), in_words(row.bytes), number(row.intensity),
             number(row.floor_ms), row.bound, in_words(row.held))
            for row in self.table.itertuples()
        ]  # fmt: skip
        dtype, largest = self.widgets["dtype"].value, self.table["held"].max()
        fits = "fits" if largest <= self.machine.memory_bytes else "does not fit"
        words = (
            f"An estimate, not a measurement: the least time of all lines, one after the other, is "
            f"{number(self.floor_ms)} ms. From {self.machine.corner(dtype):,.0f} FLOPs a byte on, arithmetic takes "
            f"longer than memory. The largest line {fits}: {in_words(largest)} of "
            f"{in_words(self.machine.memory_bytes)}. Rates: {page.escape(self.machine.source)}."
        )
        scrolled = f'<div style="overflow-x:auto">{page.table_html(HEADINGS, rows)}</div>'
        return fitted(scrolled + page.caption_html(" ".join(filter(None, [self._caption, words]))))


def cost_sheet(
    lines: Sequence[Line | Method],
    *,
    size: int,
    machine: str | Machine = "NVIDIA H200, measured",
    dtype: str = "bfloat16",
    passes: Passes = "forward",
    x_label: str = "size",
    caption: str = "",
) -> CostSheet:
    """What a network costs at least on a machine: for each line arithmetic, memory and link, and which one sets it.

    ``lines`` are methods, or ``measure.line(method, times=12, name=..., <knobs>)``, or ``measure.Line`` with formulas
    of one's own; a whole layer is several. ``machine`` is the name of one of ``measure.known_machines()``, or another
    one, such as ``measure.this_machine(device, dtype)``; a menu holds them all. ``x_label`` says what a size is.
    Raises ``ValueError`` for an unknown machine, for a dtype that it has no rate for, and for no lines at all.
    """
    made = [each if isinstance(each, Line) else measure.line(each) for each in lines]
    if not made:
        raise ValueError("A cost sheet has one line or more.")
    known = dict(known_machines())
    if isinstance(machine, Machine):
        known = {machine.name: machine, **known}
    name = machine.name if isinstance(machine, Machine) else machine
    if name not in known:
        raise ValueError(f"There is no machine {name!r}: there are {', '.join(known)}.")
    if passes not in get_args(Passes) or dtype not in DTYPES:
        raise ValueError(f"A pass is one of {', '.join(get_args(Passes))}, a dtype one of {', '.join(DTYPES)}.")
    return CostSheet(made, known, x_label, caption, machine=name, dtype=dtype, passes=passes, size=size)
