"""Measurements that were made on another machine and ship with the workbench, shown as what they are."""

from collections.abc import Sequence

import pandas as pd

from workbench import measure, plots
from workbench_widgets import page


def show_recorded(
    slug: str, query: str, y: str, *, group: str | Sequence[str], x_label: str = "size", caption: str = ""
) -> None:
    """Show the recorded rows of the paper ``slug`` that fit ``query`` (as ``DataFrame.query`` takes it) as curves:
    thin and hollow, since they come from another machine.

    Says so where nothing was recorded.
    """
    frame = measure.recorded(slug)
    try:
        rows = None if frame is None else frame[frame["status"] == "ok"].query(query)
    except pd.errors.UndefinedVariableError:  # no row has that knob: its method was not recorded
        rows = None
    if rows is None or not len(rows):
        page.show_html('<div class="wb-box">No measurement of this kind was recorded on a GPU yet.</div>')
        return
    rows.attrs = frame.attrs  # the figure says which machine it was
    page.show(plots.curves(rows.iloc[:0], "size", y, group=group, recorded=rows, x_label=x_label), caption=caption)
