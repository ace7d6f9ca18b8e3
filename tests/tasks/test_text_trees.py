"""Trees over the tokens of a text."""

import pytest

from workbench.tasks.text_trees import clause_starts, of_boundaries, of_text


def words(text):
    return text.split()


TEXT = words("[CLS] the cat , which was tire ##d , slept . it dream ##ed [SEP]")


def test_pieces_words_clauses_sentences():
    assert of_text(TEXT).nested() == [
        0, [[1, 2, 3], [4, 5, [6, 7], 8], [9, 10]], [11, [12, 13]], 14
    ]  # fmt: skip


def test_one_sentence_is_a_family_beside_the_special_tokens():
    assert of_text(words("[CLS] a cat sat [SEP]")).nested() == [0, [1, 2, 3], 4]


@pytest.mark.parametrize(
    ("tokens", "nested"),
    [
        ("[CLS] [SEP]", [0, 1]),
        ("a", [0]),
        ("a ##b", [0, 1]),
        ("[CLS]", [0]),
        (". . .", [0, 1, 2]),
        ("[CLS] a [SEP]", [0, 1, 2]),
    ],
)
def test_short_texts(tokens, nested):
    assert of_text(words(tokens)).nested() == nested


def test_edited_boundaries():
    assert clause_starts(TEXT) == [4, 9, 11]
    assert of_boundaries(TEXT, (3, 6)).nested() == [0, [1, 2], [3, 4, 5], [[6, 7], 8, 9, 10, 11, [12, 13]], 14]
    assert of_boundaries(TEXT, clause_starts(TEXT)).nested() == [
        0, [1, 2, 3], [4, 5, [6, 7], 8], [9, 10], [11, [12, 13]], 14
    ]  # fmt: skip
    assert of_boundaries(TEXT, (7,)).nested()[2] == [7, 8, 9, 10, 11, [12, 13]]  # inside a word: it is split


def test_errors():
    with pytest.raises(ValueError, match="positions 1 to 14, not at 15"):
        of_boundaries(TEXT, (15,))
    with pytest.raises(ValueError, match="at least one token"):
        of_text([])
