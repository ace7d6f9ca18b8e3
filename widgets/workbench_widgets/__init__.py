"""ipywidgets for the notebooks: explorers, steppers, questions and exercises, each with a still that stands for it."""

from workbench_widgets.attention_viewer import attention_viewer
from workbench_widgets.benchmark import benchmark, runnable
from workbench_widgets.cost_sheet import cost_sheet
from workbench_widgets.descent import descent
from workbench_widgets.exercise import exercise
from workbench_widgets.explore import explore
from workbench_widgets.fast_section import show_fast
from workbench_widgets.gantt import gantt
from workbench_widgets.glossary import show_glossary
from workbench_widgets.model_race import race_models
from workbench_widgets.page import show, show_html, table_html
from workbench_widgets.pareto_cloud import pareto_cloud
from workbench_widgets.predict import predict
from workbench_widgets.quantiser import quantiser
from workbench_widgets.race import race
from workbench_widgets.rank_viewer import rank_viewer
from workbench_widgets.recorded import show_recorded
from workbench_widgets.sentence import sentence_viewer
from workbench_widgets.session import begin
from workbench_widgets.settled import show_claims
from workbench_widgets.solutions import show_solutions
from workbench_widgets.source import show_source
from workbench_widgets.states import implied_map, state_over_time
from workbench_widgets.stepper import Frame, record, stepper
from workbench_widgets.study import run_study
from workbench_widgets.study_race import race_study
from workbench_widgets.token_flow import token_flow

__all__ = [
    "Frame",
    "attention_viewer",
    "begin",
    "benchmark",
    "descent",
    "cost_sheet",
    "exercise",
    "explore",
    "gantt",
    "implied_map",
    "pareto_cloud",
    "predict",
    "quantiser",
    "race",
    "race_models",
    "race_study",
    "rank_viewer",
    "record",
    "run_study",
    "runnable",
    "sentence_viewer",
    "show",
    "show_claims",
    "show_fast",
    "show_glossary",
    "show_html",
    "show_recorded",
    "show_solutions",
    "show_source",
    "state_over_time",
    "stepper",
    "table_html",
    "token_flow",
]
