"""The Triton kernels of Sinkhorn attention: in the interpreter at small sizes, on a GPU at real ones."""

import pytest
import torch

from workbench.attention.quantum_doubly_stochastic import sinkhorn
from workbench.conformance import assert_close
from workbench_kernels.sinkhorn import attention as kernels
from workbench_kernels.sinkhorn.attention import sinkhorn_attention, why_not
from workbench_kernels.sinkhorn.tiles import split

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT32 = 5e-6
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

CASES = {
    "one token": dict(tokens=1),
    "one tile, odd": dict(tokens=13, heads=2, batch=2),
    "several tiles, odd": dict(tokens=133),
    "narrow head": dict(tokens=65, head_dim=20),
    "wide head": dict(tokens=40, head_dim=256),
}


# float32 goes its own way, in two parts; the other two go the same one.
ROUNDED = [(torch.float32, 1), (torch.float32, 5), (torch.float16, 1), (torch.bfloat16, 5)]


@pytest.fixture(params=["registers", "streaming"])
def path(request, monkeypatch):
    """Both ways for any number of tokens that both can take."""
    if request.param == "streaming":
        monkeypatch.setattr(kernels, "MOST_IN_REGISTERS", 0)
    return request.param


def tensors(tokens, heads=1, head_dim=32, batch=1, dtype=torch.float32):
    return [torch.randn(batch, heads, tokens, head_dim, device=DEVICE).to(dtype) for _ in range(4)]


def plain(query, key, value, iterations, scale):
    return sinkhorn(scale * query @ key.mT, iterations) @ value


def gradients(function, inputs, upstream):
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*inputs)
    return [output, *torch.autograd.grad(output, inputs, upstream)]


def check(inputs, iterations, scale, *, tolerance=FLOAT32):
    *inputs, upstream = inputs
    options = {"iterations": iterations, "scale": scale}
    ours = gradients(lambda *qkv: sinkhorn_attention(*qkv, **options), inputs, upstream)
    truth = gradients(lambda *qkv: plain(*qkv, **options), [each.double() for each in inputs], upstream.double())
    low = upstream.dtype != torch.float32
    ordinary = gradients(lambda *qkv: plain(*qkv, **options), inputs, upstream) if low else [None] * 4
    largest = max(tensor.abs().max().item() for tensor in truth)
    for name, got, expected, other in zip(("output", "dq", "dk", "dv"), ours, truth, ordinary, strict=True):
        scale = largest if expected.abs().max() < 1e-9 * largest else None
        assert got.is_contiguous()
        assert_close(got, expected, ordinary=other, tolerance=0 if low else tolerance, scale=scale, name=name)


@pytest.mark.parametrize(("dtype", "iterations"), ROUNDED, ids=lambda value: str(value).removeprefix("torch."))
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, dtype, iterations, path, poisoned_memory):
    shape = CASES[case]
    check(tensors(**shape, dtype=dtype), iterations, shape.get("head_dim", 32) ** -0.5)


@pytest.mark.parametrize("iterations", [2, 6, 21])
def test_many_half_steps(iterations, path, poisoned_memory):
    check(tensors(tokens=20, head_dim=16), iterations, 0.5)  # 21 need two tiles of X and Y


LARGE = {
    "16 tokens": dict(tokens=16, size=17.0),
    "32 tokens": dict(tokens=32, size=10.0),
}


@pytest.mark.parametrize(
    ("case", "dtype", "iterations"),
    [
        ("16 tokens", torch.float32, 2),
        ("16 tokens", torch.float32, 101),
        ("16 tokens", torch.bfloat16, 2),
        ("16 tokens", torch.float16, 101),
        ("32 tokens", torch.float32, 2),
        ("32 tokens", torch.float32, 101),
        ("32 tokens", torch.float16, 2),
        ("32 tokens", torch.bfloat16, 34),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_large_scores_and_many_half_steps(case, dtype, iterations, path, poisoned_memory):
    """Factors between the maps of two half-steps leave the range of float32, and so do entries that grow to 1."""
    tokens, size = LARGE[case].values()
    query, key, value, upstream = tensors(tokens=tokens, head_dim=8)
    inputs = [tensor.to(dtype) for tensor in (size * query, size * key, value, upstream)]
    check_beside_pytorch(inputs, iterations, 1.0)


@pytest.mark.parametrize(("iterations", "apart"), [(13, 100.0), (101, 400.0)])
def test_entries_grow_as_fast_as_they_can(iterations, apart, path):
    """All queries but one want the same key, and that one the other keys: with every half-step the entries that nobody
    wants grow by a factor of T - 1, until they count."""
    *_, value, upstream = tensors(tokens=47, head_dim=16)
    check_beside_pytorch([*opposed(47, 16, apart), value, upstream], iterations, 1.0)


def opposed(tokens, head_dim, apart):
    """query and key (1, 1, tokens, head_dim) with scores of about 0 or -apart."""
    query, key = 0.3 * torch.randn(2, 1, 1, tokens, head_dim, device=DEVICE)
    query[..., :2] = torch.tensor([1.0, 0.0])
    query[..., -1, :2] = torch.tensor([0.0, 1.0])
    key[..., :2] = torch.tensor([-apart, 0.0])
    key[..., 0, :2] = torch.tensor([0.0, -apart])
    return query, key


def check_beside_pytorch(inputs, iterations, scale):
    """At most twice the error of the equations in PyTorch, in the same precision, both held against float64; and scores
    of two parts are off by 2^-22 of the largest."""
    *inputs, upstream = inputs
    options = {"iterations": iterations, "scale": scale}
    double = [each.double() for each in inputs]
    ours = gradients(lambda *qkv: sinkhorn_attention(*qkv, **options), inputs, upstream)
    truth = gradients(lambda *qkv: plain(*qkv, **options), double, upstream.double())
    ordinary = gradients(lambda *qkv: plain(*qkv, **options), inputs, upstream)
    rounded = 2**-22 * (double[0] @ double[1].mT).abs().max().item()
    # Gradients of query and key are what is left of numbers as large as these; where that is little, rounding is.
    terms = ((upstream @ inputs[2].mT).abs().max() * torch.cat(inputs[:2]).abs().max()).item()
    for name, got, expected, other in zip(("output", "dq", "dk", "dv"), ours, truth, ordinary, strict=True):
        own = expected.abs().max().item()
        own = terms if name in ("dq", "dk") and own < 1e-2 * terms else own
        assert_close(got, expected, ordinary=other, tolerance=rounded, scale=own, name=name)


def test_equal_tokens_of_any_size_attend_evenly(path):
    """Every weight is 1 / T then, and the output the value itself."""
    for size in (1.0, 1e3, 1e6):
        query = torch.full((1, 1, 24, 16), size, device=DEVICE)
        for iterations in (1, 2, 7):
            output = sinkhorn_attention(query, query, query, scale=0.25, iterations=iterations)
            torch.testing.assert_close(output, query, rtol=2e-6, atol=0)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-30])
def test_scales_of_any_sign_and_size(scale, path):
    check(tensors(tokens=21, head_dim=16), 4, scale)


def test_keys_that_nobody_attends_to(path):
    """Scores so far apart that a column's sum underflows in float32: the first column step needs its maximum."""
    query, key, value, upstream = tensors(tokens=24, head_dim=16)
    key[..., 3, :] = -40 * query.mean(2)
    key[..., 5, :] *= 40
    check([query + 3, key, value, upstream], 5, 1.0, tolerance=1e-4)  # scores of 850 are rounded to 5e-5


@pytest.mark.parametrize("iterations", [1, 2, 7])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_scores_stay_finite(size, iterations, path):
    """With scores of 1e7 whole numbers are rounded off; each score is rounded the same everywhere."""
    query, key, value, upstream = tensors(tokens=33)
    options = {"scale": 1.0, "iterations": iterations}
    for result in gradients(
        lambda *qkv: sinkhorn_attention(*qkv, **options), [size * query, size * key, value], upstream
    ):
        assert result.isfinite().all()


@pytest.mark.parametrize("iterations", [1, 4])
@pytest.mark.parametrize(
    "sizes",
    [(1e-20, 1e20, 1e-20, 1e10), (1e15, 1e-15, 1e20, 1e-10), (1e-20, 1.0, 1.0, 1.0), (1.0, 1.0, 1e-30, 1e-5)],
    ids=str,
)
def test_heads_of_any_size(sizes, iterations, path):
    """Each head is held against its own truth, beside a head of ordinary size."""
    inputs = tensors(tokens=37, heads=2, head_dim=20)
    for tensor, size in zip(inputs, sizes, strict=True):
        tensor[:, 0] *= size
    *inputs, upstream = inputs
    options = {"iterations": iterations, "scale": 0.2}
    ours = gradients(lambda *qkv: sinkhorn_attention(*qkv, **options), inputs, upstream)
    double = [tensor.double() for tensor in inputs]
    truth = gradients(lambda *qkv: plain(*qkv, **options), double, upstream.double())
    for name, got, expected in zip(("output", "dq", "dk", "dv"), ours, truth, strict=True):
        for head in range(2):
            assert_close(got[:, head], expected[:, head], tolerance=FLOAT32, name=name)


@pytest.mark.parametrize("which", [0, 1, 2, 3], ids=["query", "key", "value", "grad"])
def test_one_token_outweighs_the_others(which, path):
    """An outlier 1e4 times as large as the rest of its head takes no digits from the rest."""
    inputs = tensors(tokens=45, head_dim=24)
    inputs[which][:, :, 7] *= 1e4
    *inputs, upstream = inputs
    # Scores of 1e4 are rounded to 1e-3: in softmax that concerns one row, or no row that is not all on one key, but
    # every further half-step spreads it, and the gradients of scores are differences of nearly equal numbers.
    extreme = which < 2
    options = {"iterations": 1 if extreme else 5, "scale": 0.2}
    ours = gradients(lambda *qkv: sinkhorn_attention(*qkv, **options), inputs, upstream)
    double = [tensor.double() for tensor in inputs]
    truth = gradients(lambda *qkv: plain(*qkv, **options), double, upstream.double())
    for name, got, expected in zip(("output", "dq", "dk", "dv"), ours, truth, strict=True):
        if extreme and name in ("dq", "dk"):
            continue
        for tokens in (slice(7, 8), slice(8, None)):
            assert_close(got[:, :, tokens], expected[:, :, tokens], tolerance=FLOAT32, name=name)


@pytest.mark.parametrize(
    ("which", "iterations"),
    [(0, 1), (0, 4), (1, 3), (1, 4), (2, 1), (2, 3), (3, 1), (3, 4)],
    ids=["query-1", "query-4", "key-3", "key-4", "value-1", "value-3", "grad-1", "grad-4"],
)
def test_groups_of_tokens_of_other_sizes(which, iterations):
    """Every 128 tokens have a unit of their own when float32 is split; a product mixes two of them."""
    inputs = tensors(tokens=137, heads=2, head_dim=16)
    inputs[which][:, 0, 128:] *= 0.1
    inputs[which][:, 1, 128:] *= 4
    check(inputs, iterations, 0.25)


def test_zeros_everywhere(path):
    query, key, value, upstream = (torch.zeros_like(tensor) for tensor in tensors(tokens=19))
    for result in gradients(
        lambda *qkv: sinkhorn_attention(*qkv, scale=0.2, iterations=4), [query, key, value], upstream
    ):
        assert (result == 0).all()


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_nan_stays_in_its_head(number, path):
    query, key, value, _ = tensors(tokens=40, heads=2, batch=2)
    clean = sinkhorn_attention(query, key, value, scale=0.2, iterations=5)
    query[0, 0, 3, 1] = number
    output = sinkhorn_attention(query, key, value, scale=0.2, iterations=5)
    assert output[0, 0].isnan().all()
    assert torch.equal(output[0, 1], clean[0, 1]) and torch.equal(output[1], clean[1])


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_nan_reaches_the_rows_that_it_enters(number, path):
    """Softmax of one broken query breaks that query's row; a broken upstream gradient breaks that row of dQ."""
    query, key, value, upstream = tensors(tokens=40, heads=2)
    options = {"scale": 0.2, "iterations": 1}
    broken = query.clone()
    broken[0, 0, 3, 1] = number
    found = sinkhorn_attention(broken, key, value, **options).isnan()
    assert found[0, 0, 3].all() and found.sum() == found[0, 0, 3].numel()
    upstream[0, 0, 3, 1] = number
    results = gradients(lambda *qkv: sinkhorn_attention(*qkv, **options), [query, key, value], upstream)
    found = results[1].isnan()
    assert found[0, 0, 3].all() and found.sum() == found[0, 0, 3].numel()
    assert results[2][0, 0].isnan().all() and results[2][0, 1].isfinite().all()
    assert results[3][0, 0, :, 1].isnan().all() and results[3][0, 1].isfinite().all()


def test_any_strides(path):
    query, key, value, _ = tensors(tokens=33, heads=2)
    options = {"scale": 0.2, "iterations": 3}
    expected = sinkhorn_attention(query, key, value, **options)
    token_major = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (query, key, value)]
    assert torch.equal(sinkhorn_attention(*token_major, **options), expected)
    reversed_storage = [tensor.mT.contiguous().mT for tensor in (query, key, value)]
    assert torch.equal(sinkhorn_attention(*reversed_storage, **options), expected)
    expanded = sinkhorn_attention(query, key[:, :1].expand_as(key), value, **options)
    assert torch.equal(expanded, sinkhorn_attention(query, key[:, :1].repeat(1, 2, 1, 1), value, **options))


def test_a_negative_scale(path):
    query, key, value, _ = tensors(tokens=20)
    close = {"scale": -0.3, "iterations": 4}
    torch.testing.assert_close(
        sinkhorn_attention(query, key, value, **close), plain(query, key, value, **close), rtol=0, atol=1e-5
    )


def stood_for(parts):
    """The float64 tensor that two parts stand for."""
    total = parts.tensor.double().unflatten(0, (2, -1)).sum(0)
    unit = parts.unit.double().view(*total.shape[:2], -1).repeat_interleave(128, -1)
    return total * unit[..., : total.shape[2], None]


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1.0, 1e30, 3e38])
def test_float32_is_split_into_two_parts(size):
    """Each head by its own largest entry: 22 bits and a sign of an entry, and 2^-38 of the largest one."""
    numbers = torch.rand(2, 3, 5, 20, device=DEVICE) * torch.logspace(-30, 0, 20, device=DEVICE)
    numbers = (numbers * size * torch.logspace(0, -6, 6, device=DEVICE).view(2, 3, 1, 1)).transpose(2, 3)
    parts, zeros = split(numbers, torch.zeros_like(numbers))
    assert parts.tensor.shape == (4, 3, 20, 8) and parts.tensor.dtype == torch.float16
    total = stood_for(parts)
    allowed = 2**-23 * numbers.double().abs() + 2**-38 * numbers.double().abs().amax((2, 3), keepdim=True) + 2**-150
    assert ((total[..., :5] - numbers.double()).abs() <= allowed).all()
    assert (total[..., 5:] == 0).all() and (stood_for(zeros) == 0).all()


def test_each_group_of_tokens_is_split_by_its_own_largest_entry():
    numbers = torch.randn(2, 2, 300, 8, device=DEVICE)
    numbers[:, 1, 128:256] *= 1e-20
    numbers[:, 1, 256:] *= 1e20
    error = (stood_for(split(numbers)[0]) - numbers.double()).abs()
    for tokens in (slice(0, 128), slice(128, 256), slice(256, 300)):
        largest = numbers[:, :, tokens].double().abs().amax((2, 3), keepdim=True)
        assert (error[:, :, tokens] <= 2**-23 * largest).all()


def test_what_is_not_finite_is_seen_after_the_split():
    numbers = torch.randn(1, 2, 6, 8, device=DEVICE)
    expected = stood_for(split(numbers)[0])
    for place, number in {(0, 0, 1, 3): torch.nan, (0, 0, 2, 0): torch.inf, (0, 1, 5, 7): -torch.inf}.items():
        numbers[place] = number
        expected[place] = torch.nan
    assert torch.equal(stood_for(split(numbers)[0]).nan_to_num(1e9), expected.nan_to_num(1e9))


def test_other_types_are_not_split():
    numbers = torch.randn(1, 2, 6, 8, device=DEVICE, dtype=torch.float16)
    (whole,) = split(numbers)
    assert torch.equal(whole.tensor, numbers) and whole.unit is None


def test_backward_repeats_bit_for_bit(path):
    *inputs, upstream = tensors(tokens=70)

    def once():
        return gradients(lambda *qkv: sinkhorn_attention(*qkv, scale=0.2, iterations=5), inputs, upstream)

    assert all(torch.equal(one, other) for one, other in zip(once(), once(), strict=True))


def test_operator_contract():
    qkv = [tensor.requires_grad_() for tensor in tensors(tokens=8, head_dim=16)[:3]]
    torch.library.opcheck(
        torch.ops.workbench.sinkhorn_attention,
        (*qkv, 0.25, 3),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("dtype", "head_dim", "iterations", "words"),
    [
        (torch.float64, 64, 5, "not float64"),
        (torch.float16, 257, 5, "head_dim up to 256, not 257"),
        (torch.float16, 64, 0, "at least 1 half-step, not 0"),
    ],
)
def test_refusals_say_why(dtype, head_dim, iterations, words):
    assert bool(why_not(dtype, head_dim)) == (iterations > 0)
    query = torch.zeros(1, 1, 2, head_dim, dtype=dtype, device=DEVICE)
    with pytest.raises(ValueError, match=words):
        sinkhorn_attention(query, query, query, scale=0.1, iterations=iterations)


@pytest.mark.gpu
@pytest.mark.parametrize("iterations", [1, 5, 10])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_real_sizes(dtype, head_dim, iterations):
    check(tensors(tokens=1025, heads=2, head_dim=head_dim, dtype=dtype), iterations, head_dim**-0.5)
