"""The last cell of a lesson's exercises: a solution of each, folded away."""

from types import ModuleType

from workbench_widgets import page


def show_solutions(questions: ModuleType) -> None:
    """One solution of each of ``questions.EXERCISES``, by what was asked, each folded away by itself."""
    for exercise in questions.EXERCISES:
        asked = page.escape((exercise.__doc__ or exercise.name).strip().splitlines()[0])
        page.show_html(f"<details><summary>A solution: {asked}</summary>{exercise.solution_html()}</details>")
