"""Hierarchical attention with all families of one depth at once: a few batched products a level, whatever the tree."""

import torch
from torch import Tensor

from workbench.attention._hierarchical_self_attention_tree import Level


def attend_by_levels(
    query: Tensor, key: Tensor, value: Tensor, levels: tuple[Level, ...], scale: float, is_causal: bool
) -> Tensor:
    """The output (batch, heads, tokens, width). Families are padded to the widest of their level.

    O(F c^2 d) operations and O(F c (c + d)) memory for the F families of at most c children of each level.
    """
    climbed: list[tuple[Level, Tensor, Tensor]] = []
    above: tuple[Tensor, ...] = ()
    for level in reversed(levels):
        nodes = _nodes(level, query, key, value, scale, above)
        family, weights, parents = _climb(level, *nodes, scale, is_causal)
        climbed.append((level, weights, family))
        above = parents
    gathered, kept = torch.zeros_like(value[..., :1, :]), torch.ones_like(value[..., :1, :1])
    outputs, tokens = [], []
    for level, weights, family in reversed(climbed):
        diagonal = weights.diagonal(dim1=-2, dim2=-1)[..., None]
        outside = weights - torch.diag_embed(diagonal[..., 0])
        gathered = (gathered[..., None, :] + kept[..., None, :] * (outside @ family))[..., level.present, :]
        kept = (kept[..., None, :] * diagonal)[..., level.present, :]
        # `order` lists leaves first: where it points below their number is a leaf.
        leaf, inner = level.order < len(level.leaves), level.order >= len(level.leaves)
        outputs.append(gathered[..., leaf, :] + kept[..., leaf, :] * value[..., level.leaves, :])
        tokens.append(level.leaves)
        gathered, kept = gathered[..., inner, :], kept[..., inner, :]
    return torch.cat(outputs, dim=-2)[..., torch.cat(tokens).argsort(), :]


def _nodes(
    level: Level, query: Tensor, key: Tensor, value: Tensor, scale: float, families: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """rho_q, rho_k, rho_v (..., n, width) and -phi (..., n) of a level's nodes: its leaves, and the families below."""
    q, k, v = (x[..., level.leaves, :] for x in (query, key, value))
    nodes = (q, k, v, (q * k).sum(-1, keepdim=True) * scale)
    if families:
        nodes = tuple(torch.cat(pair, dim=-2) for pair in zip(nodes, families, strict=True))
    q, k, v, inside = (x[..., level.order, :] for x in nodes)
    return q, k, v, inside[..., 0]


def _climb(
    level: Level, q: Tensor, k: Tensor, v: Tensor, inside: Tensor, scale: float, is_causal: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The values of every family's children (..., F, c, width), their weights (..., F, c, c), and the families as nodes
    of the level above."""
    q, k, v = (x[..., level.slot, :] for x in (q, k, v))
    count = level.count.to(q)
    scores = q @ k.mT * scale + count.log()[:, None, :]
    diagonal = torch.eye(scores.shape[-1], dtype=torch.bool, device=q.device)
    # A child that is not there sees itself alone, so that its row is no NaN; nobody sees it, its count is 0.
    scores = torch.where(diagonal, inside[..., level.slot][..., None], scores)
    if is_causal:
        scores = scores.masked_fill(diagonal.logical_not().triu(), -torch.inf)
    partition = scores.logsumexp(-1)
    share = count / count.sum(-1, keepdim=True)
    mean = [(share[..., None] * x).sum(-2) for x in (q, k, v)]
    return v, (scores - partition[..., None]).exp(), (*mean, (share * partition).sum(-1, keepdim=True))
