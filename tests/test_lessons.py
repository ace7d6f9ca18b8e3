"""Every lesson's questions: right answers pass in every sensible form, wrong ones fail with a reason, and predictions
have the answer that the text explains. What the answers are stands in ``tests/<chapter>/<slug>/answers.py``; a lesson
may have tests besides.
"""

import importlib
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from workbench import catalog
from workbench_widgets import page
from workbench_widgets.exercise import WrongAnswer
from workbench_widgets.lessons import start_here

LESSONS = {slug: importlib.import_module(f"workbench_widgets.lessons.{slug}.questions") for slug in catalog.slugs()}
EXERCISES = {
    f"{slug}-{each.name}": each
    for slug, lesson in {**LESSONS, "start_here": start_here}.items()
    for each in lesson.EXERCISES
}
EACH_EXERCISE = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)


@pytest.fixture
def shown(monkeypatch):
    """The HTML of what is shown, piece by piece."""
    pieces = []
    monkeypatch.setattr(page, "display", lambda each: pieces.append(each.data))
    return pieces


def those(kind):
    return {name: each for name, each in EXERCISES.items() if isinstance(each.solution, kind)}


NUMBERS, ROWS = those((int, float)), those(tuple)
FUNCTIONS = {name: each for name, each in EXERCISES.items() if callable(each.solution)}
FORMS = {
    "float64": np.float64,
    "float32": np.float32,
    "a 0-d tensor": lambda number: torch.tensor(number, dtype=torch.float64),
    "a 0-d tensor of float32": lambda number: torch.tensor(number, dtype=torch.float32),
    "a 0-d array": np.array,
    "a fraction": Fraction,
    "a decimal": Decimal,
}
ROW_FORMS = {
    "a tensor": lambda rows: torch.tensor(rows, dtype=torch.float64),
    "a tensor of float32": torch.tensor,
    "an array": np.array,
    "lists": lambda rows: np.array(rows).tolist(),
    **{f"each {name}": lambda rows, form=form: deep(form, rows) for name, form in FORMS.items()},
}


def deep(form, value):
    """``form`` of every number of (nested) tuples and lists."""
    return type(value)(deep(form, each) for each in value) if isinstance(value, (tuple, list)) else form(value)


def each_result(form):
    """Wraps a function so that ``form`` is done to each of its results."""

    def wrap(function):
        def call(*arguments):
            result = function(*arguments)
            return tuple(map(form, result)) if isinstance(result, tuple) else form(result)

        return call

    return wrap


def wider(result):
    """A leading dimension more."""
    if isinstance(result, torch.Tensor):
        return result[None]
    return [result] if isinstance(result, list) else np.array([result])


def spoils(place):
    """Wraps a function so that it changes its argument at ``place`` once it has its result: a tensor, or a list."""

    def wrap(function):
        def call(*arguments):
            result = function(*arguments)
            if isinstance(arguments[place], list):
                arguments[place].reverse()
            else:
                arguments[place].add_(1)
            return result

        return call

    return wrap


def in_other_form(dtype):
    """A result as an array of ``dtype``; a list of whole numbers as an array of those."""

    def form(result):
        if isinstance(result, list):
            return np.array(result)
        return torch.as_tensor(result).numpy().astype(dtype)

    return form


def arguments_of(exercise):
    """The first arguments that the check hands over."""
    seen = []

    def note(*arguments):
        seen.extend(arguments)
        return ...

    exercise(note)
    return seen


@EACH_EXERCISE
def test_the_solution_passes(exercise, shown):
    exercise(exercise.solution)
    assert "Right." in shown[-1] and "hint" not in shown[-1]


@EACH_EXERCISE
def test_leaving_it_alone_passes_and_both_hints_are_folded(exercise, shown):
    exercise(...)
    before, _, folded = shown[-1].partition("<details>")
    assert all(hint not in before and hint in folded for hint in exercise.hint)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("exercise", NUMBERS.values(), ids=NUMBERS)
def test_a_right_number_passes_in_any_form(exercise, form):
    exercise(form(exercise.solution))


@pytest.mark.parametrize("form", ROW_FORMS.values(), ids=ROW_FORMS)
@pytest.mark.parametrize("exercise", ROWS.values(), ids=ROWS)
def test_right_numbers_pass_in_any_form(exercise, form):
    exercise(form(exercise.solution))


@pytest.mark.parametrize("exercise", {**NUMBERS, **ROWS}.values(), ids={**NUMBERS, **ROWS})
def test_a_number_or_a_dimension_too_many_is_said(exercise):
    for wrong in ((exercise.solution,), torch.tensor([exercise.solution]), "forty-two", None, True):
        with pytest.raises(WrongAnswer, match="needed, not"):
            exercise(wrong)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("exercise", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_right_function_passes_with_arrays_and_float32(exercise, dtype):
    exercise(each_result(in_other_form(dtype))(exercise.solution))


@pytest.mark.parametrize("exercise", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_with_a_leading_dimension_fails(exercise):
    with pytest.raises(WrongAnswer, match="shape|needed"):
        exercise(each_result(wider)(exercise.solution))


@pytest.mark.parametrize("exercise", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_that_changes_what_it_is_given_fails(exercise):
    given = arguments_of(exercise)
    for place, argument in enumerate(given):
        if isinstance(argument, (torch.Tensor, list)):
            with pytest.raises(WrongAnswer, match="in place"):
                exercise(spoils(place)(exercise.solution))


@pytest.mark.parametrize("exercise", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_that_always_returns_its_first_right_result_fails(exercise):
    results = []

    def constant(*arguments):
        results.append(exercise.solution(*arguments))
        return results[0]

    with pytest.raises(WrongAnswer):
        exercise(constant)


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
