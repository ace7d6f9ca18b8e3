"""The Pareto cloud: what a reader does with it, done without a browser."""

import numpy as np
import pandas as pd
import pytest

from toy import STUDY
from workbench import plots
from workbench_widgets import pareto_cloud

ROWS = [
    {"name": "a", "kind": "reuse", "time": 1.0, "error": 0.3, "memory": 5.0},
    {"name": "b", "kind": "reuse", "time": 2.0, "error": 0.4, "memory": 1.0},
    {"name": "c", "kind": "forecast", "time": 2.0, "error": 0.1, "memory": 5.0},
    {"name": "d", "kind": "forecast", "time": 3.0, "error": 0.1, "memory": np.nan},
]
AXES = {"time": "less", "error": "less", "memory": "less"}


def points(made, group=""):
    return made.figure.select_one(f"points: {group}").data_source.data


def test_the_front_stands_out_and_is_counted():
    made = pareto_cloud(ROWS, AXES, group="kind", labels={"time": "time (ms)"}, caption="A caption.")
    assert list(made.front["name"]) == ["a", "c"]
    assert list(points(made, "reuse")["said"]) == ["on the front", "dominated"]
    assert points(made, "reuse")["alpha"][1] < points(made, "reuse")["alpha"][0] == 1
    assert made.summary.startswith("A caption. 2 of 4 points are on the front; 2 are dominated.")
    assert made.figure.xaxis[0].axis_label == "time (ms): less is better"
    assert "embed_items" in made.still and "2 are dominated" in made.still


def test_the_share_of_the_box_is_the_hypervolume():
    square = [{"name": n, "time": x, "error": y} for n, x, y in (("a", 0, 1), ("b", 1, 0), ("c", 2, 2))]
    made = pareto_cloud(square, {"time": "less", "error": "less"})
    assert "The front dominates 75% of the box" in made.summary
    logs = [{**row, "time": 10.0 ** row["time"]} for row in square]
    assert "75% of the box" in pareto_cloud(logs, {"time": "less", "error": "less"}, log=["time"]).summary


def test_other_axes_may_be_chosen_and_what_has_no_number_is_left_out():
    made = pareto_cloud(ROWS, AXES)
    made.choose("memory", "error")
    assert made.chosen == ("memory", "error") and list(made.front["name"]) == ["b", "c"]
    assert list(points(made)["name"]) == ["a", "b", "c"] and "1 have no place on these axes" in made.summary
    assert made.figure.xaxis[0].axis_label == "memory: less is better"


def test_what_has_no_place_on_a_logarithmic_axis_is_left_out_and_counted():
    rows = [*ROWS, {"name": "e", "time": 0.0, "error": 0.0}, {"name": "f", "time": np.inf, "error": 0.2}]
    assert list(pareto_cloud(rows, AXES).front["name"]) == ["e"]
    made = pareto_cloud(rows, AXES, log=["error"])
    assert list(made.front["name"]) == ["a", "c"] and "2 have no place on these axes" in made.summary


def test_more_may_be_better():
    made = pareto_cloud(ROWS, {"time": "less", "error": "more"})
    assert list(made.front["name"]) == ["a", "b"]
    assert list(made.figure.select_one("front").data_source.data["x"]) == [1, 2]


def test_it_grows_while_a_study_runs(displayed):
    seen = []

    def rows():
        for row in STUDY.rows("ci"):
            seen.append(len(displayed))
            yield row

    made = pareto_cloud(rows(), {"step": "less", "place": "more"}, name="who", group="who")
    assert len(made.table) == 4 and seen == [1] * 4, "it stood on the page before the first row came"
    assert len(points(made, "drunk")["x"]) == len(points(made, "sober")["x"]) == 2


def test_the_stop_button_keeps_the_rows(displayed):
    def rows():
        yield ROWS[0]
        yield ROWS[1]
        raise KeyboardInterrupt

    assert len(pareto_cloud(rows(), AXES).table) == 2


def test_a_table_none_at_all_and_one_axis():
    assert len(pareto_cloud(pd.DataFrame(ROWS), AXES).front) == 2
    assert pareto_cloud([], AXES).summary.startswith("0 of 0 points")
    with pytest.raises(ValueError, match="two axes or more, not time"):
        pareto_cloud(ROWS, {"time": "less"})


def test_the_figure_is_redrawn_in_place():
    table = pd.DataFrame(ROWS)
    made = plots.pareto_cloud(table, "time", "error", AXES, group="kind")
    plots.update_pareto_cloud(made, table[table["kind"] == "reuse"], "time", "error", AXES, group="kind")
    assert [item.label.value for item in made.legend[0].items] == ["reuse"]
    assert len(made.select_one("points: forecast").data_source.data["x"]) == 0
