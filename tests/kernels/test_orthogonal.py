"""Squared orthogonal factors: the kernel (on a CPU through Triton's interpreter) and LAPACK's way, and the gradient."""

import pytest
import torch

from workbench.conformance import assert_close
from workbench_kernels.linear_algebra import orthogonal
from workbench_kernels.linear_algebra.orthogonal import squared_orthogonal

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIDES = [(1, 3), (2, 5), (3, 40), (8, 11), (13, 3), (33, 2)]
LARGE = [(64, 7), (100, 3), (128, 200), (8, 4096)]

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def normal(*shape, dtype=torch.float32, device=DEVICE):
    return torch.randn(*shape, dtype=dtype, device=device)


def deviation(orthogonal):
    """How far from orthogonal, entry by entry."""
    identity = torch.eye(orthogonal.shape[-1], dtype=torch.float64, device=orthogonal.device)
    return (orthogonal.double().mT @ orthogonal.double() - identity).abs().max().item()


@pytest.mark.parametrize(("side", "count"), [*SIDES, *(pytest.param(*case, marks=pytest.mark.gpu) for case in LARGE)])
def test_kernel(side, count):
    matrices = normal(count, side, side)
    squares, orthogonal_factor, triangular = orthogonal.factors_triton(matrices)
    assert deviation(orthogonal_factor) < 2e-6
    assert torch.equal(squares, orthogonal_factor * orthogonal_factor)
    assert torch.equal(triangular, triangular.triu())
    assert_close(orthogonal_factor.double() @ triangular.double(), matrices.double(), tolerance=2e-6)
    sums = torch.ones(count, side, dtype=torch.float64, device=DEVICE)
    for axis in (-1, -2):
        assert_close(squares.double().sum(axis), sums, tolerance=4e-6)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_size_of_a_matrix_does_not_matter(size):
    matrices = normal(4, 6, 6)
    expected = orthogonal.factors_triton(matrices)[0]
    assert_close(orthogonal.factors_triton(size * matrices)[0], expected, tolerance=1e-4)


def test_without_full_rank_it_is_orthogonal_all_the_same():
    matrices = normal(4, 8, 3) @ normal(4, 3, 8)
    assert deviation(orthogonal.factors_triton(matrices)[1]) < 2e-6
    zeros = torch.zeros(1, 5, 5, device=DEVICE)
    assert torch.equal(orthogonal.factors_triton(zeros)[0][0], torch.eye(5, device=DEVICE))


def test_a_nan_is_not_lost():
    matrices = normal(3, 4, 4)
    matrices[1, 2, 1] = torch.nan
    squares = orthogonal.factors_triton(matrices)[0]
    assert squares[1, :, 1:].isnan().all()
    assert not squares[[0, 2]].isnan().any()


def test_a_part_of_a_larger_tensor():
    whole = normal(2, 9, 9)
    part = whole[:, 2:7, 3:8]
    expected = orthogonal.factors_triton(part.contiguous())[0]
    assert torch.equal(orthogonal.factors_triton(part)[0], expected)


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 5, 5), (0, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_batch_and_dtype(shape, dtype):
    matrices = normal(*shape).to(dtype)
    output = squared_orthogonal(matrices)
    assert (output.shape, output.dtype) == (matrices.shape, dtype)
    expected = torch.linalg.qr(matrices.double())[0].square()
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-4, torch.bfloat16: 4e-3 + 1e-4}[dtype]
    assert_close(output, expected, tolerance=tolerance)


@pytest.mark.parametrize("side", [1, 2, 4, 7])
def test_gradients(side):
    matrices = normal(2, side, side, dtype=torch.float64, device="cpu").requires_grad_()
    assert torch.autograd.gradcheck(squared_orthogonal, matrices)
    upstream = torch.randn_like(matrices)
    expected = torch.autograd.grad(torch.linalg.qr(matrices)[0].square(), matrices, upstream)[0]
    found = torch.autograd.grad(squared_orthogonal(matrices), matrices, upstream)[0]
    assert_close(found, expected, tolerance=1e-10)


def test_the_operator_is_registered_rightly():
    """PyTorch's own checks: schema, fake tensors, autograd, tracing with unknown sizes."""
    matrices = normal(2, 5, 5, device="cpu").requires_grad_()
    checks = torch.library.opcheck(torch.ops.workbench.squared_orthogonal.default, (matrices,))
    assert set(checks.values()) == {"SUCCESS"}
