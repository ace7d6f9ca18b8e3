"""What every attention takes as arguments: scales of any kind, nothing at all, autocast, and numbers near the edge."""

import pytest
import torch
from torch import Tensor

from workbench.attention.inputs import check, fold
from workbench.catalog import methods
from workbench.conformance import assert_close

METHODS = {name: method for name, method in methods().items() if method.shows_map}
EVERY = [
    pytest.param(method, implementation, id=f"{name}-{implementation}")
    for name, method in METHODS.items()
    for implementation in ("reference", "fast")
]
every_attention = pytest.mark.parametrize(("method", "implementation"), EVERY)


def inputs_of(method, tokens: int = 6, dtype: str = "float64") -> list[Tensor]:
    """Query, key and value of a batch of 2, 4 heads on 2 key/value heads, wide enough for a full rank."""
    return list(method.example(tokens, batch=2, heads=4, kv_heads=2, head_dim=16, dtype=dtype).inputs.values())


# --- scale -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (2, 1, 1, 1), (2, 4, 1, 1)], ids=str)
@every_attention
def test_a_scale_may_be_a_tensor_and_learn(method, implementation, shape):
    inputs = [tensor.requires_grad_() for tensor in inputs_of(method)]
    scale = (0.2 + torch.rand(shape, dtype=torch.float64)).requires_grad_()
    output = method(*inputs, scale=scale, implementation=implementation)
    upstream = torch.randn_like(output)
    found = torch.autograd.grad(output, [*inputs, scale], upstream)

    each = scale.detach().expand(2, 4, 1, 1)
    alone = torch.empty_like(output)
    for batch in range(2):
        for head in range(4):
            query, key, value = (x[batch : batch + 1, head // part : head // part + 1] for x, part in _shares(inputs))
            one = method(query, key, value, scale=each[batch, head].item(), implementation="reference")
            alone[batch, head] = one[0, 0]
    if method.name != "qr_attention":  # whose noise differs from head to head
        assert_close(output, alone, tolerance=1e-10)

    def loss_at(step: float) -> Tensor:
        moved = scale.detach() + step
        return (method(*(x.detach() for x in inputs), scale=moved, implementation="reference") * upstream).sum()

    slope = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
    assert found[-1].shape == scale.shape
    assert found[-1].sum().item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-7)


def _shares(inputs):
    query, key, value = (x.detach() for x in inputs)
    return (query, 1), (key, 2), (value, 2)


@every_attention
def test_a_scale_in_another_dtype_changes_no_dtype(method, implementation):
    inputs = inputs_of(method, dtype="bfloat16")
    for scale in (torch.tensor(0.5, dtype=torch.float64), torch.full((4, 1, 1), 0.5), 0.5):
        output = method(*inputs, scale=scale, implementation=implementation)
        assert output.dtype == torch.bfloat16
        assert torch.equal(output, method(*inputs, scale=0.5, implementation=implementation))


@pytest.mark.parametrize("name", ["flash_attention_2", "softmax_attention", "hierarchical_attention"])
@pytest.mark.parametrize("scale", [-0.5, 0.0], ids=str)
@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_a_scale_of_any_sign(name, scale, implementation):
    method = METHODS[name]
    query, key, value = inputs_of(method)
    output = method(query, key, value, scale=scale, implementation=implementation)
    assert_close(output, method(scale * query, key, value, scale=1.0, implementation="reference"), tolerance=1e-12)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (torch.ones(4), r"broadcasts to \(batch, heads, 1, 1\) = \(2, 4, 1, 1\), not float32 \(4,\)"),
        (torch.ones(1, 1, 6, 1), "broadcasts to"),
        (torch.tensor(1j), "real numbers"),
        ("half", "scale = 'half' is not allowed"),
        (True, "scale = True is not allowed"),
    ],
    ids=str,
)
@every_attention
def test_a_scale_that_is_none_is_refused(method, implementation, scale, words):
    with pytest.raises(ValueError, match=words):
        method(*inputs_of(method), scale=scale, implementation=implementation)


def test_folding_keeps_what_can_be_kept():
    query = torch.randn(1, 2, 3, 4)
    assert fold(query, 0.3) == (query, 0.3)
    assert fold(query, None) == (query, 0.5)
    assert fold(query, torch.tensor(0.3))[1] == 1.0


# --- nothing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("heads", [0, 4])
@pytest.mark.parametrize("tokens", [0, 6])
@every_attention
def test_nothing_in_nothing_out(method, implementation, batch, heads, tokens):
    if batch and heads and tokens:
        return
    query, key, value = (
        torch.randn(batch, count, tokens, 16, requires_grad=True) for count in (heads, heads // 2, heads // 2)
    )
    scale = torch.tensor(0.3, requires_grad=True)
    output = method(query, key, value, scale=scale, implementation=implementation)
    assert output.shape == query.shape and output.dtype == query.dtype
    for gradient in torch.autograd.grad(output.sum(), [query, key, value, scale]):
        assert not gradient.any()


@pytest.mark.parametrize("name", ["flash_attention_2", "softmax_attention"])
@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_no_queries_beside_some_keys(name, implementation):
    query, key, value = (torch.randn(2, 4, tokens, 8, requires_grad=True) for tokens in (0, 5, 5))
    output = METHODS[name](query, key, value, implementation=implementation)
    assert output.shape == (2, 4, 0, 8)
    _, grad_key, grad_value = torch.autograd.grad(output.sum(), [query, key, value])
    assert not grad_key.any() and not grad_value.any()


@every_attention
def test_no_keys_for_a_query_are_refused(method, implementation):
    query, key, value = inputs_of(method)
    with pytest.raises(ValueError, match="at least one key to spend"):
        method(query, key[:, :, :0], value[:, :, :0], implementation=implementation)
    with pytest.raises(ValueError, match=r"key/value heads \(0\) must divide"):
        method(query, key[:, :0], value[:, :0], implementation=implementation)


@every_attention
def test_what_an_attention_refuses_it_refuses_of_nothing_too(method, implementation):
    query, key, value = (torch.zeros(0, 2, tokens, 16) for tokens in (3, 4, 4))
    try:
        method(query, key, value, implementation=implementation)
    except ValueError:
        with pytest.raises(ValueError):
            method(*(torch.randn(1, 2, tokens, 16) for tokens in (3, 4, 4)), implementation=implementation)


# --- autocast --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_attention
def test_autocast_casts_as_pytorch_does(method, implementation, dtype):
    query, key, value = inputs_of(method, dtype="float32")
    attend = torch.nn.functional.scaled_dot_product_attention
    for mixed in ((query, key, value), (query, key, value.bfloat16()), (query.half(), key, value.bfloat16())):
        mixed = [tensor.detach().requires_grad_() for tensor in mixed]
        with torch.autocast("cpu", dtype=dtype):
            output = method(*mixed, implementation=implementation)
            assert output.dtype == attend(*mixed, enable_gqa=True).dtype == dtype
        assert torch.equal(output, method(*(x.to(dtype) for x in mixed), implementation=implementation))
        gradients = torch.autograd.grad(output.sum(), mixed)
        assert [x.dtype for x in gradients] == [x.dtype for x in mixed]


@every_attention
def test_autocast_leaves_float64_alone(method, implementation):
    inputs = inputs_of(method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = method(*inputs, implementation=implementation)
        with pytest.raises(ValueError, match="One floating-point dtype"):
            method(inputs[0].float(), *inputs[1:], implementation=implementation)
    assert torch.equal(output, method(*inputs, implementation=implementation))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_autocast_inside_of_a_compiled_graph(method):
    inputs = inputs_of(method, dtype="float32")
    torch._dynamo.reset()
    compiled = torch.compile(lambda *tensors: method(*tensors), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled(*inputs).dtype == torch.bfloat16


# --- float16 ends at 65504 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window_left": 3}], ids=str)
@pytest.mark.parametrize("keys", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("implementation", ["reference", "fast", "softmax_attention"])
def test_scores_beyond_float16(implementation, kv_heads, keys, options):
    query, key = torch.full((1, 2, keys, 64), 100.0), torch.full((1, kv_heads, keys, 64), 100.0)
    inputs = [x.half().requires_grad_() for x in (query, key, key)]
    output = METHODS["flash_attention_2"](*inputs, implementation=implementation, **options)
    assert (output == 100).all()
    gradients = torch.autograd.grad(output, inputs, torch.ones_like(output))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "hierarchical_attention"])
@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_scores_beyond_float16_are_no_nan_anywhere(name, implementation):
    query, key, value = (30 * tensor.half() for tensor in inputs_of(METHODS[name], tokens=8, dtype="float32"))
    query = 100 * query
    assert (query.float() @ key.float().repeat_interleave(2, 1).mT).abs().max() / 4 > 2 * torch.finfo(torch.half).max
    output = METHODS[name](query, key, value, implementation=implementation)
    assert output.isfinite().all()


def test_what_does_not_fit_is_told():
    query = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="One floating-point dtype"):
        check(query.long(), query.long(), query.long())
    with pytest.raises(ValueError, match="One device"):
        check(query, query.to("meta"), query)
