"""The Pareto front and the volume under it, against their definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from workbench.measure import hypervolume, pareto_front

LESS = ("less", "less")


def front(points, better=LESS):
    return pareto_front(np.array(points, dtype=float), better).tolist()


def test_what_another_one_beats_is_not_on_the_front():
    assert front([(1, 3), (2, 2), (3, 1), (2, 3), (3, 3)]) == [True, True, True, False, False]


def test_more_may_be_better_on_each_axis():
    points = [(1, 0.7), (2, 0.9), (3, 0.8), (3, 0.9)]
    assert front(points, ("less", "more")) == [True, True, False, False]
    assert front(points, ("more", "more")) == [False, False, False, True]
    assert front(points, ("more", "less")) == [True, False, True, False]


def test_ties():
    assert front([(1, 1), (1, 1)]) == [True, True], "equal points do not dominate one another"
    assert front([(1, 2), (1, 1), (2, 1)]) == [False, True, False], "better on one axis, level on the other"
    assert front([(1,), (1,), (2,)], ("less",)) == [True, True, False]
    assert front(np.empty((0, 2))) == []


def test_infinity_is_a_number_and_nan_is_none():
    assert front([(np.inf, 1), (1, np.inf), (np.inf, np.inf)]) == [True, True, False]
    with pytest.raises(ValueError, match="Point 1 has a NaN"):
        front([(1, 1), (np.nan, 1)])


@pytest.mark.parametrize("better, words", [(("less",), r"\(n, 1\)"), (("less", "small"), "not 'small'")])
def test_what_cannot_be_compared_is_refused(better, words):
    with pytest.raises(ValueError, match=words):
        front([(1, 2)], better)


def test_the_hypervolume_of_stairs():
    points = np.array([(1, 3), (2, 2), (3, 1), (3, 3)], dtype=float)
    assert hypervolume(points, LESS, (4, 4)) == 3 + 2 + 1
    assert hypervolume(points, LESS, (1, 1)) == 0, "what lies beyond the reference does not count"
    assert hypervolume(np.array([(2.0, 0.5)]), ("less", "more"), (4, 0)) == 1
    assert hypervolume(np.empty((0, 2)), LESS, (1, 1)) == 0


@settings(max_examples=30, deadline=None)
@given(some.lists(some.tuples(*[some.integers(0, 4)] * 3), min_size=1, max_size=6))
def test_both_are_as_counted_cell_by_cell(points):
    """On whole numbers the volume is the number of unit cells that some point dominates."""
    points = np.array(points, dtype=float)
    cells = np.array(list(itertools.product(range(5), repeat=3)))
    covered = (points[:, None] <= cells[None]).all(2).any(0).sum()
    assert hypervolume(points, ("less",) * 3, (5, 5, 5)) == covered
    kept = pareto_front(points, ("less",) * 3)
    assert hypervolume(points[kept], ("less",) * 3, (5, 5, 5)) == covered, "the front alone dominates as much"
    for index in np.flatnonzero(~kept):
        assert ((points <= points[index]).all(1) & (points < points[index]).any(1)).any()
