"""How the page Papers looks: the gallery, or one paper with its knobs, its claims and what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from bokeh.plotting import figure as Plot

from workbench import measure, plots
from workbench.dashboard.papers import text as papers_text
from workbench.dashboard.papers.work import Picture
from workbench.dashboard.shell.figures import Figure
from workbench.dashboard.shell.knobs import Field, Form
from workbench.dashboard.shell.page import pair, retext, stack, text
from workbench.paper import Paper

ABOUT = {
    "map": "Its map on 32 random tokens: who attends to whom, sums at the edges.",
    "function": "Its output over its input; where it takes two inputs, both are the same.",
    "error": "How far its forecast is from the truth at each step of a smooth trajectory, as a part of the truth.",
}


class PapersView:
    """The parts of the page. Knows nothing of jobs."""

    def __init__(self, figure: Callable[..., Figure], act: Callable[[str, Any], None], studies: Any) -> None:
        self.head, self.claims, self.methods, self.cost, self.about, self.pays = (text() for _ in range(6))
        self.form = Form(act, look="panel", legend="The method's knobs", folded=["The example's shape"])
        self.drawing = figure(min_height=340)
        self.drawn: tuple | None = None
        self.choice = Form(act, legend="What was recorded")
        self.curves = figure(min_height=340)
        self.sheet = stack(self.about, self.drawing, look="sheet")
        self.recorded_here = stack(self.choice, stack(self.curves, look="sheet"))
        self.nothing_recorded = text("<p class='small'>Nothing was recorded on a GPU for this paper yet.</p>")
        self.runs = text()
        self.body = stack(
            text("<h2>Turn its knobs</h2>"),
            pair(self.form, stack(self.cost, self.sheet), look="aside"),
            studies,
            text("<h2>Claims, measured again</h2>"),
            self.claims,
            text("<h2>Recorded on a GPU</h2>"),
            self.pays,
            self.recorded_here,
            self.nothing_recorded,
            self.runs,
            text("<h2>Methods</h2>"),
            self.methods,
        )
        self.layout = stack(self.head)

    def gallery(self, words: str) -> None:
        retext(self.head, words)
        self.body.visible = False

    def paper(self, paper: Paper, table: pd.DataFrame, recorded: bool, runs: pd.DataFrame | None) -> None:
        """Another paper: everything of it that does not change when a knob is turned. ``runs`` are sampling runs."""
        retext(self.head, papers_text.head(paper))
        retext(self.pays, papers_text.crossovers(measure.recorded(paper.slug)))
        retext(self.claims, papers_text.claims(table))
        retext(self.methods, papers_text.method_details(paper))
        retext(self.cost, papers_text.arithmetic(None, None, None))
        self.drawn = None
        retext(self.runs, "" if runs is None else papers_text.sampling_runs(runs))
        self.recorded_here.visible, self.nothing_recorded.visible = recorded, not recorded
        self.runs.visible = runs is not None
        self.body.visible = True
        if len(self.layout) == 1:  # the first paper: whoever looks at the gallery only does not wait for all this
            self.layout.append(self.body)

    def fields(self, fields: Iterable[Field]) -> None:
        self.form.show(fields)

    def words(self, words: str) -> None:
        retext(self.cost, words)

    def picture(self, found: Picture | None, title: str) -> None:
        """What the method does; nothing where there is no picture of it."""
        self.sheet.visible = found is not None
        if found is None:
            return
        retext(self.about, f"<p class='small'>{ABOUT[found.kind]}</p>")
        before, self.drawn = self.drawn, (found.kind, title)
        if before != self.drawn or not self.drawing.drawn:
            self.drawing.draw(_figure, found, title)
        else:
            self.drawing.change(_other_figure, found)

    def recorded(self, fields: Iterable[Field], rows: pd.DataFrame, column: str) -> None:
        """The recorded curves of one group and direction."""
        self.choice.show(fields)
        self.curves.draw(_curves, rows, column)


def _curves(rows: pd.DataFrame, column: str) -> Plot:
    one = rows["method"].nunique() == 1
    return plots.curves(
        rows.iloc[:0], "size", column, group="implementation" if one else ["method", "implementation"],
        recorded=rows, log_y=column != "roofline",
    )  # fmt: skip


def _figure(found: Picture, title: str) -> Plot:
    if found.kind == "map":
        made = plots.attention_map(found.y, _names(found), _names(found))
        made.max_width = 760  # wider, its cells would be far from square
        return made
    labels = {"function": ("input", "output"), "error": ("step", "relative error")}[found.kind]
    return plots.functions({title: (found.x, found.y)}, x_label=labels[0], y_label=labels[1])


def _other_figure(shown: Plot, found: Picture) -> None:
    if found.kind == "map":
        plots.update_attention_map(shown, found.y, _names(found), _names(found))
    else:
        shown.select_one("functions").data_source.data = {"x": found.x, "y": found.y}


def _names(found: Picture) -> list[str]:
    return [str(place) for place in np.asarray(found.x)]
