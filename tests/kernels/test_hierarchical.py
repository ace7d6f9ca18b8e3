"""The kernels of hierarchical attention (on a CPU through Triton's interpreter) against the batched products, and those
against autograd."""

import pytest
import torch

from workbench.attention.hierarchical_self_attention import hierarchical_attention
from workbench.conformance import assert_close
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
    output, tree = hierarchical.forward_triton(*inputs, *settings)
    return output, *hierarchical.backward_triton(grad, *inputs, output, tree, *settings)


def products(grad, *inputs, settings):
    """The same by batched matrix products."""
    return forward_torch(*inputs, *settings), *backward_torch(grad, *inputs, *settings)


def equations(grad, *inputs, settings):
    """The same by the paper's reference."""
    scale, block, levels, self_attend = settings
    leaves = [x.clone().requires_grad_() for x in inputs]
    options = {"scale": scale, "block": block, "levels": levels, "self_attend": self_attend}
    output = hierarchical_attention.reference(*leaves, **options)
    return output.detach(), *torch.autograd.grad(output, leaves, grad)


def short_tiles(monkeypatch):
    """Families of more than 16 children are taken in turns."""
    widths = {64: 16}, {64: (16, 16)}
    monkeypatch.setattr(hierarchical, "_MOST", dict.fromkeys(("forward", "backward"), {2: widths[0], 4: widths[0]}))
    monkeypatch.setattr(
        hierarchical,
        "_TILES",
        {"forward": {2: widths[1], 4: widths[1]}, "backward": {2: widths[0], 4: widths[0]}},
    )
    for kept in ("_plan", "_forward_launches", "_backward_launches"):
        monkeypatch.setattr(hierarchical, kept, getattr(hierarchical, kept).__wrapped__)


# tokens, block, levels, self_attend, head_dim
CASES = {
    "several families a tile": (50, 4, 2, True, 16),
    "three levels, odd": (50, 4, 3, True, 20),
    "families of 20": (47, 20, 2, True, 16),
    "one family a tile": (90, 40, 2, True, 16),
    "wide heads": (35, 8, 3, True, 64),
    "deeper than there are tokens": (7, 2, 6, True, 3),
    "no token sees itself": (50, 4, 2, False, 16),
    "groups of one that sees nothing": (17, 4, 3, False, 16),
    "flat, no token sees itself": (20, 200, 2, False, 8),
}
LARGE = [
    (4099, 16, 2, True, 64),
    (4099, 64, 3, True, 64),
    (4099, 32, 2, False, 64),
    (1000, 100, 2, True, 128),
    (700, 4, 3, True, 256),
    (3000, 700, 2, True, 64),
    (3000, 300, 3, True, 128),
]


def check_float32(tokens, block, levels, self_attend, width, batch=2):
    tensors = [normal(batch, 1, tokens, width, seed=seed) for seed in range(4)]
    settings = (width**-0.5, block, levels, self_attend)
    expected = products(*(x.double() for x in tensors), settings=settings)
    for name, found, wanted in zip(NAMES, kernels(*tensors, settings=settings), expected, strict=True):
        assert_close(found, wanted, tolerance=5e-6, name=name)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernels(case):
    check_float32(*case)


@pytest.mark.parametrize(
    ("tokens", "block", "levels", "self_attend"),
    [(290, 17, 3, True), (40, 17, 2, False), (37, 2, 2, True), (35, 17, 2, False)],
)
def test_families_longer_than_a_tile(tokens, block, levels, self_attend, monkeypatch):
    """Among the leaves and in the middle; among the leaves, which do not see themselves; at the root; a last family of
    one that sees nothing."""
    short_tiles(monkeypatch)
    check_float32(tokens, block, levels, self_attend, 16, batch=1)


@pytest.mark.gpu
@pytest.mark.parametrize("case", LARGE)
def test_kernels_at_real_sizes(case):
    check_float32(*case)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "block", "levels", "self_attend", "width"), LARGE)
def test_kernels_in_low_precision(tokens, block, levels, self_attend, width, dtype):
    tensors = [normal(2, 3, tokens, width, dtype=dtype, seed=seed) for seed in range(4)]
    settings = (width**-0.5, block, levels, self_attend)
    expected = products(*(x.double() for x in tensors), settings=settings)
    ordinary, found = products(*tensors, settings=settings), kernels(*tensors, settings=settings)
    for name, one, other, wanted in zip(NAMES, found, ordinary, expected, strict=True):
        allowed = 2 * relative_error(other, wanted) + torch.finfo(dtype).eps
        assert relative_error(one, wanted) <= allowed, name


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        (torch.float32, 1e-30),
        (torch.float32, 1e12),
        (torch.bfloat16, 1e12),
        (torch.float16, 1000.0),
        (torch.float16, 60000.0),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
@pytest.mark.parametrize("longest", [None, 16])
def test_weights_sum_to_one_however_large_the_scores(number, dtype, longest, monkeypatch):
    """Equal tokens are their own mean, and their gradients sum to what came in."""
    if longest:
        short_tiles(monkeypatch)
    number = torch.tensor(number, dtype=dtype, device=DEVICE)
    same = number.expand(1, 1, 35, 8).clone()
    for settings in ((0.3, 17, 2, True), (0.3, 4, 3, False)):
        output, *slopes = kernels(torch.ones_like(same), same, same, same, settings=settings)
        assert_close(output, same, tolerance=4 * torch.finfo(dtype).eps)
        of_value = slopes[2].double().sum(2)
        assert_close(of_value, torch.full_like(of_value, 35.0), tolerance=4 * torch.finfo(dtype).eps)
        assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("size", "longest"), [(1e-3, None), (1.0, None), (6.0, None), (1e-3, 16), (1.0, 16)])
def test_scores_of_every_size_in_low_precision(size, dtype, longest, monkeypatch):
    """Within twice the error of the equations in that precision; in turns, where <gradient, output> takes the rounded
    output as FlashAttention does, for scores of ordinary size."""
    if longest:
        short_tiles(monkeypatch)
    grad, query, key, value = (normal(1, 1, 40, 16, dtype=dtype, seed=seed) for seed in range(4))
    tensors = (grad, size * query, size * key, value)
    for block, levels, self_attend in ((17, 2, True), (4, 3, False)):
        settings = (0.25, block, levels, self_attend)
        expected = equations(*(x.double() for x in tensors), settings=settings)
        ordinary, found = equations(*tensors, settings=settings), kernels(*tensors, settings=settings)
        for name, one, usual, wanted in zip(NAMES, found, ordinary, expected, strict=True):
            assert_close(one, wanted, ordinary=usual, name=name)


def test_any_strides():
    """As a projection leaves them, and with gaps between the numbers of a row."""
    tensors = [normal(2, 2, 9, 8, seed=seed) for seed in range(4)]
    settings = (0.3, 4, 2, True)
    expected = kernels(*tensors, settings=settings)
    swapped = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]
    gaps = [torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0] for x in tensors]
    for others in (swapped, gaps):
        for found, wanted in zip(kernels(*others, settings=settings), expected, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("tokens", "block", "levels"), [(9, 2, 3), (13, 4, 2), (11, 3, 6), (5, 9, 2), (2, 2, 2), (16, 4, 2)]
)
@pytest.mark.parametrize("self_attend", [True, False])
def test_gradients_of_the_products(tokens, block, levels, self_attend):
    grad, *inputs = [normal(1, 2, tokens, 4, dtype=torch.float64, device="cpu", seed=seed) for seed in range(4)]
    settings = (0.5, block, levels, self_attend)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(forward_torch(*leaves, *settings), leaves, grad)
    for found, wanted in zip(backward_torch(grad, *inputs, *settings), expected, strict=True):
        assert_close(found, wanted, tolerance=1e-12)


def test_products_take_a_few_heads_at_a_time(monkeypatch):
    grad, *inputs = [normal(2, 3, 50, 8, device="cpu", seed=seed) for seed in range(4)]
    settings = (0.5, 4, 3, True)
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
        (*inputs, 0.5, 2, 3, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("dtype", "head_dim", "words"), [(torch.float64, 64, "not float64"), (torch.float16, 257, "up to 256, not 257")]
)
def test_refusals_say_why(dtype, head_dim, words):
    (reason,) = hierarchical.why_not(dtype, head_dim)
    assert words in reason
