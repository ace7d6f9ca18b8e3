"""A Pareto cloud: choices between costs, the axes to be chosen; it grows while a study runs."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from jupyter_bokeh.widgets import BokehModel

from workbench import measure, plots
from workbench.measure.pareto import Better
from workbench_widgets import page
from workbench_widgets.frames import WRAP


class ParetoCloud(page.WithStill):
    """Made by ``pareto_cloud``: ``table`` holds the points, ``choose`` shows other axes, ``add`` takes one more."""

    def __init__(self, rows, axes, name, group, labels, log, machine, caption) -> None:
        if len(axes) < 2:
            raise ValueError(f"A cloud has two axes or more, not {', '.join(axes) or 'none'}.")
        self.axes, self._name, self._group, self._labels = dict(axes), name, group, labels
        self._log, self._machine, self._caption = frozenset(log), machine, caption
        self._rows = [dict(row) for row in rows]
        first, second, *_ = self.axes
        words = [(self._label(axis), axis) for axis in self.axes]
        self._x, self._y = (
            ipywidgets.Dropdown(options=words, value=value, description=side, layout={"width": "22em"})
            for side, value in (("across", first), ("up", second))
        )
        for menu in (self._x, self._y):
            menu.observe(lambda _: self.redraw(), "value")
        self.figure = self._made()
        self._place, self._said = BokehModel(self.figure), ipywidgets.HTML(self.summary)
        menus = [self._x, self._y] if len(self.axes) > 2 else []
        self.live = ipywidgets.VBox([ipywidgets.HBox(menus, layout=WRAP), self._place, self._said])

    @property
    def still(self) -> str:
        """The cloud of the axes that are chosen."""
        return page.figures_html([self._made()]) + page.caption_html(self.summary)

    @property
    def table(self) -> pd.DataFrame:
        """The points so far."""
        return pd.DataFrame(self._rows, columns=None if self._rows else [*self.axes, self._name])

    @property
    def chosen(self) -> tuple[str, str]:
        """The columns that are shown across and up."""
        return self._x.value, self._y.value

    def choose(self, x: str, y: str) -> None:
        """Show other columns of ``axes``."""
        self._x.value, self._y.value = x, y

    @property
    def front(self) -> pd.DataFrame:
        """The points that none dominates on the two axes that are shown."""
        shown = self._shown()
        return shown[measure.pareto_front(shown[list(self.chosen)].to_numpy(dtype=float), self._better())]

    @property
    def summary(self) -> str:
        """How many points the front has, how many are dominated, and the share of the box that the front takes."""
        shown = self._shown()
        count, on_front = len(shown), len(self.front)
        words = [f"{on_front} of {count} points are on the front; {count - on_front} are dominated."]
        if share := self._share(shown):
            words.append(f"The front dominates {share:.0%} of the box around all points (hypervolume).")
        if missing := len(self._rows) - count:
            words.append(f"{missing} have no place on these axes.")
        return " ".join(filter(None, [self._caption, *words]))

    def add(self, row: Mapping[str, Any]) -> None:
        """One more point."""
        self._rows.append(dict(row))
        settings = {"name": self._name, "group": self._group, "labels": self._labels}
        plots.update_pareto_cloud(self.figure, self._shown(), *self.chosen, self.axes, **settings)
        self._said.value = self.summary

    def _made(self):
        scales = {f"log_{side}": axis in self._log for side, axis in zip("xy", self.chosen, strict=True)}
        words = {"name": self._name, "group": self._group, "labels": self._labels, "machine": self._machine}
        return plots.pareto_cloud(self._shown(), *self.chosen, self.axes, **words, **scales)

    def redraw(self) -> None:
        """Draw the cloud anew, on the axes that are chosen."""
        self.figure = self._made()
        self._place.update_from_model(self.figure)
        self._said.value = self.summary

    def _shown(self) -> pd.DataFrame:
        """The points that have a place on the two axes."""
        table = self.table
        places = table[list(set(self.chosen))].astype(float)
        found = np.isfinite(places) & ((places > 0) | ~places.columns.isin(self._log))
        return table[found.all(axis=1)]

    def _better(self) -> tuple[Better, Better]:
        return tuple(self.axes[axis] for axis in self.chosen)

    def _share(self, shown: pd.DataFrame) -> float:
        """Of the box that all points span, on the scales that are shown."""
        points = shown[list(self.chosen)].to_numpy(dtype=float, copy=True)
        for column, axis in enumerate(self.chosen):
            if axis in self._log:
                points[:, column] = np.log(points[:, column])
        if len(points) < 2 or not np.ptp(points, axis=0).all():
            return 0.0
        worst = [points[:, n].max() if side == "less" else points[:, n].min() for n, side in enumerate(self._better())]
        return measure.hypervolume(points, self._better(), worst) / float(np.ptp(points, axis=0).prod())

    def _label(self, axis: str) -> str:
        return (self._labels or {}).get(axis, axis.replace("_", " "))


def pareto_cloud(
    rows: pd.DataFrame | Iterable[Mapping[str, Any]],
    axes: Mapping[str, Better],
    *,
    name: str = "name",
    group: str | None = None,
    labels: Mapping[str, str] | None = None,
    log: Iterable[str] = (),
    machine: str = "",
    caption: str = "",
) -> ParetoCloud:
    """Choices as points between costs: what nothing else beats in both is the front, the rest is pale.

    ``rows`` are mappings or a table. Rows that are still to come, such as those of ``study.rows("ci")``, are drawn as
    they come; the notebook's stop button ends them and keeps what is there.
    ``axes`` names the columns of numbers and whether "less" or "more" of each is better; the first two are shown, menus
    choose among more than two. ``log`` names those on a logarithmic scale, ``labels`` their words with units; ``name``
    and ``group`` are the columns that name and colour a point, ``machine`` the small print of what was measured.
    Raises ``ValueError`` for fewer than two axes.
    """
    if isinstance(rows, pd.DataFrame):
        rows = rows.to_dict("records")
    coming = rows if isinstance(rows, Iterator) else iter(())
    made = ParetoCloud([] if coming is rows else rows, axes, name, group, labels, log, machine, caption)
    if coming is rows:
        _watch(made, coming)
    return made


def _watch(made: ParetoCloud, rows: Iterator[Mapping[str, Any]]) -> None:
    """The cloud grows under the cell until the rows end; then its place is empty again."""
    handle = page.display(made.live, display_id=True)
    try:
        for row in rows:
            made.add(row)
    except KeyboardInterrupt:
        pass
    finally:
        if hasattr(rows, "close"):
            rows.close()
        made.redraw()  # another view of the widget begins with what it was drawn with last
        if handle is not None:  # outside a notebook there is no place
            handle.update(page.HTML(""))
