"""A method as the public function that it is: called, refused, copied, pickled, printed; and what describes it."""

import copy
import io
import pickle
from dataclasses import replace
from typing import Annotated

import numpy as np
import pytest
import torch

import toy
from workbench import slots
from workbench.attention.flash_attention_2 import flash_attention_2, softmax_attention
from workbench.attention.hierarchical_self_attention import hierarchical_attention
from workbench.catalog import methods, papers
from workbench.controls import Range
from workbench.feedforward.polycom import PAPER, FeedForward, poly_norm
from workbench.models.vit import ViT, ViTConfig
from workbench.paper import Activation, Attention, Caching, Cost, Count, Mixer, Optimiser, Traits

x, y = torch.randn(2, 3), torch.randn(2, 3)
QKV = torch.randn(3, 1, 2, 32, 8).unbind()


def scaled_sum(a, b=None, *, factor: Annotated[int, Range(1, 8), "Factor."] = 1, note=None):
    return factor * (a if b is None else a + b), note


SUM = replace(toy.METHOD, name="scaled_sum", reference=scaled_sum, fast=scaled_sum)


# --- called ----------------------------------------------------------------------------------------------------------


def test_inputs_may_be_given_by_place_or_by_name():
    for found, _ in (SUM(x, y, factor=2), SUM(x, factor=2, b=y), SUM(b=y, a=x, factor=2)):
        assert torch.equal(found, 2 * (x + y))
    assert torch.equal(SUM(x)[0], x)


def test_knobs_arrive_in_their_own_type_and_everything_else_as_it_is():
    note = object()
    for factor in (2, 2.0, np.int64(2), np.array(2), torch.tensor(2)):
        found, seen = SUM(x, factor=factor, note=note)
        assert torch.equal(found, 2 * x) and seen is note


@pytest.mark.parametrize("implementation", ["auto", "reference", "fast"])
def test_what_does_not_fit_is_refused_in_the_methods_own_name(implementation):
    with pytest.raises(TypeError, match=r"scaled_sum needs a too"):
        SUM(implementation=implementation)
    with pytest.raises(TypeError, match=r"scaled_sum takes a, b by place and everything else by name; 3 were given"):
        SUM(x, y, 2, implementation=implementation)
    with pytest.raises(TypeError, match=r"scaled_sum has no option 'colour': its knobs are factor"):
        SUM(x, colour="red", implementation=implementation)
    with pytest.raises(ValueError, match=r"factor is a tensor that requires a gradient"):
        SUM(x, factor=torch.tensor(2.0, requires_grad=True), implementation=implementation)


def test_compiled_calls_are_checked_too():
    compiled = torch.compile(lambda a: SUM(a, factor=3)[0], fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), 3 * x)
    wrong = torch.compile(lambda a: SUM(a, factor=9)[0], backend="eager")
    with pytest.raises(ValueError, match="factor = 9 is not allowed"):
        wrong(x)


# --- the words of PyTorch's attention --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [flash_attention_2, softmax_attention], ids=lambda method: method.name)
def test_the_words_of_pytorchs_attention(method):
    attend = torch.nn.functional.scaled_dot_product_attention
    plain, causal = attend(*QKV), attend(*QKV, is_causal=True)
    torch.testing.assert_close(method(*QKV, attn_mask=None, dropout_p=0.0), plain)
    torch.testing.assert_close(method(*QKV, None, 0.0), plain)
    torch.testing.assert_close(method(*QKV, None, 0.0, True), causal)
    torch.testing.assert_close(method(*QKV, None, 0.0, is_causal=True, scale=None), causal)
    query, key, value = QKV
    grouped = method(query, key[:, :1], value[:, :1], enable_gqa=True)
    torch.testing.assert_close(grouped, attend(query, key[:, :1], value[:, :1], enable_gqa=True))


@pytest.mark.parametrize(
    ("inputs", "options", "error", "words"),
    [
        ((torch.ones(32, 32),), {}, ValueError, "flash_attention_2 cannot honour attn_mask"),
        ((), {"attn_mask": torch.ones(32, 32, dtype=torch.bool)}, ValueError, "cannot honour attn_mask"),
        ((), {"dropout_p": 0.1}, ValueError, "flash_attention_2 cannot honour dropout_p"),
        ((None, 0.0, True), {"is_causal": True}, TypeError, "was given is_causal twice"),
        ((None, 0.0, True, 0.5), {}, TypeError, "flash_attention_2 takes query, key, value by place"),
        ((None, 0.0, "yes"), {}, ValueError, "is_causal = 'yes' is not allowed"),
    ],
)
def test_a_mask_or_a_dropout_is_refused_by_name(inputs, options, error, words):
    with pytest.raises(error, match=words):
        flash_attention_2(*QKV, *inputs, **options)


def uncausal(query, key, value):
    return value


def test_a_causal_rule_that_a_method_does_not_know_is_refused():
    method = replace(softmax_attention, name="uncausal", reference=uncausal, fast=uncausal)
    assert method(*QKV, is_causal=False, scale=None) is QKV[2]
    for words in ({"is_causal": True}, {"scale": 0.5}):
        with pytest.raises(ValueError, match="uncausal cannot honour"):
            method(*QKV, **words)
    with pytest.raises(TypeError, match="no option 'attn_mask'"):
        replace(method, slot=None)(*QKV, attn_mask=None)


def biased(query, key, value, bias):
    return value + bias


def test_a_fourth_tensor_of_the_methods_own_keeps_its_place():
    method = replace(softmax_attention, name="biased", reference=biased, fast=biased)
    assert torch.equal(method(*QKV, torch.tensor(1.0), attn_mask=None), QKV[2] + 1)


# --- derivatives -----------------------------------------------------------------------------------------------------


def test_forward_mode_takes_the_reference_and_says_so():
    weight, bias = torch.full((3,), 1 / 3), torch.zeros(1)
    rows, tangent = torch.randn(4, 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    weight, bias = weight.double(), bias.double()

    def slope(function):
        return torch.func.jvp(lambda rows: function(rows, weight, bias), (rows,), (tangent,))[1]

    torch.testing.assert_close(slope(poly_norm), slope(poly_norm.reference))
    with pytest.raises(RuntimeError, match="Forward-mode derivatives come from the reference only"):
        slope(lambda *inputs: poly_norm(*inputs, implementation="fast"))
    assert poly_norm.why_not("fast", rows, weight, bias) == []


def test_forward_over_reverse_takes_the_reference_too():
    weight, bias, rows = torch.ones(3).double() / 3, torch.zeros(1).double(), torch.randn(2, 5).double()
    found, expected = (
        torch.func.hessian(lambda rows: function(rows, weight, bias).square().sum())(rows)  # noqa: B023
        for function in (poly_norm, poly_norm.reference)
    )
    torch.testing.assert_close(found, expected)


def test_what_has_no_gradient_refuses_to_give_one():
    method = replace(SUM, traits=Traits(gradients=0))
    needs = x.clone().requires_grad_()
    with pytest.raises(ValueError, match="scaled_sum cannot take these inputs. Toy has no gradient: detach"):
        method(needs)
    with torch.no_grad():
        assert torch.equal(method(needs)[0], x)
    assert torch.equal(method(x)[0], x)


def test_a_dtype_that_a_method_does_not_take_is_refused():
    method = replace(SUM, traits=Traits(dtypes=("float32",)))
    assert torch.equal(method(x)[0], x)
    assert method(x.long())[0].dtype == torch.int64
    with pytest.raises(ValueError, match="scaled_sum cannot take these inputs. Toy takes float32, not bfloat16."):
        method(x, y.bfloat16())
    assert method.why_not("reference", x, y.bfloat16()) == ["Toy takes float32, not bfloat16."]


# --- a value ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [*methods().values(), *papers()], ids=repr)
def test_methods_and_papers_pickle_by_name_and_are_never_copied(thing):
    assert pickle.loads(pickle.dumps(thing)) is thing
    assert copy.copy(thing) is thing and copy.deepcopy(thing) is thing
    assert {thing: 1}[thing] == 1


def test_a_method_of_no_paper_pickles_where_it_stands():
    assert pickle.loads(pickle.dumps(SUM)) is SUM
    assert pickle.loads(pickle.dumps(toy.METHOD)) is toy.METHOD
    with pytest.raises(pickle.PicklingError, match="stands in no module under a name of its own"):
        pickle.dumps(replace(SUM, name="nameless"))


@pytest.mark.parametrize("name", ["gelu", "swiglu", "poly_norm", "normalised_gate"])
def test_a_block_with_a_method_in_it_can_be_saved(name):
    block = FeedForward(8, 16, methods("activation")[name])
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    loaded, rows = torch.load(file, weights_only=False), torch.randn(2, 8)
    torch.testing.assert_close(loaded(rows), block(rows))
    torch.testing.assert_close(copy.deepcopy(block)(rows), block(rows))


@pytest.mark.parametrize("mixer", ["softmax_attention", "sinkhorn_attention", "activator", "mlp_mixer"])
def test_models_with_methods_in_them_can_be_saved(mixer):
    model, images = ViT(ViTConfig(mixer=mixer, depth=1)).eval(), torch.randn(2, 1, 8, 8)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(images), model(images))
    assert torch.equal(copy.deepcopy(model)(images), model(images))


def test_it_prints_as_one_short_line():
    assert repr(poly_norm) == "poly_norm: PolyNorm (reference, fast, checkpointed, torch_compile)"
    assert repr(PAPER).startswith("polycom: Polynomial Composition") and repr(PAPER).endswith("(Zhijian Zhuo, 2024)")
    for method in methods().values():
        assert "\n" not in repr(method) and len(repr(method)) < 120


# --- slots, traits, costs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "toggle"),
    [
        (Attention(), "attention"),
        (Attention(family="low-rank"), "attention"),
        (Attention(offered=False), None),
        (Attention(family="hierarchical"), "hierarchy"),
        (Attention(family="doubly stochastic"), "doubly_stochastic"),
        (Activation(branches=2), "activation"),
        (Caching(), "caching"),
        (Mixer(), None),
        (slots.FeedForward(), None),
        (Optimiser(), None),
        (None, None),
    ],
)
def test_the_switch_of_a_slot(slot, toggle):
    assert slots.toggle(slot) == toggle
    assert replace(toy.METHOD, slot=slot).toggle == toggle
    assert replace(toy.METHOD, slot=slot, shows_map=None).shows_map == isinstance(slot, Attention)


def test_a_map_is_no_promise_to_replace_attention():
    method = replace(softmax_attention, slot=None, shows_map=True)
    query, key, value = QKV
    torch.testing.assert_close(method.attention_map(query, key) @ value, softmax_attention(query, key, value))
    with pytest.raises(TypeError, match="no attention map"):
        replace(hierarchical_attention, slot=Attention(), shows_map=False).attention_map(query, key)


def with_state(query, key, value, *, state=None):
    total = value.cumsum(-2) + (0 if state is None else state)
    return total, total[..., -1:, :]


def test_a_method_with_state_shows_its_map_from_the_start():
    method = replace(softmax_attention, reference=with_state, fast=with_state)
    query, key, value = QKV
    assert method.takes_state and not softmax_attention.takes_state
    weights = method.attention_map(query, key)
    torch.testing.assert_close(weights @ value, method(query, key, value)[0])


def test_a_cost_counts_what_the_paper_counts():
    cost = Cost(2.0, 8, counts={"sent": Count(4096, "bytes"), "energy": Count(1.5e-3, "J")})
    assert [str(count) for count in cost.counts.values()] == ["4,096 bytes", "0.0015 J"]
    assert cost == Cost(2.0, 8, counts={"sent": Count(4096, "bytes"), "energy": Count(1.5e-3, "J")})
    for name in ("flops", "bytes", "backward_flops", "backward_bytes"):
        with pytest.raises(ValueError, match=f"{name} = -1 is not allowed"):
            Cost(**{"flops": 1, "bytes": 1, name: -1})


def test_a_layer_belongs_to_a_method_of_its_paper():
    assert poly_norm.layer is PAPER.layers["poly_norm"]
    assert methods()["gelu"].layer is None
    with pytest.raises(ValueError, match="layers for colour"):
        replace(toy.PAPER, layers={"colour": torch.nn.Identity})


def test_a_paper_can_be_cited():
    assert PAPER.citation.startswith("@article{polycom2024,\n  title = {{Polynomial Composition")
    assert "Zhijian Zhuo and Ya Wang and" in PAPER.citation and "eprint = {2411.03884}" in PAPER.citation
