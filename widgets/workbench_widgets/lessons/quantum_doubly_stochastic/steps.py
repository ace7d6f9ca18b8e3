"""Two walks for the lesson on doubly stochastic attention: Sinkhorn half-step by half-step, a circuit gate by gate."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.attention import quantum_doubly_stochastic as paper
from workbench.attention.quantum_doubly_stochastic import circuit
from workbench.plots import BLUE, ORANGE, Cells, svg
from workbench.plots.cells import short
from workbench_widgets.stepper import Frame, Stepper, record, stepper

WIRE, STEP = 44, 58
MAP = "the map, with its row and column sums"


# --- Sinkhorn --------------------------------------------------------------------------------------------------------


def sinkhorn_steps(scores: Tensor, half_steps: int = 9) -> Stepper:
    """Watch row and column sums while Sinkhorn normalises exp(scores), scores (T, T)."""

    def show(seen: Mapping[str, Any]) -> dict[str, Any]:
        sums: Any = "half_step" not in seen or ("rows", "columns")[seen["half_step"] % 2]
        return {MAP: _cells(_map(seen), sums), "u, a logarithm": seen["u"], "v, a logarithm": seen["v"]}

    frames = record(paper.potentials, scores, half_steps, show=show, say=_half_step, at=("u = ", "v = "))
    source = (paper.potentials, "u = v = ", "return")
    return stepper(frames, source=source, what="half-step", keys=(0, 1, 2, half_steps))


def _cells(map: Tensor, sums: Any) -> Cells:
    return Cells(map, sums=sums, strongest=1)


def _map(seen: Mapping[str, Any]) -> Tensor:
    return torch.exp(seen["scores"] + seen["u"][:, None] + seen["v"][None, :])


def _half_step(seen: Mapping[str, Any]) -> str:
    rows, columns = (float((_map(seen).sum(axis) - 1).abs().max()) for axis in (-1, -2))
    what = "exp(M), before the first half-step."
    if "half_step" in seen:
        made = seen["half_step"] + 1
        what = f"Half-step {made}: every {'row' if made % 2 else 'column'} is divided by its sum."
    return f"{what} Rows are off by {_off(rows)}, columns by {_off(columns)}."


# --- the circuit -----------------------------------------------------------------------------------------------------


def circuit_steps(
    scores: Tensor,
    *,
    auxiliary_qubits: int = 1,
    layers: int = 1,
    factors: Sequence[float] = (1, 2, 4),
    seed: int = 0,
) -> Stepper:
    """Watch the map grow gate by gate, for scores (T, T) and for multiples of them."""
    tokens = len(scores)
    settings = {"auxiliary_qubits": auxiliary_qubits, "layers": layers, "extra": 0}
    theta = circuit.draw_parameters(circuit.parameter_count(tokens, **settings), seed=seed)
    qubits = circuit.register_qubits(tokens, auxiliary_qubits, 0)
    order = meeting_order(qubits, layers)
    walks = {}
    for factor in factors:
        angles = circuit.inject(factor * scores, theta)
        maps = [circuit.read_out(state, tokens) for state in states(order, angles, qubits)]
        name = "the scores" if factor == 1 else f"{factor:g} × the scores"
        walks[name] = [_circuit_frame(order, number, map, qubits) for number, map in enumerate(maps)]
    keys = (0, len(order) // 2, len(order))
    return stepper(walks, source=(circuit.apply, "small = ", "return"), what="gate", keys=keys)


def meeting_order(qubits: int, layers: int) -> list[circuit.Gate]:
    """The gates of the parted circuit in the order in which a column of the identity meets them: W = U2 U1^T, so those
    of U1 come first, and backwards."""
    made = list(circuit.gates(qubits, layers, "parted"))
    return [gate for gate in reversed(made) if gate.register == 1] + [gate for gate in made if gate.register == 2]


def states(order: Sequence[circuit.Gate], angles: Tensor, qubits: int) -> list[Tensor]:
    """W (N, N) before the first gate and after every one."""
    found = [torch.eye(2**qubits, dtype=torch.complex128)]
    for gate in order:
        small = circuit.matrix(gate, angles)
        small = small.mT if gate.register == 1 else small
        found.append((small @ found[-1].reshape(2**gate.wire, len(small), -1)).reshape(found[-1].shape))
    return found


def _circuit_frame(order: Sequence[circuit.Gate], number: int, probabilities: Tensor, qubits: int) -> Frame:
    off = max(float((probabilities.sum(axis) - 1).abs().max()) for axis in (-1, -2))
    what = "No gate yet: W is the identity, and so is the map."
    if number:
        gate = order[number - 1]
        kind = "three rotations of a wire" if gate.kind == "turn" else "a block of four angles"
        where = " and ".join(map(str, gate.wires))
        what = f"Gate {number}: {kind}, {'U₁, transposed' if gate.register == 1 else 'U₂'}, on wire {where}."
    wires = _wires(order, number, qubits, circuit.data_qubits(len(probabilities)))
    said = f"{what} Row and column sums are off by {_off(off)}."
    return Frame(said, {"the circuit": wires, MAP: _cells(probabilities, True)}, "return" if number else "")


def _columns(order: Sequence[circuit.Gate]) -> tuple[list[int], int]:
    """Where each gate is drawn: as far to the left as those before it on its wires allow; how many places in all."""
    free: dict[int, int] = {}
    places = []
    for gate in order:
        place = max(free.get(wire, 0) for wire in gate.wires)
        places.append(place)
        free |= {wire: place + 1 for wire in gate.wires}
    return places, max(places) + 1


def circuit_picture(qubits: int, layers: int, data: int) -> str:
    """The whole parted circuit as SVG, with the numbers of its angles in every gate (from 1)."""
    order = meeting_order(qubits, layers)
    return _wires(order, len(order), qubits, data, numbered=True)


def _wires(order: Sequence[circuit.Gate], number: int, qubits: int, data: int, *, numbered: bool = False) -> str:
    places, width = _columns(order)
    drawn = []
    for index, (color, name) in enumerate(((ORANGE, "U₁, transposed"), (BLUE, "U₂"))):
        drawn += [svg.box(130 * index, 4, 11, 11, color, 0.9), svg.text(130 * index + 16, 14, name)]
    for wire in range(qubits):
        y = 50 + WIRE * wire
        drawn.append(svg.line(96, y, 110 + STEP * width, y))
        drawn.append(svg.text(0, y + 4, f"{'data' if wire < data else 'auxiliary'} {wire}"))
    for index, (gate, place) in enumerate(zip(order, places, strict=True), start=1):
        tall = 30 + WIRE * (len(gate.wires) - 1)
        color, edge = ORANGE if gate.register == 1 else BLUE, 2.5 if index == number and not numbered else 0
        x, y = 108 + STEP * place, 35 + WIRE * gate.wire
        if numbered:  # the words stand on the page's ground, not on the wire
            drawn.append(svg.box(x, y, STEP - 14, tall, "var(--jp-layout-color0, white)", 1, round=3))
        strength = 0.35 if numbered else 0.9 if index <= number else 0.22
        drawn.append(svg.box(x, y, STEP - 14, tall, color, strength, edge=edge, round=3))
        if numbered:
            span = f"{gate.parameters.start + 1}–{gate.parameters.stop}"
            drawn.append(svg.text(x + STEP / 2 - 7, y + tall / 2 + 4, span, "middle", size=12))
    size = (120 + STEP * width, 40 + WIRE * qubits)
    return svg.picture(*size, drawn, f"{number} of {len(order)} gates on {qubits} wires")


def _off(deviation: float) -> str:
    return "nothing but rounding" if deviation < 1e-12 else f"up to {short(deviation)}"
