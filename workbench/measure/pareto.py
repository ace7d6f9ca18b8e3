"""Which choices are worth having: those that no other one beats in everything at once."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Better = Literal["less", "more"]


def pareto_front(points: np.ndarray, better: Sequence[Better]) -> np.ndarray:
    """Which of the points (n, axes) are on the front, as a mask (n,).

    A point is dominated when another one is at least as good on every axis and better on one; ``better`` says for each
    axis whether less or more is. Equal points do not dominate one another. O(n²) comparisons, in rows.

    Raises ``ValueError`` for NaN, for points of another shape, and for a word that is neither "less" nor "more".
    """
    costs = _costs(points, better)
    kept = np.ones(len(costs), dtype=bool)
    for index, cost in enumerate(costs):
        kept[index] = not ((costs <= cost).all(1) & (costs < cost).any(1)).any()
    return kept


def hypervolume(points: np.ndarray, better: Sequence[Better], reference: Sequence[float]) -> float:
    """The area (or length, or volume ...) of all that the points dominate, up to the ``reference``, a bad point.

    Parts that lie beyond the reference do not count. Exact; of n points on k axes O(n^(k - 1)). Errors as
    ``pareto_front``.
    """
    worst = _costs(np.asarray(reference, dtype=float)[None], better)[0]
    gains = np.maximum(worst - _costs(points, better), 0)
    return _volume(gains[(gains > 0).all(1)])


def _volume(gains: np.ndarray) -> float:
    """Of the union of boxes from the origin to each point: slices along the last axis, largest first."""
    if not len(gains):
        return 0.0
    if gains.shape[1] == 1:
        return float(gains.max())
    ordered = gains[np.argsort(-gains[:, -1], kind="stable")]
    depths = ordered[:, -1] - np.append(ordered[1:, -1], 0)
    return float(sum(depth * _volume(ordered[: n + 1, :-1]) for n, depth in enumerate(depths) if depth > 0))


def _costs(points: np.ndarray, better: Sequence[Better]) -> np.ndarray:
    """The points with every axis turned so that less is better, checked."""
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or points.shape[1] != len(better):
        raise ValueError(f"Points on {len(better)} axes have the shape (n, {len(better)}), not {points.shape}.")
    if unknown := set(better) - {"less", "more"}:
        raise ValueError(f"On an axis less is better or more is, not {', '.join(map(repr, sorted(unknown)))}.")
    if np.isnan(points).any():
        raise ValueError(f"Point {int(np.isnan(points).any(1).argmax())} has a NaN: it can be compared with none.")
    return points * np.where(np.array(better, dtype=object) == "less", 1.0, -1.0)
