r"""Sinkhorn attention on a CPU: exponentials are taken three times, whatever the number of half-steps.

The first row step and the first column step happen in the log domain, where nothing can overflow. The columns of what
they leave, :math:`P^{(1)}`, sum to 1, so its rows sum to between :math:`1/T` and :math:`T`, and from there on every
half-step is a matrix-vector product: :math:`a = 1 / (P^{(1)} b)`, :math:`b = 1 / (P^{(1)\top} a)`.

The gradient. Let :math:`W^{(h)} = \exp(S + u^{(h)} 1^\top + 1 v^{(h)\top})` be the map right after half-step h; its
rows (or columns) sum to 1. A row step :math:`u = -\mathrm{LSE}_j(S + v)` passes a gradient :math:`\bar u` on as
:math:`\bar S \mathrel{-}= \bar u 1^\top \circ W` and :math:`\bar v \mathrel{-}= W^\top \bar u`; a column step
likewise.
Every W is the final P with scaled rows and columns, so all of it is matrix-vector products with P and

.. math:: \bar S = P \circ (\bar O V^\top - X Y^\top)

with one column of X and Y for every half-step. Only u and v are kept from the forward pass: 4 bytes a token and
half-step. Heads are worked on a few at a time, so that memory is that of a few score matrices, not of all.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from workbench_kernels.operators import operator

NUMBERS_AT_A_TIME = 1 << 20  # scores of the heads that are worked on together


def sinkhorn_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float, iterations: int) -> Tensor:
    """exp(S + u 1^T + 1 v^T) V after ``iterations`` half-steps with S = scale Q K^T; all three (batch, heads, T, d).

    Computed in float64 for float64 inputs and in float32 otherwise. O(T^2 (d + iterations)) time a head.
    """
    return _forward_operator(query, key, value, scale, iterations)[0]


def bytes_at_a_time(batch: int, heads: int, tokens: int, size: int) -> int:
    """What a group of heads takes at the peak of the forward pass: three matrices of scores."""
    return 3 * size * tokens**2 * min(batch * heads, _group(tokens))


def _forward(query: Tensor, key: Tensor, value: Tensor, scale: float, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    output, rows, columns = _empty(query, iterations)
    flat_output = output.flatten(0, 1)
    for part, (q, k, v) in _groups(query, key, value):
        scores = torch.baddbmm(q.new_zeros(()), q, k.mT, beta=0, alpha=scale)
        u = -torch.logsumexp(scores, -1)
        rows[0, part] = u
        if iterations == 1:
            flat_output[part] = scores.add_(u[..., None]).exp_() @ v
            continue
        first = torch.logsumexp(scores.add_(u[..., None]), -2)
        columns[0, part] = -first
        map = scores.sub_(first[..., None, :]).exp_()
        a, b = torch.ones_like(u), torch.ones_like(u)
        for half_step in range(2, iterations):
            if half_step % 2 == 0:
                a = 1 / _product(map, b)
                rows[half_step // 2, part] = u + a.log()
            else:
                b = 1 / _product(map.mT, a)
                columns[half_step // 2, part] = b.log() - first
        flat_output[part] = a[..., None] * (map @ (b[..., None] * v))
    shape = query.shape[:-1]
    return output, rows.unflatten(1, shape[:2]), columns.unflatten(1, shape[:2])


_forward_operator = operator("sinkhorn_scaling", cuda=_forward, cpu=_forward)


@torch.library.register_fake("workbench::sinkhorn_scaling")
def _(query, key, value, scale, iterations):
    output, rows, columns = _empty(query, iterations)
    return output, rows.unflatten(1, query.shape[:2]), columns.unflatten(1, query.shape[:2])


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    rows: Tensor,
    columns: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = [torch.empty_like(query, memory_format=torch.contiguous_format) for _ in range(3)]
    flat = [gradient.flatten(0, 1) for gradient in gradients]
    rows, columns = rows.flatten(1, 2), columns.flatten(1, 2)
    for part, (q, k, v, g, o) in _groups(query, key, value, grad, output):
        u, w = rows[:, part], columns[:, part]
        last = w[-1] if len(w) else torch.zeros_like(u[-1])
        map = torch.baddbmm(q.new_zeros(()), q, k.mT, beta=0, alpha=scale)
        map = map.add_(u[-1][..., None]).add_(last[..., None, :]).exp_()
        grad_value = map.mT @ g
        x, y = _coefficients(map, u, w, (g * o).sum(-1), (v * grad_value).sum(-1))
        grad_scores = torch.baddbmm(g @ v.mT, x, y.mT, alpha=-1).mul_(map).mul_(scale)
        for target, gradient in zip(flat, (grad_scores @ k, grad_scores.mT @ q, grad_value), strict=True):
            target[part] = gradient
    return tuple(gradients)


def _coefficients(map: Tensor, u: Tensor, v: Tensor, row_dot: Tensor, column_dot: Tensor) -> tuple[Tensor, Tensor]:
    """X and Y (heads, T, half-steps) from the potentials after each half-step and the sums of P * dP by row and column.

    The half-steps are undone one after the other; the step's own gradient and map become a column of X and of Y.
    """
    last = v[-1:] if len(v) else torch.zeros_like(u[:1])
    # How the map of a half-step differs from the last one; what overflowed here would have been nothing there.
    row_factors = torch.exp((u - u[-1]).clamp(max=80.0))
    column_factors = torch.exp((torch.cat([torch.zeros_like(last), v]) - last).clamp(max=80.0))
    x, y = [], []
    grad_u, grad_v = row_dot, column_dot
    for half_step in reversed(range(len(u) + len(v))):
        row_factor, column_factor = row_factors[half_step // 2], column_factors[(half_step + 1) // 2]
        if half_step % 2 == 0:
            x.append(row_factor * grad_u)
            y.append(column_factor)
            grad_v = grad_v - column_factor * _product(map.mT, x[-1])
            grad_u = torch.zeros_like(grad_u)
        else:
            x.append(row_factor)
            y.append(column_factor * grad_v)
            grad_u = grad_u - row_factor * _product(map, y[-1])
            grad_v = torch.zeros_like(grad_v)
    return torch.stack(x, -1), torch.stack(y, -1)


_backward_operator = operator("sinkhorn_scaling_backward", cuda=_backward, cpu=_backward)


@torch.library.register_fake("workbench::sinkhorn_scaling_backward")
def _(grad, query, key, value, output, rows, columns, scale):
    return tuple(torch.empty_like(query, memory_format=torch.contiguous_format) for _ in range(3))


def _save(ctx, inputs, output):
    query, key, value, ctx.scale, _ = inputs
    ctx.save_for_backward(query, key, value, *output)
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx, grad, *_):
    return *_backward_operator(grad, *ctx.saved_tensors, ctx.scale), None, None


torch.library.register_autograd("workbench::sinkhorn_scaling", _differentiate, setup_context=_save)


# --- shared by both directions ---------------------------------------------------------------------------------------


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


def _empty(query: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, tokens, _ = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    rows = query.new_empty(((iterations + 1) // 2, batch * heads, tokens), dtype=dtype)
    columns = query.new_empty((iterations // 2, batch * heads, tokens), dtype=dtype)
    return output, rows, columns
