"""What TaylorSeer's specification demands: the schedule, the error laws, golden arrays of the official code."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.conformance import assert_close
from workbench.generation.taylorseer import (
    DerivativeCache,
    factors_by_age,
    feature_reuse,
    forecast_modules,
    forecast_weights,
    full_count,
    full_steps,
    newton_weights,
    refresh_derivatives,
    refreshed,
    reuse_weights,
    schedule,
    seen_tables,
    tables,
    taylor_weights,
    taylorseer,
)
from workbench.models.diffusion import Sampler, ddim
from workbench.models.dit import DiT, DiTConfig

GOLDEN = {
    name: torch.from_numpy(array)
    for name, array in np.load(Path(__file__).parents[2] / "golden" / "taylorseer.npz").items()
}
CONFIGURATIONS = {"N3_m1": (3, 1), "N4_m2": (4, 2), "N4_m0": (4, 0), "N5_m3": (5, 3)}

both = pytest.mark.parametrize("implementation", ["reference", "fast"])


def curve(function, steps=40):
    """A function of the step as features (1, steps, 1, 3): three multiples of it."""
    values = torch.tensor([function(step) for step in range(steps)], dtype=torch.float64)
    return values[None, :, None, None] * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def errors(features, implementation, **options):
    return taylorseer(features, implementation=implementation, **options)[0, :, 0, 0] - features[0, :, 0, 0]


def ages(steps, interval, first_full):
    """For each step: how long ago the last full one was."""
    last, found = 0, []
    for step, full in enumerate(full_steps(steps, interval, first_full)):
        last = step if full else last
        found.append(step - last)
    return found


# --- the schedule ----------------------------------------------------------------------------------------------------


def test_the_schedule_is_the_counter_of_the_official_code():
    for steps, interval, first in itertools.product((1, 2, 7, 20, 50), (1, 2, 3, 5, 12), (1, 2, 3, 9)):
        counter, expected = 0, []
        for step in range(steps):
            full = step < first or counter == interval - 1
            counter = 0 if full else counter + 1
            expected.append(full)
        assert full_steps(steps, interval, first) == expected == schedule(steps, interval, first).tolist()
        assert sum(expected) == full_count(steps, interval, first)


def test_the_papers_counts():
    assert [full_count(50, interval) for interval in (2, 3, 4, 5, 6)] == [26, 18, 14, 11, 10]


@pytest.mark.parametrize(("arguments", "words"), [((0, 3), "steps = 0"), ((5, 0), "interval = 0"), ((5, 2, -1), "-1")])
def test_a_schedule_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        full_steps(*arguments)


# --- the weights and the cache ---------------------------------------------------------------------------------------


def test_weights():
    assert taylor_weights(3, 4) == [1, 3, 4.5, 4.5] and taylor_weights(0, 2) == [1, 0]
    assert newton_weights(2, 4, 3) == [1, 2, 2 * 6 / 2] and newton_weights(3, 0, 3) == taylor_weights(3, 3)
    assert reuse_weights(3) == [1, 0, 0] == forecast_weights(5, 2, 3, "reuse")


def test_the_cache_grows_by_one_entry_a_refresh():
    cache, lengths = DerivativeCache(2), []
    for step in (0, 1, 5, 9, 13):
        cache.refresh(step, torch.tensor(1.0))
        lengths.append(len(cache.stack))
    assert lengths == [1, 2, 3, 3, 3] and cache.gap == 4 and cache.steps == [0, 1, 5, 9, 13]
    with pytest.raises(ValueError, match="before the first feature"):
        DerivativeCache(1).forecast(3)
    with pytest.raises(ValueError, match="order = -1"):
        DerivativeCache(-1)


def test_the_same_last_gap_divides_all_orders():
    """First gap 1, then 4: held against the recurrence, written out."""
    f = [torch.tensor(value, dtype=torch.float64) for value in (2.0, 3.5, -1.0, 0.25)]
    cache = DerivativeCache(3)
    for step, value in zip((0, 1, 5, 9), f, strict=True):
        cache.refresh(step, value)
    first = [f[1] - f[0], (f[2] - f[1]) / 4, (f[3] - f[2]) / 4]
    second = [(first[1] - first[0]) / 4, (first[2] - first[1]) / 4]
    expected = [f[3], first[2], second[1], (second[1] - second[0]) / 4]
    assert_close(torch.stack(cache.stack), torch.stack(expected), tolerance=1e-15)
    assert_close(
        cache.forecast(11), sum(w * d for w, d in zip((1, 2, 2, 8 / 6), expected, strict=True)), tolerance=1e-14
    )


def test_counting_down_gives_the_same_forecasts():
    """Distances and gaps both change sign: odd entries flip, forecasts stay."""
    up, down = [], []
    for number, value in enumerate(torch.randn(5, 4).double()):
        up = refreshed(up, value, 3 if number else 1, 3)
        down = refreshed(down, value, -3 if number else 1, 3)
    assert all(torch.allclose(a, b * (-1) ** i, atol=1e-14) for i, (a, b) in enumerate(zip(up, down, strict=True)))
    forecasts = [
        sum(w * d for w, d in zip(taylor_weights(x, 4), stack, strict=True)) for x, stack in ((2, up), (-2, down))
    ]
    assert_close(*forecasts, tolerance=1e-13)


@pytest.mark.parametrize("weights", ["taylor", "newton"])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_tables_make_the_caches_forecasts(order, weights):
    """What a sampler runs on, weights and rates known beforehand, is the cache that grows."""
    full = full_steps(20, 4, 2)
    factors, rates = tables(full, order, weights)
    by_age, age, refreshes = factors_by_age(20, order), 0, 0
    cache, features = DerivativeCache(order), torch.randn(20, 1, 2, 3).double()
    stack = torch.zeros(1, order + 1, 2, 3).double()
    for step, computed in enumerate(full):
        if computed:
            cache.refresh(step, features[step])
            stack = refresh_derivatives(features[step], stack, rates[step : step + 1])
            assert by_age[age, min(refreshes, order + 1), 0].item() == pytest.approx(rates[step].item())
            age, refreshes = 0, refreshes + 1
        found = torch.einsum("e,betd->btd", factors[step], stack)
        assert_close(found, cache.forecast(step, weights), tolerance=1e-12)
        if weights == "taylor":
            assert by_age[age, min(refreshes, order + 1), 1:].numpy() == pytest.approx(factors[step].numpy())
        age += 1


@pytest.mark.parametrize("weights", ["taylor", "newton"])
@pytest.mark.parametrize("order", [0, 2, 4])
def test_forecasts_are_sums_of_a_few_computed_features(order, weights):
    full, features = torch.tensor(full_steps(17, 3, 2)), torch.randn(1, 17, 2, 2).double()
    chosen, factors = (table[0] for table in seen_tables(17, 3, 2, order, weights))
    assert chosen.shape == factors.shape == (17, order + 1) and full[chosen].all()
    assert torch.equal(chosen[full, 0], full.nonzero().flatten()), "a full step is seen as it was computed"
    assert (factors[full, 0] == 1).all() and not factors[full, 1:].any()
    found = torch.einsum("se,bsetd->bstd", factors, features[:, chosen])
    assert_close(found, taylorseer.reference(features, interval=3, order=order, weights=weights), tolerance=1e-11)


# --- how accurate ----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("order", [0, 2, 4])
def test_an_interval_of_one_changes_nothing(order, implementation):
    features = torch.randn(2, 9, 4, 5)
    found = taylorseer(features, interval=1, order=order, implementation=implementation)
    assert_close(found, features, tolerance=0.0)


@both
@pytest.mark.parametrize("order", [1, 2, 4])
def test_straight_lines_are_forecast_exactly(order, implementation):
    features = curve(lambda s: 3 - 0.7 * s)
    assert errors(features, implementation, interval=5, order=order).abs().max() < 1e-12


@both
def test_reuse_is_off_by_slope_times_age(implementation):
    features = curve(lambda s: 3 - 0.7 * s)
    expected = 0.7 * torch.tensor(ages(40, 5, 2)).double()
    assert_close(errors(features, implementation, interval=5, order=0), expected, tolerance=1e-13)
    reused = feature_reuse(features, interval=5, first_full=2, implementation=implementation)
    assert torch.equal(reused, taylorseer.reference(features, interval=5, order=0, first_full=2))


@both
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_error_law_of_a_parabola(order, implementation):
    """-a x (N + x) with order 1, -a N x above: a backward difference is the slope half a gap ago."""
    a, interval = 0.3, 4
    features = curve(lambda s: a * s * s - 2 * s + 1)
    age = torch.tensor(ages(40, interval, 1)).double()
    law = -a * age * (interval + age) if order == 1 else -a * interval * age
    found = errors(features, implementation, interval=interval, order=order, first_full=1)
    regular = slice(interval * (order + 1), None)  # from here on every difference has its regular gaps
    assert_close(found[regular], law[regular], tolerance=1e-10)


@both
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_newtons_weights_are_exact_for_polynomials(degree, implementation):
    features = curve(lambda s: (s / 10) ** degree - s / 5)
    found = errors(features, implementation, interval=3, order=degree, first_full=1, weights="newton")
    assert found[3 * (degree + 1) :].abs().max() < 1e-10


def test_a_higher_order_helps_on_a_smooth_curve():
    features = curve(lambda s: np.cos(s / 9))
    far = [errors(features, "fast", interval=3, order=order)[12:].abs().max() for order in (0, 1, 2)]
    assert far == sorted(far, reverse=True)


# --- all modules at once ---------------------------------------------------------------------------------------------


@both
def test_all_modules_at_once_are_one_after_the_other(implementation):
    hidden, stack, gates = torch.randn(2, 5, 6), torch.randn(2, 8, 3, 5, 6), torch.randn(2, 8, 6)
    hidden, stack, gates = hidden.double(), stack.double(), gates.double()
    weights = torch.tensor([taylor_weights(2, 3)] * 2).double()
    expected = hidden
    for module in range(8):
        forecast = sum(w * stack[:, module, i] for i, w in enumerate(taylor_weights(2, 3)))
        expected = expected + gates[:, module, None] * forecast
    assert_close(
        forecast_modules(hidden, stack, gates, weights, implementation=implementation), expected, tolerance=1e-12
    )


@both
def test_a_refresh_is_the_recurrence(implementation):
    feature, old = torch.randn(2, 3, 4).double(), torch.randn(2, 4, 3, 4).double()
    rates = torch.tensor([1.0, 0.25]).double()
    found = refresh_derivatives(feature, old, rates, implementation=implementation)
    for sample, gap in enumerate((1, 4)):
        expected = refreshed(list(old[sample]), feature[sample], gap, 3)
        assert_close(found[sample], torch.stack(expected), tolerance=1e-14)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (taylorseer, (torch.randn(3, 4, 5),)),
        (taylorseer, (torch.ones(1, 2, 3, 4, dtype=torch.int64),)),
        (feature_reuse, (torch.randn(1, 0, 2, 2),)),
        (feature_reuse, (torch.randn(2, 2),)),
        (forecast_modules, (torch.randn(1, 2, 3), torch.randn(1, 2, 2, 2, 3), torch.randn(1, 3, 3), torch.ones(1, 2))),
        (forecast_modules, (torch.randn(1, 2, 3), torch.randn(1, 2, 2, 2, 3), torch.randn(1, 2, 3), torch.ones(1, 3))),
        (refresh_derivatives, (torch.randn(1, 2, 3), torch.randn(1, 2, 2, 4), torch.ones(1))),
        (refresh_derivatives, (torch.randn(1, 2, 3), torch.randn(1, 0, 2, 3), torch.ones(1))),
        (refresh_derivatives, (torch.randn(1, 2, 3), torch.randn(1, 2, 2, 3), torch.ones(2))),
    ],
)
@both
def test_what_does_not_fit_is_refused(method, wrong, implementation):
    with pytest.raises(ValueError, match=f"{method.name} takes"):
        method(*wrong, implementation=implementation)


# --- the official code -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    weights = {name[2:]: array.double() for name, array in GOLDEN.items() if name.startswith("w.")}
    config = DiTConfig(width=20, depth=3, heads=4, classes=5, time_features=256, position="sin_cos", learned_sigma=True)
    network = DiT(config).double()
    network.load_official(weights)
    return network.requires_grad_(False)


def images(steps):
    return torch.stack([step.sample for step in steps])


def test_ddim_visits_the_official_times():
    times, _ = ddim(50)
    assert torch.equal(times, GOLDEN["timestep_map"].flip(0).double())


def test_golden_uncached(model):
    time = GOLDEN["timestep_map"][-1].double().expand(2)
    assert_close(model(GOLDEN["x_T"], time, GOLDEN["y"]), GOLDEN["uncached.model_out_t0"], tolerance=1e-10)
    steps = list(Sampler(model, sampler="ddim").steps_of(GOLDEN["x_T"], GOLDEN["y"]))
    assert_close(steps[-1].sample, GOLDEN["uncached.sample"], tolerance=1e-9)
    time = GOLDEN["timestep_map"][24].double().expand(2)
    output = model(steps[24].sample, time, GOLDEN["y"])
    assert_close(output, GOLDEN["uncached.model_out_t25"], tolerance=1e-9)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_golden_cached(name, model):
    interval, order = CONFIGURATIONS[name]
    sampler = Sampler(model, sampler="ddim", caching="taylorseer", options={"interval": interval, "order": order})
    steps = list(sampler.steps_of(GOLDEN["x_T"], GOLDEN["y"]))
    assert [step.computed for step in steps] == GOLDEN[f"{name}.full"].bool().tolist()
    assert_close(steps[-1].sample, GOLDEN[f"{name}.sample"], tolerance=1e-9)
    # The network's output at the 11th step, from what the sampler made of it.
    _, factors = ddim(50)
    noise = (steps[10].sample - factors[10, 0] * steps[9].sample) / factors[10, 1]
    assert_close(noise, GOLDEN[f"{name}.model_out_t10"][:, :1], tolerance=1e-9)
    # Block 1's differences at the end; the official index counts down, so odd orders have the other sign.
    (stack,) = sampler.caches
    for module, kind in ((2, "attn"), (3, "mlp")):
        expected = GOLDEN[f"{name}.cache_L1_{kind}"]
        sign = (-1.0) ** torch.arange(len(expected))[:, None, None, None]
        assert_close(stack[:, module, : len(expected)].transpose(0, 1) * sign, expected, tolerance=1e-9)


def test_gates_are_those_of_the_current_time(model, monkeypatch):
    """Freezing time and label at the last full step must change the result: outputs are cached before their gates."""
    settings = {"sampler": "ddim", "caching": "taylorseer", "options": {"interval": 4, "order": 1}}
    right = Sampler(model, **settings)(GOLDEN["x_T"], GOLDEN["y"])
    sampler = Sampler(model, **settings)
    full = full_steps(50, 4, 2)
    last = [max(step for step in range(now + 1) if full[step]) for now in range(50)]
    sampler.times = sampler.times[last]
    frozen = sampler(GOLDEN["x_T"], GOLDEN["y"])
    assert (frozen - right).abs().max() > 1e-3 * right.abs().max()
