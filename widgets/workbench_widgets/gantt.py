"""What runs when, lane by lane, with the time that each lane stands still; knobs make another timeline."""

from collections.abc import Callable
from typing import Any

import ipywidgets
from bokeh.plotting import figure
from jupyter_bokeh.widgets import BokehModel

from workbench import controls, plots, writing
from workbench.models.timeline import Timeline
from workbench_widgets import knobs, page


class Gantt(page.WithStill):
    """Made by ``gantt``: the chart, a table of busy and idle time, and the knobs of the function that makes it."""

    def __init__(self, make: Callable[..., Timeline], unit: str, machine: str, caption: str, fixed: dict) -> None:
        self._make, self._unit, self._machine, self._fixed = make, unit, machine, fixed
        self.knobs = controls.knobs(make)
        self.widgets = {name: knobs.widget(knob, fixed.get(name, ...)) for name, knob in self.knobs.items()}
        self.timeline = self._simulated()
        self.figure = self._figure()
        self._said = ipywidgets.HTML(self._table())
        self._place = BokehModel(self.figure)
        for each in self.widgets.values():
            each.observe(lambda _: self._draw(), "value")
        each = list(self.widgets.values())
        columns = [ipywidgets.VBox(each[start::2]) for start in range(min(2, len(each)))]
        row = ipywidgets.HBox(columns, layout={"flex_flow": "row wrap"})
        below = ipywidgets.HTML(page.caption_html(caption))
        self.live = ipywidgets.VBox([row, self._place, self._said, below])
        self.still = page.figures_html([self._figure()]) + self._table() + page.caption_html(caption)

    def set(self, **values: Any) -> None:
        """Turn knobs; ``ValueError`` for a value out of bounds, ``KeyError`` for a knob that there is not."""
        for name, value in values.items():
            knobs.turn(self.widgets[name], self.knobs[name].check(value))

    def _simulated(self) -> Timeline:
        turned = {name: knobs.value_of(widget) for name, widget in self.widgets.items()}
        return self._make(**{**self._fixed, **turned})

    def _draw(self) -> None:
        try:
            self.timeline = self._simulated()
        except ValueError as error:
            self._said.value = f'<div class="wb-box wb-open">{page.escape(error)}</div>'
            return
        self.figure, self._said.value = self._figure(), self._table()
        self._place.update_from_model(self.figure)

    def _figure(self) -> figure:
        return plots.gantt(self.timeline, unit=self._unit, machine=self._machine)

    def _table(self) -> str:
        """Busy and idle time of every lane, and how long the whole takes."""
        rows = []
        for lane, count in self.timeline.servers.items():
            name = f"{lane} (× {count})" if count > 1 else lane
            times = (self.timeline.busy(lane), self.timeline.idle(lane))
            share = 1 - self.timeline.utilisation(lane) if self.timeline.makespan else 0.0
            tasks = len(self.timeline.on(lane))
            rows.append((page.escape(name), str(tasks), *(writing.number(time, 4) for time in times), f"{share:.0%}"))
        last = self.timeline.critical_path()
        path = f"; {len(last)} tasks are on the critical path" if last else ""
        heads = ("lane", "tasks", f"busy ({self._unit})", f"idle ({self._unit})", "idle, share")
        whole = f"The whole takes {writing.quantity(self.timeline.makespan, self._unit)}{path}."
        return page.table_html(heads, rows) + page.caption_html(page.escape(whole))


def gantt(
    make: Callable[..., Timeline] | Timeline, *, unit: str = "ms", machine: str = "", caption: str = "", **fixed: Any
) -> Gantt:
    """A Gantt chart with the idle time of every lane.

    ``make(*, <knobs>)`` simulates a timeline; its keyword parameters that are annotated as a method's are
    (``Annotated[int, Range(1, 8), "Stages."]``) become knobs, and ``fixed`` sets them or passes others. A timeline
    alone has no knobs. ``unit`` is that of the durations, ``machine`` the small print where they were measured.
    Raises ``ValueError`` where the first timeline cannot be made; later the message stands below the chart.
    """
    if isinstance(make, Timeline):
        known = make
        return Gantt(lambda: known, unit, machine, caption, fixed)
    return Gantt(make, unit, machine, caption, fixed)
