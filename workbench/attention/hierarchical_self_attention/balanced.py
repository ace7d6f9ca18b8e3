"""The balanced tree in numbers, without building it: its families, and which one is cheapest."""

import math


def best_block(tokens: int) -> int:
    """The group size that makes two levels cheapest: the largest power of two up to (2 N)^(1/3).

    Groups of g cost 4 N g d operations inside and 4 (N / g)^2 d between them, so O(N^(4/3) d) at the best g.
    """
    return 2 ** max(0, int(math.log2(max(1.0, (2 * tokens) ** (1 / 3)) + 1e-9)))


def enough_levels(tokens: int, block: int) -> int:
    """How many levels it takes for no family to have more than ``block`` children; 6, the most there are, at most.

    With so many the cost is O(N block d). ``block`` of 1 makes a flat tree, whatever the levels: 1.
    """
    levels = 1
    while block > 1 and block**levels < tokens and levels < 6:
        levels += 1
    return levels


def family_sizes(tokens: int, block: int, levels: int) -> list[tuple[int, int]]:
    """(families, children) of the balanced tree, level by level, without building it: the last family apart."""
    sizes, nodes = [], tokens
    for _ in range(levels - 1):
        if not 1 < block < nodes:
            break
        full, rest = divmod(nodes, block)
        sizes += [(full, block), *([(1, rest)] if rest > 1 else [])]
        nodes = full + (rest > 0)
    return [*sizes, (1, nodes)]
