"""Algorithms 1 to 3 on any tree, family by family: energies up, shares down."""

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.hierarchical_self_attention.inputs import (
    Block,
    Energy,
    Levels,
    SelfAttend,
    refuse_unless_on_one_tree,
    widened,
)
from workbench.attention.inputs import KeyOrValue, Output, Query, Scale, attention, repeat_heads
from workbench.attention.trees import Tree


@attention(refuse=refuse_unless_on_one_tree)
def hierarchical_attention(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    tree: Tree | None = None,
    block: Block = 16,
    levels: Levels = 2,
    self_attend: SelfAttend = True,
) -> Output:
    """Hierarchical attention on any tree, by the dynamic programme: energies up, shares down.

    query (batch, heads, tokens, head_dim), key, value (batch, kv_heads, tokens, head_dim). ``tree`` has the tokens as
    its leaves; None: the balanced tree of ``block`` and ``levels``, whose last groups may be smaller. Without
    ``self_attend`` no token sees itself; then it takes two tokens. Any floating dtype; scores and energies are float32
    at least. Raises ``ValueError`` for ``is_causal`` and for what does not fit together. O(M b^2 d) operations for M
    families of b children.
    """
    dtype = value.dtype
    key, value = repeat_heads(query, key, value)
    query, key, value = map(widened, (query, key, value))
    tree = Tree.uniform(query.shape[-2], block, levels) if tree is None else tree
    _, weights = upward(query, key, tree, scale, self_attend)
    below = {0: (torch.zeros_like(value[..., :1, :]), torch.ones_like(value[..., :1, :1]))}
    outputs = [value] * tree.tokens
    for node, children in tree.families():  # parents first (Algorithm 3)
        gathered, kept = below.pop(node)
        share = weights[node].to(value.dtype)
        diagonal = share.diagonal(dim1=-2, dim2=-1)[..., None]
        outside = share - torch.diag_embed(diagonal[..., 0])
        values = means(value, tree, children)
        gathered = gathered + kept * (outside @ values)
        kept = kept * diagonal
        ends = gathered + kept * values  # of the children that are leaves
        for child, *both, end in zip(children, *(x.split(1, dim=-2) for x in (gathered, kept, ends)), strict=True):
            if tree.children[child]:
                below[child] = both
            else:
                outputs[tree.first[child]] = end
    return torch.cat(outputs, dim=-2).to(dtype)


def upward(
    query: Query, key: KeyOrValue, tree: Tree, scale: float, self_attend: bool = True
) -> tuple[dict[int, Energy], dict[int, Float[Tensor, "batch heads children children"]]]:
    """Eq. 8, from the leaves up: -phi of every node, and the row-stochastic weights inside every family.

    In the weights of a family the diagonal is mu (what stays inside), the rest |C| delta (what goes to sibling C).
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    own = (query.to(exact) * key.to(exact)).sum(-1) * scale  # a leaf's energy: the token may look at itself
    own = own if self_attend else torch.full_like(own, torch.finfo(exact).min)
    leaves = (node for node, below in enumerate(tree.children) if not below)
    inside = dict(zip(leaves, own.unbind(-1), strict=True))
    weights = {}
    for node, children in reversed(list(tree.families())):  # children first (Algorithms 1 and 2)
        count = torch.tensor([tree.leaves_below(child) for child in children], dtype=exact, device=query.device)
        rho_query, rho_key = (means(x, tree, children).to(exact) for x in (query, key))
        scores = rho_query @ rho_key.mT * scale + count.log()
        diagonal = torch.eye(len(children), dtype=torch.bool, device=query.device)
        scores = torch.where(diagonal, torch.stack([inside[child] for child in children], -1)[..., None], scores)
        partition = scores.logsumexp(-1)
        inside[node] = (partition * count / count.sum()).sum(-1)
        weights[node] = scores.softmax(-1)  # exp(scores - partition), and sums to 1 however large the scores are
    return inside, weights


def means(x: Float[Tensor, "batch heads tokens width"], tree: Tree, nodes: tuple[int, ...]) -> Tensor:
    """rho of siblings: the mean of x over the leaves of each, (batch, heads, nodes, width)."""
    rows = x[..., tree.first[nodes[0]] : tree.last[nodes[-1]], :]  # siblings are neighbours
    count = [tree.leaves_below(node) for node in nodes]
    return rows if max(count) == 1 else torch.stack([each.mean(-2) for each in rows.split(count, dim=-2)], dim=-2)
