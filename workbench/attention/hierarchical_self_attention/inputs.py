"""What hierarchical attention takes, what must fit together, and what it costs."""

import reprlib
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.hierarchical_self_attention.balanced import family_sizes
from workbench.attention.trees import Tree
from workbench.controls import Range
from workbench.paper import Cost

Block = Annotated[int, Range(1, 1024, log=True), "Children of every family of the balanced tree."]
Levels = Annotated[int, Range(1, 6), "Families between the root and a token: 1 is softmax attention, 2 has groups."]
SelfAttend = Annotated[bool, "Whether a token sees itself; without, one level is softmax over the others."]
Energy = Float[Tensor, "batch heads"]

NOT_CAUSAL = (
    "Hierarchical attention is not causal: what a group keeps for itself is one number for all its tokens, made of all "
    "their queries and keys, so an early token would know of later ones. The paper is for encoders. Use "
    "is_causal = False."
)


def refuse_unless_on_one_tree(
    query: Tensor,
    key: Tensor,
    *,
    is_causal: bool = False,
    tree: Tree | None = None,
    self_attend: bool = True,
    **options: object,
) -> None:
    """Raise ``ValueError`` unless queries and keys are the leaves of one tree, where a token would see nothing, and for
    ``is_causal``."""
    if is_causal:
        raise ValueError(NOT_CAUSAL)
    tokens = query.shape[-2]
    if tokens != key.shape[-2]:
        raise ValueError(
            "Hierarchical attention is self-attention on one tree: as many keys as queries are needed, not "
            f"{key.shape[-2]} and {tokens}."
        )
    if not isinstance(tree, Tree | None):
        raise ValueError(
            f"tree = {reprlib.repr(tree)} is not allowed: give a Tree, such as Tree.from_nested([[0, 1], 2])."
        )
    if tree is not None and tree.tokens != tokens:
        raise ValueError(f"The tree has {tree.tokens} leaves, and there are {tokens} tokens.")
    if not self_attend and tokens == 1:
        raise ValueError("With self_attend = False a single token sees nothing: let tokens see themselves.")


def widened(x: Tensor) -> Tensor:
    """float16 as float32: it ends at 65504, and a score or what a weight brings may lie beyond. Others as they are."""
    return x.float() if x.dtype == torch.float16 else x


def cost(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Cost:
    """4 c^2 d FLOPs a family of c children (scores and gathering); backward 2.5 times that.

    Least bytes: query, key, value read, output written once; backward reads those and a gradient and writes three.
    """
    batch, heads, tokens, width = query.shape
    tree = options.get("tree")
    if tree is None:
        sizes = family_sizes(tokens, options.get("block", 16), options.get("levels", 2))
    else:
        sizes = [(1, len(children)) for _, children in tree.families()]
    squares = sum(families * children**2 for families, children in sizes)
    flops = 4 * batch * heads * width * squares
    moved = 2 * query.nbytes + key.nbytes + value.nbytes
    return Cost(flops, moved, 2.5 * flops, 2 * moved)


def workspace(implementation: str, query: Tensor, key: Tensor, value: Tensor, **options: object) -> int:
    """Bytes beside input and output at the forward's peak, an upper bound."""
    batch, heads, tokens, width = query.shape
    tree = options.get("tree")
    if tree is None:
        sizes = family_sizes(tokens, options.get("block", 16), options.get("levels", 2))
    else:
        sizes = [(1, len(children)) for _, children in tree.families()]
    pairs = sum(families * children**2 for families, children in sizes)
    nodes = sum(families * children for families, children in sizes)
    repeated = 0 if heads == key.shape[1] else 2 * query.nbytes
    if implementation == "fast" and query.is_cuda and tree is None:
        return repeated + 4 * batch * heads * ((nodes - tokens) * (4 * width + 4) + 2 * tokens)
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
