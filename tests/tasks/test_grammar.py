import math
import re

import pytest
import torch

from workbench.tasks import grammar


def test_same_seed_same_text():
    assert grammar.write(500, seed=3) == grammar.write(500, seed=3)
    assert grammar.write(500, seed=3) != grammar.write(500, seed=4)


def test_whole_lines_of_at_least_the_length_asked_for():
    text = grammar.write(1_000).characters
    assert 1_000 <= len(text) < 1_200
    assert text.endswith(".\n")


def test_quotations_are_repeated():
    words = re.findall(r'"(\w+)"', grammar.write(20_000).characters)
    assert len(words) > 100
    assert words[::2] == words[1::2]
    assert len(set(words)) > 0.9 * len(words) / 2


def test_verbs_agree_with_their_subjects():
    adjective = "|".join(sorted(grammar.ADJECTIVES, key=len, reverse=True))
    for line in grammar.write(20_000).characters.splitlines():
        subject, verb = re.match(rf"the (?:{adjective})(\w+) (\w+) ", line).groups()
        plural = subject in grammar.PLURALS
        assert plural or subject in grammar.NOUNS
        assert verb in ((*grammar.PLURAL_VERBS, "say") if plural else (*grammar.VERBS, "says"))


def test_encoding_there_and_back():
    text = grammar.write(300).characters
    tokens = grammar.encode(text)
    assert tokens.dtype == torch.int64 and tokens.min() >= 0 and tokens.max() < len(grammar.ALPHABET)
    assert grammar.decode(tokens) == text


def test_unknown_character():
    with pytest.raises(ValueError, match="has no 'É'"):
        grammar.encode("É")


def test_floor_is_the_entropy_of_the_choices():
    subject = math.log(2) + math.log(len(grammar.ADJECTIVES)) + math.log(len(grammar.NOUNS))
    word = 3 * math.log(len(grammar.CONSONANTS)) + 3 * math.log(len(grammar.VOWELS))
    rate = grammar.COPY_RATE
    decision = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    a_sentence = 2 * subject + decision + rate * word + (1 - rate) * math.log(len(grammar.VERBS))
    text = grammar.write(200_000)
    quotations = text.characters.count('"') // 2
    sentences = text.characters.count("\n") - quotations // 2
    assert text.floor == pytest.approx(a_sentence * sentences / len(text.characters), rel=0.01)


def test_nothing_to_write():
    with pytest.raises(ValueError, match="characters = 0"):
        grammar.write(0)
