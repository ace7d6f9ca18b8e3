import dataclasses

import pytest
import torch

from workbench.models.language_model import race, small
from workbench.models.training import windows
from workbench.tasks import grammar

TINY = dataclasses.replace(small(), width=32, depth=1, heads=2, tokens=32)


def test_windows_overlap_by_the_token_to_predict():
    pieces = windows(torch.arange(10), 3)
    assert pieces.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_everybody_runs_and_learns():
    laps = list(race(["gelu", "swiglu"], seeds=(0, 1), steps=60, lap=25, config=TINY, learning_rate=1e-2))
    assert [lap.step for lap in laps] == [25] * 4 + [50] * 4 + [60] * 4
    assert {(lap.activation, lap.seed) for lap in laps} == {(a, s) for a in ("gelu", "swiglu") for s in (0, 1)}
    assert all(lap.validation is None for lap in laps[:-4])
    floor = grammar.write(20_000).floor
    for first, last in zip(laps[:4], laps[-4:], strict=True):
        assert floor < last.loss < first.loss
        assert abs(last.validation - last.loss) < 0.3


def test_racers_do_not_disturb_each_other_or_the_caller():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    together = list(race(["gelu", "relu"], seeds=(0,), steps=6, lap=2, config=TINY))
    assert torch.equal(torch.rand(1), expected)
    alone = list(race(["relu"], seeds=(0,), steps=6, lap=3, config=TINY))
    assert together[-1].validation == alone[-1].validation


def test_a_race_can_be_stopped():
    laps = race(["gelu"], steps=10**9, lap=1, config=TINY)
    assert next(laps).step == 1
    laps.close()


@pytest.mark.parametrize("name", ["steps", "lap", "batch"])
def test_numbers_below_one(name):
    with pytest.raises(ValueError, match=f"{name} = 0"):
        next(race(["gelu"], config=TINY, **{name: 0}))
