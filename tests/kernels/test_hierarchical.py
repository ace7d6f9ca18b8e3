"""The kernels of hierarchical attention (on a CPU through Triton's interpreter) against the batched products, and those
against autograd."""

import pytest
import torch

from comparison import assert_close
from workbench.measure import relative_error
from workbench_kernels import hierarchical
from workbench_kernels.hierarchical_levels import backward_torch, forward_torch, level_sizes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def normal(*shape, dtype=torch.float32, device=DEVICE, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=device).to(dtype)


# tokens, block, levels, causal, head_dim: several families a tile, one, a root that is walked through, deep trees
CASES = [
    (50, 4, 2, False, 16),
    (50, 4, 3, True, 20),
    (140, 20, 2, False, 16),
    (260, 2, 2, True, 16),
    (270, 2, 2, False, 8),
    (90, 40, 2, True, 16),
    (130, 8, 3, False, 64),
    (65, 64, 3, False, 5),
    (7, 2, 6, False, 3),
]
LARGE = [
    (4099, 16, 2, False, 64),
    (4099, 64, 3, True, 64),
    (1000, 100, 2, False, 128),
    (700, 4, 3, False, 256),
    (300, 200, 2, False, 64),
]


@pytest.mark.parametrize(
    ("tokens", "block", "levels", "is_causal", "width"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.gpu) for case in LARGE)],
)
def test_kernels(tokens, block, levels, is_causal, width):
    query, key, value = (normal(2, 1, tokens, width, seed=seed) for seed in range(3))
    settings = (width**-0.5, block, levels, is_causal)
    expected = forward_torch(query.double(), key.double(), value.double(), *settings)
    assert_close(hierarchical.forward_triton(query, key, value, *settings), expected, tolerance=2e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "block", "levels", "is_causal", "width"), LARGE)
def test_kernels_in_low_precision(tokens, block, levels, is_causal, width, dtype):
    inputs = [normal(2, 3, tokens, width, dtype=dtype, seed=seed) for seed in range(3)]
    settings = (width**-0.5, block, levels, is_causal)
    expected = forward_torch(*(x.double() for x in inputs), *settings)
    ordinary = relative_error(forward_torch(*inputs, *settings), expected)
    found = relative_error(hierarchical.forward_triton(*inputs, *settings), expected)
    assert found <= 2 * ordinary + torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("tokens", "block", "levels"), [(9, 2, 3), (13, 4, 2), (11, 3, 6), (5, 9, 2), (1, 2, 2), (16, 4, 2)]
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_gradients(tokens, block, levels, is_causal):
    inputs = [normal(1, 2, tokens, 4, dtype=torch.float64, device="cpu", seed=seed) for seed in range(4)]
    grad, *inputs = inputs
    settings = (0.5, block, levels, is_causal)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(forward_torch(*leaves, *settings), leaves, grad)
    for found, wanted in zip(backward_torch(grad, *inputs, *settings), expected, strict=True):
        assert_close(found, wanted, tolerance=1e-12)


def test_levels():
    assert level_sizes(100, 4, 6) == [100, 25, 7, 2]
    assert level_sizes(100, 4, 2) == [100, 25]
    assert level_sizes(100, 128, 3) == level_sizes(100, 1, 3) == [100]


def test_the_operator_is_registered_rightly():
    """PyTorch's own checks: schema, fake tensors, autograd, tracing with unknown sizes."""
    inputs = [normal(1, 2, 6, 4, device="cpu", seed=seed).requires_grad_() for seed in range(3)]
    checks = torch.library.opcheck(torch.ops.workbench.hierarchical_attention.default, (*inputs, 0.5, 2, 3, False))
    assert set(checks.values()) == {"SUCCESS"}
