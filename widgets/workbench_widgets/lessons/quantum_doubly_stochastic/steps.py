"""Two walks for the lesson on doubly stochastic attention: Sinkhorn half-step by half-step, a circuit gate by gate.

Frames are drawn as SVG beforehand, so that the same picture is live under a slider and stands in an exported page.
"""

from collections.abc import Mapping, Sequence

import ipywidgets
import torch
from torch import Tensor

from workbench.attention import quantum_doubly_stochastic as paper
from workbench.attention.quantum_doubly_stochastic import circuit
from workbench.plots import BLUE, ORANGE
from workbench_widgets import page

FONT = "font-family:system-ui,sans-serif;font-size:13px;fill:currentColor"
CELL, BAR = 46, 60
WIRE, STEP = 44, 58


class Steps(page.WithStill):
    """Made by ``sinkhorn_steps`` and ``circuit_steps``: a slider over frames, and a menu if there are several walks."""

    def __init__(self, walks: Mapping[str, Sequence[str]], what: str, shown: Sequence[int]) -> None:
        self.walks, first = dict(walks), next(iter(walks))
        last = len(self.walks[first]) - 1
        self._step = ipywidgets.IntSlider(0, 0, last, description=what, layout={"width": "26em"})
        play = ipywidgets.Play(value=0, min=0, max=last, interval=900)
        ipywidgets.jslink((play, "value"), (self._step, "value"))
        self._walk = ipywidgets.Dropdown(options=list(self.walks), value=first, layout={"width": "16em"})
        self._picture = ipywidgets.HTML(layout={"width": "100%"})
        for control in (self._step, self._walk):
            control.observe(lambda _: self._draw(), "value")
        controls = [play, self._step, *([self._walk] if len(self.walks) > 1 else [])]
        self.live = ipywidgets.VBox([ipywidgets.HBox(controls), self._picture])
        self._draw()
        self.still = "".join(self.walks[first][number] for number in shown)

    def go(self, step: int, walk: str | None = None) -> str:
        """What a reader does: another step, another walk. Returns the frame."""
        if walk is not None:
            self._walk.value = walk
        self._step.value = step
        return self._picture.value

    def _draw(self) -> None:
        self._picture.value = self.walks[self._walk.value][self._step.value]


# --- Sinkhorn --------------------------------------------------------------------------------------------------------


def sinkhorn_steps(scores: Tensor, half_steps: int = 9) -> Steps:
    """Watch row and column sums while Sinkhorn normalises exp(scores), scores (T, T)."""
    frames = [_sinkhorn_frame(scores, made) for made in range(half_steps + 1)]
    return Steps({"": frames}, "half-step", (0, 1, 2, half_steps))


def _sinkhorn_frame(scores: Tensor, made: int) -> str:
    map = paper.sinkhorn(scores, made) if made else torch.exp(scores)
    rows, columns = (float((map.sum(axis) - 1).abs().max()) for axis in (-1, -2))
    if made == 0:
        what = "exp(M), before the first half-step."
    else:
        what = f"Half-step {made}: every {'row' if made % 2 else 'column'} is divided by its sum."
    line = f"{what} Rows are off by {_off(rows)}, columns by {_off(columns)}."
    side = len(map) * CELL + BAR
    return _svg(side + 60, side + 26, line, matrix_svg(map, 4, 0, changed=made % 2 if made else None))


# --- the circuit -----------------------------------------------------------------------------------------------------


def circuit_steps(
    scores: Tensor,
    *,
    auxiliary_qubits: int = 1,
    layers: int = 1,
    factors: Sequence[float] = (1, 0, 0.25, 4),
    seed: int = 0,
) -> Steps:
    """Watch the map grow gate by gate, for scores (T, T) and for multiples of them; with 0 nothing ever happens."""
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
    return Steps(walks, "gate", (0, len(order) // 2, len(order)))


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


def _circuit_frame(order: Sequence[circuit.Gate], number: int, probabilities: Tensor, qubits: int) -> str:
    tokens = len(probabilities)
    data = circuit.data_qubits(tokens)
    off = max(float((probabilities.sum(axis) - 1).abs().max()) for axis in (-1, -2))
    if number == 0:
        what = "No gate yet: W is the identity, and so is the map."
    else:
        gate = order[number - 1]
        kind = "three rotations of a wire" if gate.kind == "turn" else "a block of four angles"
        where = " and ".join(map(str, gate.wires))
        what = f"Gate {number}: {kind}, {'U₁, transposed' if gate.register == 1 else 'U₂'}, on wire {where}."
    line = f"{what} Row and column sums are off by {_off(off)}."
    left = 110 + STEP * _columns(order)[1] + 40
    drawn = [_wires(order, number, qubits, data), matrix_svg(probabilities, left, 4)]
    height = max(tokens * CELL + BAR + 30, 44 + WIRE * qubits)
    return _svg(left + tokens * CELL + BAR + 56, height, line, "".join(drawn))


def _columns(order: Sequence[circuit.Gate]) -> tuple[list[int], int]:
    """Where each gate is drawn: as far to the left as those before it on its wires allow; how many places in all."""
    free: dict[int, int] = {}
    places = []
    for gate in order:
        place = max(free.get(wire, 0) for wire in gate.wires)
        places.append(place)
        free |= {wire: place + 1 for wire in gate.wires}
    return places, max(places) + 1


def _wires(order: Sequence[circuit.Gate], number: int, qubits: int, data: int) -> str:
    places, width = _columns(order)
    drawn = []
    for wire in range(qubits):
        y = 50 + WIRE * wire
        drawn.append(f'<line x1="96" x2="{110 + STEP * width}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".5"/>')
        drawn.append(_text(0, y + 4, f"{'data' if wire < data else 'auxiliary'} {wire}"))
    for index, (gate, place) in enumerate(zip(order, places, strict=True), start=1):
        x, y = 108 + STEP * place, 50 + WIRE * gate.wire - 15
        tall = 30 + WIRE * (len(gate.wires) - 1)
        color = ORANGE if gate.register == 1 else BLUE
        edge = 'stroke="currentColor" stroke-width="2.5"' if index == number else ""
        opacity = 0.9 if index <= number else 0.22
        drawn.append(
            f'<rect x="{x}" y="{y}" width="{STEP - 14}" height="{tall}" rx="3" fill="{color}" '
            f'fill-opacity="{opacity}" {edge}/>'
        )
    drawn.append(f'<rect x="0" y="16" width="11" height="11" fill="{ORANGE}" fill-opacity=".9"/>')
    drawn.append(_text(16, 26, "U₁, transposed"))
    drawn.append(f'<rect x="130" y="16" width="11" height="11" fill="{BLUE}" fill-opacity=".9"/>')
    drawn.append(_text(146, 26, "U₂"))
    return "".join(drawn)


# --- drawing ---------------------------------------------------------------------------------------------------------


def matrix_svg(map: Tensor, left: float, top: float, *, changed: int | None = None) -> str:
    """A matrix (T, T) as squares with its numbers, row sums as bars on the right, column sums below; 1 is a grey line.

    ``changed`` 1 draws the rows' bars in orange, 0 the columns': what was just normalised.
    """
    side, largest = len(map), float(map.max())
    drawn = []
    for i, row in enumerate(map.tolist()):
        for j, number in enumerate(row):
            x, y = left + j * CELL, top + i * CELL
            drawn.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{CELL - 2}" height="{CELL - 2}" fill="{BLUE}" '
                f'fill-opacity="{0.06 + 0.8 * max(number, 0) / largest:.2f}"/>'
            )
            drawn.append(_text(x + CELL / 2 - 1, y + CELL / 2 + 4, _number(number), "middle"))
    sums = [map.sum(-1).tolist(), map.sum(-2).tolist()]
    longest = max(2.0, *sums[0], *sums[1])
    edge = side * CELL + 4
    for way, numbers in enumerate(sums):
        color = ORANGE if changed == 1 - way else "#8C8C8C"
        for place, number in enumerate(numbers):
            long = BAR * number / longest
            x, y = (left + edge, top + place * CELL + 12) if way == 0 else (left + place * CELL + 12, top + edge)
            size = (long, CELL - 26) if way == 0 else (CELL - 26, long)
            drawn.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{size[0]:.1f}" height="{size[1]:.1f}" fill="{color}" '
                f'fill-opacity=".8"/>'
            )
            words = (x + long + 4, y + 14, "start") if way == 0 else (x + 10, y + long + 14, "middle")
            drawn.append(_text(words[0], words[1], _number(number), words[2]))
        one = BAR / longest
        ends = (
            (left + edge + one, top, left + edge + one, top + edge - 6)
            if way == 0
            else (left, top + edge + one, left + edge - 6, top + edge + one)
        )
        x1, y1, x2, y2 = (f"{end:.1f}" for end in ends)
        drawn.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="currentColor" stroke-dasharray="3 3"/>')
    return "".join(drawn)


def _svg(width: float, height: float, line: str, drawn: str) -> str:
    width = max(width, 720)
    size = f'viewBox="0 0 {width} {height + 24}" width="{width}" style="max-width:100%;display:block"'
    return (
        f'<svg {size} role="img" aria-label="{page.escape(line)}">{_text(0, 14, line)}'
        f'<g transform="translate(0 24)">{drawn}</g></svg>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{FONT}">{page.escape(text)}</text>'


def _off(deviation: float) -> str:
    return "nothing but rounding" if deviation < 1e-12 else f"up to {_number(deviation)}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.005 or value == 0 else f"{value:.0e}"
