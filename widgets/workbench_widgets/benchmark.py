"""Measuring in a notebook: rows and curves appear while it runs, and it can be stopped at any time."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import pandas as pd
from jupyter_bokeh.widgets import BokehModel

from workbench import measure, plots, writing
from workbench.paper import Method
from workbench_widgets import page

BUDGETS = {"quick": 0.1, "steady": 0.4, "thorough": 1.5}


class Benchmark(page.WithStill):
    """Made by ``benchmark``: ``frame`` holds what was measured; the widget measures again, and can be cancelled."""

    def __init__(self, choices, sizes, y, x_label, recorded, note, settings) -> None:
        self.choices, self.sizes, self.settings = list(choices), list(sizes), settings
        self._y, self._x_label, self._recorded, self._note = y, x_label, recorded, note
        self.rows: list[dict[str, Any]] = []
        self._stop, self._running = threading.Event(), False
        self.total = len(self.sizes) * len(self.choices) * len(settings["directions"])

    @property
    def frame(self) -> pd.DataFrame:
        """The rows so far, as ``measure.frame`` gives them."""
        return measure.frame(self.rows)

    def median_ms(self, implementation: str, size: int, *, method: str = "", direction: str = "forward") -> float:
        """The median time of one row, NaN when it was not measured."""
        rows = self.frame.query("implementation == @implementation and size == @size and direction == @direction")
        rows = rows[rows["method"] == method] if method else rows
        return float(rows["median_ms"].iloc[0]) if len(rows) else float("nan")

    def ratios(self, slow: str, quick: str) -> dict[int, float]:
        """How many times as fast as ``slow`` ``quick`` is, at every size at which both have a time."""
        found = {size: self.median_ms(slow, size) / self.median_ms(quick, size) for size in self.sizes}
        return {size: ratio for size, ratio in found.items() if not math.isnan(ratio)}

    def crossover(self, slow: str, quick: str) -> int | None:
        """The smallest size from which on ``quick`` is at least as fast as ``slow``; None: it is not."""
        found = None
        for size, ratio in reversed(self.ratios(slow, quick).items()):
            if ratio < 1:
                break
            found = size
        return found

    def run(self, progress: Callable[[int, dict[str, Any] | None], None] = lambda done, row: None) -> None:
        """Measure everything, from the first size on. ``progress(done, row)`` is told of every row. Stops when told to;
        an interrupt from the keyboard (the notebook's stop button) stops it too and keeps what was measured."""
        self._stop.clear()
        self.rows = []
        try:
            for row in measure.sweep(self.choices, self.sizes, cancelled=self._stop.is_set, **self.settings):
                self.rows.append(row)
                progress(len(self.rows), row)
        except (measure.Cancelled, KeyboardInterrupt):
            progress(len(self.rows), None)

    def cancel(self) -> None:
        """Stop after the repetition that is under way."""
        self._stop.set()

    # --- on the page

    def build(self) -> None:
        """Make the still and the widgets from what has been measured."""
        self.still = page.figures_html([self._figure()]) + page.caption_html(self._summary())
        self._figure_live = self._figure()
        self._bar = ipywidgets.IntProgress(len(self.rows), 0, self.total, layout={"width": "16em"})
        self._said = ipywidgets.HTML(self._summary())
        self._start = ipywidgets.Button(description="Measure again", icon="play")
        self._cancel = ipywidgets.Button(description="Cancel", icon="stop", disabled=True)
        budget = self.settings["budget_s"]
        self._budget = ipywidgets.Dropdown(
            options=[("as before", budget), *((f"{word} ({s:g} s a point)", s) for word, s in BUDGETS.items())],
            value=budget,
            description="effort",
            layout={"width": "20em"},
        )
        self._start.on_click(lambda _: self.start())
        self._cancel.on_click(lambda _: self.cancel())
        controls = ipywidgets.HBox([self._start, self._cancel, self._budget, self._bar])
        self.live = ipywidgets.VBox([BokehModel(self._figure_live), self._said, controls])

    def start(self) -> threading.Thread:
        """What the button does: measure again beside the notebook, which stays usable. The thread, to be joined."""
        self._start.disabled, self._cancel.disabled = True, False
        self.settings["budget_s"] = self._budget.value
        thread = threading.Thread(target=self._run_live, daemon=True)
        thread.start()
        return thread

    def _run_live(self) -> None:
        try:
            self.run(self._progress)
        except Exception as error:
            self._said.value = page.escape(f"Stopped: {error}")
        finally:
            self._start.disabled, self._cancel.disabled = False, True

    def _progress(self, done: int, row: dict[str, Any] | None) -> None:
        self._bar.value = done
        self._said.value = _what(row) if row and done < self.total else self._summary()
        self._update(self._figure_live)

    def _group(self) -> str:
        return "implementation" if len({method.name for method, _ in self.choices}) == 1 else "method"

    def _shown(self) -> dict[str, Any]:
        return {"group": self._group(), "recorded": self._recorded}

    def _update(self, figure) -> None:
        plots.update_curves(figure, self._ok(), "size", self._y, **self._shown())

    def _ok(self) -> pd.DataFrame:
        frame = self.frame
        return frame[frame["status"] == "ok"]

    def _figure(self):
        machine = measure.machine_line(measure.machine(self.settings["device"]))
        labels = {"machine": machine, "x_label": self._x_label}
        return plots.curves(self._ok(), "size", self._y, **labels, **self._shown())

    def _summary(self) -> str:
        """The caption, and every row that has no time, with its reason."""
        missing = self.frame[self.frame["status"] != "ok"]
        reasons = {f"{row.implementation} at {row.size:,}: {row.status}. {row.reason}" for row in missing.itertuples()}
        if len(self.rows) < self.total:
            reasons.add(f"Stopped after {len(self.rows)} of {self.total} rows.")
        return " ".join([self._note, *map(page.escape, sorted(reasons))])


def benchmark(
    choices: Sequence[tuple[Method, str]],
    sizes: Sequence[int],
    *,
    device: str,
    y: str = "median_ms",
    x_label: str = "size",
    recorded: pd.DataFrame | None = None,
    caption: str = "",
    dtype: str = "float32",
    directions: Sequence[str] = ("forward",),
    budget_s: float = 0.2,
    time_limit_s: float = 20.0,
    shape: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Benchmark:
    """Measure now, with progress under the cell, then show curves of column ``y`` with a button to measure again.

    ``choices`` are (method, implementation); the other settings are those of ``measure.sweep``, which checks every
    result against the reference before it times it. ``x_label`` says what a size is.
    ``recorded`` rows of another machine are drawn beside, hollow. The notebook's stop button ends the measurement and
    keeps what is there.
    """
    settings = {
        "device": device,
        "dtype": dtype,
        "directions": tuple(directions),
        "budget_s": budget_s,
        "time_limit_s": time_limit_s,
        "shape": shape or {},
        "options": options or {},
    }
    made = Benchmark(choices, sizes, y, x_label, recorded, caption, settings)
    bar = page.Progress(made.total)
    made.run(lambda done, row: bar.update(done, _what(row)))
    bar.close()
    made.build()
    return made


def runnable(method: Method, *, device: str, dtype: str, without: Sequence[str] = ()) -> list[tuple[Method, str]]:
    """The implementations of ``method`` that run here, as choices for ``benchmark``; ``without`` leaves some out."""
    inputs = method.example(1, device=device, dtype=dtype).inputs.values()
    names = [name for name in method.implementations if name not in without]
    return [(method, name) for name in names if not method.why_not(name, *inputs)]


def _what(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "stopped"
    time = writing.duration(row["median_ms"]) if row["status"] == "ok" else row["status"]
    return f"{row['method']} · {row['implementation']} · {row['direction']} · {row['size']:,}: {time}"
