"""Hierarchical attention on whatever may be put into it: the right number or one sentence, in every implementation."""

import pytest
import torch

from workbench.attention.hierarchical_self_attention import energy, hierarchical_attention, kl_gap
from workbench.attention.hierarchical_self_attention.products import batched_products
from workbench.attention.trees import Tree
from workbench.conformance import assert_close
from workbench.dashboard.train import racers

TREE = Tree.from_nested([[0, 1, 2, 3], [[4, 5], 6, [7, 8, 9]], 10, [11, 12, 13, 14, 15, 16]])


WAYS = {
    "reference": hierarchical_attention.reference,
    "fast": hierarchical_attention.fast,
    "any tree": lambda *inputs, tree=TREE, block=0, levels=0, **options: hierarchical_attention.fast(
        *inputs, tree=tree, **options
    ),
    "products": batched_products,
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def normal(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


# --- causality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        hierarchical_attention,
        hierarchical_attention.reference,
        hierarchical_attention.fast,
        batched_products,
        lambda query, key, value, **options: energy(query, key, **options),
        lambda query, key, value, **options: kl_gap(query, key, **options),
    ],
)
@pytest.mark.parametrize("options", [{"block": 4, "levels": 2}, {"tree": Tree.uniform(12, 4)}, {"levels": 1}])
def test_it_is_for_encoders(call, options):
    """A mask leaves the first token of a group dependent on the last, through what the group keeps."""
    with pytest.raises(ValueError, match="not causal.*Use is_causal = False"):
        call(*normal(1, 2, 12, 8), is_causal=True, **options)


def test_where_a_model_must_be_causal_it_is_greyed_out_with_that_sentence():
    assert "not causal" in racers.why_not(hierarchical_attention.name, racers.GRAMMAR)
    assert "is_causal" not in hierarchical_attention.knobs


# --- large and small numbers ------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", [1e-30, 100.0, 1000.0, 60000.0, 133120.0, 1e12])
@pytest.mark.parametrize("options", [{"block": 4, "levels": 3}, {"block": 3, "self_attend": False}])
def test_equal_tokens_are_their_own_mean(way, dtype, number, options):
    """Weights sum to 1, forward and backward, however large the scores are."""
    if number > torch.finfo(dtype).max:
        return
    number = torch.tensor(number, dtype=dtype)
    inputs = [number.expand(1, 2, 17, 8).clone().requires_grad_() for _ in range(3)]
    output = way(*inputs, **options)
    assert_close(output, number.expand_as(output), tolerance=4 * torch.finfo(dtype).eps)
    slopes = torch.autograd.grad(output, inputs, torch.ones_like(output))
    of_value = slopes[2].double().sum(2)
    assert_close(of_value, torch.full_like(of_value, 17.0), tolerance=4 * torch.finfo(dtype).eps)
    assert all(slope.isfinite().all() for slope in slopes)


@every_way
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 8.0])
@pytest.mark.parametrize("self_attend", [True, False])
def test_close_to_the_truth_in_every_precision(way, dtype, size, self_attend):
    """Values and gradients within twice the error of the reference in the same precision; up to scores of a hundred."""
    inputs = normal(1, 2, 17, 16, dtype=dtype)
    inputs = [size * inputs[0], size * inputs[1], inputs[2]]
    options = {"tree": TREE} if way is WAYS["any tree"] else {"block": 4, "levels": 3}

    def results(function, dtype, **options):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
        output = function(*leaves, self_attend=self_attend, **options)
        upstream = normal(*output.shape, dtype=inputs[0].dtype, seed=1)[0].to(dtype)
        return output, *torch.autograd.grad(output, leaves, upstream)

    truth = results(hierarchical_attention.reference, torch.float64, **options)
    ordinary = results(hierarchical_attention.reference, dtype, **options)
    for found, expected, usual in zip(results(way, dtype, **options), truth, ordinary, strict=True):
        assert_close(found, expected, ordinary=usual, tolerance=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_energy_in_every_precision(dtype):
    """Without itself, a token is hidden from itself by a number that float16 does not have."""
    query, key, _ = normal(1, 2, 17, 64, dtype=dtype)
    for options in ({"self_attend": False}, {"tree": TREE, "self_attend": False}, {}):
        for function in (energy, kl_gap):
            found, truth = function(query, key, **options), function(query.double(), key.double(), **options)
            assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert_close(
                found, truth, tolerance=4 * torch.finfo(dtype).eps, scale=energy(query, key).abs().max().item()
            )
    assert (energy(100 * query, 100 * key).isfinite()).all()


# --- autograd ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"tree": Tree.from_nested([[0, 1], [2, [3, 4]]])}, {"block": 2, "levels": 3}])
def test_a_tree_used_in_inference_mode_trains_afterwards(options):
    inputs = normal(1, 2, 5, 4)
    with torch.inference_mode():
        expected = [way(*inputs, **options) for way in (WAYS["reference"], WAYS["fast"])]
    leaves = [x.requires_grad_() for x in inputs]
    for way, before in zip((WAYS["reference"], WAYS["fast"]), expected, strict=True):
        output = way(*leaves, **options)
        assert torch.equal(output, before)
        assert all(slope.abs().sum() > 0 for slope in torch.autograd.grad(output.sum(), leaves))


def test_a_tree_is_compiled_without_a_break():
    inputs = [x.requires_grad_() for x in normal(1, 2, 17, 4)]
    compiled = torch.compile(
        lambda *inputs: hierarchical_attention(*inputs, tree=TREE), backend="aot_eager", fullgraph=True
    )
    found, expected = compiled(*inputs), hierarchical_attention(*inputs, tree=TREE)
    assert_close(found, expected, tolerance=1e-6)
    slopes = [torch.autograd.grad(output.square().sum(), inputs) for output in (found, expected)]
    for found, expected in zip(*slopes, strict=True):
        assert_close(found, expected, tolerance=1e-5)


def test_what_is_no_tree_is_refused():
    for call in (hierarchical_attention, hierarchical_attention.reference, hierarchical_attention.fast):
        with pytest.raises(ValueError, match="give a Tree, such as"):
            call(*normal(1, 2, 3, 4), tree=[[0, 1], 2])


def test_forward_mode_is_right_or_refused():
    query, key, value = normal(1, 1, 9, 4, dtype=torch.float64)

    def of_query(way, **options):
        def run(x):
            return way(x, key, value, block=3, **options)

        return torch.func.jvp(run, (query,), (torch.ones_like(query),))[1]

    step = 1e-6 * torch.ones_like(query)
    ahead, behind = (hierarchical_attention.reference(query + s, key, value, block=3) for s in (step, -step))
    expected = (ahead - behind) / 2e-6
    assert_close(of_query(hierarchical_attention.reference), expected, tolerance=1e-8)
    tree = Tree.uniform(9, 3)
    assert_close(of_query(lambda *x, block: hierarchical_attention.fast(*x, tree=tree)), expected, tolerance=1e-8)
    with pytest.raises(NotImplementedError, match="implementation='reference'"):
        of_query(hierarchical_attention.fast)


def test_second_derivatives_are_right_or_refused():
    inputs = [x.requires_grad_() for x in normal(1, 1, 5, 3, dtype=torch.float64)]
    tree = Tree.from_nested([[0, 1], [2, [3, 4]]])
    for way in (hierarchical_attention.reference, hierarchical_attention.fast):
        assert torch.autograd.gradgradcheck(lambda *x, way=way: way(*x, tree=tree), inputs)
    (slope,) = torch.autograd.grad(hierarchical_attention.fast(*inputs, block=2).sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once|implementation='reference'"):
        torch.autograd.grad(slope.sum(), inputs[:1])


def test_the_gradient_by_torch_func():
    query, key, value = normal(1, 2, 9, 4, dtype=torch.float64)
    found, expected = (
        torch.func.grad(lambda x, way=way: way(x, key, value, block=3).square().sum())(query)
        for way in (hierarchical_attention.fast, hierarchical_attention.reference)
    )
    assert_close(found, expected, tolerance=1e-12)


@pytest.mark.parametrize("shape", [(), (2, 1, 1), (1, 2, 1, 1)])
def test_a_scale_may_learn(shape):
    """Its gradient is the same in every implementation, and that of finite differences."""
    inputs = normal(1, 2, 9, 4, dtype=torch.float64)
    upstream = normal(1, 2, 9, 4, dtype=torch.float64, seed=1)[0]
    scale = torch.full(shape, 0.7, dtype=torch.float64, requires_grad=True)
    tree = Tree.uniform(9, 3)
    calls = [
        (hierarchical_attention.reference, {"block": 3}),
        (hierarchical_attention.fast, {"block": 3}),
        (hierarchical_attention.fast, {"tree": tree}),
        (batched_products, {"block": 3}),
    ]
    slopes = [torch.autograd.grad(call(*inputs, scale=scale, **options), scale, upstream)[0] for call, options in calls]
    step = 1e-6
    ahead, behind = (
        (hierarchical_attention.reference(*inputs, scale=0.7 + s, block=3) * upstream).sum() for s in (step, -step)
    )
    assert slopes[0].sum().item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-6)
    for slope in slopes[1:]:
        assert_close(slope, slopes[0], tolerance=1e-12)
    (of_energy,) = torch.autograd.grad(energy(*inputs[:2], scale=scale, block=3).sum(), scale)
    assert of_energy.abs().sum() > 0


@pytest.mark.parametrize("shape", [(0, 2, 9, 4), (2, 0, 9, 4), (1, 2, 0, 4)])
def test_of_nothing_comes_nothing(shape):
    inputs = [torch.zeros(shape, requires_grad=True) for _ in range(3)]
    for call in (hierarchical_attention.reference, hierarchical_attention.fast, batched_products):
        output = call(*inputs, block=3)
        assert output.shape == shape
        assert [slope.shape for slope in torch.autograd.grad(output.sum(), inputs)] == [torch.Size(shape)] * 3
    if shape[2]:
        assert energy(*inputs[:2], block=3).shape == shape[:2]
