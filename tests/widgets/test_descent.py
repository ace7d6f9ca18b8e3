"""The descent: paths, contours, curvature; a path that diverges is said to and moves no axis."""

import numpy as np
import pytest
import torch

from workbench.models.descent import Plane, curvature, descend, follow
from workbench_widgets import descent

SCALES = torch.tensor([1.0, 9.0], dtype=torch.float64)


def bowl(point):
    return (SCALES[: len(point)] * point * point).sum() / 2


def sgd(rate):
    return lambda point: torch.optim.SGD(point, lr=rate)


def test_gradient_descent_goes_where_its_formula_says():
    path = descend(bowl, sgd(0.1), torch.tensor([3.0, 1.0]), 8)
    expected = torch.tensor([3.0, 1.0]).double() * (1 - 0.1 * SCALES) ** torch.arange(9.0)[:, None]
    torch.testing.assert_close(path.points, expected)
    assert path.diverged is None and path.came_down and torch.allclose(path.values, torch.stack([*map(bowl, expected)]))
    torch.testing.assert_close(path.eigenvalues, SCALES.expand(9, 2))


def test_a_walk_of_ones_own_and_an_optimiser_that_calls_more_than_once():
    def newton(function, point):
        while True:
            point = point - point  # the minimum of the bowl, in a step
            yield point

    assert follow(bowl, newton, torch.tensor([3.0, 1.0]), 2).values[1] == 0
    path = descend(bowl, lambda point: torch.optim.LBFGS(point, line_search_fn="strong_wolfe"), torch.ones(2), 3)
    assert path.values[-1] < 1e-8


@pytest.mark.parametrize("rate, function", [(0.5, bowl), (0.3, lambda point: point.square().square().sum() * 1e3)])
def test_a_path_that_diverges_ends_where_it_was_finite(rate, function):
    path = descend(function, sgd(rate), torch.tensor([3.0, 1.0]), 200)
    assert 0 < path.diverged < 200 and len(path.points) == path.diverged
    assert path.points.isfinite().all() and path.values.isfinite().all() and not path.came_down


def made(**options):
    return descent(bowl, {"slow": sgd(0.05), "too fast": sgd(0.5)}, [3.0, 1.0], steps=30, resolution=12, **options)


def test_a_diverging_path_is_said_to_and_moves_no_axis():
    run = made(caption="A caption.")
    over, curved = run.figures
    assert over.x_range.start > -3 and over.x_range.end < 5 and -3 < over.y_range.start < over.y_range.end < 3
    assert curved.y_range.end < 12
    labels = [item.label.value for item in over.legend[0].items]
    assert labels == ["slow", f"too fast: diverges, step {run.paths['too fast'].diverged}"]
    assert f"diverged at step {run.paths['too fast'].diverged}" in run.still and "A caption." in run.still
    sources = {each.data_source.name: each.data_source.data for each in over.renderers if each.name == "now"}
    now = sources["too fast, now"]
    assert over.y_range.start <= now["y"][0] <= over.y_range.end, "the cross is in the picture"


def test_the_slider_draws_up_to_a_step():
    run = made()
    run.step = 2
    drawn = {each.data_source.name: each.data_source.data for each in run.figures[0].renderers if each.name == "paths"}
    assert [len(each["x"]) for each in drawn.values()] == [3, 3]
    assert run.figures[1].select_one({"name": "now"}).location == 2
    assert "<td>step 2</td>" in run._said.value and "higher than at the start" in run._said.value


def test_a_plane_through_more_directions():
    torch.testing.assert_close(curvature(bowl, torch.ones(2).double()), SCALES)
    start, across = torch.tensor([1.0, 2.0, 3.0]), torch.eye(3)
    plane = Plane.of(start, (2 * across[0], across[0] + across[2]))
    torch.testing.assert_close(plane.directions.abs(), across[[0, 2]].double())
    torch.testing.assert_close(plane.on(start.double() + across[2]), torch.tensor([0.0, 1.0]).double())
    x, y = torch.tensor([0.0, 1.0]).double(), torch.tensor([0.0]).double()
    values = plane.values(lambda point: point.sum(), x, y)
    assert np.allclose(values, [[6.0, 7.0]])
    run = descent(
        lambda point: point.square().sum(), {"it": sgd(0.1)}, start, steps=3, resolution=4, limit=(20.0, "2 / rate"),
        directions=across[:2], origin=torch.zeros(3),
    )  # fmt: skip
    assert run._seen["it"].shape == (4, 2) and run.figures[1].y_range.end > 20


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"steps": 0}, "steps = 0"),
        ({"steps": 5000}, "choose 1 to 1000"),
        ({"contestants": {}}, "needs a contestant"),
        ({"resolution": 1000}, "resolution = 1000"),
        ({"start": [1.0, 2.0, 3.0]}, "Two directions are needed"),
        ({"start": [float("inf"), 0.0]}, "inf at the start"),
        ({"function": lambda point: point}, "must give one number"),
        ({"directions": [torch.tensor([1.0, 1.0])] * 2}, "two different directions"),
        ({"start": [0.0] * 65, "directions": torch.eye(65)[:2]}, "at most 64 numbers"),
    ],
)
def test_what_cannot_be_descended_is_refused(wrong, words):
    asked = {"function": bowl, "contestants": {"it": sgd(0.1)}, "start": [1.0, 1.0], "steps": 2, "resolution": 4}
    with pytest.raises(ValueError, match=words):
        descent(**{**asked, **wrong})
