"""Hierarchical attention over the balanced tree as batched matrix products, a few a level: the CPU's way, and the
backward pass of every device.

A level is a stack of families of c children; the last family may have fewer and is padded with children of no leaves,
which nobody sees. Matrix products are in the inputs' dtype, softmax and sums in float32 or float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench_kernels.tiles import arithmetic


@dataclass
class Level:
    """One level going up: children (batch, families, c, ...) and what their families make of them.

    weights   (batch, families, c, c) row-stochastic; the diagonal is what a child keeps, except among the leaves, where
              it is a weight like the others
    share     (families, c) of a child in its family's means: its leaves over the family's
    """

    query: Tensor
    key: Tensor
    value: Tensor
    weights: Tensor
    share: Tensor


def level_sizes(tokens: int, block: int, levels: int) -> list[int]:
    """How many nodes each level of the balanced tree has, from the tokens up to the children of the root."""
    sizes = [tokens]
    while len(sizes) < levels and 1 < block < sizes[-1]:
        sizes.append(-(-sizes[-1] // block))
    return sizes


def forward_torch(
    query: Tensor, key: Tensor, value: Tensor, scale: float, block: int, levels: int, is_causal: bool
) -> Tensor:
    """The output (batch, heads, tokens, head_dim)."""
    climbed = _climb(query, key, value, scale, block, levels, is_causal)
    shares = _shares(climbed)
    gathered = None
    for depth, (level, kept) in enumerate(zip(reversed(climbed), shares, strict=True)):
        weights = level.weights if depth == len(climbed) - 1 else _off_diagonal(level.weights)
        here = kept[..., None, None] * (weights.to(level.value.dtype) @ level.value)
        gathered = here if gathered is None else _children_of(gathered, here)[..., None, :] + here
    return _flat(gathered, query.shape[-2]).reshape(query.shape).to(query.dtype)


def backward_torch(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float, block: int, levels: int, is_causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value.

    Up: the gradient that arrives below a node, and what the node's share is worth. Down: the gradients of the scores,
    whose diagonal is the gradient of the energy below, and those of the means, spread over the children.
    """
    climbed = _climb(query, key, value, scale, block, levels, is_causal)
    shares = list(reversed(_shares(climbed)))  # from the leaves up, like `climbed`
    arrived = _families(grad.reshape(-1, *grad.shape[-2:]), climbed[0].share.shape[1])
    worth, ascent = None, []
    for depth, level in enumerate(climbed):
        if depth:
            arrived = _families(arrived, level.share.shape[1])
            worth = _families(worth[..., None], level.share.shape[1])[..., 0]
        # What one unit of each weight is worth.
        per_weight = (arrived.to(level.value.dtype) @ level.value.mT).to(level.weights.dtype)
        if depth:
            per_weight = torch.diagonal_scatter(per_weight, worth, dim1=-2, dim2=-1)
        ascent.append((arrived, per_weight))
        worth = (level.weights * per_weight).sum((-2, -1))
        arrived = arrived.to(worth.dtype).sum(-2)
    from_energy, from_means = None, None
    for depth in reversed(range(len(climbed))):
        level, (arrived, per_weight), kept = climbed[depth], ascent[depth], shares[depth]
        weights, dtype = level.weights, level.query.dtype
        centred = per_weight - (weights * per_weight).sum(-1, keepdim=True)
        pull = kept[..., None, None] * centred
        if from_energy is not None:
            pull = pull + (level.share * _children_of(from_energy, pull)[..., None])[..., None]
        grad_scores = weights * pull
        mixing = weights
        if depth:
            from_energy = grad_scores.diagonal(dim1=-2, dim2=-1).flatten(1)
            grad_scores, mixing = _off_diagonal(grad_scores), _off_diagonal(weights)
        grad_scores = grad_scores.to(dtype)
        own = [
            scale * (grad_scores @ level.key).to(weights.dtype),
            scale * (grad_scores.mT @ level.query).to(weights.dtype),
            kept[..., None, None] * (mixing.to(dtype).mT @ arrived.to(dtype)).to(weights.dtype),
        ]
        if from_means is not None:
            own = [
                mine + level.share[..., None] * _children_of(above, mine)[..., None, :]
                for mine, above in zip(own, from_means, strict=True)
            ]
        from_means = [each.flatten(1, 2) for each in own]
    return tuple(each[:, : query.shape[-2]].reshape(query.shape).to(query.dtype) for each in from_means)


def _climb(
    query: Tensor, key: Tensor, value: Tensor, scale: float, block: int, levels: int, is_causal: bool
) -> list[Level]:
    """Every level, from the leaves up."""
    tokens, dtype = query.shape[-2], query.dtype
    sizes = level_sizes(tokens, block, levels)
    rows = [x.reshape(-1, *x.shape[-2:]) for x in (query, key, value)]
    count = torch.ones(tokens, dtype=arithmetic(dtype), device=query.device)
    inside, climbed = None, []
    for nodes, families in zip(sizes, [*sizes[1:], 1], strict=True):
        children = block if families > 1 else nodes
        q, k, v = (_families(x, children) for x in rows)
        count = _families(count[None, :, None], children)[0, ..., 0]
        scores = (q @ k.mT).to(count.dtype) * scale + count.log()[:, None, :]
        if inside is None:
            inside = scores.new_zeros(1)  # only what is padded looks at itself
            own = torch.where(count > 0, scores.diagonal(dim1=-2, dim2=-1), 0.0)
        else:
            own = _families(inside[..., None], children)[..., 0]
        scores = torch.diagonal_scatter(scores, own, dim1=-2, dim2=-1)
        if is_causal:
            later = torch.ones(children, children, dtype=torch.bool, device=query.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        partition = scores.logsumexp(-1)
        total = count.sum(-1)
        share = count / total[:, None]
        climbed.append(Level(q, k, v, (scores - partition[..., None]).exp(), share))
        rows = [(share[..., None] * x.to(count.dtype)).sum(-2).to(dtype) for x in (q, k, v)]
        inside, count = (share * partition).sum(-1), total
    return climbed


def _shares(climbed: list[Level]) -> list[Tensor]:
    """What of its attention a family has left when it comes to it, (batch, families), from the root down."""
    kept = climbed[-1].weights.new_ones(len(climbed[-1].weights), 1)
    shares = [kept]
    for level, below in zip(reversed(climbed[1:]), list(reversed(climbed))[1:], strict=True):
        kept = (kept[..., None] * level.weights.diagonal(dim1=-2, dim2=-1)).flatten(1)[:, : below.weights.shape[1]]
        shares.append(kept)
    return shares


def _families(x: Tensor, children: int) -> Tensor:
    """Nodes (batch, n, width) as families (batch, families, children, width), the last one padded with zeros."""
    missing = -x.shape[1] % children
    if missing:
        x = torch.nn.functional.pad(x, (0, 0, 0, missing))
    return x.unflatten(1, (-1, children))


def _children_of(nodes: Tensor, families: Tensor) -> Tensor:
    """Of nodes (batch, families of the level above, c, ...) or (batch, n, ...) those that are the families below."""
    flat = nodes.flatten(1, 2) if nodes.ndim == families.ndim else nodes
    return flat[:, : families.shape[1]]


def _flat(families: Tensor, nodes: int) -> Tensor:
    return families.flatten(1, 2)[:, :nodes]


def _off_diagonal(x: Tensor) -> Tensor:
    return x - torch.diag_embed(x.diagonal(dim1=-2, dim2=-1))
