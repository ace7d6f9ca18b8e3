"""The signal hierarchy: a rooted tree whose leaves are the tokens, and its families level by level."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from numbers import Integral

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """F families of one depth that have about as many children, c at most: c is less than twice what any of them has.

    slot      (F, c) which node of the level a child is; 0 where a family has fewer
    places    of the F * c places those that hold a child
    count     (F, c) how many leaves are below it, 0 where there is no child
    """

    slot: Tensor
    places: Tensor
    count: Tensor


@dataclass(frozen=True)
class Level:
    """The families at one depth, a group after the other, and the n nodes that their children are.

    leaves    the tokens among the n nodes; the other nodes are the families of the next level
    order     (n,) puts the leaves, followed by those families, into the order of the n nodes
    back      (n,) puts them back
    """

    groups: tuple[Group, ...]
    leaves: Tensor
    order: Tensor
    back: Tensor


@dataclass(frozen=True)
class Tree:
    """A tree over ``tokens`` leaves. Nodes are numbered in pre-order, the root is 0; node A holds leaves
    [first[A], last[A]).

    Made by ``from_nested``, ``uniform`` or ``from_boundaries``. Hashable, so that it can be the key of a cache.
    """

    parent: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]

    @staticmethod
    def from_nested(nested: Sequence) -> Tree:
        """The tree of nested lists or arrays: ``[[0, 1], 2]`` has a family of two leaves beside a leaf. O(nodes).

        Raises ``ValueError`` unless the leaves, from left to right, are 0, 1, 2, ... and no list is empty.
        """
        parent, first, last = [], [], []
        tokens = 0

        def visit(part: Sequence | int, above: int) -> None:
            nonlocal tokens
            node = len(parent)
            parent.append(above)
            first.append(tokens)
            last.append(tokens + 1)
            if isinstance(part, Integral):
                if part != tokens:
                    raise ValueError(f"Leaves are numbered from left to right: {part} stands where {tokens} belongs.")
                tokens += 1
                return
            if len(part) == 0:
                raise ValueError("A family needs at least one child; this tree has an empty list.")
            for child in part:
                visit(child, node)
            last[node] = tokens

        visit([nested] if isinstance(nested, Integral) else nested, -1)
        return Tree(tuple(parent), tuple(first), tuple(last))

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def uniform(tokens: int, block: int, levels: int = 2) -> Tree:
        """The balanced tree of any length: leaves in groups of ``block``, groups in groups of ``block``, and so on.

        ``levels`` counts families on the way from the root to a leaf: 1 is a flat tree (softmax attention), 2 has
        groups, 3 has groups of groups. The last group of a level may be smaller. O(tokens).
        """
        _positive(tokens=tokens, block=block, levels=levels)
        sizes = [block**level for level in range(levels - 1, 0, -1) if 1 < block**level < tokens]
        return Tree._from_starts(tokens, [range(0, tokens, size) for size in sizes])

    @staticmethod
    def from_boundaries(tokens: int, *boundaries: Sequence[int]) -> Tree:
        """The tree whose groups begin at the given positions, one sequence a level, coarse ones first.

        ``from_boundaries(10, (4,), (2, 4, 7))`` splits 10 tokens in two halves, of two groups and of two groups. A
        position that starts a coarse group starts a fine one too. O(tokens levels).
        Raises ``ValueError`` for positions outside 1 to tokens - 1.
        """
        _positive(tokens=tokens)
        levels, coarser = [], {0}
        for level in boundaries:
            for position in level:
                if not 0 < position < tokens:
                    raise ValueError(
                        f"A group can begin at positions 1 to {tokens - 1} of {tokens} tokens, not at {position}."
                    )
            coarser = coarser | set(level)
            levels.append(sorted(coarser))
        return Tree._from_starts(tokens, levels)

    @staticmethod
    def _from_starts(tokens: int, levels: Sequence[Sequence[int]]) -> Tree:
        """``levels`` holds where the groups of each level begin, coarse ones first; fine levels repeat coarse starts.
        Groups of one token, and those that are the whole of the one above them, are left out."""
        parent, first, last = [-1], [0], [tokens]
        ends = [dict(zip(starts, [*starts[1:], tokens], strict=True)) for starts in levels]
        open_nodes = [0]
        for token in range(tokens):
            while last[open_nodes[-1]] <= token:
                open_nodes.pop()
            for groups in ends:
                whole = (first[open_nodes[-1]], last[open_nodes[-1]])
                if token in groups and groups[token] - token > 1 and (token, groups[token]) != whole:
                    parent.append(open_nodes[-1])
                    first.append(token)
                    last.append(groups[token])
                    open_nodes.append(len(parent) - 1)
            parent.append(open_nodes[-1])
            first.append(token)
            last.append(token + 1)
        return Tree(tuple(parent), tuple(first), tuple(last))

    @property
    def tokens(self) -> int:
        return self.last[0]

    @functools.cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The children of every node, from left to right; none for leaves."""
        found: list[list[int]] = [[] for _ in self.parent]
        for node, above in enumerate(self.parent[1:], start=1):
            found[above].append(node)
        return tuple(map(tuple, found))

    @functools.cached_property
    def depth(self) -> tuple[int, ...]:
        """How many steps every node is below the root."""
        found = [0]
        for above in self.parent[1:]:
            found.append(found[above] + 1)
        return tuple(found)

    def families(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Every internal node with its children, parents before children (pre-order)."""
        return ((node, below) for node, below in enumerate(self.children) if below)

    def leaves_below(self, node: int) -> int:
        return self.last[node] - self.first[node]

    @property
    def largest_family(self) -> int:
        return max(len(below) for _, below in self.families())

    def ancestors(self, token: int) -> tuple[int, ...]:
        """The nodes that hold a token, from below the root down to its leaf."""
        node = next(n for n in reversed(range(len(self.parent))) if self.first[n] == token and not self.children[n])
        path = []
        while node:
            path.append(node)
            node = self.parent[node]
        return tuple(reversed(path))

    def nested(self) -> list:
        """As ``from_nested`` takes it."""

        def part(node: int) -> list | int:
            below = self.children[node]
            return [part(child) for child in below] if below else self.first[node]

        return part(0)

    def levels(self, device: torch.device) -> tuple[Level, ...]:
        """The families of every depth, from the root down, as index tensors on ``device``; kept for the next call."""
        if torch._C._len_torch_dispatch_stack():
            return self._levels(device)  # a tracer's tensors serve nobody else
        with torch.inference_mode(False):
            return self._kept_levels(device)

    # What `torch.compiler.assume_constant_result` does, without importing the compiler.
    levels._dynamo_marked_constant = True

    @functools.lru_cache(maxsize=64)  # noqa: B019 - trees are small, few and immutable
    def _kept_levels(self, device: torch.device) -> tuple[Level, ...]:
        return self._levels(device)

    def _levels(self, device: torch.device) -> tuple[Level, ...]:
        by_depth: list[list[int]] = [[] for _ in range(max(self.depth))]
        for node, _ in self.families():
            by_depth[self.depth[node]].append(node)
        for families in by_depth:
            families.sort(key=lambda node: len(self.children[node]).bit_length())
        return tuple(self._level(*pair, device) for pair in zip(by_depth, [*by_depth[1:], []], strict=True))

    def _level(self, families: list[int], below: list[int], device: torch.device) -> Level:
        """``below`` are the families of the next level, in their order."""

        def table(numbers: list) -> Tensor:
            return torch.tensor(numbers, dtype=torch.int64, device="cpu").to(device)  # whatever the default device is

        groups, nodes = [], []
        for _, alike in groupby(families, key=lambda node: len(self.children[node]).bit_length()):
            slot, count = [], []
            every = [self.children[node] for node in alike]
            width = max(map(len, every))
            for children in every:
                missing = [0] * (width - len(children))
                slot.append([*range(len(nodes), len(nodes) + len(children)), *missing])
                count.append([*map(self.leaves_below, children), *missing])
                nodes += children
            places = [place for place, leaves in enumerate(chain(*count)) if leaves]
            groups.append(Group(table(slot), table(places), table(count)))
        leaves = [node for node in nodes if not self.children[node]]
        rank = {node: place for place, node in enumerate([*leaves, *below])}
        order = [rank[node] for node in nodes]
        back = sorted(range(len(order)), key=order.__getitem__)
        return Level(tuple(groups), table([self.first[node] for node in leaves]), table(order), table(back))


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"A tree needs {name} of at least 1, not {value}.")
