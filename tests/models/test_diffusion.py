"""Sampling: what a cache may and may not change, what a step says, how good digits are."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from workbench import catalog, measure
from workbench.conformance import assert_close
from workbench.models import diffusion, diffusion_quality, dit
from workbench.models.caching import Strategy, strategies
from workbench.models.diffusion import Sampler, ddim, quality, record, sample, train_dit
from workbench.models.diffusion_quality import classifier, frechet_distance, psnr_db
from workbench.models.dit import DiT, DiTConfig, pretrained
from workbench.tasks import images as image_sets

TINY = DiTConfig(image=4, width=12, depth=3, heads=2, classes=3, time_features=8)
CACHED = {
    "feature_reuse": {"interval": 3},
    "taylorseer": {"interval": 3, "order": 2},
    "last_block_forecast": {"interval": 3},
    "first_block_cache": {"threshold": 0.3},
    "confidence_gated_taylor": {"threshold": 0.3},
}
every_cache = pytest.mark.parametrize("caching", CACHED)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DiT(TINY, "random").double().requires_grad_(False)


def start(batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(batch, 1, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    return noise, torch.arange(batch) % 3


def walk(model, *, steps=12, batch=2, **settings):
    return list(sample(model, *start(batch), steps=steps, **settings))


# --- the walk --------------------------------------------------------------------------------------------------------


def test_every_method_of_the_toggle_can_sample():
    assert set(strategies()) == {"none", *catalog.methods("caching")} == {"none", *CACHED}
    assert all(issubclass(each, Strategy) for each in strategies().values())


def test_the_uncached_walk_is_eulers(model):
    images, labels = start()
    expected = images
    for step in range(5):
        time = torch.full((2,), 1000 * (1 - step / 5)).double()
        expected = expected - model(expected, time, labels) / 5
    assert_close(Sampler(model, steps=5)(images, labels), expected, tolerance=1e-12)


def test_guidance_stretches_the_difference(model):
    images, labels = start()
    time, none = torch.full((2,), 1000.0).double(), torch.full((2,), 3)
    with_label, without = model(images, time, labels), model(images, time, none)
    expected = images - (without + 2.5 * (with_label - without))
    assert_close(Sampler(model, steps=1, guidance=2.5)(images, labels), expected, tolerance=1e-12)


def test_ddim_goes_where_the_noise_points():
    """With a network that knows the noise, DDIM finds the image in any number of steps."""
    image, noise = torch.randn(1, 1, 4, 4).double(), torch.randn(1, 1, 4, 4).double()
    for steps in (1, 2, 7):
        times, factors = ddim(steps)
        kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
        first = kept[int(times[0])]
        x = first.sqrt() * image + (1 - first).sqrt() * noise
        for a, b in factors:
            x = a * x + b * noise
        assert_close(x, image, tolerance=1e-10)


@every_cache
def test_computing_every_step_changes_nothing(model, caching):
    """N = 1, or a gate that trusts nothing: the uncached images, to the last bit."""
    options = {"threshold": 0.0} if "threshold" in CACHED[caching] else {"interval": 1}
    steps = walk(model, caching=caching, options=options)
    assert all(step.computed for step in steps)
    assert torch.equal(steps[-1].sample, walk(model)[-1].sample)


@every_cache
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_run_can_be_repeated_and_given_up(model, caching, guidance):
    """Nothing of an earlier run is left in the cache, and steps and the call without steps agree."""
    sampler = Sampler(model, steps=12, caching=caching, options=CACHED[caching], guidance=guidance)
    images, labels = start()
    first = sampler(images, labels)
    list(itertools.islice(sampler.steps_of(images + 1, labels), 7))
    for cache in sampler.caches:
        cache.fill_(math.nan)
    *_, last = sampler.steps_of(images, labels)
    assert torch.equal(first, last.sample) and not torch.equal(first, images)


@every_cache
def test_what_a_step_says(model, caching):
    steps = walk(model, caching=caching, options=CACHED[caching])
    assert [step.index for step in steps] == list(range(12)) and {step.steps for step in steps} == {12}
    assert [step.time for step in steps] == pytest.approx([1000 * (1 - s / 12) for s in range(12)])
    assert steps[0].computed and not all(step.computed for step in steps)
    assert all(step.milliseconds > 0 and step.cache_bytes > 0 for step in steps)
    assert all(step.share == float(step.computed) for step in steps)
    gated = "threshold" in CACHED[caching]
    assert all((step.error is not None) == (gated and step.index > (2 if "gated" in caching else 0)) for step in steps)


def test_cache_bytes(model):
    """2 L (m + 1) tensors like the tokens, or m + 1; two stacks with a gate; two residuals in a first-block cache."""
    one = 2 * 4 * 12 * 8  # batch, tokens, width, bytes
    held = {name: walk(model, caching=name, options=options)[0].cache_bytes / one for name, options in CACHED.items()}
    expected = {"feature_reuse": 6, "taylorseer": 18, "last_block_forecast": 2, "first_block_cache": 2}
    assert held == {**expected, "confidence_gated_taylor": 4}
    assert walk(model)[0].cache_bytes == 0


def test_sum_bytes(model):
    """A tensor like the tokens for each step between two full ones, where all modules are kept."""
    one = 2 * 4 * 12 * 8
    held = {name: walk(model, caching=name, options=options)[0].sum_bytes / one for name, options in CACHED.items()}
    assert held == {**dict.fromkeys(CACHED, 0), "feature_reuse": 2, "taylorseer": 2}


@every_cache
def test_recorded_errors_are_those_of_forecasts(model, caching):
    plain = walk(model, caching=caching, options=CACHED[caching])
    steps = walk(model, caching=caching, options=CACHED[caching], record_error=True)
    assert torch.equal(plain[-1].sample, steps[-1].sample), "recording changed the walk"
    assert all((step.true_error is None) == step.computed for step in steps)
    assert all(0 < step.true_error < 10 for step in steps if not step.computed)
    by_module = [step.module_errors for step in steps if step.module_errors is not None]
    forecasts = sum(not step.computed for step in steps)
    assert len(by_module) == (forecasts if caching in ("feature_reuse", "taylorseer") else 0)
    assert all(errors.shape == (6,) and errors.gt(0).all() for errors in by_module)


def test_a_label_may_change_on_the_way(model):
    images, labels = start()
    constant = labels.expand(12, -1)
    assert torch.equal(Sampler(model, steps=12)(images, constant), Sampler(model, steps=12)(images, labels))
    changed = torch.cat((constant[:6], (constant[6:] + 1) % 3))
    assert not torch.equal(Sampler(model, steps=12)(images, changed), Sampler(model, steps=12)(images, labels))


@pytest.mark.parametrize("caching", ["none", *CACHED])
@pytest.mark.parametrize("size", [1, 10_000])  # a step at a time, and two
def test_conditions_need_not_fit_into_one_product(model, monkeypatch, caching, size):
    settings = {"caching": caching, "options": CACHED.get(caching)}
    whole = walk(model, **settings)[-1].sample
    monkeypatch.setattr("workbench.models.stage.AHEAD_BYTES", size)
    assert_close(walk(model, **settings)[-1].sample, whole, tolerance=1e-12)


def test_float32_images_and_a_16_bit_network():
    torch.manual_seed(0)
    half = DiT(TINY, "random").bfloat16().requires_grad_(False)
    images, labels = start(dtype=torch.float32)
    for caching, options in CACHED.items():
        result = Sampler(half, steps=6, caching=caching, options=options)(images, labels)
        assert result.dtype == torch.float32 and result.isfinite().all()


def test_recorded_features_are_those_of_the_walk(model):
    images, labels = start()
    found = record(model, images, labels, steps=4)
    assert found.modules.shape == (2, 6, 4, 4, 12) and found.blocks.shape == (2, 2, 4, 4, 12)
    assert torch.equal(found.sample, Sampler(model, steps=4)(images, labels))
    modulation = model.modulation(model.condition(torch.full((2,), 1000.0).double(), labels))
    first = found.tokens[:, 0] + (modulation.gates[:, :2, None] * found.modules[:, :2, 0]).sum(1)
    assert_close(found.blocks[:, 0, 0], first, tolerance=1e-12)
    assert_close(found.blocks[:, 1, 0], model.run(model.embed(images), modulation), tolerance=1e-12)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("caching", ["none", *CACHED])
def test_the_kernels_walk_the_same_way(monkeypatch, caching, guidance):
    """With every kernel that a GPU would run, here in Triton's interpreter, against plain PyTorch in float64."""
    torch.manual_seed(0)
    network = DiT(TINY, "random").requires_grad_(False)
    settings = {"steps": 5, "caching": caching, "options": CACHED.get(caching), "guidance": guidance}
    images, labels = start(dtype=torch.float32)
    exact = Sampler(copy.deepcopy(network).double(), **settings)(images.double(), labels)
    for name in ("differences.has_kernel", "ahead.has_kernel", "step.has_kernels"):
        monkeypatch.setattr(f"workbench_kernels.forecast.{name}", lambda *given: True)
    assert_close(Sampler(network, **settings)(images, labels), exact, tolerance=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("caching", ["none", *CACHED])
def test_graphs_change_nothing(caching, guidance):
    model = pretrained().cuda()
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(6, 1, 8, 8, generator=generator).cuda(), torch.arange(6).cuda()
    settings = {"caching": caching, "options": CACHED.get(caching), "guidance": guidance}
    eager = Sampler(model, **settings, cuda_graphs=False)(images, labels)
    sampler = Sampler(model, **settings)
    assert sampler.graphs
    assert_close(sampler(images, labels), eager, tolerance=1e-5)
    assert_close(sampler(images, labels), eager, tolerance=1e-5)
    exact = Sampler(copy.deepcopy(model).double(), **settings, cuda_graphs=False)(images.double(), labels)
    assert_close(eager, exact, tolerance=1e-3)


# --- kept ------------------------------------------------------------------------------------------------------------

every_way = pytest.mark.parametrize("caching", ["none", *CACHED])


def kept(model, caching):
    return Sampler(model, steps=8, caching=caching, options=CACHED.get(caching))


@every_way
def test_a_sampler_used_in_inference_mode_serves_outside(model, caching):
    images, labels = start()
    expected = kept(model, caching)(images, labels)
    sampler = kept(model, caching)
    with torch.inference_mode():
        inside = sampler(images, labels)
        *_, last = sampler.steps_of(images, labels)
    assert torch.equal(inside, expected) and torch.equal(last.sample, expected)
    assert torch.equal(sampler(images, labels), expected)
    *_, last = sampler.steps_of(images, labels)
    assert torch.equal(last.sample, expected)
    with torch.inference_mode():
        assert torch.equal(sampler(images, labels), expected)


def test_shipped_networks_loaded_in_inference_mode_can_be_trained_through():
    for kept_by in (dit._shipped, classifier):
        kept_by.cache_clear()
        with torch.inference_mode():
            kept_by()
        assert not any(weight.is_inference() for weight in kept_by().parameters())
    network = pretrained().requires_grad_()
    network(torch.randn(1, 1, 8, 8), torch.ones(1), torch.tensor([0])).sum().backward()
    image_sets._digits.cache_clear()
    with torch.inference_mode():
        digits = image_sets.load("digits")
    assert not digits.train.is_inference()


@every_way
def test_a_kept_sampler_follows_its_model(model, caching):
    """To another type and back; weights that were put elsewhere, and others in their place."""
    moving = copy.deepcopy(model)
    sampler = kept(moving, caching)
    images, labels = start(dtype=torch.float32)
    first = sampler(images, labels)
    moving.bfloat16()
    halved = sampler(images, labels)
    assert all(cache.dtype == torch.bfloat16 for cache in sampler.caches)
    assert torch.equal(halved, kept(copy.deepcopy(model).bfloat16(), caching)(images, labels))
    moving.double().load_state_dict(model.state_dict())
    assert torch.equal(sampler(images, labels), first)
    moving.last = torch.nn.Linear(12, 4, dtype=torch.float64).requires_grad_(False)
    assert torch.equal(sampler(images, labels), kept(moving, caching)(images, labels))


def test_a_graph_is_made_for_weights_where_they_lie():
    network = DiT(TINY, "random")
    before = diffusion._addresses(network)
    assert before == diffusion._addresses(network) and len(before) == len(network.state_dict()) + 1  # `unit` is fixed
    network.bfloat16().float()
    assert before != diffusion._addresses(network)


@every_way
@pytest.mark.parametrize("record_error", [False, True])
def test_autocast_casts_as_in_the_network_itself(caching, record_error):
    """As a walk by hand under autocast, to the last bit where all is computed; nearer to it than float32 elsewhere."""
    torch.manual_seed(0)
    network = DiT(TINY, "random").requires_grad_(False)
    images, labels = start(dtype=torch.float32)
    exact = kept(network, caching)(images, labels)
    sampler = kept(network, caching)
    sampler.record_error = record_error
    with torch.autocast("cpu", torch.bfloat16):
        found = sampler(images, labels)
        walked = sampler.steps_of(images, labels)
        first = next(walked)
    *_, last = walked  # who reads on has left autocast; the walk has not
    assert torch.equal(last.sample, found) and first.sample.dtype == found.dtype == torch.float32
    assert all(cache.dtype == torch.float32 for cache in sampler.caches)
    assert_close(found, exact, tolerance=0.05)
    assert not torch.equal(found, exact), "autocast did nothing"
    assert torch.equal(sampler(images, labels), exact), "outside of autocast again"


@every_cache
def test_computing_every_step_changes_nothing_under_autocast(caching):
    torch.manual_seed(0)
    network = DiT(TINY, "random").requires_grad_(False)
    images, labels = start(dtype=torch.float32)
    options = {"threshold": 0.0} if "threshold" in CACHED[caching] else {"interval": 1}
    with torch.autocast("cpu", torch.bfloat16):
        cached = Sampler(network, steps=6, caching=caching, options=options)(images, labels)
        assert torch.equal(cached, Sampler(network, steps=6)(images, labels))
        expected = images
        for step in range(6):
            time = torch.full((2,), 1000 * (1 - step / 6))
            expected = expected - network(expected, time, labels).float() / 6
    assert_close(cached, expected, tolerance=0.02)


@every_way
def test_samplers_and_networks_are_pickled_and_copied(model, caching):
    images, labels = start()
    sampler = kept(model, caching)
    expected = sampler(images, labels)
    for again in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        assert again.caches == () and again.options == sampler.options
        assert torch.equal(again(images, labels), expected)
    assert torch.equal(sampler(images, labels), expected)
    network = pickle.loads(pickle.dumps(model))
    assert torch.equal(kept(network, caching)(images, labels), expected)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("record_error", [False, True])
@every_way
def test_no_images_are_drawn_from_no_noise(model, caching, guidance, record_error):
    images, labels = start()
    sampler = Sampler(model, steps=4, caching=caching, guidance=guidance, record_error=record_error)
    assert sampler(images[:0], labels[:0]).shape == (0, 1, 4, 4)
    steps = list(sampler.steps_of(images[:0], labels[:0]))
    assert len(steps) == 4 and not any(step.computed for step in steps) and steps[-1].sample.shape == (0, 1, 4, 4)
    assert sampler(images, labels).isfinite().all()


def test_numbers_of_other_libraries_are_taken(model):
    images, labels = start()
    expected = Sampler(model, steps=4, caching="feature_reuse", options={"interval": 2}, guidance=2)(images, labels)
    given = {"steps": np.int64(4), "guidance": torch.tensor(2.0)}
    found = Sampler(model, caching="feature_reuse", options={"interval": 2}, **given)(images, labels)
    assert torch.equal(found, expected)


# --- asked wrongly ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps = 0.*1 to 1000"),
        ({"sampler": "heun"}, "sampler = 'heun'.*ddim"),
        ({"caching": "magic"}, "caching = 'magic'.*taylorseer"),
        ({"options": {"interval": 3}}, "Without a cache.*interval"),
        ({"caching": "taylorseer", "options": {"colour": 1}}, "no option colour.*interval"),
        ({"caching": "taylorseer", "options": {"interval": 0}}, "interval = 0"),
        ({"cuda_graphs": True}, "CUDA graphs need a model on CUDA, not on cpu"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, settings, words):
    with pytest.raises(ValueError, match=words):
        sample(model, *start(), **settings)


def test_shapes_that_do_not_fit_are_refused(model):
    images, labels = start()
    for noise, given in (
        (images[..., :3], labels),
        (images, labels[:1]),
        (images, labels.double()),
        (images[:0], labels),
        (images[0], labels),
    ):
        with pytest.raises(ValueError, match=r"noise must be|labels must be"):
            next(sample(model, noise, given))


# --- the trained network ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 10
    noise = torch.randn(40, 1, 8, 8, generator=generator)
    return noise, labels, Sampler(pretrained())(noise, labels)


def decibels(digits, **settings):
    noise, labels, uncached = digits
    return quality(Sampler(pretrained(), **settings)(noise, labels), labels, uncached).psnr_db


def test_the_network_draws_what_it_is_asked_for(digits):
    _, labels, uncached = digits
    found = quality(uncached, labels, uncached)
    assert found.accuracy >= 0.9 and found.psnr_db == math.inf and 0 < found.frechet < 30


def test_forecasting_beats_reusing_and_nearness_falls_with_the_interval(digits):
    near = {
        order: [decibels(digits, caching="taylorseer", options={"interval": n, "order": order}) for n in (3, 4, 6, 10)]
        for order in (0, 1)
    }
    assert near[1][1] - near[0][1] >= 5
    assert all(values == sorted(values, reverse=True) for values in near.values())


def test_the_last_block_is_as_good_as_all_modules(digits):
    modules = decibels(digits, caching="taylorseer", options={"interval": 4, "order": 1})
    last = decibels(digits, caching="last_block_forecast", options={"interval": 4, "order": 1})
    assert abs(modules - last) < 1


def test_training_learns_and_can_be_stopped():
    data = image_sets.load("digits")
    config = DiTConfig(width=16, depth=1, heads=2)
    laps = list(train_dit(data.train, data.train_labels, config=config, steps=30, batch=32, lap=10))
    assert [lap.step for lap in laps] == [10, 20, 30] and laps[-1].loss < laps[0].loss
    assert laps[0].model is laps[-1].model
    with pytest.raises(ValueError, match="images must be"):
        next(train_dit(data.train[..., :4], data.train_labels, config=config))
    with pytest.raises(ValueError, match="steps = 0"):
        next(train_dit(data.train, data.train_labels, config=config, steps=0))


def test_the_shipped_classifier_knows_digits():
    data = image_sets.load("digits")
    assert (classifier()(data.test).argmax(1) == data.test_labels).float().mean() > 0.97
    step, accuracy, model = next(diffusion_quality.train_classifier(steps=60))
    assert step == 60 and accuracy > 0.7 and model is not classifier()


def test_frechet_distance_of_normal_sets():
    """Equal covariances leave the distance of the means; a set is at no distance from itself."""
    a = torch.randn(500, 4)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + shift) == pytest.approx(shift.square().sum().item(), rel=1e-5)
    centred = a - a.mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * torch.cov(a.mT).trace().item(), rel=1e-4)
    assert math.isnan(frechet_distance(a[:1], a))


def test_decibels():
    images = torch.zeros(2, 1, 8, 8)
    assert psnr_db(images, images) == math.inf
    assert psnr_db(images + 0.2, images) == pytest.approx(20.0, abs=1e-4)
    with pytest.raises(ValueError, match="quality takes digits"):
        quality(images, torch.zeros(3), images)


# --- measured --------------------------------------------------------------------------------------------------------


def test_whole_runs_are_measured_side_by_side(model):
    runs = [
        measure.SamplingRun(steps=10),
        measure.SamplingRun(steps=10, caching="taylorseer", options={"interval": 3}),
        measure.SamplingRun(steps=10, caching="confidence_gated_taylor", full=6),
    ]
    rows = list(measure.sampling(model.float(), runs, sampler="euler", budget_s=0.01))
    model.double()
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert rows[0]["speed_up"] == rows[0]["ideal"] == 1 and rows[1]["full_steps"] == 4 and rows[1]["ideal"] == 2.5
    assert rows[2]["full_steps"] == pytest.approx(6, abs=2) and 0 < rows[2]["threshold"] < 1
    assert all(row["median_ms"] > 0 and row["error"] == 0 for row in rows)


def test_what_is_recorded_stands_in_the_papers():
    """No cache first, then fewer steps; every way to cache that the catalog has, with options that it knows."""
    first, *others = measure.sampling_runs()
    assert first == measure.SamplingRun() and {run.caching for run in others} == {"none", *CACHED}
    for run in others:
        Sampler(pretrained(), steps=run.steps, caching=run.caching, options=run.options)
