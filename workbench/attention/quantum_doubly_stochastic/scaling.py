r"""Sinkhorn attention on a CPU: matrix-vector products, and exponentials only where a number could leave its range.

Scores are levelled first: with m the maxima of the rows of S and n those of the columns of :math:`S - m 1^\top`, the
largest number in every row and column of :math:`L = S - m 1^\top - 1 n^\top` is 0. What is large about scores is in
m and n then, which are scores themselves and so are known exactly; u and v on top of them begin between
:math:`-\log T` and :math:`2 \log T`.

A half-step changes no entry of u or v by more than :math:`\log T`: where columns sum to 1 after a row step, rows sum to
between :math:`1/T` and :math:`T`, and the other way round. So from :math:`P = \exp(L + u 1^\top + 1 v^\top)` on, a
half-step is a matrix-vector product: :math:`a = 1 / (P b)`, :math:`b = 1 / (P^\top a)`. But many of them add up: an
entry that is too small for a floating-point number may grow to 1. Before a or b is so large that it could, both become
part of u and v, and P is computed again from the scores.

The gradient. Let :math:`W^{(h)}` be the map right after half-step h; its rows (or columns) sum to 1. A row step
:math:`u = -\mathrm{LSE}_j(L + v)` passes a gradient :math:`\bar u` on as :math:`\bar S \mathrel{-}= \bar u 1^\top
\circ W` and :math:`\bar v \mathrel{-}= W^\top \bar u`; a column step likewise. Every W is the map P of a half-step near
by with scaled rows and columns, so all of it is matrix-vector products with P and

.. math:: \bar S = P^{(k)} \circ \bar O V^\top - \sum_P P \circ X Y^\top

with one column of X and Y for every half-step. One P, the last, serves all half-steps whose scaling stays in range.
Only u and v are kept from the forward pass: 4 bytes a token and half-step. Heads are worked on a few at a time, so that
memory is that of a few score matrices, not of all.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from workbench_kernels.operation import Operation

NUMBERS_AT_A_TIME = 1 << 20  # scores of the heads that are worked on together
# How far, as logarithms, rows and columns together may be scaled up from a map that was computed. What it lost in
# float32, below e^-87, then stays below e^-67.
REACH = {torch.float32: 20.0, torch.float64: 200.0}


def sinkhorn_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float, iterations: int) -> Tensor:
    """exp(S + u 1^T + 1 v^T) V after ``iterations`` half-steps with S = scale Q K^T; all three (batch, heads, T, d).

    Computed in float64 for float64 inputs and in float32 otherwise. O(T^2 (d + iterations)) time a head.
    """
    return _scaling(query, key, value, scale, iterations)[0]


def bytes_at_a_time(batch: int, heads: int, tokens: int, size: int) -> int:
    """What a group of heads takes at the peak of the forward pass: three matrices of scores."""
    return 3 * size * tokens**2 * min(batch * heads, _group(tokens))


def _forward(
    query: Tensor, key: Tensor, value: Tensor, scale: float, iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    output, rows, columns, levels = _empty(query, iterations)
    step, reach_of_map = math.log(query.shape[-2]), REACH[rows.dtype]
    flat_output = output.flatten(0, 1)
    for part, (q, k, v) in _groups(query, key, value):
        level = levels[:, part]
        scores = _scores(q, k, scale)
        level[0] = scores.amax(-1)
        map = scores.sub_(level[0][..., None])
        total = map.exp().sum(-1)
        u = rows[0, part] = -total.log()
        if iterations == 1:
            level[1] = 0
            flat_output[part] = map.exp_() @ v / total[..., None]
            continue
        level[1] = map.amax(-2)
        map = map.sub_(level[1][..., None, :]).add_(u[..., None]).exp_()
        total = map.sum(-2)
        w = columns[0, part] = -total.log()
        map = map.div_(total[..., None, :])
        a, b = torch.ones_like(u), torch.ones_like(u)
        reach = 0.0  # an upper bound of log(a) + log(b)
        for half_step in range(2, iterations):
            if reach + step > reach_of_map:
                reach = (a.amax().log() + b.amax().log()).item()
                if reach + step > reach_of_map:
                    u, w = rows[(half_step - 1) // 2, part], columns[half_step // 2 - 1, part]
                    map, a, b, reach = _map(q, k, scale, level, u, w), torch.ones_like(a), torch.ones_like(b), 0.0
            if half_step % 2 == 0:
                a = 1 / _product(map, b)
                rows[half_step // 2, part] = u + a.log()
            else:
                b = 1 / _product(map.mT, a)
                columns[half_step // 2, part] = w + b.log()
            reach += step
        flat_output[part] = a[..., None] * (map @ (b[..., None] * v))
    shape = query.shape[:2]
    return output, *(kept.unflatten(1, shape) for kept in (rows, columns, levels))


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor,
    columns: Tensor,
    levels: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = [torch.empty_like(query, memory_format=torch.contiguous_format) for _ in range(3)]
    flat = [gradient.flatten(0, 1) for gradient in gradients]
    rows, columns, levels = (kept.flatten(1, 2) for kept in (rows, columns, levels))
    for part, (q, k, v, g) in _groups(query, key, value, grad):
        # Before the first column step nothing was added to columns, which is n on top of -n.
        u, w, level = rows[:, part], torch.cat([levels[1:, part], columns[:, part]]), levels[:, part]
        last = len(u) + len(w) - 2
        map = _map(q, k, scale, level, u[-1], w[-1])
        grad_value = map.mT @ g
        grad_scores = (g @ v.mT).mul_(map)
        grad_u, grad_w = grad_scores.sum(-1), grad_scores.sum(-2)
        while True:
            first = _first_in_reach(u, w, last)
            x, y, grad_u, grad_w = _undo(map, u, w, grad_u, grad_w, first, last)
            grad_scores -= map.mul_(x @ y.mT)
            if first == 0:
                break
            last = first - 1
            map = _map(q, k, scale, level, u[last // 2], w[(last + 1) // 2])
        grad_scores *= scale
        for target, gradient in zip(flat, (grad_scores @ k, grad_scores.mT @ q, grad_value), strict=True):
            target[part] = gradient
    return tuple(gradients)


def _first_in_reach(u: Tensor, w: Tensor, last: int) -> int:
    """The first half-step of those whose maps are that of half-step ``last`` with rows and columns scaled in reach.

    u and w: (row steps, heads, T) and (column steps + 1, heads, T), w with what stood before the first column step.
    """
    reach = REACH[u.dtype]
    if last * math.log(u.shape[-1]) <= reach:
        return 0
    of_rows = (u - u[last // 2]).amax((1, 2)).tolist()
    of_columns = (w - w[(last + 1) // 2]).amax((1, 2)).tolist()
    first = last
    while first > 0 and of_rows[(first - 1) // 2] + of_columns[first // 2] <= reach:
        first -= 1
    return first


def _undo(
    map: Tensor, u: Tensor, w: Tensor, grad_u: Tensor, grad_w: Tensor, first: int, last: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X and Y (heads, T, half-steps) of the half-steps from ``last`` back to ``first``, and what these pass on.

    ``map`` is that of half-step ``last``. The half-steps are undone one after the other; a step's own gradient and map
    become a column of X and of Y.
    """
    row_factors = torch.exp(u - u[last // 2])
    column_factors = torch.exp(w - w[(last + 1) // 2])
    x, y = [], []
    for half_step in reversed(range(first, last + 1)):
        row_factor, column_factor = row_factors[half_step // 2], column_factors[(half_step + 1) // 2]
        if half_step % 2 == 0:
            x.append(row_factor * grad_u)
            y.append(column_factor)
            grad_w = grad_w - column_factor * _product(map.mT, x[-1])
            grad_u = torch.zeros_like(grad_u)
        else:
            x.append(row_factor)
            y.append(column_factor * grad_w)
            grad_u = grad_u - row_factor * _product(map, y[-1])
            grad_w = torch.zeros_like(grad_w)
    return torch.stack(x, -1), torch.stack(y, -1), grad_u, grad_w


def _fake(query: Tensor, key: Tensor, value: Tensor, scale: float, iterations: int) -> tuple[Tensor, ...]:
    output, *kept = _empty(query, iterations)
    return output, *(each.unflatten(1, query.shape[:2]) for each in kept)


_scaling = Operation(
    "sinkhorn_scaling",
    forward=_forward,
    backward=_backward,
    outputs=("output", "rows", "columns", "levels"),
    fake=_fake,
)


# --- shared by both directions ---------------------------------------------------------------------------------------


def _scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """S = scale Q K^T, the same bits whenever it is computed for these heads."""
    return torch.baddbmm(query.new_zeros(()), query, key.mT, beta=0, alpha=scale)


def _map(query: Tensor, key: Tensor, scale: float, level: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """exp(L + u 1^T + 1 w^T) with the scores levelled by m and n of ``level`` (2, heads, T)."""
    scores = _scores(query, key, scale).sub_(level[0][..., None]).sub_(level[1][..., None, :])
    return scores.add_(u[..., None]).add_(w[..., None, :]).exp_()


def _product(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Matrix times vector (heads, T), with the vector as a row: five times as fast on a CPU as with a column."""
    return (vectors[:, None] @ matrices.mT)[:, 0]


def _group(tokens: int) -> int:
    return max(1, NUMBERS_AT_A_TIME // tokens**2)


def _groups(*tensors: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
    """A few heads of each tensor at a time, as (heads, T, d) in the precision that is computed in."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    flat = [tensor.flatten(0, 1) for tensor in tensors]
    size = _group(tensors[0].shape[-2])
    for start in range(0, len(flat[0]), size):
        part = slice(start, start + size)
        yield part, [tensor[part].to(dtype) for tensor in flat]


def _empty(query: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for the output, for u and v after each of their half-steps, and for m and n (2, heads, T)."""
    batch, heads, tokens, _ = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    steps = ((iterations + 1) // 2, iterations // 2, 2)
    return output, *(query.new_empty((count, batch * heads, tokens), dtype=dtype) for count in steps)
