"""Hierarchical attention over the balanced tree as batched matrix products, a few a level: the CPU's way, and what the
Triton kernels are measured against.

``hierarchical_levels`` is the function; it runs on every device, and keeps only its inputs for the backward pass. It
works on as many matrices (heads of batch elements) at a time as a budget of memory allows, one at least.

A level is a stack of families of c children; the last family may have fewer and is padded with children of no leaves,
which nobody sees. Everything is calculated in float32 or float64: float16 ends at 65504, where a score or a family's
summed gradient may not, and bfloat16 has too few digits for scores. On CUDA bfloat16 keeps its fast products, whose
results are float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench_kernels.operation import Operation
from workbench_kernels.tiles import arithmetic

# Bytes that the forward pass may take for the matrices that it works on together: what a CPU's caches hold of it
# decides its speed, a GPU wants much work at once.
BUDGET = {"cpu": 64 * 2**20, "cuda": 4 * 2**30}


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


def hierarchical_levels(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    block: int,
    levels: int,
    self_attend: bool = True,
) -> Tensor:
    """The output (batch, heads, tokens, head_dim), differentiable once. Any floating dtype, any device.

    Memory: ``bytes_at_a_time``, for the weights of all families of a few heads; twice that for the backward pass.
    """
    return _levels(query, key, value, scale, block, levels, self_attend)


def bytes_at_a_time(query: Tensor, block: int, levels: int, budget: int) -> int:
    """What the forward pass takes beside inputs and output, an upper bound."""
    matrices = query.shape[0] * query.shape[1]
    return min(matrices, _matrices_at_a_time(query, block, levels, budget)) * _bytes_of_one(query, block, levels)


def _bytes_of_one(query: Tensor, block: int, levels: int) -> int:
    *below, root = level_sizes(query.shape[-2], block, levels)
    pairs = sum(-(-nodes // block) * block**2 for nodes in below) + root**2
    nodes = sum(below) + root + block
    return (3 * pairs + 4 * nodes * (query.shape[-1] + 2)) * max(4, query.element_size())


def _matrices_at_a_time(query: Tensor, block: int, levels: int, budget: int) -> int:
    return max(1, budget // _bytes_of_one(query, block, levels))


def _pieces(query: Tensor, block: int, levels: int) -> Iterator[slice]:
    """Slices of the matrices that are worked on together."""
    each = _matrices_at_a_time(query, block, levels, BUDGET.get(query.device.type, BUDGET["cpu"]))
    return (slice(start, start + each) for start in range(0, query.shape[0] * query.shape[1], each))


def forward_torch(
    query: Tensor, key: Tensor, value: Tensor, scale: float, block: int, levels: int, self_attend: bool
) -> Tensor:
    """The output (batch, heads, tokens, head_dim)."""
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    inputs = [x.flatten(0, 1) for x in (query, key, value)]
    for piece in _pieces(query, block, levels):
        rows = [_wide(x[piece]) for x in inputs]
        output.flatten(0, 1)[piece] = _forward(*rows, scale, block, levels, self_attend)
    return output


def _wide(x: Tensor) -> Tensor:
    return x if x.is_cuda and x.dtype == torch.bfloat16 else x.to(arithmetic(x.dtype))


def _product(x: Tensor, y: Tensor) -> Tensor:
    """x @ y.mT of families (batch, families, c, width), float32 at least."""
    if x.dtype == arithmetic(x.dtype):
        return x @ y.mT
    return torch.bmm(x.flatten(0, 1), y.flatten(0, 1).mT, out_dtype=torch.float32).unflatten(0, x.shape[:2])


def _forward(
    query: Tensor, key: Tensor, value: Tensor, scale: float, block: int, levels: int, self_attend: bool
) -> Tensor:
    climbed = _climb(query, key, value, scale, block, levels, self_attend)
    shares = _shares(climbed)
    gathered = None
    for depth, (level, kept) in enumerate(zip(reversed(climbed), shares, strict=True)):
        weights = level.weights if depth == len(climbed) - 1 else _off_diagonal(level.weights)
        here = kept[..., None, None] * (weights.to(level.value.dtype) @ level.value)
        gathered = here if gathered is None else _children_of(gathered, here)[..., None, :] + here
    return _flat(gathered, query.shape[-2])


def backward_torch(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    block: int,
    levels: int,
    self_attend: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value."""
    gradients = [torch.empty_like(query, memory_format=torch.contiguous_format) for _ in range(3)]
    inputs = [x.flatten(0, 1) for x in (grad, query, key, value)]
    for piece in _pieces(query, block, levels):
        found = _backward(*(_wide(x[piece]) for x in inputs), scale, block, levels, self_attend)
        for gradient, part in zip(gradients, found, strict=True):
            gradient.flatten(0, 1)[piece] = part
    return tuple(gradients)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    block: int,
    levels: int,
    self_attend: bool,
) -> list[Tensor]:
    """Gradients (matrices, tokens, head_dim).

    Up: the gradient that arrives below a node, and what the node's share is worth. Down: the gradients of the scores,
    whose diagonal is the gradient of the energy below, and those of the means, spread over the children.
    """
    climbed = _climb(query, key, value, scale, block, levels, self_attend)
    shares = list(reversed(_shares(climbed)))  # from the leaves up, like `climbed`
    arrived = _families(grad, climbed[0].share.shape[1])
    worth, ascent = None, []
    for depth, level in enumerate(climbed):
        if depth:
            arrived = _families(arrived, level.share.shape[1])
            worth = _families(worth[..., None], level.share.shape[1])[..., 0]
        # What one unit of each weight is worth.
        per_weight = _product(arrived.to(level.value.dtype), level.value)
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
    return [each[:, : query.shape[-2]] for each in from_means]


_levels = Operation(
    "hierarchical_levels",
    forward=forward_torch,
    backward=backward_torch,
    fake=lambda query, *_: query.new_empty(query.shape),
)


def _climb(
    query: Tensor, key: Tensor, value: Tensor, scale: float, block: int, levels: int, self_attend: bool
) -> list[Level]:
    """Every level, from the leaves up."""
    tokens, dtype = query.shape[-2], query.dtype
    sizes = level_sizes(tokens, block, levels)
    rows = (query, key, value)
    count = torch.ones(tokens, dtype=arithmetic(dtype), device=query.device)
    inside, climbed = None, []
    for nodes, families in zip(sizes, [*sizes[1:], 1], strict=True):
        children = block if families > 1 else nodes
        q, k, v = (_families(x, children) for x in rows)
        count = _families(count[None, :, None], children)[0, ..., 0]
        scores = _product(q, k) * scale + count.log()[:, None, :]
        if inside is None:
            # Finite where a token must not see itself, so that a group of one is no NaN; what is padded sees itself.
            own = scores.diagonal(dim1=-2, dim2=-1) if self_attend else scores.new_tensor(torch.finfo(scores.dtype).min)
            own = torch.where(count > 0, own, 0.0).expand(scores.shape[:-1])
        else:
            own = _families(inside[..., None], children)[..., 0]
        scores = torch.diagonal_scatter(scores, own, dim1=-2, dim2=-1)
        # A softmax, and what its rows are divided by. They sum to 1 however large the scores are.
        maximum = scores.amax(-1, keepdim=True)
        weights = (scores - maximum).exp()
        normaliser = weights.sum(-1, keepdim=True)
        weights, partition = weights / normaliser, (maximum + normaliser.log())[..., 0]
        total = count.sum(-1)
        share = count / total[:, None]
        climbed.append(Level(q, k, v, weights, share))
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
