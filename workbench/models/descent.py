"""How optimisers come down a function: their paths, its values on a plane, and its curvature along the way."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Make = Callable[[list[Tensor]], torch.optim.Optimizer]
Walk = Callable[[Function, Tensor], Iterable[Tensor]]

MOST_STEPS = 1000
MOST_CURVED = 40  # points of a path whose Hessian is taken
MOST_WIDTH = 64  # numbers of a point, for a Hessian
FAR = 1e4  # times the size of the start: a path that has come so far does not come back


@dataclass(frozen=True, eq=False)
class Path:
    """Where an optimiser went.

    points       (steps + 1, n), from the start on; the last one is finite even where the path diverged
    values       (steps + 1,) of the function there
    measured_at  the steps at which the curvature was taken
    eigenvalues  (len(measured_at), n) of the Hessian there, from the smallest on; NaN where there is none
    diverged     the step after which it was infinite, or too far away to come back; None: it was not
    """

    points: Tensor
    values: Tensor
    measured_at: tuple[int, ...]
    eigenvalues: Tensor
    diverged: int | None = None

    @property
    def came_down(self) -> bool:
        """Whether it ended no higher than it began."""
        return self.diverged is None and bool(self.values[-1] <= self.values[0])


def descend(function: Function, make: Make, start: Tensor, steps: int) -> Path:
    """The path of ``make([point])``, a PyTorch optimiser, over ``steps`` steps from ``start`` (n,) on.

    ``function`` takes a point (n,) to a number. Raises ``ValueError`` where it gives anything else, for more than 1000
    steps, and for more than 64 numbers.
    """
    point = start.detach().clone().double().requires_grad_()
    optimiser = make([point])

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = function(point)
        value.backward()
        return value

    def walk(function: Function, start: Tensor) -> Iterable[Tensor]:
        while True:
            optimiser.step(closure)
            yield point

    return follow(function, walk, start, steps)


def follow(function: Function, walk: Walk, start: Tensor, steps: int) -> Path:
    """As ``descend``, for a walk of one's own: ``walk(function, start)`` yields the points after the start."""
    start = start.detach().double()
    _check(function, start, steps)
    points, values, diverged = [start], [float(function(start))], None
    far = FAR * (1 + float(start.norm()))
    for step, point in enumerate(islice(walk(function, start), steps), start=1):
        point = point.detach().double().clone()
        value = float(function(point).detach())
        if not (point.isfinite().all() and float(point.norm()) < far and abs(value) < float("inf")):
            diverged = step
            break
        points.append(point)
        values.append(value)
    every = -(-len(points) // MOST_CURVED)
    measured = tuple(range(0, len(points), every))
    curved = torch.stack([curvature(function, points[step]) for step in measured])
    return Path(torch.stack(points), torch.tensor(values, dtype=torch.float64), measured, curved, diverged)


def curvature(function: Function, point: Tensor) -> Tensor:
    """Eigenvalues (n,) of the Hessian at ``point`` (n,), from the smallest on; NaN where it is not finite."""
    hessian = torch.autograd.functional.hessian(function, point.detach())
    hessian = (hessian + hessian.mT) / 2
    return torch.linalg.eigvalsh(hessian) if hessian.isfinite().all() else torch.full_like(point, torch.nan)


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane through ``origin`` (n,) along two orthonormal ``directions`` (2, n)."""

    origin: Tensor
    directions: Tensor

    @classmethod
    def of(cls, origin: Tensor, directions: Sequence[Tensor]) -> "Plane":
        """The plane that two directions span. Raises ``ValueError`` where they are one."""
        both = torch.stack([each.detach().double() for each in directions])
        orthogonal, scales = torch.linalg.qr(both.mT)
        size = scales.diagonal().abs()
        if both.shape != (2, len(origin)) or not size.min() > 1e-9 * size.max():
            raise ValueError(f"A plane needs two different directions of {len(origin)} numbers.")
        return cls(origin.detach().double(), (orthogonal * scales.diagonal().sign()).mT)

    def on(self, points: Tensor) -> Tensor:
        """Points (..., n) seen on the plane, (..., 2)."""
        return (points - self.origin) @ self.directions.mT

    @torch.no_grad()
    def values(self, function: Function, x: Tensor, y: Tensor) -> Tensor:
        """The function over the plane, (len(y), len(x)): one call a place."""
        rows = [[self.origin + a * self.directions[0] + b * self.directions[1] for a in x] for b in y]
        return torch.stack([torch.stack([function(point).double() for point in row]) for row in rows])


Window = tuple[tuple[float, float], tuple[float, float]]


def window(paths: Mapping[str, Path], plane: Plane) -> Window:
    """The part of the plane that holds the paths, with room around, as ((left, right), (low, high)).

    A path that ended higher than it began does not count beyond its start: it would push the others together.
    """
    kept = [plane.on(path.points if path.came_down else path.points[:1]) for path in paths.values()]
    points = torch.cat(kept)
    low, high = points.amin(0), points.amax(0)
    size = float((high - low).max()) or 1 + float(points.abs().max())
    middle = (low + high) / 2
    half = torch.maximum((high - low) / 2, torch.tensor(size / 4)) + size / 6
    return tuple((float(m - h), float(m + h)) for m, h in zip(middle, half, strict=True))


def _check(function: Function, start: Tensor, steps: int) -> None:
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps = {steps} is not allowed: choose 1 to {MOST_STEPS}.")
    if start.ndim != 1 or not 1 <= len(start) <= MOST_WIDTH:
        raise ValueError(f"A start is a point of at most {MOST_WIDTH} numbers (n,), not {tuple(start.shape)}.")
    value = function(start)
    if not isinstance(value, Tensor) or value.numel() != 1 or value.ndim:
        raise ValueError("The function must give one number, a tensor without axes, for a point.")
    if not value.isfinite():
        raise ValueError(f"The function is {float(value)} at the start.")
