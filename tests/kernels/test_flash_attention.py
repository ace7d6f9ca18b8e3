"""The Triton kernels of FlashAttention-2: in the interpreter at small sizes, on a GPU at real ones."""

import functools

import pytest
import torch

from workbench.attention.flash_attention_2 import forward
from workbench.attention.standard import direct
from workbench.conformance import assert_close
from workbench_kernels.attention.flash_attention import flash_attention, why_not

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT32 = 5e-6  # three tf32 products, gradients through two of them

CASES = {
    "one tile": dict(queries=64, keys=64),
    "several tiles, odd": dict(queries=150, keys=171, heads=2),
    "causal": dict(queries=130, keys=130, is_causal=True),
    "causal, more keys": dict(queries=70, keys=133, is_causal=True),
    "causal, rows that see nothing": dict(queries=133, keys=70, is_causal=True),
    "window": dict(queries=150, keys=150, window_left=20, window_right=3),
    "window, causal": dict(queries=140, keys=140, window_left=9, is_causal=True),
    "window, rows that see nothing": dict(queries=150, keys=90, window_left=20, is_causal=True),
    "grouped heads": dict(queries=65, keys=65, heads=4, kv_heads=2, is_causal=True),
    "multi-query, narrow head": dict(queries=33, keys=65, heads=3, kv_heads=1, head_dim=20),
    "one query": dict(queries=1, keys=77, head_dim=5, is_causal=True),
    "one key": dict(queries=5, keys=1, head_dim=8),
    "wide head": dict(queries=40, keys=70, head_dim=256),
    "head_dim that is no power of two": dict(queries=40, keys=70, head_dim=80),
}


# What is so small would take the way of ``split_keys``, which has tests of its own.
flash_attention = functools.partial(flash_attention, split=False)


def tensors(queries, keys, heads=1, kv_heads=None, head_dim=32, batch=1, dtype=torch.float32, **visible):
    def normal(count, tokens):
        return torch.randn(batch, count, tokens, head_dim, device=DEVICE).to(dtype)

    kv_heads = kv_heads or heads
    return [normal(heads, queries), normal(kv_heads, keys), normal(kv_heads, keys), normal(heads, queries)], visible


def gradients(function, inputs, upstream):
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*inputs)
    return [output, *torch.autograd.grad(output, inputs, upstream)]


# With float32 both ways, with the others one each: how gradients are added up does not depend on the dtype.
@pytest.mark.parametrize(
    ("dtype", "deterministic"),
    [(torch.float32, True), (torch.float32, False), (torch.float16, True), (torch.bfloat16, False)],
    ids=["float32-deterministic", "float32-atomic", "float16-deterministic", "bfloat16-atomic"],
)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, dtype, deterministic, poisoned_memory):
    (*inputs, upstream), visible = tensors(**CASES[case], dtype=dtype)
    scale = inputs[0].shape[-1] ** -0.5
    ours = gradients(
        lambda *qkv: flash_attention(*qkv, scale=scale, deterministic=deterministic, **visible)[0], inputs, upstream
    )
    truth = gradients(lambda *qkv: direct(*qkv, **visible), [tensor.double() for tensor in inputs], upstream.double())
    low = dtype != torch.float32
    ordinary = gradients(lambda *qkv: direct(*qkv, **visible), inputs, upstream) if low else [None] * 4
    largest = max(tensor.abs().max().item() for tensor in truth)
    for name, got, expected, plain in zip(("output", "dq", "dk", "dv"), ours, truth, ordinary, strict=True):
        scale = largest if expected.abs().max() < 1e-9 * largest else None
        assert got.is_contiguous()
        assert_close(got, expected, ordinary=plain, tolerance=0 if low else FLOAT32, scale=scale, name=name)


@pytest.mark.parametrize("case", CASES)
def test_logsumexp(case):
    (*inputs, _), visible = tensors(**CASES[case])
    _, logsumexp = flash_attention(*inputs, scale=inputs[0].shape[-1] ** -0.5, **visible)
    _, expected = forward(*(tensor.double() for tensor in inputs), **visible)
    torch.testing.assert_close(logsumexp.double(), expected, rtol=0, atol=1e-5)


def test_any_strides():
    (query, key, value, _), _ = tensors(queries=70, keys=70, heads=2)
    expected = flash_attention(query, key, value, scale=0.2)[0]
    token_major = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (query, key, value)]
    assert torch.equal(flash_attention(*token_major, scale=0.2)[0], expected)
    reversed_storage = [tensor.mT.contiguous().mT for tensor in (query, key, value)]
    assert torch.equal(flash_attention(*reversed_storage, scale=0.2)[0], expected)
    one_head = key[:, :1].expand_as(key)
    assert torch.equal(
        flash_attention(query, one_head, value, scale=0.2)[0],
        flash_attention(query, one_head.contiguous(), value, scale=0.2)[0],
    )


def test_large_scores_stay_finite():
    (query, key, value, _), _ = tensors(queries=66, keys=66)
    output, logsumexp = flash_attention(1e3 * query, 1e3 * key, value, scale=1.0)
    assert torch.isfinite(output).all() and torch.isfinite(logsumexp).all()


def test_nan_stays_in_its_row():
    (query, key, value, _), _ = tensors(queries=66, keys=66, heads=2)
    clean = flash_attention(query, key, value, scale=0.2)[0]
    query[0, 0, 3, 1] = torch.nan
    output = flash_attention(query, key, value, scale=0.2)[0]
    assert output[0, 0, 3].isnan().all()
    output[0, 0, 3] = clean[0, 0, 3]
    assert torch.equal(output, clean)


def test_the_future_is_not_read():
    (query, key, value, _), _ = tensors(queries=100, keys=100)
    before = flash_attention(query, key, value, scale=0.2, is_causal=True)[0]
    key[:, :, 60:], value[:, :, 60:] = 7.0, -7.0
    after = flash_attention(query, key, value, scale=0.2, is_causal=True)[0]
    assert torch.equal(before[:, :, :60], after[:, :, :60])
    assert not torch.equal(before, after)


def test_deterministic_backward_repeats_bit_for_bit():
    (*inputs, upstream), _ = tensors(queries=130, keys=130)

    def once():
        return gradients(lambda *qkv: flash_attention(*qkv, scale=0.2, is_causal=True)[0], inputs, upstream)

    for one, other in zip(once(), once(), strict=True):
        assert torch.equal(one, other)


def test_operator_contract():
    (query, key, value, _), _ = tensors(queries=16, keys=16, head_dim=16)
    qkv = [tensor.requires_grad_() for tensor in (query, key, value)]
    torch.library.opcheck(
        torch.ops.workbench.flash_attention,
        (*qkv, 0.25, -1, 0, True, None),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("dtype", "head_dim", "scale", "words"),
    [
        (torch.float64, 64, None, "not float64"),
        (torch.float16, 257, None, "head_dim up to 256, not 257"),
        (torch.float16, 64, -1.0, "positive softmax scale, not -1.0"),
    ],
)
def test_refusals_say_why(dtype, head_dim, scale, words):
    (reason,) = why_not(dtype, head_dim, scale)
    assert words in reason
    query = torch.zeros(1, 1, 2, head_dim, dtype=dtype, device=DEVICE)
    with pytest.raises(ValueError, match=words):
        flash_attention(query, query, query, scale=0.1 if scale is None else scale)


@pytest.mark.gpu
@pytest.mark.parametrize("deterministic", [True, False], ids=["deterministic", "atomic"])
@pytest.mark.parametrize("head_dim", [128, 256])
def test_eight_warps(head_dim, deterministic):
    """A program of eight warps goes over several tiles; its matrix products read them from shared memory."""
    (*inputs, upstream), _ = tensors(queries=300, keys=300, head_dim=head_dim, dtype=torch.bfloat16)
    scale = head_dim**-0.5
    ours = gradients(lambda *qkv: flash_attention(*qkv, scale=scale, deterministic=deterministic)[0], inputs, upstream)
    truth = gradients(direct, [tensor.double() for tensor in inputs], upstream.double())
    for got, expected, plain in zip(ours, truth, gradients(direct, inputs, upstream), strict=True):
        assert_close(got, expected, ordinary=plain)


@pytest.mark.gpu
@pytest.mark.parametrize("is_causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_real_sizes(head_dim, is_causal):
    (*inputs, upstream), _ = tensors(
        queries=2049, keys=2049, heads=8, kv_heads=2, head_dim=head_dim, dtype=torch.bfloat16
    )
    scale = head_dim**-0.5
    ours = gradients(lambda *qkv: flash_attention(*qkv, scale=scale, is_causal=is_causal)[0], inputs, upstream)
    truth = gradients(
        lambda *qkv: direct(*qkv, is_causal=is_causal), [tensor.double() for tensor in inputs], upstream.double()
    )
    ordinary = gradients(lambda *qkv: direct(*qkv, is_causal=is_causal), inputs, upstream)
    for got, expected, plain in zip(ours, truth, ordinary, strict=True):
        assert_close(got, expected, ordinary=plain)
