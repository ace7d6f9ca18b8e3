"""Theorem 3.2 of hierarchical self-attention put to the test: the ties of a tree, and a minimiser that does not know
the closed form."""

import math

import torch
from torch import Tensor

from workbench.attention.hierarchical_self_attention import Tree, hierarchical_attention


def both_maps(query: Tensor, key: Tensor, tree: Tree) -> tuple[Tensor, Tensor]:
    """(hierarchical, softmax) maps (N, N) of one head."""
    scores = query[0, 0] @ key[0, 0].mT / math.sqrt(query.shape[-1])
    map = hierarchical_attention.attention_map(query, key, tree=tree, implementation="reference")[0, 0]
    return map, scores.softmax(-1)


def divergence(map: Tensor, other: Tensor) -> float:
    """KL(map || other) in nats, the mean over rows; both (N, N), other > 0."""
    return float(torch.where(map > 0, map * (map / other).log(), 0.0).sum(-1).mean())


def free_weights(tree: Tree) -> int:
    """How many different numbers a map on this tree is made of: c^2 for a family of c children, those on its diagonal
    being the shares that are kept."""
    return sum(len(children) ** 2 for _, children in tree.families())


def ties(tree: Tree) -> Tensor:
    """Which tied block every entry of the map belongs to, (N, N), numbered from 0: where the branches part."""
    paths = [tree.ancestors(token) for token in range(tree.tokens)]
    numbers: dict[tuple[int, int], int] = {}

    def number(i: int, j: int) -> int:
        parted = (pair for pair in zip(paths[i], paths[j], strict=False) if pair[0] != pair[1])
        return numbers.setdefault(next(parted, (paths[i][-1],) * 2), len(numbers))

    return torch.tensor([[number(i, j) for j in range(tree.tokens)] for i in range(tree.tokens)])


def constraints(labels: Tensor) -> Tensor:
    """(N, P): how often row i holds the weight p, so that ``constraints @ weights`` are the row sums."""
    return torch.nn.functional.one_hot(labels).sum(1).double()


def tied(map: Tensor, labels: Tensor) -> Tensor:
    """The mean (P,) of a map over every tied block."""
    count = labels.flatten().bincount()
    return torch.zeros(len(count), dtype=map.dtype).index_add_(0, labels.flatten(), map.flatten()) / count


def minimised(softmax: Tensor, tree: Tree, iterations: int = 60) -> Tensor:
    """The map (N, N) with the tree's ties that is closest to ``softmax``, found without the recursion: Newton's method
    on the tied weights, the row sums held at 1."""
    labels = ties(tree)
    rows, count = constraints(labels), labels.flatten().bincount().double()
    linear = tied(softmax.log(), labels) * count
    x = torch.full((len(count),), 1 / tree.tokens, dtype=torch.float64)

    def total(x: Tensor) -> Tensor:
        return (count * x * x.log() - linear * x).sum()

    for _ in range(iterations):
        slope, curvature = count * (x.log() + 1) - linear, count / x
        multipliers = torch.linalg.solve((rows / curvature) @ rows.mT, -(rows / curvature) @ slope)
        step = -(slope + rows.mT @ multipliers) / curvature
        length = 1.0
        while (x + length * step).min() <= 0 or total(x + length * step) > total(x) + 1e-15:
            length /= 2
            if length < 1e-12:
                return x[labels]
        x = x + length * step
    return x[labels]
