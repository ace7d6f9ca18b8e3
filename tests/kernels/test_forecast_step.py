"""Tokens from images and images from tokens: in Triton's interpreter, against the network's own parts in float64."""

import pytest
import torch

from workbench.conformance import assert_close
from workbench.models.dit import DIT_XL_2, EPSILON, DiT, DiTConfig
from workbench_kernels.forecast import step as forecast_step

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SMALL = {"depth": 1, "classes": 3, "time_features": 8}
NETWORKS = {
    "one token": DiTConfig(image=2, width=4, heads=1, **SMALL),
    "odd": DiTConfig(image=10, width=20, channels=3, learned_sigma=True, position="sin_cos", **SMALL),
    "large patches": DiTConfig(image=12, width=136, channels=2, patch=3, **SMALL),
}
if DEVICE == "cuda":
    NETWORKS["DiT-XL/2"] = DiTConfig(**{**vars(DIT_XL_2), "depth": 1})

pytestmark = pytest.mark.usefixtures("poisoned_memory")
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
every_network = pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
one_or_two = pytest.mark.parametrize("copies", [1, 2], ids=["", "guided"])


def network(config, dtype):
    """In that type on the device, and the same weights in float64."""
    model = DiT(config, "random").requires_grad_(False)
    model.patches.bias.normal_()
    model = model.to(DEVICE, dtype)
    exact = DiT(config).requires_grad_(False).double()
    exact.load_state_dict(model.state_dict())
    if config.position == "sin_cos":
        exact.position.copy_(model.position)
    return model, exact


def rounded(dtype):
    """Rounded once: half a unit off (a unit in the interpreter, for bfloat16)."""
    rounding = 0.51 if DEVICE == "cuda" or dtype != torch.bfloat16 else 1.0
    return 3e-6 + (0.0 if dtype == torch.float32 else rounding * torch.finfo(dtype).eps)


@every_dtype
@every_network
@one_or_two
@pytest.mark.parametrize("added", [False, True], ids=["alone", "added"])
def test_embed_patches(config, dtype, copies, added):
    model, exact = network(config, dtype)
    images = torch.randn(2, config.channels, config.image, config.image, device=DEVICE)
    expected = exact.embed(images.to(dtype).double().cpu()).repeat(copies, 1, 1)
    more = ()
    if added:
        sums = torch.randn(3, 2 * copies, config.tokens, config.width, device=DEVICE)
        more, expected = (sums, torch.tensor([5], device=DEVICE)), expected + sums[2].double().cpu()
    layer = model.patches
    found = forecast_step.embed_patches(images, layer.weight, layer.bias, model.position, *more, copies=copies)
    assert found.dtype == dtype
    assert_close(found.cpu(), expected, tolerance=rounded(dtype))


@every_dtype
@every_network
@one_or_two
def test_update_images(config, dtype, copies):
    model, exact = network(config, dtype)
    images = torch.randn(2, config.channels, config.image, config.image, device=DEVICE)
    tokens = torch.randn(2 * copies, config.tokens, config.width, device=DEVICE).to(dtype)
    rows = torch.randn(6, 2 * copies, model.modulate.out_features, device=DEVICE).to(dtype)
    numbers, at = torch.randn(6, 5, device=DEVICE), torch.tensor([4], device=DEVICE)
    arrived = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    output = exact.head(tokens.double().cpu(), exact.split(rows[4].double().cpu()))[:, : config.channels]
    if copies == 2:
        output = torch.lerp(output[2:], output[:2], 2.5)
    keep, take = numbers[4, :2].double().cpu()
    expected = keep * images.double().cpu() + take * output
    layer, head = model.last, model.split(rows).head
    settings = {"guidance": 2.5 if copies == 2 else 1.0, "epsilon": EPSILON}
    forecast_step.update_images_(images, tokens, head, layer.weight, layer.bias, numbers, at, arrived, **settings)
    assert_close(images.cpu(), expected, tolerance=5e-6)
    assert (int(at), int(arrived)) == (5, 0)
