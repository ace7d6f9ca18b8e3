"""The circuit of ``circuit.py`` in plain PyTorch: gates gathered into windows of four wires, one matrix product each.

A matrix product wants more to do than a gate of two wires gives it. So gates that follow each other within four
neighbouring wires are multiplied up first, as (16, 16) matrices, and the big state is passed over once for four of
them or so: as many operations, a quarter of the passes. Backward the state is walked back, as in ``circuit.py``; what
the gates of a window need is R = sum of state x conj(gradient) over everything outside of it, (16, 16) numbers.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW = 4  # wires
PIECE = 1 << 18  # amplitudes that are worked on at a time


@dataclass(frozen=True)
class Step:
    """One gate: the ``index``-th turn (of one wire) or block (of two), on the wires from ``wire`` on."""

    wire: int
    wires: int
    index: int


def steps(qubits: int, layers: int, parted: bool) -> Iterator[Step]:
    """The gates in the order in which a column of the identity meets them."""
    pairs = [*range(0, qubits - 1, 2), *range(1, qubits - 1, 2)]
    if parted:
        for index in reversed(range(layers * len(pairs), 2 * layers * len(pairs))):
            yield Step(pairs[index % len(pairs)], 2, index)
    for wire in range(qubits):
        yield Step(wire, 1, wire)
    for index in range(layers * len(pairs)):
        yield Step(pairs[index % len(pairs)], 2, index)


@functools.lru_cache(maxsize=64)
def windows(qubits: int, layers: int, parted: bool) -> tuple[tuple[int, tuple[Step, ...]], ...]:
    """The circuit as (first wire of a window, its gates in order), in an order in which they can be carried out."""
    waiting, plan, width = list(steps(qubits, layers, parted)), [], min(WINDOW, qubits)
    while waiting:
        choices = [_within(waiting, first, width) for first in range(qubits - width + 1)]
        first = max(range(len(choices)), key=lambda place: len(choices[place]))
        plan.append((first, tuple(waiting[place] for place in choices[first])))
        taken = set(choices[first])
        waiting = [step for place, step in enumerate(waiting) if place not in taken]
    return tuple(plan)


def _within(waiting: list[Step], first: int, width: int) -> list[int]:
    """Places of the gates that a window can take now: inside of it, and behind no gate that stays outside."""
    window, blocked, taken = set(range(first, first + width)), set(), []
    for place, step in enumerate(waiting):
        wires = set(range(step.wire, step.wire + step.wires))
        if wires <= window - blocked:
            taken.append(place)
        else:
            blocked |= wires
            if window <= blocked:
                break
    return taken


# --- forward and backward --------------------------------------------------------------------------------------------


def forward_torch(angles: Tensor, data: int, qubits: int, layers: int, parted: bool) -> Tensor:
    """P (matrices, 2^data, 2^data) of angles (matrices, angles), float32 or float64, on any device."""
    probabilities = angles.new_empty(len(angles), 2**data, 2**data)
    for piece in _pieces(len(angles), qubits):
        turns, blocks = _gates(angles[piece], qubits, parted)
        state = _run(turns, blocks, qubits, layers, parted)
        outcomes = (state.real.square() + state.imag.square()).unflatten(2, (2**data, -1)).unflatten(1, (2**data, -1))
        probabilities[piece] = outcomes.sum((2, 4)) / outcomes.shape[2]
    return probabilities


def backward_torch(grad: Tensor, angles: Tensor, data: int, qubits: int, layers: int, parted: bool) -> Tensor:
    """The gradient of the angles from that of P; beside them it holds W and its gradient, nothing of the way there."""
    result, others = torch.empty_like(angles), 2 ** (qubits - data)
    for piece in _pieces(len(angles), qubits):
        turns, blocks = _gates(angles[piece], qubits, parted)
        state = _run(turns, blocks, qubits, layers, parted)
        spread = (grad[piece] * (2 / others)).repeat_interleave(others, 1).repeat_interleave(others, 2)
        above = spread * state
        of_turns, of_blocks = torch.empty_like(turns), torch.empty_like(blocks)
        for first, inner in reversed(windows(qubits, layers, parted)):
            product = _product(first, inner, turns, blocks, qubits)
            state, above = (_as_window(each, first, qubits) for each in (state, above))
            inside = (state @ above.mH).sum(1)
            for step in reversed(inner):
                gates, densities = (turns, of_turns) if step.wires == 1 else (blocks, of_blocks)
                gate, left = gates[:, step.index], 2 ** (step.wire - first)
                densities[:, step.index] = _within_gate(inside, left, gate.shape[1])
                inside = _apply(gate.mH, _apply(gate.mH, inside, left).mH, left).mH
            inverse = product.mH[:, None]
            state, above = inverse @ state, inverse @ above
        result[piece] = _gradients(angles[piece], of_turns, of_blocks, qubits, parted)
    return result


def _pieces(matrices: int, qubits: int) -> Iterator[slice]:
    height = max(1, PIECE >> (2 * qubits))
    return (slice(start, start + height) for start in range(0, matrices, height))


def _run(turns: Tensor, blocks: Tensor, qubits: int, layers: int, parted: bool) -> Tensor:
    """W (matrices, N, N)."""
    shape = (len(turns), 2**qubits, 2**qubits)
    state = torch.eye(shape[1], dtype=turns.dtype, device=turns.device).expand(shape)
    for first, inner in windows(qubits, layers, parted):
        state = _product(first, inner, turns, blocks, qubits)[:, None] @ _as_window(state, first, qubits)
    return state.reshape(shape)


def _as_window(state: Tensor, first: int, qubits: int) -> Tensor:
    return state.reshape(len(state), 2**first, 2 ** min(WINDOW, qubits), -1)


def _product(first: int, inner: tuple[Step, ...], turns: Tensor, blocks: Tensor, qubits: int) -> Tensor:
    """The gates of a window multiplied up (matrices, 16, 16)."""
    size = 2 ** min(WINDOW, qubits)
    product = torch.eye(size, dtype=turns.dtype, device=turns.device).expand(len(turns), size, size)
    for step in inner:
        gate = (turns if step.wires == 1 else blocks)[:, step.index]
        product = _apply(gate, product, 2 ** (step.wire - first))
    return product


def _apply(gate: Tensor, matrix: Tensor, left: int) -> Tensor:
    """The gate on the rows of ``matrix``, ``left`` outcomes of wires before it."""
    return (gate[:, None] @ matrix.reshape(len(matrix), left, gate.shape[1], -1)).reshape(matrix.shape)


def _within_gate(inside: Tensor, left: int, size: int) -> Tensor:
    """The trace of ``inside`` over the wires of the window that the gate does not touch."""
    shape = (len(inside), *(left, size, inside.shape[1] // (left * size)) * 2)
    return torch.einsum("bixjiyj->bxy", inside.reshape(shape))


# --- gates and their gradients ---------------------------------------------------------------------------------------


def _gates(angles: Tensor, qubits: int, parted: bool) -> tuple[Tensor, Tensor]:
    """All turns (matrices, q, 2, 2) and blocks (matrices, blocks, 4, 4), those of the second register transposed."""
    of_turns, of_blocks = _angles(angles, qubits)
    first, second, third = (_rotation(axis, of_turns[..., k]) for k, axis in enumerate("zyz"))
    control = _rotation("z", of_blocks[..., 1]) @ _rotation("y", of_blocks[..., 0])
    target = _rotation("x", of_blocks[..., 3]) @ _rotation("y", of_blocks[..., 2])
    blocks = torch.einsum("bgij,bgkl->bgikjl", control, target).flatten(4).flatten(2, 3)
    exchanged = [0, 1, 3, 2]  # what CX does before and after
    blocks = blocks[:, :, exchanged][..., exchanged]
    if parted:
        half = blocks.shape[1] // 2
        blocks = torch.cat([blocks[:, :half], blocks[:, half:].mT], dim=1)
    return third @ second @ first, blocks


def _angles(angles: Tensor, qubits: int) -> tuple[Tensor, Tensor]:
    """Those of the turns (matrices, q, 3) and of the blocks (matrices, blocks, 4)."""
    blocks = (angles.shape[1] - 3 * qubits) // 4
    return (
        angles[:, : 3 * qubits].reshape(len(angles), qubits, 3),
        angles[:, 3 * qubits :].reshape(len(angles), blocks, 4),
    )


def _rotation(axis: str, angle: Tensor) -> Tensor:
    c, s = torch.cos(angle / 2), torch.sin(angle / 2)
    zero = torch.zeros_like(c)
    entries = {
        "x": (c, zero, zero, -s, zero, -s, c, zero),
        "y": (c, zero, -s, zero, s, zero, c, zero),
        "z": (c, -s, zero, zero, zero, zero, c, s),
    }[axis]
    return torch.view_as_complex(torch.stack(entries, -1).unflatten(-1, (2, 2, 2)))


def _gradients(angles: Tensor, of_turns: Tensor, of_blocks: Tensor, qubits: int, parted: bool) -> Tensor:
    """From R behind every gate: Im trace(Q R) / 2, Q the Pauli matrix of the angle carried through what follows it."""
    turn, block = _angles(angles, qubits)
    x, y, z = (_expected(of_turns, pauli) for pauli in "XYZ")
    turned = torch.cos(turn[..., 2]) * x + torch.sin(turn[..., 2]) * y
    first = torch.cos(turn[..., 1]) * z + torch.sin(turn[..., 1]) * turned
    second = torch.cos(turn[..., 2]) * y - torch.sin(turn[..., 2]) * x
    turns = torch.stack([first, second, z], -1)

    zi, ix, yx, xx, zy, zz = (_expected(of_blocks, pauli) for pauli in ("ZI", "IX", "YX", "XX", "ZY", "ZZ"))
    c1, c2, c3, c4 = torch.cos(block).unbind(-1)
    s1, s2, s3, s4 = torch.sin(block).unbind(-1)
    plain = torch.stack([c2 * yx - s2 * xx, zi, c4 * zy + s4 * zz, ix], -1)
    if parted:
        transposed = torch.stack([-yx, c1 * zi - s1 * xx, -zy, c3 * ix + s3 * zz], -1)
        half = plain.shape[1] // 2
        plain = torch.cat([plain[:, :half], transposed[:, half:]], 1)
    return torch.cat([turns.flatten(1), plain.flatten(1)], 1)


PAULI = {
    "I": ((1, 0), (0, 1)),
    "X": ((0, 1), (1, 0)),
    "Y": ((0, -1j), (1j, 0)),
    "Z": ((1, 0), (0, -1)),
}


def _expected(density: Tensor, paulis: str) -> Tensor:
    """Im trace(P R) / 2 for P the Pauli matrices of the wires, (matrices, gates)."""
    matrices = [torch.tensor(PAULI[name], dtype=density.dtype, device=density.device) for name in paulis]
    matrix = functools.reduce(torch.kron, matrices)
    return torch.einsum("xy,bgyx->bg", matrix, density).imag / 2
