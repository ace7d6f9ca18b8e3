"""Contestants that advance step by step, over what it costs them: live while they run, with the seeds as bands."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ipywidgets
import pandas as pd
import torch
from bokeh.models import Scatter
from bokeh.plotting import figure

from workbench import measure, plots
from workbench.measure.studies import cell
from workbench.paper import Axes, Study
from workbench.plots.races import at_cost, over_cost, reached_by_all, sketch
from workbench.plots.runs import add_floor
from workbench_widgets import page
from workbench_widgets.study import Progress, StudyRunner, in_words

MANY = 25  # reports of a line, above which its marks are small
LOOK = 1.0  # seconds between two sketches of a race that runs in its cell

Rows = Iterator[Mapping[str, Any]]


class Race(StudyRunner):
    """Made by ``race``: ``table`` holds every report; curves, what all have at equal cost, and a button for more.

    ``models`` are what contestants left behind, by name one for each seed, where ``race_models`` trained them.
    """

    def __init__(
        self, study: Study, run: measure.StudyRun, *, seeds: int, costs: Sequence[str], total: int | None,
        floor: tuple[float, str] | None, caption: str,
    ) -> None:  # fmt: skip
        super().__init__(study, run, None, caption)
        self.seeds, self.costs = seeds, tuple(costs)
        self.models: dict[str, list[torch.nn.Module]] = {}
        self._total, self._floor = total, floor
        self._scales = {"log_x": study.axes.log_x, "log_y": study.axes.log_y}
        self._cost = ipywidgets.Dropdown(
            options=[(study.heading(name), name) for name in costs], description="over", layout={"width": "18em"}
        )
        self._cost.observe(lambda _: self._redraw(), "value")

    @property
    def cost(self) -> str:
        """The column that the curves are drawn over; set it to another one of ``costs``."""
        return self._cost.value

    @cost.setter
    def cost(self, name: str) -> None:
        self._cost.value = name

    @property
    def total(self) -> int | None:
        """How many reports a whole race has, where that is known."""
        if self._total is None and self.study.length is not None:
            return self.seeds * self.study.total(self._chosen())
        return self._total

    def run(self, progress: Progress = lambda done, row: None) -> None:
        """As a study's; with one thread, since contestants so small would mostly wait for each other's."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            super().run(progress)
        finally:
            torch.set_num_threads(threads)

    def running(self) -> Rows:
        """All seeds, one after the other. Raises ``ValueError`` for a row with other columns than the race's."""
        for seed in range(self.settings.seed, self.settings.seed + self.seeds):
            run = self.study.run(device=self.settings.device, seed=seed, **self._chosen())
            try:
                for row in run:
                    row = {"seed": seed, **row}  # a study that has seeds itself says which
                    if wrong := set(row) ^ set(self.study.columns):
                        raise ValueError(f"A row's columns are not those of the race: {', '.join(sorted(wrong))}.")
                    yield {name: row[name] for name in self.study.columns}
            finally:
                run.close()

    def final(self, column: str | None = None) -> pd.DataFrame:
        """Each contestant's last ``column`` (default: what is drawn): mean, std, min and max over the seeds."""
        by, column = self.study.axes.by[0], column or self.study.axes.y
        last = self.table.dropna(subset=[column]).groupby([by, "seed"], sort=False)[column].last()
        return last.groupby(level=by, sort=False).agg(["mean", "std", "min", "max"])

    def at_equal_cost(self) -> tuple[float, pd.DataFrame] | None:
        """The largest cost that all have reached, and what each has there; None while there is nothing."""
        by, y = self.study.axes.by[0], self.study.axes.y
        most = reached_by_all(self.table, self.cost, y, by=by)
        return None if most is None else (most, at_cost(self.table, most, self.cost, y, by=by))

    def run_in_cell(self) -> "Race":
        """Run it now, with a sketch that grows under the cell; then build what is shown."""
        self._chosen()  # refuses a knob that is not allowed before anything runs
        bar, looked, picture = page.Progress(self.total or 0), time.monotonic(), ""

        def told(done: int, row: dict[str, Any] | None) -> None:
            nonlocal looked, picture
            if row is not None and time.monotonic() - looked > LOOK:
                looked, picture = time.monotonic(), self.sketch()
            bar.update(done, "" if row is None else in_words(self.study, row), picture)

        self.run(told)
        bar.close()
        self.build()
        return self

    # --- on the page

    def build(self) -> None:
        """Make the still and the widgets from the reports that are there."""
        super().build()
        if len(self.costs) > 1:
            self.live.children = (self._cost, *self.live.children)

    def sketch(self) -> str:
        """The curves as they are now, as a small picture."""
        return sketch(self._prepared(), self.cost, self.study.axes.y, self.study.heading, **self._scales)

    def _summary(self) -> str:
        first, knobs = self.settings.seed, "".join(f", {name} {value}" for name, value in self._chosen().items())
        seeds = f"seeds {first} to {first + self.seeds - 1}" if self.seeds > 1 else f"seed {first}"
        stopped = f"Stopped after {len(self.rows)} rows." if self._stop.is_set() else ""
        words = (self._caption, page.escape(f"Bands: {seeds}{knobs}."), stopped)
        return " ".join(filter(None, words))

    def _chosen(self) -> dict[str, Any]:
        return self.study.settings(self.settings.size, self.settings.knobs)

    def _prepared(self) -> pd.DataFrame:
        return over_cost(self.table, self.cost, self.study.axes.y, by=self.study.axes.by[0])

    def _figure(self) -> figure:
        machine = measure.machine_line(measure.machine(self.settings.device))
        labels = {"x_label": self.study.heading(self.cost), "machine": machine}
        made = plots.curves(self._prepared(), self.cost, self.study.axes.y, group="line", **labels, **self._scales)
        made.yaxis[0].axis_label = self.study.heading(self.study.axes.y)
        if self.table.groupby([self.study.axes.by[0], "seed"]).size().max() > MANY:
            for dots in made.select({"type": Scatter}):
                dots.size = 4
        if self._floor is not None:
            add_floor(made, *self._floor)
        return made

    def _update_figure(self) -> None:
        plots.update_curves(self.figure, self._prepared(), self.cost, self.study.axes.y, group="line")

    def _redraw(self) -> None:
        self.figure = self._figure()
        self.place.update_from_model(self.figure)
        self._table.value = self._rows_html()

    def _rows_html(self) -> str:
        """What all have at the largest cost that all have reached."""
        found = self.at_equal_cost()
        if found is None:
            return ""
        cost, each = found
        rows = [
            (page.escape(row.Index), cell(row.median), f"{cell(row.low)} to {cell(row.high)}", str(row.repeats))
            for row in each.itertuples()
        ]
        by, y = (page.escape(self.study.heading(name)) for name in (self.study.axes.by[0], self.study.axes.y))
        place = f"At equal cost: {self.study.heading(self.cost)} {cell(cost)}, which all have reached."
        heads = (by, y, "20 % to 80 %", "seeds")
        return page.table_html(heads, rows) + page.caption_html(page.escape(place))


def race(
    run: Callable[..., Rows] | Mapping[str, Callable[[int], Rows]],
    columns: Mapping[str, str],
    y: str,
    *,
    by: str = "contestant",
    costs: Sequence[str] = (),
    seeds: int = 3,
    seed: int = 0,
    device: str = "cpu",
    total: int | None = None,
    log_x: bool = False,
    log_y: bool = False,
    floor: tuple[float, str] | None = None,
    caption: str = "",
    **knobs: Any,
) -> Race:
    """Let contestants run now, with a growing sketch under the cell, then show their curves and a button for more.

    run      a function (*, device, seed, <knobs>) that yields a row whenever a contestant reports, or the contestants
             by name, each a function (seed) that yields its own rows: these take turns, a row each
    columns  the columns of a row beside ``by`` and the seed, with their units ("s", "FLOPs", "bytes", "" for counts)
    y        the column that is drawn; ``costs`` are those that it can be drawn over (default: the first one of
             ``columns``): steps, seconds, FLOPs, bytes, evaluations ... each must grow from row to row
    total    how many rows a seed has, for the progress
    floor    a height that no curve can cross, and words that say why

    The band is that of the seeds, from the 20th to the 80th percentile. The notebook's stop button ends the race and
    keeps what was reported. PyTorch has one thread while it runs.
    Raises ``ValueError`` for a column that there is not, and for less than one seed.
    """
    if seeds < 1:
        raise ValueError(f"seeds = {seeds} is not allowed: at least 1 is needed.")
    costs = tuple(costs) or (next(iter(columns)),)
    if isinstance(run, Mapping):
        run = _in_turns(run, by)
    if unknown := [name for name in (*costs, y) if name not in columns]:
        raise ValueError(f"The rows have no column {unknown[0]!r}: they have {', '.join(columns)}.")
    study = Study(
        name="race", title="A race", question="Who gets further at equal cost?", run=run, length=None,
        columns={by: "", "seed": "", **columns}, axes=Axes(x=costs[0], y=y, by=(by,), log_x=log_x, log_y=log_y),
    )  # fmt: skip
    how = {"seeds": seeds, "costs": costs, "total": None if total is None else seeds * total, "floor": floor}
    return Race(study, measure.StudyRun("laptop", device, seed, knobs), caption=caption, **how).run_in_cell()


def _in_turns(contestants: Mapping[str, Callable[[int], Rows]], by: str) -> Callable[..., Rows]:
    def run(*, device: str, seed: int) -> Rows:
        running = {name: iter(make(seed)) for name, make in contestants.items()}
        while running:
            for name in list(running):
                row = next(running[name], None)
                if row is None:
                    del running[name]
                else:
                    yield {by: name, **row}

    return run
