"""Few queries to many keys: the parts that the keys are split into, and what becomes of them when they are merged."""

import pytest
import torch

from workbench.attention.flash_attention_2 import forward
from workbench.attention.standard import direct
from workbench.conformance import assert_close
from workbench_kernels.attention import split_keys
from workbench_kernels.attention.flash_attention import flash_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CASES = {
    "one query": dict(keys=700),
    "one key": dict(keys=1),
    "one query of several heads": dict(keys=300, heads=6, kv_heads=2),
    "causal": dict(queries=5, keys=301, right=0),
    "causal, more queries than keys": dict(queries=9, keys=5, right=0),
    "causal, several heads": dict(queries=3, keys=290, heads=4, kv_heads=1, right=0),
    "window": dict(queries=3, keys=600, left=200, right=0),
    "window on both sides": dict(queries=40, keys=330, left=9, right=4),
    "window of one": dict(queries=2, keys=300, left=0, right=0),
    "rows in several blocks": dict(queries=75, keys=300, heads=4, kv_heads=2, right=0),
    "narrow head, batch": dict(queries=2, keys=200, head_dim=5, batch=3),
    "wide head": dict(queries=1, keys=90, head_dim=256),
    "head_dim that is no power of two": dict(queries=2, keys=150, head_dim=80),
}


def tensors(queries=1, keys=64, heads=2, kv_heads=None, head_dim=32, batch=1, dtype=torch.float32, left=-1, right=-1):
    kv_heads = kv_heads or heads
    shapes = [(batch, heads, queries, head_dim)] + 2 * [(batch, kv_heads, keys, head_dim)]
    return [torch.randn(shape, device=DEVICE).to(dtype) for shape in shapes], (left, right)


def visible(left, right):
    return {"window_left": None if left < 0 else left, "window_right": None if right < 0 else right}


# With float32 both ways, with the others one each: how keys are split does not depend on the dtype.
@pytest.mark.parametrize(
    ("dtype", "programs"),
    [(torch.float32, 1), (torch.float32, 9), (torch.float16, 9), (torch.bfloat16, 1)],
    ids=lambda value: str(value).removeprefix("torch."),
)
@pytest.mark.parametrize("case", CASES)
def test_values(case, dtype, programs, poisoned_memory):
    inputs, sides = tensors(**CASES[case], dtype=dtype)
    output, logsumexp = split_keys.attend(*inputs, inputs[0].shape[-1] ** -0.5, *sides, programs=programs)
    wide = [tensor.double() for tensor in inputs]
    truth, log_truth = forward(*wide, **visible(*sides))
    ordinary = direct(*inputs, **visible(*sides)) if dtype != torch.float32 else None
    assert output.is_contiguous() and output.dtype == dtype
    assert_close(output, truth, ordinary=ordinary, tolerance=0.0 if ordinary is not None else 5e-6)
    torch.testing.assert_close(logsumexp.double(), log_truth, rtol=0, atol=1e-5)


def test_how_the_keys_are_split_changes_rounding_only():
    inputs, _ = tensors(keys=700, heads=1)
    whole, log_whole = split_keys.attend(*inputs, 0.2, programs=1)
    for programs in (2, 5, 20):
        output, logsumexp = split_keys.attend(*inputs, 0.2, programs=programs)
        assert_close(output, whole, tolerance=2e-6)
        torch.testing.assert_close(logsumexp, log_whole, rtol=1e-6, atol=1e-6)
        assert torch.equal(output, split_keys.attend(*inputs, 0.2, programs=programs)[0])


def test_more_parts_than_are_merged_at_once():
    """The largest score of 130 parts is in the last, which are merged after 128 others."""
    (query, key, value), _ = tensors(keys=130 * 16, heads=1, head_dim=256)
    key[:, :, -16:] *= 3
    output, logsumexp = split_keys.attend(query, key, value, 0.02, programs=200)
    truth, log_truth = forward(*(tensor.double() for tensor in (query, key, value)), scale=0.02)
    assert_close(output, truth, tolerance=5e-6)
    torch.testing.assert_close(logsumexp.double(), log_truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("blocks", [1, 8, 300, 100_000])
@pytest.mark.parametrize("keys", [1, 63, 64, 65, 4000, 131_073])
@pytest.mark.parametrize("programs", [None, 1, 10, 10_000])
def test_the_parts_cover_the_keys(blocks, keys, programs):
    splits, each = split_keys._split(blocks, keys, 64, programs, torch.device("cpu"))
    assert each % 64 == 0
    assert (splits - 1) * each < keys <= splits * each
    if programs is None:  # what the partials take is bounded by the machine, not by the inputs
        slots = split_keys.PROGRAMS_PER_PROCESSOR * split_keys._processors(torch.device("cpu"))
        assert splits == 1 or splits * blocks <= 2 * split_keys.WAVES * slots + 2 * blocks


def test_any_strides():
    (query, key, value), _ = tensors(queries=2, keys=300)
    expected = split_keys.attend(query, key, value, 0.2, programs=9)[0]
    token_major = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (query, key, value)]
    reversed_storage = [tensor.mT.contiguous().mT for tensor in (query, key, value)]
    for inputs in (token_major, reversed_storage):
        assert torch.equal(split_keys.attend(*inputs, 0.2, programs=9)[0], expected)
    one_head = key[:, :1].expand_as(key)
    assert torch.equal(
        split_keys.attend(query, one_head, value, 0.2, programs=9)[0],
        split_keys.attend(query, one_head.contiguous(), value, 0.2, programs=9)[0],
    )


def test_a_nan_is_not_answered_with_numbers():
    (query, key, value), _ = tensors(queries=3, keys=300)
    clean = split_keys.attend(query, key, value, 0.2, programs=9)[0]
    query[0, 0, 1, 3] = torch.nan
    output, logsumexp = split_keys.attend(query, key, value, 0.2, programs=9)
    assert output[0, 0, 1].isnan().all() and logsumexp[0, 0, 1].isnan()
    output[0, 0, 1] = clean[0, 0, 1]
    assert torch.equal(output, clean)


def test_large_scores_stay_finite():
    (query, key, value), _ = tensors(queries=3, keys=300)
    for factor in (1e3, 1e-30):
        output, logsumexp = split_keys.attend(factor * query, factor * key, value, 1.0, programs=9)
        assert torch.isfinite(output).all() and torch.isfinite(logsumexp).all()


def test_scores_beyond_float16():
    query = torch.full((1, 1, 2, 64), 100.0, dtype=torch.float16, device=DEVICE)
    for keys in (1, 5, 300):
        key = query[:, :, :1].expand(1, 1, keys, 64)
        assert (split_keys.attend(query, key, key, 0.125, programs=9)[0] == 100).all()


def test_the_future_is_not_read():
    (query, key, value), _ = tensors(queries=20, keys=300)
    before = split_keys.attend(query, key, value, 0.2, -1, 0, programs=9)[0]
    key[:, :, 290:], value[:, :, 290:] = 7.0, -7.0
    after = split_keys.attend(query, key, value, 0.2, -1, 0, programs=9)[0]
    assert torch.equal(before[:, :, :10], after[:, :, :10])
    assert not torch.equal(before, after)


def test_few_queries_take_this_way_and_have_gradients():
    (query, key, value), _ = tensors(queries=3, keys=200, heads=4, kv_heads=2)
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    output, logsumexp = flash_attention(*leaves, scale=0.2, is_causal=True)
    expected, log_expected = split_keys.attend(*(leaf.detach() for leaf in leaves), 0.2, -1, 0)
    assert torch.equal(output, expected) and torch.equal(logsumexp, log_expected)
    upstream = torch.randn_like(output)
    gradients = torch.autograd.grad(output, leaves, upstream)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    truth = torch.autograd.grad(direct(*wide, scale=0.2, is_causal=True), wide, upstream.double())
    for got, wanted in zip(gradients, truth, strict=True):
        assert_close(got, wanted, tolerance=5e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("case", [(1, 32, 32, 65_536), (2, 32, 8, 100_003), (3, 14, 14, 32_771)], ids=str)
def test_real_sizes(case):
    batch, heads, kv_heads, keys = case
    inputs, _ = tensors(keys=keys, batch=batch, heads=heads, kv_heads=kv_heads, head_dim=128, dtype=torch.bfloat16)
    output, _ = flash_attention(*inputs, scale=128**-0.5)
    truth = direct(*(tensor.double() for tensor in inputs))
    assert_close(output, truth, ordinary=direct(*inputs))
