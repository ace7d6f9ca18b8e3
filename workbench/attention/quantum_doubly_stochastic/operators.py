"""The operators that turn a matrix of scores into a map: softmax variants, Sinkhorn and QR.

Each takes scores (..., T, T) of any floating-point dtype on any device and returns (..., T, T) of the same dtype; all
are written as the paper has them and differentiable by autograd.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.doubly_stochastic import Scores, check_square
from workbench_kernels.operation import Operation

Marginal = Float[Tensor, "*batch tokens"]
Errors = Float[Tensor, "*batch"]


# --- Sinkhorn (Sec. 2.3.1) -------------------------------------------------------------------------------------------


def potentials(scores: Scores, iterations: int) -> tuple[Marginal, Marginal]:
    """u and v (..., T) after ``iterations`` half-steps in the log domain, rows first; P = exp(scores + u 1^T + 1 v^T).

    A row step makes the rows of P sum to 1: u = -LSE_j(scores + v). A column step does the same for columns.
    O(iterations T^2) time, O(T^2) memory. Raises ``ValueError`` for scores that are not square.
    """
    check_square(scores)
    u = v = scores.new_zeros(scores.shape[:-1])
    for half_step in range(iterations):
        if half_step % 2 == 0:
            u = -torch.logsumexp(scores + v[..., None, :], -1)
        else:
            v = -torch.logsumexp(scores + u[..., :, None], -2)
    return u, v


def sinkhorn(scores: Scores, iterations: int = 5) -> Scores:
    """Sinkhorn's map after ``iterations`` half-steps, rows first. One half-step is softmax.

    An odd count ends with a row step: rows sum to 1 exactly, columns nearly. An even one ends with a column step. The
    last step is written as the softmax that it is, exp(scores + u 1^T + 1 v^T) with the sums divided out: however large
    the scores, it sums to 1. Raises ``ValueError`` for scores that are not square, or no half-steps.
    """
    if iterations < 1:
        raise ValueError(f"There must be at least 1 half-step, not {iterations}.")
    u, v = potentials(scores, iterations - 1)
    if iterations % 2 == 1:
        return torch.softmax(scores + v[..., None, :], -1)
    return torch.softmax(scores + u[..., :, None], -2)


@dataclass(frozen=True)
class Convergence:
    """What ``sinkhorn_to_tolerance`` reached.

    probabilities  (..., T, T); rows sum to 1
    half_steps     how many were made, the same for all matrices
    error          (...,) for each matrix the largest deviation of a column sum from 1
    history        the largest error of all matrices after half-steps 1, 3, 5, ...
    tolerance      what was asked for
    """

    probabilities: Tensor
    half_steps: int
    error: Tensor
    history: tuple[float, ...]
    tolerance: float

    @property
    def converged(self) -> bool:
        """Whether every matrix came within the tolerance."""
        return bool((self.error <= self.tolerance).all())

    def __str__(self) -> str:
        reached = "reached" if self.converged else "did not reach"
        return (
            f"Sinkhorn {reached} {self.tolerance:.1e} in {self.half_steps} half-steps: "
            f"the largest deviation of a column sum from 1 is {self.history[-1]:.1e}."
        )


def sinkhorn_to_tolerance(scores: Scores, *, tolerance: float = 1e-6, iterations: int = 1001) -> Convergence:
    """Row and column steps until every column sum is within ``tolerance`` of 1, or ``iterations`` half-steps are made.

    Ends with a row step, so the rows sum to 1. The gradient is that of the limit (``implicit_gradient``): it costs one
    linear system of T unknowns and no stored half-steps, and is as exact as the probabilities are converged.
    Raises ``ValueError`` for a tolerance that is not positive, for no half-steps, or for scores that are not square.
    """
    check_square(scores)
    if not tolerance > 0 or iterations < 1:
        raise ValueError(f"A positive tolerance and at least 1 half-step are needed, not {tolerance} and {iterations}.")
    fixed = scores.detach()
    v = fixed.new_zeros(fixed.shape[:-1])
    history: list[float] = []
    for half_steps in range(1, iterations + 1, 2):
        u = -torch.logsumexp(fixed + v[..., None, :], -1)
        shift = torch.logsumexp(fixed + u[..., :, None], -2)  # the column step, and with v: how far off the columns are
        error = torch.expm1(shift + v).abs().amax(-1)
        history.append(error.max().item())
        if not history[-1] > tolerance or half_steps + 2 > iterations:  # a NaN does not get better either
            break
        v = -shift
    probabilities = _Limit.apply(scores, torch.exp(fixed + u[..., :, None] + v[..., None, :]))
    return Convergence(probabilities, half_steps, error, tuple(history), tolerance)


def implicit_gradient(probabilities: Scores, grad: Scores) -> Scores:
    """The gradient of the scores from that of a converged P, without going back through the half-steps.

    With G = grad * P: G - P * (a 1^T + 1 b^T), where (I - P P^T) a = G 1 - P G^T 1 and b = G^T 1 - P^T a. The system
    has the null direction 1, which changes nothing; 1 1^T / T fixes it. O(T^3).
    """
    weighted = grad * probabilities
    tokens = probabilities.shape[-1]
    rows, columns = weighted.sum(-1, keepdim=True), weighted.sum(-2).unsqueeze(-1)
    identity = torch.eye(tokens, dtype=probabilities.dtype, device=probabilities.device)
    system = identity - probabilities @ probabilities.mT + 1 / tokens
    a = torch.linalg.solve(system, rows - probabilities @ columns)
    b = columns - probabilities.mT @ a
    return weighted - probabilities * (a + b.mT)


class _Limit(torch.autograd.Function):
    """Passes P on; its gradient in the scores is that of Sinkhorn's limit."""

    @staticmethod
    def forward(ctx, scores: Tensor, probabilities: Tensor) -> Tensor:
        ctx.save_for_backward(probabilities)
        return probabilities

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (probabilities,) = ctx.saved_tensors
        return implicit_gradient(probabilities, grad), None


# --- QR (Sec. 2.3.4) -------------------------------------------------------------------------------------------------


def gaussian_noise(shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    """Standard-normal float64 numbers that depend on shape and seed only: the same on every device and in every graph.

    A counter is hashed to two uniform numbers, and these go through Box and Muller's formula.
    """
    counter = torch.arange(2 * math.prod(shape), device=device) + (seed + 1) * 0x51_7CC1_B727
    for multiplier, shift in ((-0x40A7_B892_E31B_1A47, 30), (-0x6B2F_B644_ECCE_EE15, 27), (0x1CE4_E5B9_BF58_476D, 31)):
        counter = (counter ^ ((counter >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    uniform = ((counter >> 11) & ((1 << 53) - 1)).double() / 2**53
    radius, angle = uniform.reshape(2, *shape)
    return torch.sqrt(-2 * torch.log1p(-radius)) * torch.cos(2 * math.pi * angle)


def _noise_like(matrices: Tensor, seed: int) -> Tensor:
    return gaussian_noise(matrices.shape, seed, matrices.device)


# An operation, since a compiler takes a counter for a 32-bit number, and the constants of the hash are longer.
_noise = Operation(
    "gaussian_noise",
    forward=_noise_like,
    fake=lambda matrices, seed: matrices.new_empty(matrices.shape, dtype=torch.float64),
)


def jittered(scores: Scores, jitter: float, seed: int) -> Scores:
    """Scores (..., heads, T, T) in at least float32 with noise of that scale on them; each head gets its own.

    All of a batch get the same, so that no result depends on what else is in the batch.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if not jitter:
        return scores
    return scores + (jitter * _noise(scores.new_empty(scores.shape[-3:]), seed)).to(scores.dtype)


def qr(scores: Scores, *, jitter: float = 1e-7, seed: int = 0) -> Scores:
    """P = U * U from the QR decomposition scores = U R: doubly stochastic, since U is orthogonal.

    ``jitter`` is the scale of the Gaussian noise that is added first; scores of rank below T have no unique U without
    (Q K^T with a head narrower than T always). Computed in float32 at least. Blind to the sign of the scores, and its
    columns depend on their order: the first is scores[:, 0]^2 / |scores[:, 0]|^2. O(T^3).
    Raises ``ValueError`` for scores that are not square.
    """
    check_square(scores)
    orthogonal, _ = torch.linalg.qr(jittered(scores, jitter, seed))
    return (orthogonal * orthogonal).to(scores.dtype)


# --- softmax with a measured temperature (Sec. 5.1) ------------------------------------------------------------------


def norm_softmax(
    scores: Float[Tensor, "*batch queries keys"],
    *,
    ceiling: float | Tensor,
    spread: Literal["deviation", "variance"] = "deviation",
    resolution: float | Tensor = 0.0,
) -> Float[Tensor, "*batch queries keys"]:
    """Softmax of unscaled scores over min(ceiling, their spread): NormSoftmax, row-stochastic only.

    The spread is the standard deviation, or the variance, of all scores of a matrix (without Bessel's correction; the
    paper does not say over what). Scores that are all the same have none and are divided by ``ceiling``, which may be a
    tensor that broadcasts to (..., 1, 1); those count as the same that differ by rounding only, four units of the
    largest score and ``resolution`` on top.
    """
    centred = scores - scores.mean((-2, -1), keepdim=True)
    variance = centred.square().mean((-2, -1), keepdim=True)
    stored = 4 * torch.finfo(scores.dtype).eps * scores.detach().abs().amax((-2, -1), keepdim=True)
    return torch.softmax(scores / temperature(variance, ceiling, spread, stored + resolution), -1)


def temperature(
    variance: Tensor,
    ceiling: float | Tensor,
    spread: Literal["deviation", "variance"],
    resolution: float | Tensor,
) -> Tensor:
    """min(ceiling, spread), where a deviation up to ``resolution`` counts as no spread at all."""
    if isinstance(ceiling, Tensor):
        ceiling = ceiling.to(variance)
    some = variance > resolution**2
    variance = torch.where(some, variance, 1.0)
    found = variance.sqrt() if spread == "deviation" else variance
    return torch.where(some, found.clamp(max=ceiling), ceiling)
