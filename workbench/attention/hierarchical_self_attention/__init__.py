r"""Hierarchical self-attention: the closest to softmax attention that treats all tokens of a sibling group alike.

Amizadeh, Abdali, Li, Koishida, *Hierarchical Self-Attention: Generalizing Neural Attention Mechanics to Multi-Scale
Problems*, arXiv 2509.15448.

Idea. The tokens are the leaves of a tree (words in sentences in paragraphs, patches in images in pages). Whoever looks
from one branch into a *sibling* branch gives all leaves there the same weight. Among all row-stochastic attention maps
with that property there is one that is closest to softmax attention, and it can be written down: go up the tree giving
every node an energy (a hierarchical log-partition function), then go down splitting every node's unit of attention
between "stay inside" and "go to sibling C". Only means of queries, keys and values per node are needed, so N tokens
cost O(N b) with families of b, not O(N^2).

Notation, for one batch element and one head (Sec. 3):

==============================  ======================  ======================================================
paper                           here                    shape
==============================  ======================  ======================================================
:math:`q_i, k_i, v_i`           query, key, value       (N, d)
:math:`|A|`                     count                   leaves below node A
:math:`\rho_q(A), \rho_k(A)`    means over the leaves   (d,)
:math:`-\psi_{A \to B}`         scores                  :math:`\rho_q(A) \cdot \rho_k(B) / \sqrt d`
:math:`-\phi(A)`                inside                  log-partition function of A; of a leaf: its own score
:math:`\mu(A)`                  kept                    share of A's attention that stays inside A
:math:`|C|\,\delta(B, C)`       weights                 share of B's attention that goes to sibling C
==============================  ======================  ======================================================

With layer-normalised queries and keys the paper's squared distances are these scores up to a constant that cancels.
For other queries and keys (a pretrained model's) the theorem holds for the dot products used here. Positions are
expected inside query and key; the paper's separate embedding of sibling positions is not part of this function.

What it costs, on the balanced tree with families of g = ``block``: two levels take 4 N g d + 4 (N / g)^2 d FLOPs a
head. That is O(N^(4/3) d) when g grows as (2 N)^(1/3) (``best_block``); when g stays it is in the end quadratic, with
1/g^2 of softmax's constant. With g fixed and as many levels as it takes (``enough_levels``) it is O(N g d). One level
is softmax attention.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.hierarchical_self_attention.claims import CLAIMS, RECORDINGS
from workbench.attention.hierarchical_self_attention.levels import HIDDEN, attend_by_levels
from workbench.attention.hierarchical_self_attention.products import batched_products, why_not_products
from workbench.attention.hierarchical_self_attention.tree import Level, Tree
from workbench.attention.inputs import (
    Causal,
    KeyOrValue,
    Output,
    Query,
    Scale,
    attention,
    example,
    prepare,
    repeat_heads,
)
from workbench.controls import Range
from workbench.paper import Attention, Baseline, Cost, Method, Paper, kernel_or_cpu

__all__ = [
    "PAPER",
    "Level",
    "Tree",
    "best_block",
    "energy",
    "enough_levels",
    "hierarchical_attention",
    "kl_gap",
]

Block = Annotated[int, Range(1, 1024, log=True), "Children of every family of the balanced tree."]
Levels = Annotated[int, Range(1, 6), "Families between the root and a token: 1 is softmax attention, 2 has groups."]
SelfAttend = Annotated[bool, "Whether a token sees itself; without, one level is softmax over the others."]
Energy = Float[Tensor, "batch heads"]


# --- what it takes ----------------------------------------------------------------------------------------------------


def refuse_unless_on_one_tree(
    query: Tensor,
    key: Tensor,
    *,
    is_causal: bool = False,
    tree: Tree | None = None,
    self_attend: bool = True,
    **options: object,
) -> None:
    """Raise ``ValueError`` unless queries and keys are the leaves of one tree, and where a token would see nothing."""
    tokens = query.shape[-2]
    if tokens != key.shape[-2]:
        raise ValueError(
            "Hierarchical attention is self-attention on one tree: as many keys as queries are needed, not "
            f"{key.shape[-2]} and {tokens}."
        )
    if tree is not None and tree.tokens != tokens:
        raise ValueError(f"The tree has {tree.tokens} leaves, and there are {tokens} tokens.")
    if not self_attend and (is_causal or tokens == 1):
        reason = "with a causal mask the first token" if is_causal else "a single token"
        raise ValueError(f"With self_attend = False {reason} sees nothing: let tokens see themselves.")


# --- the reference: Algorithms 1 to 3 ---------------------------------------------------------------------------------


@attention(refuse=refuse_unless_on_one_tree)
def reference(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: Causal = False,
    scale: Scale = None,
    tree: Tree | None = None,
    block: Block = 16,
    levels: Levels = 2,
    self_attend: SelfAttend = True,
) -> Output:
    """Hierarchical attention on any tree, by the dynamic programme: energies up, shares down.

    query (batch, heads, tokens, head_dim), key, value (batch, kv_heads, tokens, head_dim). ``tree`` has the tokens as
    its leaves; None: the balanced tree of ``block`` and ``levels``, whose last groups may be smaller. With
    ``is_causal`` siblings see only those to their left (our extension; the same proof holds). Without ``self_attend``
    no token sees itself: then it takes two tokens, and no causal mask. Any floating dtype. Raises ``ValueError`` for
    what does not fit together. O(M b^2 d) operations for M families of b children.
    """
    key, value = repeat_heads(query, key, value)
    tree = Tree.uniform(query.shape[-2], block, levels) if tree is None else tree
    inside, weights = upward(query, key, tree, scale, is_causal, self_attend)
    below = {0: (torch.zeros_like(value[..., :1, :]), torch.ones_like(value[..., :1, :1]))}
    outputs = [value] * tree.tokens
    for node, children in tree.families():  # parents first (Algorithm 3)
        gathered, kept = below.pop(node)
        diagonal = weights[node].diagonal(dim1=-2, dim2=-1)[..., None]
        outside = weights[node] - torch.diag_embed(diagonal[..., 0])
        values = means(value, tree, children)
        gathered = gathered + kept * (outside @ values)
        kept = kept * diagonal
        ends = gathered + kept * values  # of the children that are leaves
        for child, *share, end in zip(children, *(x.split(1, dim=-2) for x in (gathered, kept, ends)), strict=True):
            if tree.children[child]:
                below[child] = share
            else:
                outputs[tree.first[child]] = end
    return torch.cat(outputs, dim=-2)


def upward(
    query: Query, key: KeyOrValue, tree: Tree, scale: float, is_causal: bool = False, self_attend: bool = True
) -> tuple[dict[int, Energy], dict[int, Float[Tensor, "batch heads children children"]]]:
    """Eq. 8, from the leaves up: -phi of every node, and the row-stochastic weights inside every family.

    In the weights of a family the diagonal is mu (what stays inside), the rest |C| delta (what goes to sibling C).
    """
    own = (query * key).sum(-1) * scale  # a leaf's energy: the token may look at itself
    own = own if self_attend else torch.full_like(own, HIDDEN)
    leaves = (node for node, below in enumerate(tree.children) if not below)
    inside = dict(zip(leaves, own.unbind(-1), strict=True))
    weights = {}
    for node, children in reversed(list(tree.families())):  # children first (Algorithms 1 and 2)
        count = torch.tensor([tree.leaves_below(child) for child in children]).to(query)
        scores = means(query, tree, children) @ means(key, tree, children).mT * scale + count.log()
        diagonal = torch.eye(len(children), dtype=torch.bool, device=query.device)
        scores = torch.where(diagonal, torch.stack([inside[child] for child in children], -1)[..., None], scores)
        if is_causal:
            scores = scores.masked_fill(diagonal.logical_not().triu(), -math.inf)
        partition = scores.logsumexp(-1)
        inside[node] = (partition * count / count.sum()).sum(-1)
        weights[node] = (scores - partition[..., None]).exp()
    return inside, weights


def means(x: Float[Tensor, "batch heads tokens width"], tree: Tree, nodes: tuple[int, ...]) -> Tensor:
    """rho of siblings: the mean of x over the leaves of each, (batch, heads, nodes, width)."""
    rows = x[..., tree.first[nodes[0]] : tree.last[nodes[-1]], :]  # siblings are neighbours
    count = [tree.leaves_below(node) for node in nodes]
    return rows if max(count) == 1 else torch.stack([each.mean(-2) for each in rows.split(count, dim=-2)], dim=-2)


# --- what it optimises ------------------------------------------------------------------------------------------------


def energy(
    query: Query,
    key: KeyOrValue,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    tree: Tree | None = None,
    block: int = 16,
    levels: int = 2,
    self_attend: bool = True,
) -> Energy:
    """phi(R), the energy of the root (batch, heads). Its gradient is the attention map: N dphi/ds_ij = -theta_ij."""
    query, key, _, scale = prepare(query, key, key, scale)
    refuse_unless_on_one_tree(query, key, is_causal=is_causal, tree=tree, self_attend=self_attend)
    tree = Tree.uniform(query.shape[-2], block, levels) if tree is None else tree
    return -upward(query, key, tree, scale, is_causal, self_attend)[0][0]


def kl_gap(query: Query, key: KeyOrValue, **options: object) -> Energy:
    """How far from softmax attention the map is: the mean over rows of KL(hierarchical || softmax), in nats.

    By Theorem 3.2 no map with the same ties is closer. (batch, heads); options as ``energy``. O(N^2).
    """
    least = energy(query, key, **options)
    query, key, _, scale = prepare(query, key, key, options.get("scale"))
    scores = query @ key.mT * scale
    if options.get("is_causal"):
        scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -math.inf)
    if not options.get("self_attend", True):
        scores = scores.masked_fill(torch.eye(query.shape[-2], dtype=torch.bool, device=query.device), -math.inf)
    return least + scores.logsumexp(-1).mean(-1)


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


# --- fast -------------------------------------------------------------------------------------------------------------


@attention(refuse=refuse_unless_on_one_tree)
def fast(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: Causal = False,
    scale: Scale = None,
    tree: Tree | None = None,
    block: Block = 16,
    levels: Levels = 2,
    self_attend: SelfAttend = True,
) -> Output:
    """The same function, made to pay off. Arguments and errors as ``reference``.

    The balanced tree: on CUDA one Triton kernel a level, which reads its rows once, and one that brings the levels
    together; for the backward pass it keeps the output, 4 bytes a token and the nodes above the leaves. On a CPU it is
    batched matrix products with a backward pass of their own, which keeps the inputs only. Any other tree: all families
    of one depth and about one size at once, in float32 at least. Memory a head beside input and output: O(N d / b) in
    the kernels, O(N b) in batched products.

    On an H200 (bfloat16, 16 heads of 64, groups of 64) 65536 tokens take 0.25 ms, cuDNN's softmax attention 38 ms. Up
    to about 4000 tokens a call is bound by launching its kernels (0.15 ms); as a CUDA graph it is the faster one from
    about 640 tokens on.
    """
    key, value = repeat_heads(query, key, value)
    if tree is None:
        from workbench_kernels.hierarchical.attention import hierarchical_attention as kernel

        shape = {"block": block, "levels": levels, "is_causal": is_causal, "self_attend": self_attend}
        return kernel(query, key, value, scale=scale, **shape)
    return attend_by_levels(query, key, value, tree.levels(query.device), scale, is_causal, self_attend)


def why_not_fast(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
    """Why ``fast`` cannot run on these inputs, in sentences."""
    if options.get("tree") is not None:
        return []
    from workbench_kernels.hierarchical import attention as hierarchical

    return kernel_or_cpu(query, hierarchical.why_not, query.dtype, query.shape[-1])


# --- inputs, cost, the paper ------------------------------------------------------------------------------------------


def cost(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Cost:
    """4 c^2 d FLOPs a family of c children (scores and gathering), half of that if causal; backward 2.5 times that.

    Least bytes: query, key, value read, output written once; backward reads those and a gradient and writes three.
    """
    batch, heads, tokens, width = query.shape
    tree = options.get("tree")
    if tree is None:
        sizes = _family_sizes(tokens, options.get("block", 16), options.get("levels", 2))
    else:
        sizes = [(1, len(children)) for _, children in tree.families()]
    squares = sum(families * children**2 for families, children in sizes)
    flops = 4 * batch * heads * width * squares / (2 if options.get("is_causal") else 1)
    moved = 2 * query.nbytes + key.nbytes + value.nbytes
    return Cost(flops, moved, 2.5 * flops, 2 * moved)


def _family_sizes(tokens: int, block: int, levels: int) -> list[tuple[int, int]]:
    """(families, children) of the balanced tree, level by level, without building it: the last family apart."""
    sizes, nodes = [], tokens
    for _ in range(levels - 1):
        if not 1 < block < nodes:
            break
        full, rest = divmod(nodes, block)
        sizes += [(full, block), *([(1, rest)] if rest > 1 else [])]
        nodes = full + (rest > 0)
    return [*sizes, (1, nodes)]


def workspace(implementation: str, query: Tensor, key: Tensor, value: Tensor, **options: object) -> int:
    """Bytes beside input and output at the forward's peak, an upper bound."""
    batch, heads, tokens, width = query.shape
    tree = options.get("tree")
    if tree is None:
        sizes = _family_sizes(tokens, options.get("block", 16), options.get("levels", 2))
    else:
        sizes = [(1, len(children)) for _, children in tree.families()]
    pairs = sum(families * children**2 for families, children in sizes)
    nodes = sum(families * children for families, children in sizes)
    repeated = 0 if heads == key.shape[1] else 2 * query.nbytes
    if implementation == "fast" and query.is_cuda and tree is None:
        of_node = width * (3 * query.element_size() + 4) + 12
        return repeated + batch * heads * ((nodes - tokens) * of_node + 4 * tokens)
    if implementation == "reference":  # one family at a time; weights and outputs stay
        widest = max(children for _, children in sizes)
        return batch * heads * (pairs + 4 * widest * (widest + width) + nodes * (width + 8)) * query.element_size()
    size = max(4, query.element_size())
    if tree is not None:
        return batch * heads * (6 * pairs + 12 * nodes * (width + 2)) * size
    from workbench_kernels.hierarchical.levels import BUDGET, bytes_at_a_time

    if implementation == "fast" and len(sizes) == 1 and options.get("self_attend", True):  # fused softmax attention
        return repeated + 4 * batch * heads * tokens
    budget = BUDGET["cpu" if implementation == "fast" else "cuda"]
    return repeated + bytes_at_a_time(query, options.get("block", 16), options.get("levels", 2), budget)


hierarchical_attention = Method(
    name="hierarchical_attention",
    title="Hierarchical self-attention",
    idea="Tokens in groups: full attention inside a group, one shared weight for each group elsewhere.",
    slot=Attention(family="hierarchical"),
    reference=reference,
    fast=fast,
    why_not_fast=why_not_fast,
    example=example,
    cost=cost,
    workspace=workspace,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    baselines={"batched_products": Baseline(batched_products, why_not_products)},
)

PAPER = Paper(
    slug="hierarchical_self_attention",
    title="Hierarchical Self-Attention: Generalizing Neural Attention Mechanics to Multi-Scale Problems",
    authors="Saeed Amizadeh, Sara Abdali, Yinheng Li, Kazuhito Koishida",
    arxiv="2509.15448",
    year=2025,
    chapter="attention",
    idea="The closest to softmax attention that gives all tokens of a neighbouring group one shared weight.",
    methods=(hierarchical_attention,),
    claims=CLAIMS,
    recordings=RECORDINGS,
)
