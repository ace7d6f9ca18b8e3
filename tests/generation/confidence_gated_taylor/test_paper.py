"""What CG-Taylor's specification demands: the gate's decisions, its baselines, golden arrays of the official code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.conformance import assert_close
from workbench.generation.confidence_gated_taylor import (
    confidence_gated_taylor,
    decide,
    first_block_cache,
    forecast_errors,
    gate_error,
    last_block_forecast,
    relative_l1,
)
from workbench.generation.taylorseer import taylorseer
from workbench.models.diffusion import Sampler, record
from workbench.models.dit import DiT, DiTConfig, pretrained

GOLDEN = {
    name: torch.from_numpy(array)
    for name, array in np.load(Path(__file__).parents[2] / "golden" / "confidence_gated_taylor.npz").items()
}

both = pytest.mark.parametrize("implementation", ["reference", "fast"])
each_scope = pytest.mark.parametrize("scope", ["batch", "sample"])


def curves(first, last, steps=30, batch=1):
    """Two functions of the step as what leaves the first and the last block, (batch, 2, steps, 2, 3)."""
    values = torch.tensor([[f(s) for s in range(steps)] for f in (first, last)], dtype=torch.float64)
    return values[None, :, :, None, None] * torch.ones(batch, 1, 1, 2, 3, dtype=torch.float64)


def smooth(batch=3, steps=40):
    """Waves with a kink, so that the gate has something to do."""
    time = torch.arange(steps).double()[:, None, None] / 8
    phase = torch.randn(batch, 2, 1, 4, 5).double()
    kink = (time > 2.5) * torch.randn(batch, 1, 1, 4, 5).double()
    return torch.cos(time + phase) + 3 + kink


def full_of(features, **options):
    return np.flatnonzero(decide(features[:, 0], **options).full[0]).tolist()


# --- the gate --------------------------------------------------------------------------------------------------------


@both
@each_scope
def test_a_gate_that_trusts_nothing_computes_everything(scope, implementation):
    features = smooth()
    found = confidence_gated_taylor(features, threshold=0.0, scope=scope, implementation=implementation)
    assert_close(found, features[:, 1], tolerance=0.0)


@pytest.mark.parametrize("warmup", [0, 2, 4])
def test_a_gate_that_trusts_everything_computes_the_warm_up_and_the_last_step(warmup):
    features = smooth()
    assert full_of(features, threshold=torch.inf, warmup=warmup) == [*range(warmup + 1), 39]
    found = decide(features[:, 0], threshold=torch.inf, warmup=warmup)
    assert np.flatnonzero(~np.isnan(found.errors[0])).tolist() == list(range(max(warmup, 0) + 1, 40))


@both
def test_straight_lines_need_no_further_full_step(implementation):
    features = curves(lambda s: 2 + 0.3 * s, lambda s: 50 - s)
    decisions = decide(features[:, 0], threshold=1e-6)
    assert np.nanmax(decisions.errors) < 1e-12
    assert np.flatnonzero(decisions.full[0]).tolist() == [0, 1, 2, 29]
    found = confidence_gated_taylor(features, threshold=1e-6, implementation=implementation)
    assert_close(found, features[:, 1], tolerance=1e-10)


def test_the_gate_fires_where_the_law_of_a_parabola_says():
    """Order 1 on a s^2 + c: the error is a x (N + x) / (a s^2 + c), with N the gap of the last two refreshes."""
    a, c, threshold, warmup, steps = 0.01, 5.0, 0.0213, 2, 60
    expected, errors = [0, 1, 2], {}
    refreshes = [0, 1, 2]
    for step in range(3, steps):
        gap, age = refreshes[-1] - refreshes[-2], step - refreshes[-1]
        errors[step] = a * age * (gap + age) / (a * step**2 + c)
        if errors[step] >= threshold:
            refreshes.append(step)
        if errors[step] >= threshold or step == steps - 1:
            expected.append(step)
    features = curves(lambda s: a * s**2 + c, lambda s: s, steps)
    assert full_of(features, threshold=threshold, warmup=warmup) == expected
    found = decide(features[:, 0], threshold=threshold, warmup=warmup).errors[0]
    assert found[3:] == pytest.approx([errors[step] for step in range(3, steps)], rel=1e-9)


@each_scope
def test_refreshes_of_the_first_block_are_full_steps(scope):
    features = smooth()
    for threshold in (0.01, 0.05, 0.2):
        full, refreshed, _ = decide(features[:, 0], threshold=threshold, scope=scope)
        assert (full | ~refreshed).all()
        assert (full == refreshed)[:, :-1].all()


def test_decisions_do_not_depend_on_scale_or_order_of_the_batch():
    features = smooth()
    decisions = decide(features[:, 0], threshold=0.05)
    assert 5 < decisions.full[0].sum() < 35
    for other in (8 * features, features.flip(0)):
        assert (decide(other[:, 0], threshold=0.05).full == decisions.full).all()


def test_one_sample_has_one_gate():
    features = smooth(batch=1)
    batch, sample = (confidence_gated_taylor(features, threshold=0.05, scope=scope) for scope in ("batch", "sample"))
    assert torch.equal(batch, sample)


@both
def test_a_sample_with_its_own_gate_does_not_see_the_others(implementation):
    features = smooth(batch=4)
    settings = {"threshold": 0.05, "scope": "sample", "implementation": implementation}
    together = confidence_gated_taylor(features, **settings)
    alone = torch.cat([confidence_gated_taylor(each, **settings) for each in features.split(1)])
    assert_close(together, alone, tolerance=1e-12)
    assert len({tuple(row) for row in decide(features[:, 0], threshold=0.05, scope="sample").full}) > 1


@pytest.mark.parametrize("orders", [(0, 0), (1, 1), (3, 1), (2, 4)])
@each_scope
def test_deciding_first_gives_what_step_by_step_gives(orders, scope):
    features = smooth()
    settings = {"threshold": 0.08, "order_first": orders[0], "order_last": orders[1], "scope": scope}
    truth = confidence_gated_taylor(features, implementation="reference", **settings)
    assert_close(confidence_gated_taylor(features, implementation="fast", **settings), truth, tolerance=1e-11)


def test_a_gate_sees_a_kink():
    """A straight line that turns: the gate computes the step at which it does."""
    features = curves(lambda s: 10 + s if s < 17 else 27 - 2 * (s - 17), lambda s: s)
    full = full_of(features, threshold=0.02)
    assert 18 in full and len(full) < 10


# --- what stands beside it -------------------------------------------------------------------------------------------


@both
def test_the_last_blocks_forecast_is_taylorseers_formula(implementation):
    features = smooth()[:, 1]
    found = last_block_forecast(features, interval=5, order=2, implementation=implementation)
    assert_close(found, taylorseer.reference(features, interval=5, order=2), tolerance=1e-12)


@both
def test_a_first_block_cache_asks_whether_the_input_changed(implementation):
    """A fast straight line passes the gate's test and fails this one."""
    straight = curves(lambda s: 1 + s, lambda s: 3 * s)
    features = torch.cat((torch.zeros_like(straight[:, :1]), straight), dim=1)
    assert full_of(straight, threshold=0.05) == [0, 1, 2, 29]
    found = first_block_cache(features, threshold=0.05, implementation=implementation)
    assert_close(found[:, :20], features[:, 2, :20], tolerance=0.0)
    still = torch.ones(1, 3, 9, 2, 2).double() * torch.tensor([0.0, 1.0, 5.0]).double()[:, None, None, None]
    assert_close(first_block_cache(still, implementation=implementation), still[:, 2], tolerance=0.0)


def test_a_first_block_cache_adds_the_rest_again():
    features = smooth()[:, [0, 0, 1]]
    features[:, 0] -= 1 + 0.001 * torch.arange(40)[:, None, None]
    found = first_block_cache(features, threshold=0.0095)
    expected = [features[:, 2, step] for step in range(40)]
    for step in range(1, 39):
        reference = 10 * (step // 10)
        if step != reference:
            expected[step] = features[:, 1, step] + (features[:, 2] - features[:, 1])[:, reference]
    assert_close(found, torch.stack(expected, dim=1), tolerance=1e-12)


@both
def test_the_gates_error_is_a_ratio_of_means(implementation):
    hidden, stack = torch.randn(3, 5, 6).double(), torch.randn(3, 2, 5, 6).double()
    weights = torch.tensor([[1.0, 2.0]] * 3).double()
    means = gate_error(hidden, stack, weights, implementation=implementation)
    forecast = stack[:, 0] + 2 * stack[:, 1]
    each = [relative_l1(forecast[b], hidden[b]) for b in range(3)]
    assert_close(means[:, 0] / means[:, 1], torch.stack(each), tolerance=1e-12)
    assert_close(means.sum(0)[0] / means.sum(0)[1], relative_l1(forecast, hidden), tolerance=1e-12)


def test_forecast_errors_are_those_of_the_schedule():
    features = smooth()[:, 1]
    errors = forecast_errors(features, interval=4, order=1)
    seen = taylorseer(features, interval=4, order=1)
    assert errors.isnan().nonzero().flatten().tolist() == [0, *range(1, 40, 4)]
    assert errors[4].item() == pytest.approx(relative_l1(seen[:, 4], features[:, 4]).item())


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (confidence_gated_taylor, (torch.randn(1, 3, 4, 2, 2),)),
        (confidence_gated_taylor, (torch.randn(1, 2, 4, 2),)),
        (confidence_gated_taylor, (torch.ones(1, 2, 4, 2, 2, dtype=torch.int64),)),
        (first_block_cache, (torch.randn(1, 2, 4, 2, 2),)),
        (gate_error, (torch.randn(1, 2, 3), torch.randn(1, 2, 2, 4), torch.ones(1, 2))),
        (gate_error, (torch.randn(1, 2, 3), torch.randn(1, 2, 2, 3), torch.ones(1, 1))),
    ],
)
@both
def test_what_does_not_fit_is_refused(method, wrong, implementation):
    with pytest.raises(ValueError, match=f"{method.name} takes"):
        method(*wrong, implementation=implementation)


# --- in a sampler ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    weights = {name[2:]: array.double() for name, array in GOLDEN.items() if name.startswith("w.")}
    config = DiTConfig(width=24, depth=3, heads=4, classes=5, time_features=256, position="sin_cos", learned_sigma=True)
    network = DiT(config).double()
    network.load_official(weights)
    return network.requires_grad_(False)


@pytest.mark.parametrize("name", ["cfg0", "cfg1"])
def test_golden(name, model):
    threshold, warmup, order_last, order_first = GOLDEN[f"{name}.params"].tolist()
    options = {"warmup": int(warmup), "order_first": int(order_first), "order_last": int(order_last)}
    sampler = Sampler(
        model, sampler="ddim", caching="confidence_gated_taylor", options={**options, "threshold": threshold}
    )
    steps = list(sampler.steps_of(GOLDEN["x_T"], GOLDEN["y"]))
    assert [step.computed for step in steps] == GOLDEN[f"{name}.full"].bool().tolist()
    errors = torch.tensor([torch.nan if step.error is None else step.error for step in steps]).double()
    errors[-1] = torch.nan  # the official code clears it at the last step
    expected = GOLDEN[f"{name}.gate_err"]
    assert_close(errors.float(), expected.float(), tolerance=1e-6)
    kept = ~expected.isnan()
    exact = [step.error for step, keep in zip(steps, kept, strict=True) if keep]
    assert exact == pytest.approx(expected[kept].tolist(), rel=1e-8)
    refreshed = [step.error is None or step.error >= threshold for step in steps]
    assert refreshed == GOLDEN[f"{name}.block_cache_updated"].bool().tolist()
    assert_close(steps[-1].sample, GOLDEN[f"{name}.sample"], tolerance=1e-9)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_samplers_own_gates_do_not_depend_on_the_batch(guidance):
    """Rows are computed in smaller batches where some of them are confident: the same images as one by one."""
    network = pretrained().double()
    options = {"threshold": 0.04, "scope": "sample"}
    sampler = Sampler(network, caching="confidence_gated_taylor", options=options, guidance=guidance)
    noise, labels = torch.randn(4, 1, 8, 8).double(), torch.arange(4)
    steps = list(sampler.steps_of(noise, labels))
    assert any(0 < step.share < 1 for step in steps), "no step in which some are confident and some are not"
    alone = [sampler(noise[i : i + 1], labels[i : i + 1]) for i in range(4)]
    assert_close(steps[-1].sample, torch.cat(alone), tolerance=1e-9)


def test_with_one_block_the_gate_judges_the_forecast_itself():
    torch.manual_seed(0)
    network = DiT(DiTConfig(image=4, width=12, depth=1, heads=2, classes=3, time_features=8), "random").double()
    features = record(network, torch.randn(2, 1, 4, 4).double(), torch.tensor([0, 1]), steps=12).blocks
    assert torch.equal(features[:, 0], features[:, 1])


def test_the_first_blocks_error_tells_the_last_blocks():
    """On the trained network: errors of both, ranked alike, at every age."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(10, 1, 8, 8, generator=generator)
    blocks = record(pretrained(), noise, torch.arange(10)).blocks
    first, last = (forecast_errors(blocks[:, number], interval=4) for number in (0, 1))
    known = ~first.isnan()
    ranks = torch.stack([each[known].argsort().argsort().double() for each in (first, last)])
    assert torch.corrcoef(ranks)[0, 1] > 0.8


def test_a_label_that_changes_is_noticed():
    """The gate computes the step at which the label changes; a fixed schedule passes over it."""
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.randn(10, 1, 8, 8, generator=generator), torch.arange(10)
    switched = torch.cat((labels.expand(26, -1), ((labels + 3) % 10).expand(24, -1)))
    settings = {"caching": "confidence_gated_taylor", "options": {"threshold": 0.04}}
    steps = list(Sampler(pretrained(), **settings).steps_of(noise, switched))
    assert steps[26].computed and not steps[25].computed and sum(step.computed for step in steps) < 25
