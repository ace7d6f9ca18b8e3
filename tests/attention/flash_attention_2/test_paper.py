"""FlashAttention-2: its invariants, and the arrays that the official code produced."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.attention import flash_attention_2 as fa2
from workbench.attention.flash_attention_2 import backward, flash_attention_2, forward, trace
from workbench.attention.inputs import allowed, cost, example, prepare
from workbench.attention.standard import direct

GOLDEN = Path(__file__).parents[2] / "golden" / "flash_attention_2.npz"
MASKS = {"full": {}, "causal": {"is_causal": True}, "window": {"window_left": 3, "window_right": 0}}


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def qkv():
    return normal(2, 4, 13, 8), normal(2, 2, 13, 8), normal(2, 2, 13, 8)


@pytest.fixture(scope="module")
def golden():
    """The official arrays, in our layout (batch, heads, tokens, head_dim)."""
    with np.load(GOLDEN) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays if name != "window_size"}
    return {
        name: tensor if name.endswith(("_lse", "_attn")) else tensor.transpose(1, 2) for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("blocks", list(itertools.product((1, 3, 5, 13), repeat=2)))
@pytest.mark.parametrize("mask", MASKS)
def test_golden_arrays(golden, mask, blocks):
    query, key, value = golden["q"], golden["k"], golden["v"]
    options = {**MASKS[mask], "block_rows": blocks[0], "block_columns": blocks[1]}
    output, logsumexp = forward(query, key, value, **options)
    gradients = backward(query, key, value, output, logsumexp, golden["dout"], **options)
    expected = [golden[f"{mask}_{name}"] for name in ("out", "lse", "dq", "dk", "dv")]
    for got, wanted in zip((output, logsumexp, *gradients), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("implementation", flash_attention_2.implementations[:3])
@pytest.mark.parametrize("mask", MASKS)
def test_golden_maps(golden, mask, implementation):
    weights = flash_attention_2.attention_map(golden["q"], golden["k"], implementation=implementation, **MASKS[mask])
    torch.testing.assert_close(weights, golden[f"{mask}_attn"], rtol=0, atol=1e-12)


def test_the_order_of_column_blocks_does_not_matter(qkv):
    query, key, value, _ = prepare(*qkv, None)
    expected, expected_logsumexp = forward(*qkv)
    blocks = [slice(0, 5), slice(5, 6), slice(6, 13)]
    for order in itertools.permutations(blocks):
        state = (
            torch.full(query.shape[:-1], -torch.inf).double(),
            normal(1) * torch.zeros(query.shape[:-1]),
            0 * query,
        )
        for columns in order:
            scores = query @ key[..., columns, :].mT / 8**0.5
            *state, _ = fa2.online_softmax_step(scores, value[..., columns, :], *state)
        output, logsumexp = fa2.finish(*state)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(logsumexp, expected_logsumexp, rtol=0, atol=1e-12)


def test_adding_a_constant_to_a_row_of_scores_changes_only_its_logsumexp():
    # One more coordinate, 1 in every key, adds query[..., -1] to every score of its row.
    query, key, value = normal(1, 1, 6, 8), normal(1, 1, 9, 8), normal(1, 1, 9, 8)
    key[..., -1] = 1.0
    shift = normal(1, 1, 6)
    shifted = query.clone()
    shifted[..., -1] += shift
    output, logsumexp = forward(query, key, value, scale=1.0, block_columns=4)
    moved, moved_logsumexp = forward(shifted, key, value, scale=1.0, block_columns=4)
    torch.testing.assert_close(moved, output, rtol=0, atol=1e-12)
    torch.testing.assert_close(moved_logsumexp, logsumexp + shift, rtol=0, atol=1e-12)


@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_scores_of_ten_thousand_stay_finite(implementation):
    query, key, value = normal(1, 1, 9, 8), normal(1, 1, 9, 8), normal(1, 1, 9, 8)
    output = flash_attention_2(1e2 * query, 1e2 * key, value, implementation=implementation, scale=1.0)
    assert torch.isfinite(output).all()


def test_rows_of_the_map_sum_to_one(qkv):
    query, key, value, scale = prepare(*qkv, None)
    for options in MASKS.values():
        _, logsumexp = forward(query, key, value, **options, block_rows=4, block_columns=3)
        weights = torch.exp(scale * query @ key.mT - logsumexp[..., None])
        total = weights.masked_fill(~allowed(13, 13, **options), 0).sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask", MASKS)
def test_algorithm_2_is_the_gradient_of_the_direct_formula(qkv, mask):
    leaves = [tensor.requires_grad_() for tensor in qkv]
    upstream = normal(2, 4, 13, 8)
    expected = torch.autograd.grad(direct(*leaves, **MASKS[mask]), leaves, upstream)
    with torch.no_grad():
        saved = forward(*qkv, **MASKS[mask])
        gradients = backward(*qkv, *saved, upstream, **MASKS[mask], block_rows=5, block_columns=4)
    for got, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


def test_the_row_dot_of_the_backward_pass(qkv):
    query, key, value, scale = prepare(*qkv, None)
    upstream = normal(2, 4, 13, 8)
    weights = (scale * query @ key.mT).softmax(-1)
    torch.testing.assert_close(
        (upstream * (weights @ value)).sum(-1), (weights * (upstream @ value.mT)).sum(-1), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_causal_is_aligned_bottom_right(implementation):
    query, key, value = normal(1, 2, 5, 8), normal(1, 2, 9, 8), normal(1, 2, 9, 8)
    causal = flash_attention_2(query, key, value, is_causal=True, implementation=implementation)
    full = flash_attention_2(query, key, value, implementation=implementation)
    torch.testing.assert_close(causal[:, :, -1], full[:, :, -1], rtol=0, atol=1e-12)
    assert not torch.allclose(causal[:, :, 0], full[:, :, 0])
    one = flash_attention_2(query[:, :, -1:], key, value, is_causal=True, implementation=implementation)
    torch.testing.assert_close(one, full[:, :, -1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("implementation", ["reference", "fast", "softmax_attention"])
def test_rows_that_see_nothing_give_zeros(implementation):
    leaves = [tensor.requires_grad_() for tensor in (normal(1, 1, 9, 8), normal(1, 1, 5, 8), normal(1, 1, 5, 8))]
    output = flash_attention_2(*leaves, is_causal=True, implementation=implementation)
    assert (output[:, :, :4] == 0).all()
    gradients = torch.autograd.grad(output, leaves, torch.ones_like(output))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (gradients[0][:, :, :4] == 0).all()
    assert (forward(*leaves, is_causal=True)[1][:, :, :4] == -torch.inf).all()


@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_the_future_is_not_read(qkv, implementation):
    query, key, value = qkv
    before = flash_attention_2(query, key, value, is_causal=True, implementation=implementation)
    key[:, :, 9:], value[:, :, 9:] = 7.0, -7.0
    after = flash_attention_2(query, key, value, is_causal=True, implementation=implementation)
    assert torch.equal(before[:, :, :9], after[:, :, :9])
    assert not torch.equal(before, after)


def test_block_kinds_agree_with_the_mask():
    for queries, keys, left, right, causal in itertools.product(
        (1, 7, 12), (1, 9, 12), (None, 0, 3), (None, 2), (0, 1)
    ):
        visible = {"is_causal": bool(causal), "window_left": left, "window_right": right}
        kinds = fa2.block_kinds(queries, keys, **visible, block_rows=4, block_columns=3)
        mask = allowed(queries, keys, **visible)
        for i, j in np.ndindex(*kinds.shape):
            part = mask[4 * i : 4 * i + 4, 3 * j : 3 * j + 3]
            if kinds[i, j] == 2:
                assert part.all()
            if kinds[i, j] == 0:
                assert not part.any()


@pytest.mark.parametrize("update", ["v1", "v2"])
def test_trace_gives_the_same_result_and_counts(update):
    query, key, value = normal(32, 8), normal(40, 8), normal(40, 8)
    walk = trace(query, key, value, block_rows=8, block_columns=10, update=update)
    output, logsumexp = forward(query[None, None], key[None, None], value[None, None])
    torch.testing.assert_close(walk.output, output[0, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(walk.logsumexp, logsumexp[0, 0], rtol=0, atol=1e-12)
    # 4 row blocks of 8 rows; version 1 divides the (8, 8) tile after each of the 4 column blocks, version 2 once.
    assert walk.operations.divisions == 4 * 8 * 8 * (4 if update == "v1" else 1)
    assert walk.operations.matmul_flops == 4 * 32 * 40 * 8
    assert walk.operations.blocks_visited == 16 and walk.operations.blocks_skipped == 0
    assert walk.operations.mask_evaluations == 0


def test_trace_skips_what_a_causal_mask_hides():
    query, key, value = normal(64, 8), normal(64, 8), normal(64, 8)
    counted = trace(query, key, value, is_causal=True, block_rows=4, block_columns=4).operations
    assert counted.blocks_visited / (counted.blocks_visited + counted.blocks_skipped) == (1 + 1 / 16) / 2
    assert counted.mask_evaluations == 16 * 4 * 4  # one diagonal block a row block


@pytest.mark.parametrize(("blocks", "slots", "expected"), [(132, 132, 1.0), (133, 132, 133 / 264), (1, 132, 1 / 132)])
def test_wave_efficiency(blocks, slots, expected):
    assert fa2.wave_efficiency(blocks, slots) == pytest.approx(expected)


def test_cost_counts_the_pairs_that_a_window_keeps():
    inputs = example(12, device="meta", heads=1).inputs
    for options in ({"window_left": 2, "window_right": 1}, {"window_left": 4, "is_causal": True}, {"window_right": 3}):
        pairs = allowed(12, 12, **options).sum().item()
        assert cost(**inputs, **options).flops == 4 * pairs * 64


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((2, 5, 8), (2, 5, 8), (2, 5, 8)), "(batch, heads, tokens, head_dim)"),
        (((1, 2, 5, 8), (1, 2, 5, 4), (1, 2, 5, 4)), "share batch and head_dim"),
        (((1, 2, 5, 8), (1, 2, 5, 8), (1, 2, 6, 8)), "must agree"),
        (((1, 3, 5, 8), (1, 2, 5, 8), (1, 2, 5, 8)), "must divide the query heads"),
        (((1, 2, 5, 8), (1, 2, 0, 8), (1, 2, 0, 8)), "at least one key"),
    ],
)
@pytest.mark.parametrize("implementation", flash_attention_2.implementations[:3])
def test_shapes_that_do_not_fit_are_refused(implementation, shapes, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        flash_attention_2(*(torch.zeros(shape) for shape in shapes), implementation=implementation)


def test_mixed_dtypes_are_refused():
    half = torch.zeros(1, 1, 2, 8, dtype=torch.float16)
    with pytest.raises(ValueError, match="One floating-point dtype"):
        flash_attention_2(half, half.float(), half)
    with pytest.raises(ValueError, match="One floating-point dtype"):
        flash_attention_2(half.long(), half.long(), half.long())


@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"window_left": 3}, {"window_left": 2, "window_right": 1}]
)
@pytest.mark.parametrize("keys", [1, 2, 15, 16, 17, 300])
@pytest.mark.parametrize("queries", [1, 20, 300])
def test_a_query_of_nan_is_not_answered_with_numbers(queries, keys, options):
    query, key, value = normal(1, 1, queries, 8), normal(1, 1, keys, 8), normal(1, 1, keys, 8)
    query[:, :, -1] = torch.nan
    expected = flash_attention_2(query, key, value, implementation="reference", **options)
    output = flash_attention_2(query, key, value, implementation="fast", **options)
    assert output[:, :, -1].isnan().all()
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12, equal_nan=True)


def test_windows_compile_on_a_cpu():
    query = normal(1, 2, 40, 8)
    compiled = torch.compile(flash_attention_2, fullgraph=True, backend="aot_eager")
    expected = flash_attention_2(query, query, query, window_left=5, is_causal=True)
    torch.testing.assert_close(compiled(query, query, query, window_left=5, is_causal=True), expected)
