"""Trees over the tokens of a text: word pieces in words, words in clauses, clauses in sentences."""

from collections.abc import Sequence

from workbench.attention.trees import Tree

SPECIAL = frozenset({"[CLS]", "[SEP]"})
ENDS_SENTENCE = frozenset(".!?")
ENDS_CLAUSE = ENDS_SENTENCE | frozenset(",;:")


def of_text(tokens: Sequence[str]) -> Tree:
    """The tree of a text from its punctuation: root, sentences, clauses, words, word pieces.

    ``tokens`` as a BERT tokenizer gives them: pieces that continue a word begin with "##". [CLS] and [SEP] are children
    of the root, so that every group sees them and they see every group. A mark belongs to the clause that it ends.
    Raises ``ValueError`` without tokens. O(tokens).
    """
    return _nest(tokens, _starts(tokens, ENDS_SENTENCE), _starts(tokens, ENDS_CLAUSE), word_starts(tokens))


def of_boundaries(tokens: Sequence[str], boundaries: Sequence[int]) -> Tree:
    """The tree whose groups begin at ``boundaries`` (positions in ``tokens``), words inside; [CLS] and [SEP] as in
    ``of_text``. A boundary inside a word splits it. Raises ``ValueError`` for positions outside 1 to tokens - 1."""
    for position in boundaries:
        if not 0 < position < len(tokens):
            raise ValueError(f"A group can begin at positions 1 to {len(tokens) - 1}, not at {position}.")
    return _nest(tokens, set(boundaries), word_starts(tokens))


def clause_starts(tokens: Sequence[str]) -> list[int]:
    """Where the clauses of a text begin, without its first: the boundaries to start editing from."""
    text = [position for position, token in enumerate(tokens) if token not in SPECIAL]
    return sorted(_starts(tokens, ENDS_CLAUSE) - {text[0]} if text else [])


def word_starts(tokens: Sequence[str]) -> set[int]:
    return {position for position, token in enumerate(tokens) if not token.startswith("##")}


def _starts(tokens: Sequence[str], ends: frozenset[str]) -> set[int]:
    """Where a part begins: after a mark in ``ends``, unless another mark follows at once."""
    return {
        position
        for position in range(1, len(tokens))
        if tokens[position - 1] in ends and tokens[position] not in ENDS_CLAUSE | SPECIAL
    }


def _nest(tokens: Sequence[str], *levels: set[int]) -> Tree:
    """A tree from where the groups of each level begin, coarse ones first."""
    if not tokens:
        raise ValueError("A tree needs at least one token.")

    def part(start: int, end: int, finer: tuple[set[int], ...]) -> list | int:
        """The tokens [start, end) as a nested list; a group of one is the thing itself."""
        if end - start == 1:
            return start
        if not finer:
            return list(range(start, end))
        cuts = [start, *sorted(cut for cut in finer[0] if start < cut < end), end]
        if len(cuts) == 2:
            return part(start, end, finer[1:])
        return [part(first, last, finer[1:]) for first, last in zip(cuts, cuts[1:], strict=False)]

    front = 1 if tokens[0] in SPECIAL else 0
    back = len(tokens) - (1 if len(tokens) > front and tokens[-1] in SPECIAL else 0)
    nested: list = list(range(front))
    if back > front:
        middle = part(front, back, levels)
        # Several sentences are children of the root; a single one is a family of its own beside the special tokens.
        several = any(front < cut < back for cut in levels[0])
        nested += middle if several or not nested and isinstance(middle, list) else [middle]
    return Tree.from_nested([*nested, *range(back, len(tokens))])
