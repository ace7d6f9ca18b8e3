"""Text from a small stochastic grammar, with spans that must be copied, and the best loss any model can reach on it.

A line is a handful of random choices spelled out in characters: a subject, a verb that agrees with it in number, an
object or a quoted nonsense word. A quotation is answered by a line that quotes the same word again. To predict the
grammar, a model needs what a few characters back tell; to predict the second quotation, it must find the first and
copy it.

Different choices spell different text, so the information in the choices is the information in the text: its entropy
is known exactly, and a loss curve can be drawn above the floor that it cannot cross.
"""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

ALPHABET = 'abcdefghijklmnopqrstuvwxyz ".\n'

ADJECTIVES = ("", "old ", "quiet ", "clever ", "tired ", "small ", "red ", "young ")
NOUNS = ("cat", "dog", "fox", "hen", "crow", "goat", "mouse", "tiger")
PLURALS = ("cats", "dogs", "foxes", "hens", "crows", "goats", "mice", "tigers")
VERBS = ("sees", "hears", "follows", "likes", "fears", "meets")
PLURAL_VERBS = ("see", "hear", "follow", "like", "fear", "meet")
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
COPY_RATE = 0.4


@dataclass(frozen=True)
class Text:
    """Characters, and ``floor``: their entropy in nats a character, the loss of a model that knows the grammar."""

    characters: str
    floor: float


@dataclass
class _Chooser:
    """Draws at random and adds up the information of what it drew, in nats."""

    random: random.Random
    information: float = 0.0

    def one_of(self, options: tuple[str, ...] | str) -> str:
        self.information += math.log(len(options))
        return self.random.choice(options)

    def happens(self, probability: float) -> bool:
        happened = self.random.random() < probability
        self.information -= math.log(probability if happened else 1 - probability)
        return happened


def write(characters: int, seed: int = 0) -> Text:
    """At least ``characters`` characters of the language (it stops after a whole line), the same for the same seed."""
    if characters < 1:
        raise ValueError(f"characters = {characters} is not allowed: at least 1 is needed.")
    choose = _Chooser(random.Random(seed))
    pieces, length = [], 0
    while length < characters:
        pieces.append(_sentences(choose))
        length += len(pieces[-1])
    text = "".join(pieces)
    return Text(text, choose.information / len(text))


def encode(characters: str) -> Tensor:
    """The characters as indices into ``ALPHABET``, (n,) of int64. Raises ``ValueError`` for another character."""
    try:
        return torch.tensor([_INDEX[character] for character in characters])
    except KeyError as unknown:
        raise ValueError(f"The language has no {unknown.args[0]!r}: its characters are {ALPHABET!r}.") from None


def decode(tokens: Tensor) -> str:
    """The characters of a tensor (n,) of indices."""
    return "".join(ALPHABET[token] for token in tokens.tolist())


_INDEX = {character: index for index, character in enumerate(ALPHABET)}


def _sentences(choose: _Chooser) -> str:
    """One line, or two where the second quotes what the first quoted."""
    subject, plural = _subject(choose)
    if not choose.happens(COPY_RATE):
        verb = choose.one_of(PLURAL_VERBS if plural else VERBS)
        return f"{subject} {verb} {_subject(choose)[0]}.\n"
    word = "".join(choose.one_of(letters) for letters in (CONSONANTS, VOWELS) * 3)
    answering, plural_answer = _subject(choose)
    return (
        f'{subject} {"say" if plural else "says"} "{word}".\n'
        f'{answering} {"say" if plural_answer else "says"} "{word}".\n'
    )


def _subject(choose: _Chooser) -> tuple[str, bool]:
    plural = choose.happens(0.5)
    return f"the {choose.one_of(ADJECTIVES)}{choose.one_of(PLURALS if plural else NOUNS)}", plural
