"""Predictions and the source beside the equations."""

import pytest

from workbench.attention import flash_attention_2 as attention
from workbench_widgets import predict, show_source
from workbench_widgets.source import source_lines


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


def test_the_text_follows_what_was_measured():
    texts = {"a": "Since a won.", "b": "Since b won."}
    assert "Since b won." in predict("Which?", ["a", "b"], "b", texts).still
    assert "Since b won." not in predict("Which?", ["a", "b"], "a", texts).still
    with pytest.raises(ValueError, match="'b' has no explanation"):
        predict("Which?", ["a", "b"], "b", {"a": "Since a won."})
    with pytest.raises(ValueError, match="'c' is explained and is none"):
        predict("Which?", ["a", "b"], "b", texts | {"c": "Never."})


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
