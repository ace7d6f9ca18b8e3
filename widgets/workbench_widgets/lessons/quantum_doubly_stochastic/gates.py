"""What is inside a block of the QontOT circuit: its elementary gates, drawn and multiplied from one list."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workbench.attention.quantum_doubly_stochastic import circuit
from workbench.plots import BLUE, svg

WIRE, STEP = 56, 92
CX = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], dtype=torch.complex128)
PAULI = {
    "x": torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128),
    "y": torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex128),
    "z": torch.tensor([[1, 0], [0, -1]], dtype=torch.complex128),
}


@dataclass(frozen=True)
class Elementary:
    """A rotation about ``kind`` by the block's angle number ``angle`` on one wire (0 is the upper one), or "cx"."""

    kind: Literal["x", "y", "z", "cx"]
    wire: int = 0
    angle: int = -1


BLOCK = (
    Elementary("cx"),
    Elementary("y", 0, 0),
    Elementary("z", 0, 1),
    Elementary("y", 1, 2),
    Elementary("x", 1, 3),
    Elementary("cx"),
)
"""A block, first gate first."""


def multiplied(angles: Tensor) -> Tensor:
    """The matrix (4, 4) of a block with ``angles`` (4,), one elementary gate after the other: what ``circuit.block``
    must be."""
    found = torch.eye(4, dtype=torch.complex128)
    for gate in BLOCK:
        found = _matrix(gate, angles) @ found
    return found


def pauli_strings(angles: Tensor) -> Tensor:
    """The same matrix as four rotations of Pauli strings, with no CX left."""
    x, y, z = PAULI.values()
    one = torch.eye(2, dtype=torch.complex128)
    strings = ((2, torch.kron(z, y)), (3, torch.kron(one, x)), (0, torch.kron(y, x)), (1, torch.kron(z, one)))
    found = torch.eye(4, dtype=torch.complex128)
    for place, string in strings:  # the first one acts first
        half = angles[place] / 2
        found = (torch.cos(half) * torch.eye(4, dtype=string.dtype) - 1j * torch.sin(half) * string) @ found
    return found


def _matrix(gate: Elementary, angles: Tensor) -> Tensor:
    if gate.kind == "cx":
        return CX
    one, turned = torch.eye(2, dtype=torch.complex128), circuit.rotation(gate.kind, angles[gate.angle])
    return torch.kron(turned, one) if gate.wire == 0 else torch.kron(one, turned)


def block_picture() -> str:
    """A block as SVG: time runs from left to right."""
    places, drawn = [0, 0], []
    for gate in BLOCK:
        wires = (0, 1) if gate.kind == "cx" else (gate.wire,)
        place = max(places[wire] for wire in wires)
        x = 110 + STEP * place
        drawn += _cx(x) if gate.kind == "cx" else _box(x, gate)
        for wire in wires:
            places[wire] = place + 1
    width = 110 + STEP * max(places)
    lines = [svg.line(76, _y(wire), width - 30, _y(wire)) for wire in (0, 1)]
    names = [svg.text(0, _y(wire) + 4, f"wire {'ab'[wire]}") for wire in (0, 1)]
    label = "CX; on wire a Ry(t1), Rz(t2); on wire b Ry(t3), Rx(t4); CX"
    return svg.picture(width, 2 * WIRE + 10, [*lines, *names, *drawn], label)


def _y(wire: int) -> float:
    return 28 + WIRE * wire


def _box(x: float, gate: Elementary) -> list[str]:
    words = f"R{gate.kind}(t{'₁₂₃₄'[gate.angle]})"
    shape = svg.box(x - 32, _y(gate.wire) - 18, 64, 36, "var(--jp-layout-color0, white)", 1, round=4)
    colored = svg.box(x - 32, _y(gate.wire) - 18, 64, 36, BLUE, 0.25, edge=1, round=4)
    return [shape, colored, svg.text(x, _y(gate.wire) + 5, words, "middle")]


def _cx(x: float) -> list[str]:
    """A dot on the wire that decides, a cross in a circle on the one that is flipped."""
    target = _y(1)
    ring = f'<circle cx="{x}" cy="{target}" r="11" fill="none" stroke="currentColor" stroke-width="1.6"/>'
    return [
        svg.line(x, _y(0), x, target + 11, opacity=1),
        svg.line(x - 11, target, x + 11, target, opacity=1),
        f'<circle cx="{x}" cy="{_y(0)}" r="5" fill="currentColor"/>',
        ring,
    ]
