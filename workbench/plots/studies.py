"""A study's rows as lines that grow while it runs."""

import pandas as pd
from bokeh.plotting import figure

from workbench.paper import Study
from workbench.plots.curves import curves, update_curves
from workbench.plots.style import themed


def study_curves(
    study: Study, table: pd.DataFrame, *, machine: str = "", recorded: pd.DataFrame | None = None
) -> figure:
    """The study's ``axes``, drawn: a line for each value of the columns ``by``; of rows that share a place (seeds)
    the median, with the band from the 20th to the 80th percentile. ``recorded`` is what ``measure.recorded_study``
    gives: hollow, with its machine in the small print.
    """
    axes = study.axes
    scales = {"log_x": axes.log_x, "log_y": axes.log_y, "machine": machine, "x_label": study.heading(axes.x),
              "y_label": study.heading(axes.y)}  # fmt: skip
    elsewhere = None if recorded is None else _prepared(study, recorded)
    made = curves(_prepared(study, table), axes.x, axes.y, group="line", recorded=elsewhere, **scales)
    _without_lines(made, study)
    return themed(made, "neutral")


def update_study_curves(made: figure, study: Study, table: pd.DataFrame, recorded: pd.DataFrame | None = None) -> None:
    """Show more rows, or others, in a figure made by ``study_curves``."""
    elsewhere = None if recorded is None else _prepared(study, recorded)
    axes = study.axes
    update_curves(made, _prepared(study, table), axes.x, axes.y, group="line", recorded=elsewhere)
    _without_lines(made, study)


def _prepared(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """One row a line and place: the median, the band, and how many rows it stands for."""
    x, y, by = study.axes.x, study.axes.y, list(study.axes.by)
    named = table[by].astype(str).agg(" · ".join, axis=1) if by and len(table) else [study.title] * len(table)
    rows = pd.DataFrame({x: table[x], y: pd.to_numeric(table[y]), "line": named}).dropna()
    found = rows.groupby(["line", x], sort=False)[y].agg(
        low=lambda part: part.quantile(0.2), middle="median", high=lambda part: part.quantile(0.8), repeats="size"
    )
    prepared = found.reset_index().rename(columns={"middle": y})
    prepared.attrs = dict(table.attrs)
    return prepared


def _without_lines(made: figure, study: Study) -> None:
    for line in made.renderers:
        if line.name == "lines":
            line.visible = not study.axes.points
