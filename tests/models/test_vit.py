"""The small vision transformer: what its mixers promise, what it refuses, what the shipped one knows."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from workbench import catalog
from workbench.feedforward.activator import macs
from workbench.models import vit
from workbench.models.vit import ViT, ViTConfig, mixers, no_attention
from workbench.tasks import images

SMALL = ViTConfig(depth=2, width=16, heads=2)
every_mixer = pytest.mark.parametrize("mixer", mixers())


def made(**changes) -> ViT:
    torch.manual_seed(0)
    return ViT(dataclasses.replace(SMALL, **changes))


def pictures(count=3, size=8):
    return torch.rand(count, 1, size, size) * 2 - 1


def shuffled(pixels, order, patch=2):
    """The same patches in another order."""
    patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch)
    rows, columns = patches.shape[2:4]
    moved = patches.flatten(2, 3)[:, :, order].unflatten(2, (rows, columns))
    return moved.permute(0, 1, 2, 4, 3, 5).reshape(pixels.shape)


def test_every_mixer_of_the_catalog_can_be_chosen():
    mapped = {name for name, method in catalog.methods().items() if method.shows_map}
    assert set(mixers()) == mapped | set(no_attention())


@every_mixer
def test_every_mixer_learns(mixer):
    model = made(mixer=mixer)
    logits = model(pictures())
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@every_mixer
def test_the_implementations_agree(mixer):
    reference, fast = (made(mixer=mixer, implementation=name).double() for name in ("reference", "fast"))
    fast.load_state_dict(reference.state_dict())
    pixels = pictures().double()
    torch.testing.assert_close(fast(pixels), reference(pixels), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("feed_forward", [True, False])
def test_without_mixing_patches_are_a_bag(feed_forward):
    pixels, order = pictures(), torch.randperm(16)
    for mixer in ("activator", "none") if feed_forward else ("activator",):
        model = made(mixer=mixer, position="none", feed_forward=feed_forward).double()
        assert (model(shuffled(pixels.double(), order)) - model(pixels.double())).abs().max() < 1e-13


@pytest.mark.parametrize("mixer", ["softmax_attention", "mlp_mixer", "activator_spatial"])
def test_with_mixing_the_order_of_patches_counts(mixer):
    model, pixels, order = made(mixer=mixer), pictures(), torch.randperm(16)
    if mixer == "activator_spatial":  # the identity at first: no mixing yet
        torch.nn.init.normal_(model.blocks[0].unit.spatial)
    assert (model(shuffled(pixels, order)) - model(pixels)).abs().max() > 1e-3


def test_a_learned_position_ends_the_bag():
    model, pixels = made(mixer="activator", position="learned"), pictures()
    torch.nn.init.normal_(model.position)
    assert (model(shuffled(pixels, torch.randperm(16))) - model(pixels)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("mixer", "feed_forward", "block"),
    [
        ("activator", False, "activator"),
        ("activator", True, "activator_with_feed_forward"),
        ("softmax_attention", True, "attention"),
        ("mlp_mixer", True, "mlp_mixer"),
    ],
)
def test_the_arithmetic_is_what_the_formulas_say(mixer, feed_forward, block):
    config = dataclasses.replace(SMALL, mixer=mixer, feed_forward=feed_forward, implementation="reference")
    model = ViT(config)
    with FlopCounterMode(display=False) as counter:
        model.blocks(torch.randn(1, config.tokens, config.width))
    shape = {"tokens": config.tokens, "width": config.width, "hidden": config.block_hidden}
    assert counter.get_total_flops() == 2 * config.depth * config.tokens * macs(block, **shape)


def test_strips_of_rows():
    model = made(rows=True)
    assert model.config.tokens == 4
    pixels = pictures()
    tokens = model.embed(pixels)
    assert tokens.shape == (3, 4, 16)
    pixels[:, :, 2:4] = 0
    changed = (model.embed(pixels) != tokens).any(-1)
    assert changed.tolist() == [[False, True, False, False]] * 3


def test_a_gated_activation_costs_as_many_weights():
    plain, gated = (sum(weight.numel() for weight in made(activation=name).parameters()) for name in ("gelu", "swiglu"))
    assert gated == pytest.approx(plain, rel=0.02)


# --- looked into -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", [name for name in mixers() if name not in no_attention()])
def test_the_maps_are_what_multiplies_the_values(mixer):
    """The first block, computed once more with its map in place of its attention."""
    model, pixels = made(mixer=mixer), pictures(1)
    maps, logits = model.inspect(pixels)
    assert maps.shape == (2, 2, 16, 16)
    torch.testing.assert_close(logits, model(pixels)[0])
    block, x = model.blocks[0], model.embed(pixels)
    value = block.mixer.project_in(block.mixer_norm(x))[..., 2 * 16 :].unflatten(-1, (2, 8)).transpose(1, 2)
    mixed = block.mixer.project_out((maps[0] @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, block.mixer(block.mixer_norm(x), None)[0], rtol=1e-4, atol=1e-5)


def test_maps_of_gated_units():
    eye = torch.eye(16).expand(2, 1, 16, 16)
    for mixer in ("activator", "none", "activator_spatial"):
        assert torch.equal(made(mixer=mixer).inspect(pictures(1)).maps, eye)
    model = made(mixer="activator_spatial")
    torch.nn.init.normal_(model.blocks[1].unit.spatial)
    assert torch.equal(model.inspect(pictures(1)).maps[1, 0], model.blocks[1].unit.spatial)


def test_what_cannot_be_inspected():
    with pytest.raises(ValueError, match="MLP-Mixer has no map"):
        made(mixer="mlp_mixer").inspect(pictures(1))
    with pytest.raises(ValueError, match="One image.*3 were given"):
        made().inspect(pictures(3))


# --- the shipped one -------------------------------------------------------------------------------------------------


def test_the_shipped_model_knows_digits_that_it_has_not_seen():
    digits = images.load("digits")
    model = vit.pretrained()
    assert not model.training
    accuracy = (model(digits.test).argmax(1) == digits.test_labels).float().mean().item()
    assert accuracy > 0.98
    assert vit.WEIGHTS.stat().st_size < 300_000


def test_shipping_there_and_back(tmp_path, monkeypatch):
    model = ViT(vit.pretrained_config())
    vit.ship(model, tmp_path / "weights.safetensors")
    monkeypatch.setattr(vit, "WEIGHTS", tmp_path / "weights.safetensors")
    pixels = pictures()
    assert torch.equal(vit.pretrained()(pixels), model(pixels))


# --- asked wrongly ---------------------------------------------------------------------------------------------------

WRONG = {
    "no image": ({"image": 0}, "image = 0.*1 or more"),
    "half a block": ({"depth": 1.5}, "depth = 1.5.*whole number"),
    "patches that do not fit": ({"patch": 3}, "patch = 3 must divide image = 8"),
    "heads that do not fit": ({"heads": 3}, "heads = 3 must divide width = 16"),
    "an unknown mixer": ({"mixer": "blender"}, "mixer = 'blender'.*softmax_attention.*activator"),
    "an unknown position": ({"position": "sine"}, "position = 'sine'.*'learned' or 'none'"),
    "an unknown activation": ({"activation": "step"}, "activation = 'step'.*gelu"),
    "a knob out of bounds": ({"mixer": "activator", "mixer_options": {"activation": "tanh"}}, "activation = 'tanh'"),
    "a knob for none": ({"mixer": "mlp_mixer", "mixer_options": {"x": 1}}, "has no options"),
    "nothing left": ({"mixer": "none", "feed_forward": False}, "nothing would be left"),
    "an implementation": ({"mixer": "activator", "implementation": "sdpa"}, "'sdpa'.*auto, reference or fast"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_an_unknown_knob():
    with pytest.raises(TypeError, match="no option 'colour'"):
        dataclasses.replace(SMALL, mixer="activator", mixer_options={"colour": 1})


@pytest.mark.parametrize("shape", [(8, 8), (1, 3, 8, 8), (1, 1, 9, 8), (0, 1, 8, 8)])
def test_wrong_images(shape):
    with pytest.raises(ValueError, match=r"must be \(batch, 1, 8, 8\)"):
        made()(torch.zeros(shape))
