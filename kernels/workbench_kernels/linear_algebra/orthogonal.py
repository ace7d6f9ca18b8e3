"""The orthogonal factor of many small square matrices, squared: U * U for A = U R, by Householder reflections.

A program keeps whole matrices in registers (several of them while they are small), reflects column after column, and
then multiplies the reflections up. Reflections, unlike Gram and Schmidt's projections, give an orthogonal U whatever
the condition of A, so U * U sums to 1 along rows and columns to the last bit or two. The signs of U's columns are
free; they do not show in U * U.

Backward, from U and R: with V = 2 U * grad and copyltu mirroring the lower triangle upwards,

.. math:: \\bar A = [V + U\\,\\mathrm{copyltu}(-V^\\top U)]\\, R^{-\\top}
"""

import torch
from torch import Tensor

from workbench_kernels.launch import prepared
from workbench_kernels.operation import Operation
from workbench_kernels.tiles import next_power_of_2

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None

LARGEST = 128  # rows; beyond it a matrix leaves the registers of one program
# By the side of a matrix: how many numbers a program takes (at least one matrix), and its warps.
SHAPES = {
    **dict.fromkeys((1, 2, 4, 8, 16), (512, 1)),
    32: (1024, 1),
    64: (4096, 2),
    128: (16384, 8),
}


def squared_orthogonal(matrices: Tensor) -> Tensor:
    """U * U (..., n, n) of matrices (..., n, n) = U R: rows and columns sum to 1.

    float32 or float64; lower precision is computed in float32 and rounded once. Differentiable once; the gradient is as
    ill-conditioned as R. On CUDA, float32 and n up to 128 run in one kernel (with Triton); everything else is
    ``torch.linalg.qr``. O(n^3).
    """
    precise = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
    flat = precise.reshape(-1, *matrices.shape[-2:])
    return _squared_orthogonal(flat)[0].reshape(matrices.shape).to(matrices.dtype)


# --- CUDA ------------------------------------------------------------------------------------------------------------


def factors_triton(matrices: Tensor, shape: tuple[int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """U * U, U and R of float32 matrices (count, n, n), n up to 128; ``shape`` as in ``SHAPES``."""
    matrices = matrices.contiguous()
    count, side, _ = matrices.shape
    size = next_power_of_2(side)
    numbers, warps = shape or SHAPES[size]
    group = max(1, numbers // size**2)
    squares, orthogonal, triangular = (torch.empty_like(matrices) for _ in range(3))
    _factors_kernel[(-(-count // group),)](
        matrices, squares, orthogonal, triangular, count, side, SIZE=size, GROUP=group, num_warps=warps
    )
    return squares, orthogonal, triangular


def _factors_cuda(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if triton is not None and matrices.dtype == torch.float32 and matrices.shape[-1] <= LARGEST:
        return factors_triton(matrices)
    return factors_torch(matrices)


# --- everywhere ------------------------------------------------------------------------------------------------------


def factors_torch(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U * U, U and R from LAPACK or its counterpart on the device."""
    orthogonal, triangular = (factor.contiguous() for factor in torch.linalg.qr(matrices))  # LAPACK's lie transposed
    return orthogonal * orthogonal, orthogonal, triangular


def backward_torch(grad: Tensor, orthogonal: Tensor, triangular: Tensor) -> Tensor:
    """The gradient of the matrices from that of U * U: three products and a triangular system."""
    above = 2 * orthogonal * grad
    inner = -(above.mT @ orthogonal)
    mirrored = inner.tril() + inner.tril(-1).mT
    solution = torch.linalg.solve_triangular(triangular.mT, above + orthogonal @ mirrored, upper=False, left=False)
    return solution.contiguous()


# --- the operation ---------------------------------------------------------------------------------------------------


_squared_orthogonal = Operation(
    "squared_orthogonal",
    forward={"cuda": _factors_cuda, "cpu": factors_torch},
    backward=backward_torch,
    outputs=("squares", "orthogonal", "triangular"),
    fake=lambda matrices: tuple(matrices.new_empty(matrices.shape) for _ in range(3)),
    fake_backward=lambda grad, orthogonal, triangular: grad.new_empty(grad.shape),
)


# --- the kernel ------------------------------------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def _column(x, k, GROUP: tl.constexpr, SIZE: tl.constexpr):
        """Column k of every matrix (GROUP, SIZE, 1)."""
        return tl.gather(x, tl.zeros((GROUP, SIZE, 1), tl.int32) + k, 2)

    @prepared
    @triton.jit
    def _factors_kernel(
        matrices, squares, orthogonal, triangular, count, side, SIZE: tl.constexpr, GROUP: tl.constexpr
    ):
        first = tl.program_id(0) * GROUP
        which = tl.arange(0, GROUP)[:, None, None]
        i = tl.arange(0, SIZE)[None, :, None]
        j = tl.arange(0, SIZE)[None, None, :]
        inside = (first + which < count) & (i < side) & (j < side)
        place = which * side * side + i * side + j
        start = first.to(tl.int64) * side * side
        # What is padded is the identity: its reflections leave the matrix alone.
        x = tl.load(matrices + start + place, mask=inside, other=0.0)
        # U does not depend on the size of A; squares of large or small numbers would leave the range of float32.
        scale = tl.max(tl.max(tl.abs(x), 2, keep_dims=True), 1, keep_dims=True)
        scale = tl.where(scale > 0, scale, 1.0)
        x = tl.where(inside, x / scale, tl.where(i == j, 1.0, 0.0))
        on_diagonal = tl.zeros((GROUP, 1, SIZE), tl.float32)
        weights = tl.zeros((GROUP, 1, SIZE), tl.float32)
        for k in range(0, side):
            column = tl.where(i >= k, _column(x, k, GROUP, SIZE), 0.0)
            head = tl.sum(tl.where(i == k, column, 0.0), 1, keep_dims=True)
            norm = tl.sqrt(tl.sum(column * column, 1, keep_dims=True))
            signed = tl.where(head < 0, -norm, norm)
            v = tl.where(i == k, column + signed, column)
            half = norm * (norm + tl.abs(head))  # of v^T v
            weight = 1 / tl.where(half == 0, float("inf"), half)
            reflected = x - v * (weight * tl.sum(v * x, 1, keep_dims=True))
            # Column k keeps v from its diagonal on, R above it; R's diagonal and the weights have rows of their own.
            x = tl.where(j > k, reflected, tl.where((j == k) & (i >= k), v, x))
            on_diagonal = tl.where(j == k, -signed, on_diagonal)
            weights = tl.where(j == k, weight, weights)
        r = tl.where(i < j, x, tl.where(i == j, on_diagonal, 0.0)) * scale
        tl.store(triangular + start + place, r, mask=inside)
        # U takes the place of the reflections, from the last column to the first; R is stored already.
        for step in range(0, side):
            k = side - 1 - step
            v = tl.where(i >= k, _column(x, k, GROUP, SIZE), 0.0)
            head = tl.sum(tl.where(i == k, v, 0.0), 1, keep_dims=True)
            weight = tl.sum(tl.where(j == k, weights, 0.0), 2, keep_dims=True)
            reflected = x - v * (weight * tl.sum(v * x, 1, keep_dims=True))
            unit = tl.where(i == k, 1.0, 0.0) - v * (weight * head)
            x = tl.where(j > k, reflected, tl.where(j == k, unit, x))
        tl.store(squares + start + place, x * x, mask=inside)
        tl.store(orthogonal + start + place, x, mask=inside)
