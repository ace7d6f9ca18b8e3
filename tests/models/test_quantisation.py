"""Quantisers: rounding, clipping, zero points and parts, with exact numbers."""

import math

import pytest
import torch

from workbench import controls
from workbench.models.quantisation import Quantiser, fit, signal_to_noise


def plain(scale=1.0, zero=0.0, low=-7, high=7):
    return Quantiser(torch.tensor([[scale]]), torch.tensor([[zero]]), low, high)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_halves_are_rounded_to_the_even_code():
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.51])
    assert plain().codes(x).tolist() == [[-2, -2, 0, 0, 2, 2, 3]]


def test_what_lies_beyond_the_last_code_is_clipped_and_counted():
    x = torch.tensor([-9.0, -7.5, -7.0, 7.4, 7.6, 100.0])
    assert plain()(x).tolist() == [-7, -7, -7, 7, 7, 7]
    assert plain().clipped(x) == 3 / 6, "what is at most half a step away is rounded, not clipped"


@pytest.mark.parametrize(
    "bits, scheme, low, high",
    [(8, "symmetric", -127, 127), (4, "symmetric", -7, 7), (2, "symmetric", -1, 1),
     (8, "asymmetric", -128, 127), (4, "asymmetric", -8, 7)],
)  # fmt: skip
def test_the_codes_of_so_many_bits(bits, scheme, low, high):
    made = fit(normal(100), bits=bits, scheme=scheme)
    assert (made.low, made.high) == (low, high) and made.levels.shape == (1, high - low + 1)
    codes = made.codes(normal(100))
    assert codes.min() >= low and codes.max() <= high


def test_ternary():
    made = fit(torch.tensor([-3.0, -1.6, -1.4, 0.0, 1.5, 3.0]), bits=2)
    assert made.levels.tolist() == [[-3, 0, 3]]
    assert made(torch.tensor([-1.6, -1.4, 1.5, 2.0])).tolist() == [-3, 0, 0, 3]


def test_int8_symmetric_to_the_letter():
    made = fit(torch.tensor([-12.7, 6.35, 0.04, 0.06]), bits=8)
    assert made.scale.item() == pytest.approx(0.1) and made.zero.item() == 0
    assert made.codes(torch.tensor([-12.7, 6.36, 0.04, 0.06])).tolist() == [[-127, 64, 0, 1]]


def test_a_zero_point_makes_zero_exact():
    x = torch.tensor([-1.0, 0.0, 0.3, 2.0], dtype=torch.float64)
    made = fit(x, bits=4, scheme="asymmetric")
    assert made.scale.item() == pytest.approx(3 / 15) and made.zero.item() == round(-8 + 1 / (3 / 15)) == -3
    assert made(x)[1] == 0
    assert made.levels[0, 0].item() == pytest.approx(-1) and made.levels[0, -1].item() == pytest.approx(2)


def test_a_range_that_does_not_hold_zero_loses_its_zero_point():
    """Numbers from 10 to 11: the zero point would lie far outside the codes, is clipped, and all is read as 1."""
    x = torch.linspace(10, 11, 9, dtype=torch.float64)
    narrow, wide = (fit(x, scheme="asymmetric", holds_zero=held) for held in (False, True))
    assert narrow.zero.item() == -128 and narrow(x).max() <= 1.0001
    assert (wide(x) - x).abs().max() <= wide.scale.item() / 2 + 1e-12
    assert narrow.clipped(x) == 1 and wide.clipped(x) == 0


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 3, 8, 16])
@pytest.mark.parametrize("per", ["tensor", "channel", "group"])
def test_the_error_is_half_a_step_at_most_and_twice_is_as_once(scheme, bits, per):
    x = normal(6, 32) * torch.logspace(-3, 3, 6, dtype=torch.float64)[:, None]
    made = fit(x, bits=bits, scheme=scheme, per=per, group=8)
    back = made(x)
    steps = made.scale.expand(-1, x.numel() // made.parts).reshape(x.shape)
    # At the ends an asymmetric range is off by the rounding of its zero point, half a step once more.
    assert ((back - x).abs() <= steps * (0.5 if scheme == "symmetric" else 1.0) * (1 + 1e-9)).all()
    assert torch.equal(made(back), back)
    if scheme == "symmetric":
        assert torch.equal(made(-x), -back)


def test_every_part_has_its_own_scale():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 70.0]])
    scales = {per: fit(x, bits=4, per=per, group=2).scale.flatten() * 7 for per in ("tensor", "channel", "group")}
    assert scales["tensor"].tolist() == pytest.approx([70])
    assert scales["channel"].tolist() == pytest.approx([4, 70])
    assert scales["group"].tolist() == pytest.approx([2, 4, 20, 70])


def test_a_percentile_leaves_outliers_out():
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    x[0] = 50
    made = fit(x, bits=4, percentile=99.0)
    assert made.scale.item() * 7 == pytest.approx(0.99, abs=0.01)
    assert 0 < made.clipped(x) < 0.01 and made(x)[0] == pytest.approx(7 * made.scale.item())
    assert signal_to_noise(x[1:], made(x)[1:]) > signal_to_noise(x[1:], fit(x, bits=4)(x)[1:]) + 20


@pytest.mark.parametrize("bits", [4, 6, 8, 10])
def test_a_bit_is_worth_6_decibels(bits):
    """Uniform numbers: the signal's power is a²/3, the error's step²/12, and 2a are 2^b - 2 steps."""
    x = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    assert signal_to_noise(x, fit(x, bits=bits)(x)) == pytest.approx(20 * math.log10(2**bits - 2), abs=0.02)


def test_no_error_at_all():
    assert signal_to_noise(torch.tensor([1.0, -2.0]), torch.tensor([1.0, -2.0])) == math.inf
    zeros = torch.zeros(4)
    for scheme in ("symmetric", "asymmetric"):
        assert torch.equal(fit(zeros, scheme=scheme)(zeros), zeros)


def test_stochastic_rounding_is_right_on_average():
    made, x = plain(), torch.full((20_000,), 0.3, dtype=torch.float32)
    codes = made.codes(x, rounding="stochastic", generator=torch.Generator().manual_seed(0)).double()
    assert set(codes.flatten().tolist()) == {0, 1}
    assert codes.mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 20_000))


def test_what_is_stored():
    x = normal(4, 128)
    assert fit(x, bits=4).bits_per_number(x) == 4 + 16 / 512
    assert fit(x, bits=4, per="group", group=32).bits_per_number(x) == 4 + 16 / 32
    assert fit(x + 1, bits=8, scheme="asymmetric", per="channel").bits_per_number(x) == 8 + 24 / 128


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype):
    x = normal(8, 8).to(dtype)
    assert fit(x)(x).dtype == dtype and fit(x)(x).shape == x.shape


@pytest.mark.parametrize(
    "x, options, words",
    [
        (torch.arange(4), {}, "finite floating-point numbers"),
        (torch.empty(0), {}, "one or more"),
        (torch.tensor([1.0, math.nan]), {}, "finite"),
        (torch.ones(8), {"per": "channel"}, r"two axes or more, not \(8,\)"),
        (torch.ones(2, 6), {"per": "group", "group": 4}, r"\(2, 6\) cannot be cut into groups of 4"),
    ],
)
def test_what_cannot_be_quantised_is_refused(x, options, words):
    with pytest.raises(ValueError, match=words):
        fit(x, **options)
    with pytest.raises(ValueError, match="A NaN has no code"):
        plain()(torch.tensor([math.nan]))
    with pytest.raises(ValueError, match="cannot be cut into 3 parts"):
        fit(torch.ones(3, 2), per="channel")(torch.ones(4))


def test_its_knobs_are_those_of_the_signature():
    assert list(controls.knobs(fit)) == ["bits", "scheme", "per", "group", "percentile", "holds_zero"]
