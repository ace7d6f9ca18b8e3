"""What the Activator's specification demands: invariants, golden arrays, arithmetic. On the reference and on fast."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from workbench import catalog
from workbench.feedforward import activator
from workbench.feedforward.activator import (
    ActivatorBlock,
    GatingUnit,
    activator_block,
    attention_block,
    macs,
    normalised_gate,
)
from workbench.feedforward.polycom import FeedForward, gelu
from workbench.models.vit import ViT, ViTConfig

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "activator.npz")
NAMES = {  # the official modules' weights, and ours
    "norm.": "norm.",
    "actgu.norm.": "unit.gate.",
    "actgu.proj_3.": "unit.down.",
    "ffn.net.0.": "feed_forward.up.",
    "ffn.net.3.": "feed_forward.down.",
}
VARIANTS = {"ffn": True, "only": False}
FAMILY = ["gelu", "silu", "relu", "identity"]

both = pytest.mark.parametrize("implementation", ["reference", "fast"])
each_variant = pytest.mark.parametrize("feed_forward", [True, False], ids=["A", "B"])


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def error(output, truth):
    return ((output - truth).abs().max() / truth.abs().max()).item()


def trunk(*, width=12, hidden=20, depth=2, perturbed=True, feed_forward=False, **options) -> nn.Sequential:
    """Blocks in float64, every weight perturbed, so that no norm is left at 1 and 0."""
    options["feed_forward"] = gelu if feed_forward else None
    blocks = nn.Sequential(*(ActivatorBlock(width, hidden, **options) for _ in range(depth))).double()
    if perturbed:
        with torch.no_grad():
            for weight in blocks.parameters():
                weight += 0.05 * torch.randn_like(weight)
    return blocks


# --- golden arrays: the official classes -----------------------------------------------------------------------------


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


def ours(prefix: str, kind: str) -> dict[str, torch.Tensor]:
    """The official weights (kind "w") or gradients ("g") under our names: proj_1 above proj_2 is one matrix."""
    found = {}
    for layer in range(2):
        official = f"{prefix}_{kind}_model.{layer}."
        for part in ("weight", "bias"):
            halves = [golden(f"{official}actgu.proj_{which}.{part}") for which in (1, 2)]
            found[f"{layer}.unit.up.{part}"] = torch.cat(halves)
            for theirs, mine in NAMES.items():
                if f"{official}{theirs}{part}" in GOLDEN:
                    found[f"{layer}.{mine}{part}"] = golden(f"{official}{theirs}{part}")
    return found


def test_every_golden_array_is_used():
    used = {f"{prefix}_{name}" for prefix in VARIANTS for name in ("x", "gout", "y", "dx", "gate0_out")}
    counted = sum(len(ours(prefix, kind)) + 4 for prefix in VARIANTS for kind in "wg")  # 2 layers x (proj_1, proj_2)
    assert used <= set(GOLDEN.files) and len(GOLDEN.files) == counted + len(used)


@both
@pytest.mark.parametrize("prefix", VARIANTS)
def test_golden(prefix, implementation):
    blocks = trunk(feed_forward=VARIANTS[prefix], implementation=implementation)
    blocks.load_state_dict(ours(prefix, "w"))
    x = golden(f"{prefix}_x").requires_grad_()
    y = blocks(x)
    assert error(y, golden(f"{prefix}_y")) < 1e-12
    y.backward(golden(f"{prefix}_gout"))
    assert error(x.grad, golden(f"{prefix}_dx")) < 1e-12
    gradients = ours(prefix, "g")
    for name, weight in blocks.named_parameters():
        assert error(weight.grad, gradients.pop(name)) < 1e-12, name
    assert not gradients
    assert error(blocks[0].unit(x), golden(f"{prefix}_gate0_out")) < 1e-12


@both
def test_the_block_as_a_function_is_the_block_with_weights(implementation):
    blocks = trunk(feed_forward=False)
    blocks.load_state_dict(ours("only", "w"))
    y = golden("only_x")
    for block in blocks:
        unit = block.unit
        modules = (block.norm, unit.up, unit.gate, unit.down)
        y = activator_block(y, *(w for m in modules for w in (m.weight, m.bias)), implementation=implementation)
    assert error(y, golden("only_y")) < 1e-12


def test_the_norm_comes_after_the_activation():
    """Swapped, or with no norm on the gate's side, the golden result would be missed by far."""
    weights = {name.removeprefix("0.unit."): value for name, value in ours("only", "w").items() if name[:6] == "0.unit"}
    z = golden("only_x") @ weights["up.weight"].mT + weights["up.bias"]
    gate, value = z.chunk(2, dim=-1)
    norm = functools.partial(activator.layer_norm, weight=weights["gate.weight"], bias=weights["gate.bias"], eps=1e-5)
    truth = golden("only_gate0_out")

    def out(u):
        return (u * norm(value)) @ weights["down.weight"].mT + weights["down.bias"]

    assert error(out(norm(activator.activate(gate, "gelu"))), truth) < 1e-12
    assert error(out(activator.activate(norm(gate), "gelu")), truth) > 1e-2


# --- every token for itself ------------------------------------------------------------------------------------------


@both
@each_variant
def test_tokens_permute(feed_forward, implementation):
    blocks, x = trunk(feed_forward=feed_forward, implementation=implementation), normal(2, 9, 12)
    order = torch.randperm(9)
    assert (blocks(x[:, order]) - blocks(x)[:, order]).abs().max() < 1e-13


@both
@each_variant
def test_a_token_does_not_touch_another(feed_forward, implementation):
    blocks, x = trunk(feed_forward=feed_forward, implementation=implementation), normal(2, 9, 12)
    other = x.clone()
    other[:, 4] = normal(2, 12)
    changed = (blocks(other) != blocks(x)).flatten(2).any(-1).any(0)
    assert changed.tolist() == [token == 4 for token in range(9)]


@each_variant
def test_logits_do_not_know_the_order(feed_forward):
    config = ViTConfig(mixer="activator", position="none", feed_forward=feed_forward, width=16, depth=2)
    model, tokens = ViT(config).double(), normal(2, 16, 16)
    order = torch.randperm(16)
    logits, moved = (model.head(model.norm(model.blocks(x)).mean(1)) for x in (tokens, tokens[:, order]))
    assert (moved - logits).abs().max() < 1e-13


def test_the_spatial_unit_starts_as_the_plain_one_and_mixes_once_it_learned():
    plain = GatingUnit(12, 20).double()
    spatial = GatingUnit(12, 20, tokens=9).double()
    spatial.load_state_dict({**plain.state_dict(), "spatial": torch.eye(9)})
    x = normal(2, 9, 12)
    assert error(spatial(x), plain(x)) < 1e-13
    nn.init.normal_(spatial.spatial)
    order = torch.randperm(9)
    assert (spatial(x[:, order]) - spatial(x)[:, order]).abs().max() > 1e-3
    spatial(x).sum().backward()
    assert spatial.spatial.grad.abs().max() > 0


# --- the gate --------------------------------------------------------------------------------------------------------


@both
def test_scale_of_the_input(implementation):
    """The value's branch forgets the scale of what comes in, up to eps; the gate's does not: GELU bends."""
    x, weight, bias = normal(5, 80), 1 + 0.1 * normal(40), 0.1 * normal(40)
    call = functools.partial(normalised_gate, weight=weight, bias=bias, implementation=implementation)
    only_value = torch.cat([x[:, :40], 3 * x[:, 40:]], dim=1)
    assert error(call(only_value), call(x)) < 1e-4
    assert error(call(3 * x), call(x)) > 1e-2
    unit = GatingUnit(12, 20, implementation=implementation).double()
    assert error(unit(2 * x[:, :12]), 2 * unit(x[:, :12])) > 0.1


@both
def test_one_norm_for_both_branches(implementation):
    """gamma = 0, beta = c: both branches are c whatever comes in, and the unit is c^2 times the rows of W_3."""
    unit = GatingUnit(12, 20, implementation=implementation).double()
    c = normal(20)
    with torch.no_grad():
        unit.gate.weight.zero_()
        unit.gate.bias.copy_(c)
    expected = (c**2) @ unit.down.weight.mT + unit.down.bias
    assert error(unit(normal(2, 3, 12)), expected.expand(2, 3, 12)) < 1e-14
    assert [name for name, _ in unit.named_parameters()] == [
        "up.weight", "up.bias", "gate.weight", "gate.bias", "down.weight", "down.bias"
    ]  # fmt: skip


@both
@pytest.mark.parametrize("far", [-30.0, -1e4])
def test_a_gate_that_is_shut(far, implementation):
    """GELU of a row far below zero is all zeros: its norm is the bias, and nothing overflows."""
    weight, bias = 1 + 0.1 * normal(40), 0.1 * normal(40)
    x = torch.cat([torch.full((3, 40), far, dtype=torch.float64), normal(3, 40)], dim=1).requires_grad_()
    y = normalised_gate(x, weight, bias, implementation=implementation)
    _, v = activator.branches(x, weight, bias, "gelu", 1e-5)
    assert error(y, bias * v) < 1e-12
    assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()


@both
def test_the_product_keeps_its_size(implementation):
    """Both factors are normalised, so that the product has variance about 1 however large the input is."""
    for scale in (0.1, 1.0, 100.0):
        x = scale * normal(200, 2 * 256)
        ones, zeros = torch.ones(256, dtype=torch.float64), torch.zeros(256, dtype=torch.float64)
        y = normalised_gate(x, ones, zeros, implementation=implementation)
        assert y.var().item() == pytest.approx(1, abs=0.05)


@both
@pytest.mark.parametrize("activation", FAMILY)
def test_the_family(activation, implementation):
    x, weight, bias = normal(6, 60), 1 + 0.1 * normal(30), 0.1 * normal(30)
    gate, value = x.chunk(2, dim=-1)
    act = {"gelu": nn.functional.gelu, "silu": nn.functional.silu, "relu": torch.relu, "identity": lambda z: z}
    norm = functools.partial(nn.functional.layer_norm, normalized_shape=(30,), weight=weight, bias=bias)
    truth = norm(act[activation](gate)) * norm(value)
    y = normalised_gate(x, weight, bias, activation=activation, implementation=implementation)
    assert error(y, truth) < 1e-13


# --- gradients -------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("activation", FAMILY)
def test_gradcheck_of_the_gate(activation, implementation):
    """The shared weight and bias collect from u and from v."""
    inputs = [tensor.requires_grad_() for tensor in (normal(3, 14), 1 + 0.3 * normal(7), 0.3 * normal(7))]
    call = functools.partial(normalised_gate, activation=activation, implementation=implementation)
    assert torch.autograd.gradcheck(call, inputs, atol=1e-8, rtol=1e-6)


@both
@each_variant
def test_gradcheck_of_a_block(feed_forward, implementation):
    """In variant A the norm's weight and bias collect from both halves of the block."""
    (block,) = trunk(width=6, hidden=7, depth=1, feed_forward=feed_forward, implementation=implementation)
    names, weights = zip(*block.named_parameters(), strict=True)

    def call(x, *weights):
        return torch.func.functional_call(block, dict(zip(names, weights, strict=True)), (x,))

    inputs = [normal(1, 3, 6).requires_grad_(), *(weight.detach().requires_grad_() for weight in weights)]
    assert torch.autograd.gradcheck(call, inputs, atol=1e-8, rtol=1e-6)


def test_the_same_bits_twice():
    inputs = [tensor.float().requires_grad_() for tensor in (normal(300, 200), 1 + normal(100), normal(100))]
    upstream = torch.randn(300, 100)
    first, second = (torch.autograd.grad(normalised_gate.fast(*inputs), inputs, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- variants, weights, arithmetic -----------------------------------------------------------------------------------


def test_variant_a_without_its_feed_forward_part_is_variant_b():
    (a,), (b,) = trunk(depth=1, feed_forward=True), trunk(depth=1)
    with torch.no_grad():
        for weight in a.feed_forward.parameters():
            weight.zero_()
    b.load_state_dict({name: value for name, value in a.state_dict().items() if "feed_forward" not in name})
    x = normal(2, 5, 12)
    assert torch.equal(a(x), b(x))


@pytest.mark.parametrize(("feed_forward", "expected"), [(True, 2_635_776), (False, 1_584_128)])
def test_number_of_weights(feed_forward, expected):
    with torch.device("meta"):
        blocks = trunk(width=256, hidden=512, depth=4, perturbed=False, feed_forward=feed_forward)
        model = ViT(
            ViTConfig(image=32, channels=3, patch=4, width=256, mixer="activator", feed_forward=feed_forward,
                      position="none")
        )  # fmt: skip
    assert sum(weight.numel() for weight in blocks.parameters()) == expected
    parts = (model.embedding, model.blocks, model.head)
    assert [sum(w.numel() for w in part.parameters()) for part in parts] == [12_544, expected, 2_570]
    assert sum(weight.numel() for weight in model.parameters()) == 12_544 + expected + 2_570


def test_macs():
    paper = {"tokens": 64, "width": 256, "hidden": 512}
    b, a, vit = (macs(kind, **paper) for kind in ("activator", "activator_with_feed_forward", "attention"))
    assert (b, a, vit) == (393_216, 655_360, 557_056)
    assert b / vit == pytest.approx(0.706, abs=1e-3) and a / vit == pytest.approx(1.176, abs=1e-3)
    assert macs("mlp_mixer", **paper, token_hidden=100) == 2 * 256 * 100 + 2 * 256 * 512
    for tokens, cheaper in ((255, False), (257, True)):  # A wins where there are more patches than width
        shape = {**paper, "tokens": tokens}
        assert (macs("activator_with_feed_forward", **shape) < macs("attention", **shape)) == cheaper
    with pytest.raises(ValueError, match="'conv'.*activator"):
        macs("conv", **paper)


def test_the_gate_is_an_activation_of_the_catalog():
    """In a feed-forward block with biases it is the gating unit, so that any model can have one."""
    assert catalog.methods("activation")["normalised_gate"] is normalised_gate
    block = FeedForward(12, 20, normalised_gate, bias=True)
    unit = GatingUnit(12, 20)
    unit.load_state_dict({name.replace("activation", "gate"): value for name, value in block.state_dict().items()})
    x = torch.randn(2, 3, 12)
    assert torch.equal(block(x), unit(x))


# --- asked wrongly ---------------------------------------------------------------------------------------------------

ROWS, ONES = torch.ones(2, 6), torch.ones(3)
BLOCK = list(activator_block.example(3, width=8, hidden=8).inputs.values())
@both
@pytest.mark.parametrize("method", activator.PAPER.methods, ids=lambda method: method.name)
def test_no_tokens_give_no_tokens_and_gradients_of_zero(method, implementation):
    inputs = [tensor.requires_grad_() for tensor in method.example(2).inputs.values()]
    inputs[0] = inputs[0].detach()[:0].requires_grad_()
    output = method(*inputs, implementation=implementation)
    assert output.shape[0] == 0
    for gradient, of in zip(torch.autograd.grad(output.sum(), inputs), inputs, strict=True):
        assert torch.equal(gradient, torch.zeros_like(of))


WRONG = {
    "an odd width": (lambda: normalised_gate(torch.ones(2, 5), ONES, ONES), r"\(\.\.\., 2 hidden\), not \(2, 5\)"),
    "a norm for each half": (lambda: normalised_gate(ROWS, torch.ones(6), torch.ones(6)), r"both halves.*\(3,\) each"),
    "whole numbers": (lambda: normalised_gate(ROWS.long(), ONES, ONES), "floating-point numbers, not torch.int64"),
    "two devices": (lambda: normalised_gate(ROWS, ONES, ONES.to("meta")), "one device"),
    "an unknown gate": (lambda: normalised_gate(ROWS, ONES, ONES, activation="tanh"), "activation = 'tanh'.*choose"),
    "tokens without a batch": (lambda: activator_block(BLOCK[0][0], *BLOCK[1:]), r"\(batch, tokens, width\).*not"),
    "tokens of another width": (lambda: activator_block(BLOCK[0][..., :4], *BLOCK[1:]), r"matrix \(out, 4\)"),
    "integer tokens": (lambda: activator_block(BLOCK[0].long(), *BLOCK[1:]), "not int64"),
    "heads that do not divide": (
        lambda: attention_block(*attention_block.example(3, width=8, hidden=8).inputs.values(), heads=3),
        "heads = 3 must divide the width, 8",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
