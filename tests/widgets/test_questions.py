"""Predictions, exercises and the source beside the equations."""

import pytest

from workbench.attention import flash_attention_2 as attention
from workbench_widgets import exercise, predict, show_source
from workbench_widgets.exercise import WrongAnswer, close
from workbench_widgets.source import source_lines


@exercise(hint="think of six times seven", solution=42, mistakes={"one less": 41}, right="Indeed.")
def answer(number):
    """The answer."""
    close(number, 42, 0, f"{number} is not it.")


@exercise(hint="add them", solution=lambda a, b: a + b, mistakes={"multiplies": lambda a, b: a * b})
def adds(function):
    assert function(2, 3) == 5, f"2 and 3 give {function(2, 3)}."


def test_an_unanswered_exercise_passes_with_a_hint(displayed):
    answer(...)
    adds(lambda a, b: ...)
    adds(lambda a, b: (..., ...))
    assert displayed.html.count("Not answered yet") == 3 and "six times seven" in displayed.html


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


def test_a_wrong_answer_shows_no_traceback_of_ours():
    assert WrongAnswer("that is not it.")._render_traceback_() == ["Not yet: that is not it."]


def test_a_solution_is_folded_away(displayed):
    answer.show_solution()
    adds.show_solution()
    assert displayed.html.count("<details>") == 2 and "42" in displayed.html and "lambda" in displayed.html


def test_without_a_reader_the_answer_is_taken_and_folded_away():
    asked = predict("Which?", ["a", "b"], "b", "Because.", evidence=lambda: "<p>seen</p>")
    assert asked.taken == "b" and not asked.committed
    assert asked.still.index("<details>") < asked.still.index("Because.") and "seen" in asked.still
    assert asked._reveal.value == "" and asked._commit.disabled


def test_a_reader_sees_the_explanation_after_committing():
    asked = predict("Which?", ["a", "b"], "b", "Because.")
    asked._buttons.value = "a"
    assert not asked._commit.disabled and asked._reveal.value == ""
    asked._commit.click()
    assert asked.committed and asked.taken == "a"
    assert "You said <i>a</i>" in asked._reveal.value and "Because." in asked._reveal.value
    assert asked._buttons.disabled


def test_an_answer_that_is_no_choice_is_refused():
    with pytest.raises(ValueError, match="none of the choices"):
        predict("Which?", ["a", "b"], "c", "Because.")
    with pytest.raises(ValueError, match="is no choice"):
        predict("Which?", ["a", "b"], "b", "Because.").commit("c")


def test_source_is_read_from_the_module():
    code, where = source_lines(attention.finish, "seen = ", "return")
    assert code.startswith("seen = normaliser != 0") and code.splitlines()[-1].startswith("return")
    assert where.startswith("workbench/attention/flash_attention_2/reference.py, line ")
    whole, _ = source_lines(attention.finish)
    assert whole.startswith("def finish(") and code.splitlines()[0] in whole
    one, place = source_lines(attention.finish, "seen = ")
    assert one == "seen = normaliser != 0" and " to " not in place


def test_a_kernel_can_be_read_where_it_cannot_run():
    kernel = "workbench_kernels.attention.flash_attention:_attend"
    code, where = source_lines(kernel, "new_maximum = ", "maximum = new_maximum")
    assert "tl.exp2" in code and where.startswith("kernels/workbench_kernels/attention/flash_attention.py")
    with pytest.raises(ValueError, match="has no function 'nothing'"):
        source_lines("workbench_kernels.attention.flash_attention:nothing")


def test_a_lesson_that_no_longer_fits_the_code_is_an_error():
    with pytest.raises(ValueError, match="the lesson must follow the code"):
        source_lines(attention.finish, "a line that is not there")


def test_an_equation_of_several_lines_is_set_as_such(displayed):
    show_source(attention.finish, "seen = ", equation=r"a \\ b", note="Both.")
    assert r"\begin{gathered}" in displayed.html and "Both." in displayed.html
