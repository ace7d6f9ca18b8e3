"""Sentences to try an encoder on, and the check that a sentence typed by a person passes through first."""

from typing import Any

LONGEST = 2_000

EXAMPLES: tuple[str, ...] = (
    "The animal did not cross the street because it was too tired.",
    "The animal did not cross the street because it was too wide.",
    "The trophy does not fit into the suitcase because it is too big.",
    "A man is eating food.",
    "Someone eats a meal.",
    "The stock market fell.",
    "She deposited the cheque at the bank and then sat down on the bank of the river.",
    "the cat saw the dog, the cat saw the dog, the cat saw the dog",
    "Attention compares every word with every other word, so its cost grows with the square of the length.",
)
"""Short sentences, each with something to see: what "it" refers to, one word with two senses, a repetition. The first
two differ in one word; the fourth to sixth are two that mean the same and one that does not."""


def check_text(text: Any) -> str:
    """``text`` without the white space around it.

    Raises ``ValueError`` unless it is a string of 1 to 2 000 characters, saying what was given and what is allowed.
    """
    if not isinstance(text, str):
        raise ValueError(f"A text is needed, not {type(text).__name__}.")
    if not text.strip():
        raise ValueError(f"The text is empty: type a sentence of 1 to {LONGEST:,} characters.")
    if len(text) > LONGEST:
        raise ValueError(f"The text has {len(text):,} characters: at most {LONGEST:,} are allowed.")
    return text.strip()
