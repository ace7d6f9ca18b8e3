"""The kernels of hierarchical attention (on a CPU through Triton's interpreter) against the batched products, and those
against autograd."""

import pytest
import torch

from comparison import assert_close
from workbench.measure import relative_error
from workbench_kernels.hierarchical import attention as hierarchical
from workbench_kernels.hierarchical import levels as hierarchical_levels
from workbench_kernels.hierarchical.levels import backward_torch, forward_torch, level_sizes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("output", "gradient of query", "gradient of key", "gradient of value")

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def normal(*shape, dtype=torch.float32, device=DEVICE, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=device).to(dtype)


def kernels(grad, *inputs, settings):
    """Output and gradients of the Triton kernels, on whatever device."""
    output, *kept = hierarchical._forward(*inputs, *settings)
    return output, *hierarchical._backward(grad, *inputs, output, *kept, *settings)


def products(grad, *inputs, settings):
    """The same by batched matrix products."""
    return forward_torch(*inputs, *settings), *backward_torch(grad, *inputs, *settings)


# tokens, block, levels, causal, self_attend, head_dim
CASES = {
    "several families a tile": (50, 4, 2, False, True, 16),
    "three levels, causal, odd": (50, 4, 3, True, True, 20),
    "families of 20": (47, 20, 2, False, True, 16),
    "a root of several tiles, causal": (130, 1, 2, True, True, 16),
    "one family a tile, causal": (90, 40, 2, True, True, 16),
    "wide heads": (35, 8, 3, False, True, 64),
    "deeper than there are tokens": (7, 2, 6, False, True, 3),
    "no token sees itself": (50, 4, 2, False, False, 16),
    "groups of one that sees nothing": (17, 4, 3, False, False, 16),
    "flat, no token sees itself": (20, 200, 2, False, False, 8),
}
LARGE = [
    (4099, 16, 2, False, True, 64),
    (4099, 64, 3, True, True, 64),
    (4099, 32, 2, False, False, 64),
    (1000, 100, 2, False, True, 128),
    (700, 4, 3, False, True, 256),
    (3000, 700, 2, False, True, 64),
    (3000, 300, 3, True, True, 128),
]


def check_float32(tokens, block, levels, is_causal, self_attend, width, batch=2):
    tensors = [normal(batch, 1, tokens, width, seed=seed) for seed in range(4)]
    settings = (width**-0.5, block, levels, is_causal, self_attend)
    expected = products(*(x.double() for x in tensors), settings=settings)
    for name, found, wanted in zip(NAMES, kernels(*tensors, settings=settings), expected, strict=True):
        assert_close(found, wanted, tolerance=5e-6, name=name)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernels(case):
    check_float32(*case)


@pytest.mark.parametrize(
    ("tokens", "block", "levels", "is_causal"), [(290, 17, 3, False), (40, 17, 2, True), (37, 2, 2, False)]
)
def test_families_longer_than_a_tile(tokens, block, levels, is_causal, monkeypatch):
    """Among the leaves and in the middle; among the leaves, with a mask; at the root."""
    for table in ("_MOST", "_TILES"):
        small = {"forward": 16, "backward": 16} if table == "_MOST" else {"forward": (16, 16), "backward": 16}
        monkeypatch.setattr(hierarchical, table, {kernel: {4: {64: rows}} for kernel, rows in small.items()})
    check_float32(tokens, block, levels, is_causal, True, 16, batch=1)


@pytest.mark.gpu
@pytest.mark.parametrize("case", LARGE)
def test_kernels_at_real_sizes(case):
    check_float32(*case)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "block", "levels", "is_causal", "self_attend", "width"), LARGE)
def test_kernels_in_low_precision(tokens, block, levels, is_causal, self_attend, width, dtype):
    tensors = [normal(2, 3, tokens, width, dtype=dtype, seed=seed) for seed in range(4)]
    settings = (width**-0.5, block, levels, is_causal, self_attend)
    expected = products(*(x.double() for x in tensors), settings=settings)
    ordinary, found = products(*tensors, settings=settings), kernels(*tensors, settings=settings)
    for name, one, other, wanted in zip(NAMES, found, ordinary, expected, strict=True):
        allowed = 2 * relative_error(other, wanted) + torch.finfo(dtype).eps
        assert relative_error(one, wanted) <= allowed, name


def test_any_strides():
    """As a projection leaves them, and with gaps between the numbers of a row."""
    tensors = [normal(2, 2, 21, 8, seed=seed) for seed in range(4)]
    settings = (0.3, 4, 2, False, True)
    expected = kernels(*tensors, settings=settings)
    swapped = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]
    gaps = [torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0] for x in tensors]
    for others in (swapped, gaps):
        for found, wanted in zip(kernels(*others, settings=settings), expected, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("tokens", "block", "levels"), [(9, 2, 3), (13, 4, 2), (11, 3, 6), (5, 9, 2), (2, 2, 2), (16, 4, 2)]
)
@pytest.mark.parametrize(("is_causal", "self_attend"), [(False, True), (True, True), (False, False)])
def test_gradients_of_the_products(tokens, block, levels, is_causal, self_attend):
    grad, *inputs = [normal(1, 2, tokens, 4, dtype=torch.float64, device="cpu", seed=seed) for seed in range(4)]
    settings = (0.5, block, levels, is_causal, self_attend)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(forward_torch(*leaves, *settings), leaves, grad)
    for found, wanted in zip(backward_torch(grad, *inputs, *settings), expected, strict=True):
        assert_close(found, wanted, tolerance=1e-12)


def test_products_take_a_few_heads_at_a_time(monkeypatch):
    grad, *inputs = [normal(2, 3, 50, 8, device="cpu", seed=seed) for seed in range(4)]
    settings = (0.5, 4, 3, False, True)
    expected = products(grad, *inputs, settings=settings)
    monkeypatch.setitem(hierarchical_levels.BUDGET, "cpu", 2 * hierarchical_levels._bytes_of_one(inputs[0], 4, 3))
    assert len(list(hierarchical_levels._pieces(inputs[0], 4, 3))) == 3
    for found, wanted in zip(products(grad, *inputs, settings=settings), expected, strict=True):
        assert_close(found, wanted, tolerance=1e-6)


def test_levels():
    assert level_sizes(100, 4, 6) == [100, 25, 7, 2]
    assert level_sizes(100, 4, 2) == [100, 25]
    assert level_sizes(100, 128, 3) == level_sizes(100, 1, 3) == [100]


@pytest.mark.parametrize("operator", ["hierarchical_levels", "hierarchical_attention"])
def test_operator_contract(operator):
    """PyTorch's own checks: schema, fake tensors, autograd."""
    inputs = [normal(1, 2, 6, 4, device="cpu", seed=seed).requires_grad_() for seed in range(3)]
    torch.library.opcheck(
        getattr(torch.ops.workbench, operator).default,
        (*inputs, 0.5, 2, 3, False, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("dtype", "head_dim", "words"), [(torch.float64, 64, "not float64"), (torch.float16, 257, "up to 256, not 257")]
)
def test_refusals_say_why(dtype, head_dim, words):
    (reason,) = hierarchical.why_not(dtype, head_dim)
    assert words in reason
