"""Hierarchical self-attention: the theorem, the identities, and the arrays of a direct minimisation."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from workbench.attention.hierarchical_self_attention import (
    Tree,
    best_block,
    energy,
    enough_levels,
    hierarchical_attention,
    kl_gap,
)
from workbench.attention.hierarchical_self_attention.balanced import family_sizes
from workbench.conformance import assert_close

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "hierarchical_self_attention.npz")
TREES = {
    "pairs": [[0, 1], [2, 3], [4, 5]],
    "deep": [[0, [1, [2, [3, 4]]]], 5],
    "mixed": [[0, 1, 2], [[3, 4], [5, 6, 7]], 8, [9, 10]],
    "chain": [[[0, 1, 2, 3]]],
    "one": [0],
    "flat": [0, 1, 2, 3, 4],
    "uneven": [[0], [[1, 2, 3, 4, 5, 6, 7], 8, [9, [10, 11]]], [[12, 13]], 14, [15, 16, 17]],
}
BOTH = (hierarchical_attention.reference, hierarchical_attention.fast)
every_tree = pytest.mark.parametrize("tree", [Tree.from_nested(nested) for nested in TREES.values()], ids=TREES)


def normal(tree, width=4, heads=2, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, heads, tree.tokens, width)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def fewer_queries():
    query, key, value = normal(Tree.uniform(5, 2))
    return query[:, :, :4], key, value


def dense(query, key, tree, **options):
    return hierarchical_attention.attention_map(query, key, tree=tree, implementation="reference", **options)


def softmax_of(query, key, self_attend=True):
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if not self_attend:
        scores = scores.masked_fill(torch.eye(scores.shape[-1], dtype=torch.bool), -math.inf)
    return scores.softmax(-1), scores


def blocks_of(tree):
    """For every pair of leaves the tied block it belongs to: the branches of query and key where they part."""
    paths = [tree.ancestors(token) for token in range(tree.tokens)]
    table = {}
    for i, rows in enumerate(paths):
        for j, columns in enumerate(paths):
            split = next((pair for pair in zip(rows, columns, strict=False) if pair[0] != pair[1]), (rows[-1],) * 2)
            table[i, j] = split
    return table


# --- golden and worked by hand ----------------------------------------------------------------------------------------


def test_golden_direct_minimisation():
    """SLSQP on the tied weights knows nothing of the recursion; its own accuracy is about 2e-9."""
    tree = Tree.from_nested(json.loads(str(GOLDEN["tree_json"])))
    query, key, value = (torch.tensor(GOLDEN[name])[None, None] for name in "QKV")
    assert_close(dense(query, key, tree)[0, 0], torch.tensor(GOLDEN["theta"]), tolerance=1e-8)
    output = hierarchical_attention(query, key, pad(value, (0, 2)), tree=tree, implementation="reference")
    assert_close(output[0, 0, :, :4], torch.tensor(GOLDEN["out"]), tolerance=1e-8)
    assert 11 * kl_gap(query, key, tree=tree).item() == pytest.approx(float(GOLDEN["kl_sum"]), abs=1e-8)
    nodes = torch.tensor(GOLDEN["nodes"])
    assert nodes.tolist() == [list(row) for row in zip(tree.parent, tree.depth, tree.first, tree.last, strict=True)]


def test_three_tokens_by_hand():
    scores = torch.tensor([[0, 1, 2], [1.5, 0, 0], [0.5, 1, 0.3]], dtype=torch.float64)[None, None]
    identity = torch.eye(3, dtype=torch.float64)[None, None]
    tree = Tree.from_nested([[0, 1], 2])
    found = dense(scores, identity, tree, scale=1.0)[0, 0]
    expected = [[0.167868, 0.456314, 0.375818], [0.510315, 0.113867, 0.375818], [0.379128, 0.379128, 0.241743]]
    assert_close(found, torch.tensor(expected, dtype=torch.float64), tolerance=2e-6)
    assert energy(scores, identity, tree=tree, scale=1.0).item() == pytest.approx(-1.892393756, abs=1e-9)
    assert 3 * kl_gap(scores, identity, tree=tree, scale=1.0).item() == pytest.approx(0.342825869, abs=1e-9)


# --- what must hold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flat", "chain", "one"])
def test_a_flat_tree_is_softmax_attention(name):
    query, key, value = normal(Tree.from_nested(TREES[name]))
    output = hierarchical_attention.reference(query, key, value, tree=Tree.from_nested(TREES[name]))
    assert_close(output, softmax_of(query, key)[0] @ value, tolerance=1e-13)


@every_tree
def test_rows_sum_to_one_and_siblings_are_tied(tree):
    query, key, _ = normal(tree)
    found = dense(query, key, tree)
    assert (found >= 0).all()
    assert_close(found.sum(-1), torch.ones_like(found[..., 0]), tolerance=1e-13)
    values = {}
    for (i, j), block in blocks_of(tree).items():
        values.setdefault(block, []).append(found[0, 0, i, j].item())
    assert all(max(tied) - min(tied) < 1e-14 for tied in values.values())


@every_tree
def test_the_value_of_the_theorem(tree):
    """Sum of KL(theta_i || softmax_i) = N phi(R) + sum of the rows' log-partition functions."""
    query, key, _ = normal(tree)
    found = dense(query, key, tree)
    flat, _ = softmax_of(query, key)
    divergence = torch.where(found > 0, found * (found / flat).log(), 0.0).sum((-2, -1))
    gap = kl_gap(query, key, tree=tree)
    assert (tree.tokens * gap - divergence).abs().max() < 1e-10
    assert (gap > -1e-12).all()


@pytest.mark.parametrize("name", [name for name in TREES if name != "one"])
def test_without_seeing_itself(name):
    """The same theorem, softmax being over the other tokens; a group of one keeps nothing for itself."""
    tree, options = Tree.from_nested(TREES[name]), {"self_attend": False}
    query, key, value = normal(tree)
    found = dense(query, key, tree, **options)
    flat, _ = softmax_of(query, key, self_attend=False)
    assert (found.diagonal(dim1=-2, dim2=-1) == 0).all()
    assert_close(found.sum(-1), torch.ones_like(found[..., 0]), tolerance=1e-13)
    divergence = torch.where(found > 0, found * (found / flat).log(), 0.0).sum((-2, -1))
    gap = kl_gap(query, key, tree=tree, **options)
    assert (tree.tokens * gap - divergence).abs().max() < 1e-10 and (gap > -1e-12).all()
    inputs = [x.requires_grad_() for x in (query, key, value)]
    outputs = [run(*inputs, tree=tree, **options) for run in BOTH]
    assert_close(outputs[1], outputs[0], tolerance=1e-12)
    for found, expected in zip(*(torch.autograd.grad(output.sum(), inputs) for output in outputs), strict=True):
        assert_close(found, expected, tolerance=1e-11)
    if name in ("flat", "chain"):
        assert_close(outputs[0], flat @ value, tolerance=1e-13)


@every_tree
def test_the_map_is_the_gradient_of_the_energy(tree):
    scores = torch.randn(1, 1, tree.tokens, tree.tokens, dtype=torch.float64, requires_grad=True)
    identity = torch.eye(tree.tokens, dtype=torch.float64)[None, None]
    (slope,) = torch.autograd.grad(energy(scores, identity, tree=tree, scale=1.0).sum(), scores)
    assert_close(-tree.tokens * slope, dense(scores.detach(), identity, tree, scale=1.0), tolerance=1e-10)


@every_tree
def test_no_tied_map_is_closer_to_softmax(tree):
    """Random steps inside the set of tied row-stochastic maps never lower the divergence."""
    query, key, _ = normal(tree, heads=1)
    best = dense(query, key, tree)[0, 0]
    flat = softmax_of(query, key)[0][0, 0]

    def divergence(theta):
        return (theta * (theta / flat).log()).sum().item()

    for size in (0.3, 0.03, 0.003):
        for seed in range(1, 21):
            # The map of other scores on the same tree has the same ties.
            other_query, other_key, _ = normal(tree, heads=1, seed=seed)
            other = dense(query + size * other_query, key + size * other_key, tree)[0, 0]
            assert divergence(other) >= divergence(best) - 1e-12


def test_the_other_divergence_has_another_minimum():
    """The averages of softmax over the tied blocks minimise KL(softmax || theta), not KL(theta || softmax)."""
    tree = Tree.from_nested([[0, 1, 2], [3, 4, 5]])
    query, key, _ = normal(tree, heads=1)
    flat, best = softmax_of(query, key)[0][0, 0], dense(query, key, tree)[0, 0]
    averages = flat.clone()
    for own, other in ((slice(0, 3), slice(3, 6)), (slice(3, 6), slice(0, 3))):
        averages[own, other] = flat[own, other].mean()
        averages[own, own] *= (1 - averages[own, other].sum(1))[:, None] / flat[own, own].sum(1, keepdim=True)
    assert_close(averages.sum(-1), torch.ones(6, dtype=torch.float64), tolerance=1e-12)
    assert (averages - best).abs().max() > 1e-3
    assert (averages * (averages / flat).log()).sum() > (best * (best / flat).log()).sum()
    assert (flat * (flat / averages).log()).sum() < (flat * (flat / best).log()).sum()


def test_more_freedom_is_never_further_away():
    coarse = Tree.from_nested([[0, 1, 2], [[3, 4], [5, 6, 7]], 8, [9, 10]])
    finer = Tree.from_nested([[0, 1, 2], [3, 4], [5, 6, 7], 8, [9, 10]])
    finest = Tree.from_nested(list(range(11)))
    query, key, _ = normal(coarse)
    gaps = torch.stack([kl_gap(query, key, tree=tree) for tree in (coarse, finer, finest)])
    assert (gaps.diff(dim=0) < 1e-12).all()
    assert gaps[2].abs().max() < 1e-12


def test_groups_of_equal_tokens_lose_nothing():
    query, key, value = normal(Tree.uniform(4, 4), batch=2)
    query, key = query.repeat_interleave(3, dim=2), key.repeat_interleave(3, dim=2)
    value = torch.randn(*query.shape, dtype=torch.float64)
    output = hierarchical_attention.reference(query, key, value, block=3, levels=2)
    assert_close(output, softmax_of(query, key)[0] @ value, tolerance=1e-12)


def test_siblings_may_be_reordered():
    tree, reordered = Tree.from_nested([[0, 1], 2, [3, 4, 5]]), Tree.from_nested([[0, 1, 2], [3, 4], 5])
    order = [3, 4, 5, 0, 1, 2]
    query, key, value = normal(tree)
    expected = hierarchical_attention.reference(query, key, value, tree=tree)[:, :, order]
    found = hierarchical_attention.reference(*(x[:, :, order] for x in (query, key, value)), tree=reordered)
    assert_close(found, expected, tolerance=1e-13)


@every_tree
def test_all_families_of_a_depth_at_once(tree):
    inputs = [x.requires_grad_() for x in normal(tree, batch=2)]
    upstream = torch.randn_like(inputs[0])
    outputs = [run(*inputs, tree=tree) for run in BOTH]
    gradients = [torch.autograd.grad(output, inputs, upstream) for output in outputs]
    assert_close(outputs[1], outputs[0], tolerance=1e-12)
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        assert_close(found, expected, tolerance=1e-11)


@pytest.mark.parametrize(("tokens", "block", "levels"), [(24, 4, 2), (27, 3, 3), (29, 3, 3), (10, 4, 2), (9, 2, 6)])
def test_the_balanced_tree_is_a_tree(tokens, block, levels):
    """The closed form for two, three and more levels, whole or with smaller last groups, against the recursion."""
    tree = Tree.uniform(tokens, block, levels)
    query, key, value = normal(tree)
    expected = hierarchical_attention.reference(query, key, value, tree=tree)
    for run in BOTH:
        assert_close(run(query, key, value, block=block, levels=levels), expected, tolerance=1e-12)


def test_two_levels_written_out():
    query, key, value = (x.unflatten(2, (3, 4)) for x in normal(Tree.uniform(12, 4)))
    scale = query.shape[-1] ** -0.5
    local = query @ key.mT * scale
    inside = local.logsumexp(-1).mean(-1)
    coarse = query.mean(-2) @ key.mean(-2).mT * scale + math.log(4)
    weights = torch.diagonal_scatter(coarse, inside, dim1=-2, dim2=-1).softmax(-1)
    kept = weights.diagonal(dim1=-2, dim2=-1)[..., None, None]
    elsewhere = (weights - torch.diag_embed(weights.diagonal(dim1=-2, dim2=-1))) @ value.mean(-2)
    expected = kept * (local.softmax(-1) @ value) + elsewhere[..., None, :]
    found = hierarchical_attention.reference(*(x.flatten(2, 3) for x in (query, key, value)), block=4, levels=2)
    assert_close(found, expected.flatten(2, 3), tolerance=1e-13)


# --- the balanced tree in numbers -------------------------------------------------------------------------------------


def test_the_best_block():
    for tokens in (64, 1000, 4096, 65536):
        costs = {
            block: hierarchical_attention.cost(
                *hierarchical_attention.example(tokens, device="meta").inputs.values(), block=block, levels=2
            ).flops
            for block in (2**power for power in range(1, 11))
        }
        assert costs[best_block(tokens)] <= 1.6 * min(costs.values())


def test_enough_levels():
    assert [enough_levels(tokens, 16) for tokens in (1, 16, 17, 256, 257)] == [1, 1, 2, 2, 3]
    assert enough_levels(10**9, 2) == 6 and enough_levels(1000, 1) == 1
    for tokens in (100, 4096, 262144):
        sizes = family_sizes(tokens, 16, enough_levels(tokens, 16))
        assert max(children for _, children in sizes) <= 16


def test_a_tree_in_low_precision():
    tree = Tree.from_nested(TREES["uneven"])
    inputs = [x.bfloat16() for x in normal(tree, width=16)]
    truth = hierarchical_attention.reference(*(x.double() for x in inputs), tree=tree)
    ordinary = hierarchical_attention.reference(*inputs, tree=tree)
    assert_close(hierarchical_attention.fast(*inputs, tree=tree), truth, ordinary=ordinary)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hierarchical_attention(*normal(Tree.from_nested([0])), self_attend=False), "a single token"),
        (lambda: hierarchical_attention(*normal(Tree.uniform(5, 2)), tree=Tree.uniform(6, 2)), "6 leaves.*5 tokens"),
        (lambda: hierarchical_attention(*fewer_queries()), "as many keys as queries"),
        (lambda: hierarchical_attention(*normal(Tree.uniform(5, 2)), block=0), "block = 0"),
        (lambda: hierarchical_attention(*normal(Tree.uniform(5, 2)), levels=7), "levels = 7"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
