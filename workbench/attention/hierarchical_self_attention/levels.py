"""Hierarchical attention with all families of one depth and about one size at once: a few batched products for each,
whatever the tree."""

import torch
from torch import Tensor

from workbench.attention.trees import Group, Level


def attend_by_levels(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    levels: tuple[Level, ...],
    scale: float,
    self_attend: bool,
) -> Tensor:
    """The output (batch, heads, tokens, width). Families are padded to the widest of their group, so to less than twice
    their size; float16 and bfloat16 are computed in float32.

    O(F c^2 d) operations and O(F c (c + d)) memory for the F families of at most c children of each group.
    """
    dtype = query.dtype
    query, key, value = (x.to(torch.promote_types(dtype, torch.float32)) for x in (query, key, value))
    own = (query * key).sum(-1, keepdim=True) * scale
    # What hides a token from itself is finite, so that a group of one is no NaN.
    tokens = (query, key, value, own if self_attend else torch.full_like(own, torch.finfo(own.dtype).min))
    climbed = []
    families: tuple[Tensor, ...] = ()
    for level in reversed(levels):
        nodes = _nodes(level, tokens, families)
        groups = [_climb(group, nodes, scale) for group in level.groups]
        climbed.append((level, groups))
        families = tuple(torch.cat(parts, dim=-2) for parts in zip(*(of_group[2] for of_group in groups), strict=True))
    gathered, kept = torch.zeros_like(value[..., :1, :]), torch.ones_like(value[..., :1, :1])
    outputs = []
    for level, groups in reversed(climbed):
        shares = [group.slot.shape[0] for group in level.groups]
        above = zip(gathered.split(shares, dim=-2), kept.split(shares, dim=-2), strict=True)
        arrived = [
            _descend(group, weights, values, *of_group)
            for group, (weights, values, _), of_group in zip(level.groups, groups, above, strict=True)
        ]
        gathered, kept = (torch.cat(parts, dim=-2).index_select(-2, level.back) for parts in zip(*arrived, strict=True))
        leaves = len(level.leaves)
        outputs.append(gathered[..., :leaves, :] + kept[..., :leaves, :] * value.index_select(-2, level.leaves))
        gathered, kept = gathered[..., leaves:, :], kept[..., leaves:, :]
    order = torch.cat([level.leaves for level in levels]).argsort()
    return torch.cat(outputs, dim=-2).index_select(-2, order).to(dtype)


def _nodes(level: Level, tokens: tuple[Tensor, ...], families: tuple[Tensor, ...]) -> list[Tensor]:
    """rho_q, rho_k, rho_v (..., n, width) and -phi (..., n, 1) of a level's nodes: its leaves, the families below."""
    nodes = [x.index_select(-2, level.leaves) for x in tokens]
    if families:
        nodes = [torch.cat(pair, dim=-2) for pair in zip(nodes, families, strict=True)]
    return [x.index_select(-2, level.order) for x in nodes]


def _climb(group: Group, nodes: list[Tensor], scale: float) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The weights of every family (..., F, c, c), the values of its children (..., F, c, width), and the families as
    nodes of the level above."""
    slots = group.slot.flatten()
    q, k, v, inside = (x.index_select(-2, slots).unflatten(-2, group.slot.shape) for x in nodes)
    count = group.count.to(q)
    scores = q @ k.mT * scale + count.log()[:, None, :]
    diagonal = torch.eye(scores.shape[-1], dtype=torch.bool, device=q.device)
    # A child that is not there sees itself alone, so that its row is no NaN; nobody sees it, its count is 0.
    scores = torch.where(diagonal, inside, scores)
    partition = scores.logsumexp(-1)
    share = count / count.sum(-1, keepdim=True)
    mean = [(share[..., None] * x).sum(-2) for x in (q, k, v)]
    return scores.softmax(-1), v, (*mean, (share * partition).sum(-1, keepdim=True))


def _descend(group: Group, weights: Tensor, values: Tensor, gathered: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """What every child of the group has gathered outside itself, and the share it keeps, from its family's."""
    diagonal = weights.diagonal(dim1=-2, dim2=-1)[..., None]
    outside = weights - torch.diag_embed(diagonal[..., 0])
    gathered = gathered[..., None, :] + kept[..., None, :] * (outside @ values)
    kept = kept[..., None, :] * diagonal
    return tuple(x.flatten(-3, -2).index_select(-2, group.places) for x in (gathered, kept))
