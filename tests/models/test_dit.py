"""The diffusion transformer: its shape, its parts, the official code's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.conformance import assert_close
from workbench.models.dit import DIGITS, DIT_XL_2, DiT, DiTConfig, pretrained, sin_cos, time_features

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "taylorseer.npz")
TINY = DiTConfig(image=4, width=12, depth=2, heads=2, classes=3, time_features=8)


def tiny(start="random", **settings):
    return DiT(DiTConfig(**{**vars(TINY), **settings}), start).double()


def inputs(batch=2):
    return torch.randn(batch, 1, 4, 4).double(), torch.tensor([900.0, 30.0]).double()[:batch], torch.arange(batch)


def test_a_new_network_is_the_identity_and_says_nothing():
    model = tiny("zero")
    images, time, labels = inputs()
    assert not model(images, time, labels).any()
    tokens = model.embed(images)
    assert torch.equal(model.run(tokens, model.modulation(model.condition(time, labels))), tokens)


def test_the_output_has_a_channel_for_the_variance_where_it_is_learned():
    assert tiny()(*inputs()).shape == (2, 1, 4, 4)
    assert tiny(learned_sigma=True)(*inputs()).shape == (2, 2, 4, 4)


def test_samples_do_not_mix():
    model, (images, time, labels) = tiny(), inputs()
    alone = torch.cat([model(*(each[i : i + 1] for each in (images, time, labels))) for i in range(2)])
    assert_close(model(images, time, labels), alone, tolerance=1e-12)


def test_time_and_label_count():
    model, (images, time, labels) = tiny(), inputs()
    output = model(images, time, labels)
    assert not torch.allclose(output, model(images, time + 50, labels))
    assert not torch.allclose(output, model(images, time, labels + 1))


def test_the_residual_stream_can_be_taken_over():
    model, (images, time, labels) = tiny(), inputs()
    modulation, seen = model.modulation(model.condition(time, labels)), []

    def add(module, tokens, output, gate):
        seen.append((module, output))
        return tokens + gate[:, None] * output

    tokens = model.embed(images)
    last = model.run(model.run(tokens, modulation, 0, 1, add=add), modulation, 1, add=add)
    assert [module for module, _ in seen] == [0, 1, 2, 3]
    assert_close(last, model.run(tokens, modulation), tolerance=1e-12)
    gated = sum(modulation.gates[:, module, None] * output for module, output in seen)
    assert_close(last, tokens + gated, tolerance=1e-12)


def test_a_patch_comes_out_where_it_went_in():
    model = tiny(channels=2)
    with torch.no_grad():
        model.patches.weight.copy_(torch.eye(12)[:, :8])
        model.patches.bias.zero_(), model.position.zero_()
    images = torch.randn(1, 2, 4, 4).double()
    tokens = model.embed(images)[..., :8].unflatten(-1, (2, 2, 2))  # channel, row, column
    assert torch.equal(tokens[0, 1, :, 0, 1], images[0, :, 0, 3])
    assert torch.equal(tokens[0, 2, :, 1, 0], images[0, :, 3, 0])


def test_time_features_and_positions_are_those_of_the_official_code():
    features = time_features(torch.tensor([0.0, 7.0]).double(), 6)
    angles = 7 * 10000 ** -(torch.arange(3).double() / 3)
    assert torch.equal(features[0], torch.tensor([1.0, 1, 1, 0, 0, 0]).double())
    assert_close(features[1], torch.cat((angles.cos(), angles.sin())), tolerance=1e-14)
    table = torch.from_numpy(GOLDEN["w.pos_embed"])[0]
    assert_close(sin_cos(4, 20), table, tolerance=1e-6)


def test_gradients_reach_every_weight():
    model, (images, time, labels) = tiny(), inputs()
    model(images, time, labels).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


def test_the_named_sizes():
    assert sum(weight.numel() for weight in DiT(DIGITS).parameters()) == 265_060
    assert DIT_XL_2.tokens == 256 and DIT_XL_2.modules == 56
    with torch.device("meta"):
        large = DiT(DIT_XL_2)
    assert sum(weight.numel() for weight in large.parameters()) == pytest.approx(675e6, rel=0.01)


def test_the_pretrained_network_is_the_callers_own_and_frozen():
    model = pretrained()
    assert model.config == DIGITS and not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    expected = model.last.weight.clone()
    model.bfloat16()
    assert torch.equal(pretrained().last.weight, expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, "width = 0"),
        ({"depth": True}, "depth = True"),
        ({"heads": 5}, "heads = 5 must divide width = 12"),
        ({"patch": 3}, "patch = 3 must divide image = 4"),
        ({"position": "rotary"}, "position = 'rotary'.*learned"),
        ({"position": "sin_cos", "width": 10, "heads": 2}, "multiple of 4"),
        ({"time_features": 7}, "time_features = 7"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        DiTConfig(**{**vars(TINY), **settings})


def test_whole_numbers_of_other_libraries_are_taken():
    config = DiTConfig(width=np.int64(24), heads=torch.tensor(4), depth=np.uint8(3))
    assert config == DiTConfig(width=24, heads=4, depth=3) and all(
        type(each) is int for each in (config.width, config.heads)
    )
    for wrong in (2.5, True, torch.tensor(1.5), np.int64(0), "3"):
        with pytest.raises(ValueError, match=r"depth = .* is not allowed: choose a whole number"):
            DiTConfig(depth=wrong)
