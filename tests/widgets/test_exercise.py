"""Exercises and the answers that they take."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from workbench_widgets import exercise, show_solutions
from workbench_widgets.answers import close, parts, same, truths
from workbench_widgets.exercise import WrongAnswer


@exercise(
    hint=("think of six", "of six times seven"),
    solution=42,
    mistakes={"one less": 41},
    right="Indeed.",
)
def answer(number):
    """The answer."""
    close(number, 42, 0, f"{number} is not it.")


@exercise(
    hint=("what does a sum do?", "add them"), solution=lambda a, b: a + b, mistakes={"multiplies": lambda a, b: a * b}
)
def adds(function):
    """The sum <of> two."""
    assert function(2, 3) == 5, f"2 and 3 give {function(2, 3)}."


@exercise(hint=("two", "one and two"), solution=((1.0, 2.0),), mistakes={"one row too many": ((1.0, 2.0),) * 2})
def pair(rows):
    same(rows, torch.tensor([[1.0, 2.0]], dtype=torch.float64), "One and two.")


def test_an_unanswered_exercise_passes_and_its_hints_stay_folded(displayed):
    answer(...)
    adds(lambda a, b: ...)
    adds(lambda a, b: (..., ...))
    pair(((1.0, ...),))
    said = displayed.html
    assert said.count("Not answered yet") == 4
    first, second = said.index("think of six<"), said.index("of six times seven")
    assert said.index("<details><summary>A hint") < first < said.index("<details><summary>A second hint") < second


def test_a_hint_has_two_stages():
    with pytest.raises(ValueError, match="two stages"):
        exercise(hint="one", solution=1, mistakes={})


@pytest.mark.parametrize("given", [np.int8(42), torch.tensor(42.0), np.array(42), Fraction(84, 2), np.float32(42)])
def test_a_number_may_come_in_any_form(given):
    answer(given)


@pytest.mark.parametrize(
    "given", [np.array([[1, 2]]), torch.tensor([[1.0, 2.0]]), [[1, Fraction(2)]], [[1, np.int8(2)]]]
)
def test_numbers_may_come_in_any_form(given):
    pair(given)


@pytest.mark.parametrize(
    "given, message",
    [
        (torch.tensor([42]), "one number is needed, not 1 number"),
        ([41, 42], "one number is needed, not 2 numbers"),
    ],
)
def test_more_than_one_number_is_refused(given, message):
    with pytest.raises(WrongAnswer, match=message):
        answer(given)


@pytest.mark.parametrize("given, message", [
    ([1, 2], "1 row of 2 numbers are needed, not 2 numbers"), ([[1], [2, 3]], "different lengths"),
    ([["a", 2]], "a number is needed, not 'a'"), ([[1, 3]], "off by up to 1"),
])  # fmt: skip
def test_other_numbers_are_refused_with_their_shape(given, message):
    with pytest.raises(WrongAnswer, match=message):
        pair(given)


@pytest.mark.parametrize("change", [1e-17, 1e-3])
def test_a_result_is_held_to_its_precision(change):
    expected = torch.tensor([0.5, 1.0], dtype=torch.float64)
    if change < 1e-9:
        same(expected + change, expected, "")
        same((expected + 1e-7).float(), expected, "")
        return
    with pytest.raises(AssertionError, match="the result is off by up to 0.001. Look."):
        same(expected + change, expected, "Look.")


@pytest.mark.parametrize("got, message", [
    (torch.ones(1, 2), r"must be of shape \(2,\), not \(1, 2\)"),
    (torch.ones(2, dtype=torch.int64), "float64 or float32, not int64"),
    (torch.tensor([1.0, torch.nan]), "inf or NaN"),
    ("two", "a number is needed"),
])  # fmt: skip
def test_what_does_not_fit_is_named(got, message):
    with pytest.raises(AssertionError, match=message):
        same(got, torch.ones(2), "")


def test_parts_are_counted():
    assert parts([1, 2], "m", "n") == (1, 2)
    with pytest.raises(AssertionError, match=r"2 results are needed \(m, n\), not 3"):
        parts((1, 2, 3), "m", "n")
    with pytest.raises(AssertionError, match="not one Tensor"):
        parts(torch.ones(2), "m", "n")


@pytest.mark.parametrize("got", [[True, False], (True, False), torch.tensor([True, False]), np.array([True, False]),
                                 [torch.tensor(True), np.bool_(False)]], ids=repr)  # fmt: skip
def test_truths_may_come_in_any_form(got):
    assert truths(got, 2) == (True, False)


@pytest.mark.parametrize("got", [True, [True], [[True, False]], [1, 0], torch.tensor([[True, False]]), None], ids=repr)
def test_what_is_not_so_many_truths_is_said(got):
    with pytest.raises(AssertionError, match="2 times True or False is needed, not"):
        truths(got, 2)


def test_an_argument_that_is_changed_in_place_is_named(displayed):
    @exercise(hint=("a", "b"), solution=lambda x, y: x, mistakes={})
    def keeps(function):
        function(torch.ones(2), y=[np.zeros(2)])

    def spoils(first, y):
        y[0] += 1
        return first

    keeps(lambda first, y: first + 1)
    with pytest.raises(WrongAnswer, match="changes its argument y in place"):
        keeps(spoils)
    with pytest.raises(WrongAnswer, match="changes its argument first in place"):
        keeps(lambda first, y: first.mul_(2))

    @exercise(hint=("a", "b"), solution=max, mistakes={})
    def of_a_list(function):
        assert function([2, 3, 1]) == 3, "the largest of three."

    of_a_list(max)
    with pytest.raises(WrongAnswer, match="in place"):
        of_a_list(lambda given: given.sort() or given[-1])


def test_a_right_answer_is_told_so(displayed):
    answer(42)
    adds(lambda a, b: b + a)
    assert displayed.html.count("Right.") == 2 and "Indeed." in displayed.html


@pytest.mark.parametrize("given, message", [(41, "41 is not it"), ("forty-two", "is needed"), (True, "is needed")])
def test_a_wrong_answer_raises_and_helps(given, message):
    with pytest.raises(AssertionError, match=message):
        answer(given)


def test_a_wrong_function_raises_and_helps():
    with pytest.raises(WrongAnswer, match="2 and 3 give 6"):
        adds(lambda a, b: a * b)
    with pytest.raises(WrongAnswer, match="needs a return"):
        adds(lambda a, b: None)
    with pytest.raises(WrongAnswer, match="stopped with ZeroDivisionError"):
        adds(lambda a, b: a / 0)


def test_a_wrong_answer_is_said_in_a_box_with_folded_hints_and_without_a_traceback(displayed):
    with pytest.raises(WrongAnswer) as caught:
        answer(41)
    assert "<b>Not yet:</b> 41 is not it." in displayed.html and "<summary>A hint" in displayed.html
    assert caught.value._render_traceback_() == ["Not yet: the sentence above says why."]


def test_solutions_are_folded_away(displayed):
    show_solutions(SimpleNamespace(EXERCISES=(answer, adds)))
    assert displayed.html.count("<details>") == 2 and "42" in displayed.html and "lambda" in displayed.html
    assert "A solution: The sum &lt;of&gt; two." in displayed.html
