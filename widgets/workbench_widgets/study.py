"""A paper's study in a notebook: its curve grows while it runs, its knobs can be turned, and it can be stopped."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets
import pandas as pd
from bokeh.plotting import figure
from jupyter_bokeh.widgets import BokehModel

from workbench import measure, plots
from workbench.measure.studies import cell, settings_line
from workbench.paper import Paper, Study
from workbench.study import Size
from workbench_widgets import knobs as knob_widgets
from workbench_widgets import page

MOST_ROWS = 24  # of a table under a figure

Progress = Callable[[int, dict[str, Any] | None], None]


class StudyRunner(page.WithStill):
    """Made by ``run_study``: ``table`` holds the rows; the widget runs the study again, and can be stopped."""

    def __init__(self, study: Study, run: measure.StudyRun, recorded: pd.DataFrame | None, caption: str) -> None:
        self.study, self.settings, self._recorded, self._caption = study, run, recorded, caption
        self.rows: list[dict[str, Any]] = []
        self._stop = threading.Event()

    @property
    def table(self) -> pd.DataFrame:
        """The rows so far, as ``measure.study_frame`` gives them."""
        return measure.study_frame(self.study, self.rows)

    @property
    def total(self) -> int | None:
        """How many rows a whole run has, where that is known."""
        return self.settings.total(self.study)

    def run(self, progress: Progress = lambda done, row: None) -> None:
        """Run it from the start. ``progress(done, row)`` is told of every row, and at the end with None. Stops when
        told to; an interrupt from the keyboard (the notebook's stop button) stops it too and keeps the rows."""
        self._stop.clear()
        self.rows = []
        running = self.running()
        try:
            for row in running:
                self.rows.append(row)
                progress(len(self.rows), row)
                if self._stop.is_set():
                    break
        except KeyboardInterrupt:
            self._stop.set()
        finally:
            running.close()
        progress(len(self.rows), None)

    def running(self) -> Iterator[dict[str, Any]]:
        """The rows of a run from its start, as they come."""
        return self.settings.rows(self.study)

    def cancel(self) -> None:
        """Stop at the next row."""
        self._stop.set()

    # --- on the page

    def build(self) -> None:
        """Make the still and the widgets from the rows that are there."""
        self.still = page.figures_html([self._figure()]) + page.caption_html(self._summary()) + self._rows_html()
        self.figure = self._figure()
        settings = self.study.settings(self.settings.size, self.settings.knobs)
        self.widgets = {name: knob_widgets.widget(knob, settings[name]) for name, knob in self.study.knobs.items()}
        self._bar = ipywidgets.IntProgress(len(self.rows), 0, self.total or 1, layout={"width": "16em"})
        self._said, self._table = ipywidgets.HTML(self._summary()), ipywidgets.HTML(self._rows_html())
        self._start = ipywidgets.Button(description="Run again", icon="play")
        self._cancel = ipywidgets.Button(description="Cancel", icon="stop", disabled=True)
        self._start.on_click(lambda _: self.start())
        self._cancel.on_click(lambda _: self.cancel())
        knobs = list(self.widgets.values())
        columns = [ipywidgets.VBox(knobs[start::2]) for start in range(min(2, len(knobs)))]
        controls = ipywidgets.HBox([self._start, self._cancel, self._bar])
        self.place = BokehModel(self.figure)
        self.live = ipywidgets.VBox([ipywidgets.HBox(columns), controls, self.place, self._said, self._table])

    def start(self) -> threading.Thread:
        """What the button does: run it with the knobs as they stand, beside the notebook, which stays usable. The
        thread, to be joined."""
        turned = {name: knob_widgets.value_of(widget) for name, widget in self.widgets.items()}
        before = self.settings
        self.settings = measure.StudyRun(before.size, before.device, before.seed, turned)
        self._bar.value, self._bar.max = 0, self.total or 1
        self._start.disabled, self._cancel.disabled = True, False
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
        self._bar.max = self.total or done + (row is not None)
        self._bar.value = done
        self._said.value = self._summary() if row is None else page.escape(in_words(self.study, row))
        self._update_figure()
        if row is None:
            self._table.value = self._rows_html()

    def _figure(self) -> figure:
        machine = measure.machine_line(measure.machine(self.settings.device))
        return plots.study_curves(self.study, self.table, machine=machine, recorded=self._recorded)

    def _update_figure(self) -> None:
        plots.update_study_curves(self.figure, self.study, self.table, self._recorded)

    def _summary(self) -> str:
        run = {**vars(self.settings), "knobs": self.study.settings(self.settings.size, self.settings.knobs)}
        words = [self._caption, page.escape(settings_line(run).capitalize() + ".")]
        if self._stop.is_set():
            words.append(f"Stopped after {len(self.rows)} rows.")
        return " ".join(filter(None, words))

    def _rows_html(self) -> str:
        table = self.table.tail(MOST_ROWS)
        more = f"The last {MOST_ROWS} of {len(self.rows)} rows." if len(self.rows) > MOST_ROWS else ""
        cells = [[page.escape(cell(value)) for value in row] for row in table.itertuples(index=False)]
        return page.table_html([page.escape(self.study.heading(name)) for name in table], cells, more)


def run_study(
    paper: Paper,
    name: str,
    *,
    size: Size = "laptop",
    device: str = "cpu",
    seed: int = 0,
    beside_recorded: bool = False,
    caption: str = "",
    **knobs: Any,
) -> StudyRunner:
    """Run a paper's study now, with progress under the cell, then show its curve, its rows and a button to run it again
    with other knobs.

    ``size`` and ``knobs`` as in ``Study.rows``; ``beside_recorded`` draws what was recorded elsewhere, hollow. The
    notebook's stop button ends the run and keeps the rows. Errors as ``Study.rows``, ``KeyError`` for another name.
    """
    study = paper.study(name)
    recorded = measure.recorded_study(paper, study) if beside_recorded else None
    made = StudyRunner(study, measure.StudyRun(size, device, seed, knobs), recorded, caption)
    bar = page.Progress(made.total or 0)
    made.run(lambda done, row: bar.update(done, "" if row is None else in_words(study, row)))
    bar.close()
    made.build()
    return made


def in_words(study: Study, row: dict[str, Any]) -> str:
    """A row in a line: what it is about, and the newest figure."""
    about = [str(row[name]) for name in study.axes.by]
    x, y = study.axes.x, study.axes.y
    return " · ".join([*about, f"{study.heading(x)} {cell(row[x])}: {study.heading(y)} {cell(row[y])}"])
