"""Bokeh figures, used by notebooks and dashboard alike.

Every function returns a figure that fills its place's width. Those that the dashboard redraws have an ``update_...``
beside them, which replaces the data and leaves the figure on the page. ``themed`` fits one to a light or a dark page.
"""

from workbench.plots.cells import Bars, Cells
from workbench.plots.cost_sheet import cost_bars
from workbench.plots.curves import bars, curves, functions, roofline, update_curves
from workbench.plots.gantt import gantt
from workbench.plots.looks import BLUE, MARKERS, ORANGE, PALETTE, Look, color_of, colors_of, look_of, wheel
from workbench.plots.maps import (
    attention_map,
    block_grid,
    difference_map,
    head_overview,
    heads_source,
    select_head,
    similarity,
    update_attention_map,
    update_difference_map,
    update_head_overview,
    update_similarity,
)
from workbench.plots.pareto import pareto_cloud, update_pareto_cloud
from workbench.plots.pictures import image_grid, update_image_grid
from workbench.plots.quantisation import levels_histogram, noise_over_bits, staircase
from workbench.plots.ranks import ranks_picture
from workbench.plots.runs import run_curves, timeline, update_run_curves, update_timeline
from workbench.plots.states import StatePicture, state_over_time
from workbench.plots.studies import study_curves, update_study_curves
from workbench.plots.style import DIVERGING, SEQUENTIAL, themed
from workbench.plots.token_flow import checked_flow, token_flow_picture, tokens_left

__all__ = [
    "BLUE",
    "DIVERGING",
    "Look",
    "MARKERS",
    "ORANGE",
    "PALETTE",
    "SEQUENTIAL",
    "Bars",
    "Cells",
    "StatePicture",
    "attention_map",
    "bars",
    "block_grid",
    "checked_flow",
    "color_of",
    "colors_of",
    "cost_bars",
    "curves",
    "difference_map",
    "functions",
    "gantt",
    "head_overview",
    "heads_source",
    "image_grid",
    "levels_histogram",
    "look_of",
    "noise_over_bits",
    "pareto_cloud",
    "ranks_picture",
    "roofline",
    "run_curves",
    "select_head",
    "similarity",
    "staircase",
    "state_over_time",
    "study_curves",
    "themed",
    "timeline",
    "token_flow_picture",
    "tokens_left",
    "update_attention_map",
    "update_curves",
    "update_difference_map",
    "update_head_overview",
    "update_image_grid",
    "update_pareto_cloud",
    "update_run_curves",
    "update_similarity",
    "update_study_curves",
    "update_timeline",
    "wheel",
]
