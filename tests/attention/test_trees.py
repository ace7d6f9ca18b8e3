"""Trees over the tokens: there and back, by size, by boundaries, and as index tensors."""

import pickle

import numpy as np
import pytest
import torch

from workbench.attention.trees import Tree

NESTED = {
    "pairs": [[0, 1], [2, 3], [4, 5]],
    "deep": [[0, [1, [2, [3, 4]]]], 5],
    "chain": [[[0, 1, 2, 3]]],
    "one": [0],
    "uneven": [[0], [[1, 2, 3, 4, 5, 6, 7], 8, [9, [10, 11]]], [[12, 13]], 14, [15, 16, 17]],
}
CPU = torch.device("cpu")


def test_whole_numbers_of_any_library():
    assert Tree.from_nested(np.arange(6).reshape(3, 2)).nested() == [[0, 1], [2, 3], [4, 5]]
    assert Tree.from_nested([[np.int64(0), np.int32(1)], 2]).nested() == [[0, 1], 2]
    assert Tree.uniform(np.int64(7), np.int64(2), np.int64(3)) == Tree.uniform(7, 2, 3)


def test_uniform_trees():
    assert Tree.uniform(7, 2, 3).nested() == [[[0, 1], [2, 3]], [[4, 5], 6]]
    assert Tree.uniform(7, 2, 2).nested() == [[0, 1], [2, 3], [4, 5], 6]
    for block, levels in ((8, 2), (1, 2), (2, 1)):
        assert Tree.uniform(3, block, levels).nested() == [0, 1, 2]
    assert Tree.from_boundaries(10, (4,), (2, 4, 7)).nested() == [[[0, 1], [2, 3]], [[4, 5, 6], [7, 8, 9]]]
    assert Tree.from_boundaries(5, (1, 4)).nested() == [0, [1, 2, 3], 4]


@pytest.mark.parametrize("nested", NESTED.values(), ids=NESTED)
def test_trees_there_and_back(nested):
    tree = Tree.from_nested(nested)
    assert tree.nested() == nested
    assert Tree.from_nested(tree.nested()) == tree == pickle.loads(pickle.dumps(tree))
    assert hash(Tree.from_nested(tree.nested())) == hash(tree)


def test_families_of_one_depth_are_padded_to_less_than_twice_their_size():
    tree = Tree.from_nested([list(range(100)), [100, 101], [102, 103, 104], 105])
    (root,), groups = (level.groups for level in tree.levels(CPU))
    assert root.slot.shape == (1, 4) and [tuple(group.slot.shape) for group in groups] == [(2, 3), (1, 100)]


def test_what_is_kept_serves_everywhere():
    """Index tensors are kept for the next call; made in inference mode, or while something traces, they would serve
    nobody else."""
    tree = Tree.from_nested([[0, 1, 2], [3, [4, 5]]])
    with torch.inference_mode(), torch.device("meta"):
        made = tree.levels(CPU)
    (group, *_), leaves = made[0].groups, made[1].leaves
    for kept in (group.slot, group.places, group.count, leaves, made[0].order, made[0].back):
        assert not kept.is_inference() and kept.device == CPU
    assert tree.levels(CPU) is made


def test_nothing_is_kept_of_what_only_a_tracer_knows():
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    tree = Tree.from_nested([[0, 1, 2, 3], [4, 5, 6]])
    with FakeTensorMode():
        traced = tree.levels(CPU)
    assert isinstance(traced[0].order, FakeTensor)
    assert not isinstance(tree.levels(CPU)[0].order, FakeTensor)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tree.from_nested([1, 0]), "1 stands where 0 belongs"),
        (lambda: Tree.from_nested([0, []]), "empty list"),
        (lambda: Tree.uniform(0, 4), "tokens of at least 1, not 0"),
        (lambda: Tree.from_boundaries(5, (5,)), "1 to 4 of 5 tokens, not at 5"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
