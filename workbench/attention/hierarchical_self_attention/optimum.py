"""What the map optimises: the energy of a tree, and how far its map is from softmax attention (Theorem 3.2)."""

import math

import torch
from torch import Tensor

from workbench.attention.hierarchical_self_attention.inputs import Energy, refuse_unless_on_one_tree
from workbench.attention.hierarchical_self_attention.reference import upward
from workbench.attention.inputs import KeyOrValue, Query, Scale, prepare
from workbench.attention.trees import Tree


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
    """phi(R), the energy of the root (batch, heads). Its gradient is the attention map: N dphi/ds_ij = -theta_ij.

    float64 for float64 inputs, else calculated in float32 and given as that, under autocast too. Arguments and errors
    as the method's.
    """
    query, key, scale = _exactly(query, key, scale)
    refuse_unless_on_one_tree(query, key, is_causal=is_causal, tree=tree, self_attend=self_attend)
    tree = Tree.uniform(query.shape[-2], block, levels) if tree is None else tree
    with torch.autocast(query.device.type, enabled=False):
        return -upward(query, key, tree, scale, self_attend)[0][0]


def kl_gap(query: Query, key: KeyOrValue, **options: object) -> Energy:
    """How far from softmax attention the map is: the mean over rows of KL(hierarchical || softmax), in nats.

    By Theorem 3.2 no map with the same ties is closer. (batch, heads), dtype and options as ``energy``. O(N^2).
    """
    least = energy(query, key, **options)
    query, key, scale = _exactly(query, key, options.get("scale"))
    with torch.autocast(query.device.type, enabled=False):
        scores = query @ key.mT * scale
    if not options.get("self_attend", True):
        scores = scores.masked_fill(torch.eye(query.shape[-2], dtype=torch.bool, device=query.device), -math.inf)
    return least + scores.logsumexp(-1).mean(-1)


def _exactly(query: Tensor, key: Tensor, scale: Scale) -> tuple[Tensor, Tensor, float]:
    """Checked inputs with repeated heads, in float32 at least."""
    exact = torch.promote_types(query.dtype, torch.float32)
    if query.dtype == key.dtype:  # what differs is refused in the words of the caller's types
        query, key = query.to(exact), key.to(exact)
    query, key, _, scale = prepare(query, key, key, scale)
    return query, key, scale
