import pytest

from workbench.tasks import sentences


@pytest.mark.parametrize("text", sentences.EXAMPLES)
def test_examples_pass_the_check(text):
    assert sentences.check_text(text) == text


def test_white_space_around_a_text_is_taken_off():
    assert sentences.check_text("  a cat\n") == "a cat"


@pytest.mark.parametrize("empty", ["", "   ", "\n\t"])
def test_empty_text(empty):
    with pytest.raises(ValueError, match="empty.*1 to 2,000"):
        sentences.check_text(empty)


def test_too_long_a_text():
    with pytest.raises(ValueError, match="10,000 characters: at most 2,000"):
        sentences.check_text("x" * 10_000)
    sentences.check_text("x" * 2_000)


def test_not_a_text():
    with pytest.raises(ValueError, match="not bytes"):
        sentences.check_text(b"cat")
