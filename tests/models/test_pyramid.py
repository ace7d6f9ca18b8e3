"""Networks in stages: shapes, folding, and counts that are those of published networks."""

import pytest
import torch
from torch import nn

from workbench.models.pyramid import (
    ConvNorm,
    Convolution,
    Pyramid,
    PyramidConfig,
    count,
    fold,
    fold_before,
    fold_residual,
    folded,
    stem,
)


class PoolBlock(nn.Module):
    """A block of PoolFormer: average pooling as the mixer, then two 1 x 1 convolutions, both scaled."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.up, self.down = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)
        self.scale1, self.scale2 = (nn.Parameter(1e-5 * torch.ones(width)) for _ in range(2))

    def forward(self, x):
        h = self.norm1(x)
        pooled = nn.functional.avg_pool2d(h, 3, 1, 1, count_include_pad=False) - h
        x = x + self.scale1[:, None, None] * pooled
        return x + self.scale2[:, None, None] * self.down(nn.functional.gelu(self.up(self.norm2(x))))


def pool_former(depths, widths, classes=1000):
    plain = PyramidConfig(
        widths, depths, classes=classes, stem=(Convolution(7, 4, 2, normed=False),), between=Convolution(normed=False)
    )
    return Pyramid(plain, lambda stage, index, width: PoolBlock(width))


@pytest.mark.parametrize(
    ("depths", "widths", "parameters", "giga_macs"),
    [
        ((2, 2, 6, 2), (64, 128, 320, 512), 11_915_176, 1.8),
        ((4, 4, 12, 4), (64, 128, 320, 512), 21_388_968, 3.4),
        ((6, 6, 18, 6), (96, 192, 384, 768), 56_172_520, 8.8),
    ],
)
def test_counts_are_those_of_poolformer(depths, widths, parameters, giga_macs):
    with torch.device("meta"):
        model = pool_former(depths, widths)
    found = count(model, 3, 224, 224)
    assert found.parameters == parameters
    assert found.macs / 1e9 == pytest.approx(giga_macs, abs=0.06)


def normed(channels=3, activation=nn.ReLU, **settings):
    """A small pyramid with batch norms whose statistics are those of no beginning."""
    config = PyramidConfig((8, 12, 16, 20), (1, 0, 2, 1), channels=channels, classes=5, **settings)
    made = Pyramid(config, lambda stage, index, width: ConvNorm(width, width, 3, groups=width, activation=activation()))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return made.double().eval()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_a_folded_network_is_the_same_network(activation):
    model, images = normed(activation=activation), torch.randn(2, 3, 35, 67, dtype=torch.float64)
    made = folded(model)
    torch.testing.assert_close(made(images), model(images), rtol=1e-10, atol=1e-10)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert count(made, 3, 64, 64).parameters < count(model, 3, 64, 64).parameters


def test_maps_shrink_stage_by_stage():
    model = normed()
    maps = model.maps(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    assert [tuple(each.shape) for each in maps] == [(2, 8, 16, 16), (2, 12, 8, 8), (2, 16, 4, 4), (2, 20, 2, 2)]
    headless = Pyramid(PyramidConfig((8, 16), (0, 0), classes=0), lambda *place: nn.Identity())
    assert headless(torch.randn(1, 3, 32, 32)).shape == (1, 16, 4, 4)


def test_a_stem_doubles_its_widths():
    made = stem(3, 64, [Convolution()] * 4)
    assert [layer.conv.out_channels for layer in made] == [8, 16, 32, 64]
    assert made(torch.randn(1, 3, 64, 64)).shape == (1, 64, 4, 4)
    assert isinstance(made[0].activation, nn.ReLU) and isinstance(made[-1].activation, nn.Identity)


def test_what_stands_between_stages_can_be_another_thing():
    def merge(stage, width, following):
        return nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, following, 1))

    made = Pyramid(PyramidConfig((8, 16, 24), (0, 0, 0)), lambda *place: nn.Identity(), downsample=merge)
    assert made.maps(torch.randn(1, 3, 64, 64))[-1].shape == (1, 24, 4, 4)


def test_a_batch_norm_before_a_linear_layer_is_folded():
    norm, linear, x = nn.BatchNorm1d(6).double().eval(), nn.Linear(6, 3).double(), torch.randn(4, 6).double()
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    torch.testing.assert_close(fold_before(norm, linear)(x), linear(norm(x)))


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_residual_is_folded_into_a_depthwise_convolution(kernel):
    conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2, groups=4).double()
    x = torch.randn(2, 4, 7, 5).double()
    torch.testing.assert_close(fold_residual(conv)(x), x + conv(x))


def test_a_convolution_with_a_bias_is_folded():
    conv, norm = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2).double(), nn.BatchNorm2d(6).double().eval()
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, 9, 9).double()
    torch.testing.assert_close(fold(conv, norm)(x), norm(conv(x)))


def test_what_cannot_be_folded_is_refused():
    with pytest.raises(ValueError, match="in inference only"):
        folded(normed().train())
    for conv in (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, 2, 1, groups=4)):
        with pytest.raises(ValueError, match="Only a depthwise convolution"):
            fold_residual(conv)


@pytest.mark.parametrize(
    ("widths", "depths", "words"),
    [((8,), (1, 2), "a depth for each width"), ((), (), "a depth for each width"), ((9,), (1,), "cannot halve 9"),
     ((0,), (1,), "widths from 1")],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(widths, depths, words):
    with pytest.raises(ValueError, match=words):
        PyramidConfig(widths, depths)
