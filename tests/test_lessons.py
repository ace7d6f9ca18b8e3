"""Every lesson's questions: right answers pass, wrong ones fail with a reason, and predictions have the answer that the
text explains. What the answers are stands in ``tests/<chapter>/<slug>/answers.py``; a lesson may have tests besides.
"""

import importlib
from fractions import Fraction

import numpy as np
import pytest
import torch

from workbench import catalog
from workbench_widgets.exercise import WrongAnswer

LESSONS = {slug: importlib.import_module(f"workbench_widgets.lessons.{slug}.questions") for slug in catalog.slugs()}
EXERCISES = {f"{slug}-{each.name}": each for slug, lesson in LESSONS.items() for each in lesson.EXERCISES}
EACH_EXERCISE = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
NUMBERS = {name: each for name, each in EXERCISES.items() if isinstance(each.solution, (int, float))}
FUNCTIONS = {name: each for name, each in EXERCISES.items() if callable(each.solution)}
FORMS = {
    "float64": np.float64,
    "float32": np.float32,
    "a 0-d tensor": lambda number: torch.tensor(number, dtype=torch.float64),
    "a 0-d array": np.array,
    "a fraction": Fraction,
}


@EACH_EXERCISE
def test_the_solution_passes(exercise):
    exercise(exercise.solution)


@EACH_EXERCISE
def test_leaving_it_alone_passes(exercise):
    exercise(...)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("exercise", NUMBERS.values(), ids=NUMBERS)
def test_a_right_number_passes_in_any_form(exercise, form):
    exercise(form(exercise.solution))


@pytest.mark.parametrize("exercise", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_right_function_that_spoils_its_input_is_refused(exercise):
    def spoils(*given, **options):
        result = exercise.solution(*given, **options)
        for tensor in filter(torch.is_tensor, _flat(given)):
            tensor.add_(1)
            spoilt.append(tensor)
        return result

    spoilt = []
    try:
        exercise(spoils)
    except WrongAnswer as wrong:
        assert "in place" in str(wrong)
    else:
        assert not spoilt, "it took an answer that changes its input"


@pytest.mark.parametrize("exercise", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_right_function_with_one_dimension_too_many_is_refused(exercise):
    def deeper(*given, **options):
        result = exercise.solution(*given, **options)
        several = isinstance(result, tuple)
        deep = tuple(part[None] if torch.is_tensor(part) else [part] for part in (result if several else (result,)))
        return deep if several else deep[0]

    with pytest.raises(WrongAnswer):
        exercise(deeper)


@pytest.mark.parametrize("exercise", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_right_function_may_return_arrays(exercise):
    def arrays(*given, **options):
        result = exercise.solution(*given, **options)
        several = isinstance(result, tuple)
        parts = tuple(part.numpy() if torch.is_tensor(part) else part for part in (result if several else (result,)))
        return parts if several else parts[0]

    exercise(arrays)


def _flat(given):
    return [inner for each in given for inner in (each if isinstance(each, (list, tuple)) else [each])]


@pytest.mark.parametrize("exercise, mistake", [
    pytest.param(each, wrong, id=f"{name}: {what}")
    for name, each in EXERCISES.items() for what, wrong in each.mistakes.items()
])  # fmt: skip
def test_a_typical_mistake_fails_and_is_explained(exercise, mistake):
    with pytest.raises(WrongAnswer) as caught:
        exercise(mistake)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize("slug", LESSONS)
def test_predictions_have_the_answers_that_the_text_explains(slug):
    answers = importlib.import_module(f"{catalog.slugs()[slug]}.{slug}.answers")
    assert {ask.__name__: ask().answer for ask in LESSONS[slug].PREDICTIONS} == answers.PREDICTIONS
