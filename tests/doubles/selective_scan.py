r"""A recurrent mixer as a method: a state goes in and comes out, and further tensors stand beside the sequence.

Mamba's selective scan (Gu and Dao, arXiv 2312.00752) as arXiv 2507.12442 characterises it, without its gate:
:math:`x_t = e^{\Delta_t A} \odot x_{t-1} + \Delta_t u_t B_t^\top`, :math:`y_t = x_t C_t + D \odot u_t`. A trial of the
vocabulary: state, weights among the inputs, elementwise work that counts as FLOPs.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from workbench.controls import Range
from workbench.paper import Cost, Count, Example, Method, Mixer, standard_normal

CHUNK = 16

Sequence = Float[Tensor, "batch tokens channels"]
Shared = Float[Tensor, "batch tokens states"]
State = Float[Tensor, "batch channels states"]


def reference(
    u: Sequence,
    delta: Sequence,
    decay: Float[Tensor, "channels states"],
    into: Shared,
    out_of: Shared,
    skip: Float[Tensor, " channels"],
    *,
    state: State | None = None,
) -> tuple[Sequence, State]:
    """Token by token. ``decay`` is negative; ``state`` is where the piece before ended, None at the start."""
    _check(u, delta, decay, into, out_of, skip)
    step = softplus(delta)
    state = u.new_zeros(len(u), *decay.shape) if state is None else state
    outputs = [u[:, :0]]
    for t in range(u.shape[1]):
        state = torch.exp(step[:, t, :, None] * decay) * state + (step * u)[:, t, :, None] * into[:, t, None, :]
        outputs.append((state @ out_of[:, t, :, None]).mT + (skip * u[:, t])[:, None])
    return torch.cat(outputs, 1), state + 0


def fast(
    u: Sequence,
    delta: Sequence,
    decay: Float[Tensor, "channels states"],
    into: Shared,
    out_of: Shared,
    skip: Float[Tensor, " channels"],
    *,
    state: State | None = None,
) -> tuple[Sequence, State]:
    """Sixteen tokens at a time: inside of a chunk the recurrence is a sum, weighted with products of decays."""
    _check(u, delta, decay, into, out_of, skip)
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    u_, delta_, decay_, into_, out_, skip_ = (each.to(wide) for each in (u, delta, decay, into, out_of, skip))
    carried = u_.new_zeros(len(u), *decay.shape) if state is None else state.to(wide)
    step = softplus(delta_)
    outputs = [u_[:, :0]]
    for start in range(0, u.shape[1], CHUNK):
        here = slice(start, start + CHUNK)
        falls = step[:, here, :, None] * decay_
        entered = (step * u_)[:, here, :, None] * into_[:, here, None, :]
        # How far a state has fallen from token s to token t: a sum of its own for each pair, since differences of sums
        # from the start would lose what is small beside them.
        length = falls.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=u.device).tril(-1)[:, :, None, None]
        fallen = falls[:, :, None].masked_fill(~later, 0.0).cumsum(1)
        weights = fallen.masked_fill(later.transpose(0, 1), -torch.inf).exp()
        states = (weights * entered[:, None]).sum(2) + falls.cumsum(1).exp() * carried[:, None]
        outputs.append((states * out_[:, here, None, :]).sum(-1) + skip_ * u_[:, here])
        carried = states[:, -1]
    return torch.cat(outputs, 1).to(u.dtype), (carried + 0).to(u.dtype)


def _check(u: Tensor, delta: Tensor, decay: Tensor, into: Tensor, out_of: Tensor, skip: Tensor) -> None:
    if u.ndim != 3 or delta.shape != u.shape or decay.ndim != 2 or len(decay) != u.shape[2]:
        raise ValueError(
            "The scan takes u and delta (batch, tokens, channels) and decay (channels, states), not "
            f"{tuple(u.shape)}, {tuple(delta.shape)} and {tuple(decay.shape)}."
        )
    if into.shape != (*u.shape[:2], decay.shape[1]) or out_of.shape != into.shape or skip.shape != u.shape[2:]:
        raise ValueError(
            "The scan takes into and out_of (batch, tokens, states) and skip (channels,), not "
            f"{tuple(into.shape)}, {tuple(out_of.shape)} and {tuple(skip.shape)}."
        )
    tensors = (u, delta, decay, into, out_of, skip)
    if not u.is_floating_point() or len({each.dtype for each in tensors}) > 1:
        raise ValueError(f"The scan takes one floating type, not {', '.join(str(each.dtype)[6:] for each in tensors)}.")


def example(
    tokens: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Annotated[int, Range(1, 64), "Sequences."] = 1,
    channels: Annotated[int, Range(1, 4096), "Channels, each with a state of its own."] = 32,
    states: Annotated[int, Range(1, 64), "Numbers in a channel's state."] = 4,
) -> Example:
    """Standard-normal sequences; channels that forget at rates 1, 2, 3 ..., as Mamba begins."""

    def normal(number: int, *shape: int) -> Tensor:
        return standard_normal(shape, device=device, dtype=dtype, seed=8 * seed + number)

    rates = -torch.arange(1, states + 1, device=device).to(getattr(torch, dtype)).expand(channels, -1).contiguous()
    return Example(
        {
            "u": normal(0, batch, tokens, channels),
            "delta": normal(1, batch, tokens, channels),
            "decay": rates,
            "into": normal(2, batch, tokens, states),
            "out_of": normal(3, batch, tokens, states),
            "skip": normal(4, channels),
        }
    )


def cost(u: Tensor, delta: Tensor, decay: Tensor, *others: Tensor, **options: object) -> Cost:
    """8 operations a number of the state and a token forward, twice that and the states again backward; of them the
    reading out is a matrix product."""
    updates = u.numel() * decay.shape[1]
    state = len(u) * decay.numel() * u.element_size()
    moved = sum(each.nbytes for each in (u, delta, decay, *others)) + u.nbytes + state
    return Cost(8 * updates, moved, 24 * updates, 2 * moved, 2 * updates, {"kept": Count(state, "bytes")})


def workspace(implementation: str, u: Tensor, delta: Tensor, decay: Tensor, *others: Tensor, **options: object) -> int:
    """The outputs once more; in chunks also all pairs of their tokens."""
    wide = max(u.element_size(), 4)
    numbers = 3 * u.numel()
    if implementation == "fast":
        numbers += len(u) * 3 * CHUNK**2 * decay.numel() + 6 * u.numel()
    return numbers * wide


METHOD = Method(
    name="selective_scan",
    title="Selective scan",
    idea="A state that forgets at a rate chosen by the token.",
    slot=Mixer(),
    reference=reference,
    fast=fast,
    example=example,
    cost=cost,
    workspace=workspace,
    tolerance={"float64": 1e-11, "float32": 1e-4},
)
