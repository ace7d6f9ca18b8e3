r"""The QontOT circuit (Sec. 2.3.3, App. D.2): a doubly stochastic matrix out of a simulated quantum circuit, exactly.

For a unitary :math:`W` the squares :math:`|W_{xy}|^2` are doubly stochastic. Here :math:`W` is what a circuit of
:math:`q = q_d + q_a + \text{extra}` wires does, and the angles of its rotations are parameters times scores,
:math:`\theta \odot \mathrm{vec}(M)`. On hardware two registers of q qubits hold maximally entangled pairs; the
amplitude of measuring (x, y) is then :math:`(U_2 U_1^\top)_{xy} / \sqrt N`, so a simulation needs :math:`W = U_2
U_1^\top` (N, N) with :math:`N = 2^q` and nothing larger. Of both registers only the :math:`q_d = \log_2 T` data wires
are read:

.. math:: P_{ij} = \frac1m \sum_{a,b < m} |W_{(i,a),(j,b)}|^2, \qquad m = N / T

The paper does not print its unit block. Ours, on wires (a, b), has the properties that it states, four parameters and
the identity at zero: :math:`\mathrm{CX}_{ab}\,[R_z(t_2) R_y(t_1) \otimes R_x(t_4) R_y(t_3)]\,\mathrm{CX}_{ab}`. A
layer is a checkerboard of blocks, (0, 1), (2, 3), ..., then (1, 2), (3, 4), ...; before the first layer every wire is
turned by :math:`R_z R_y R_z`. Six wires, two layers, "parted": 98 parameters, as in the paper.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

Ansatz = Literal["simple", "parted"]
Scores = Float[Tensor, "*batch tokens tokens"]
Parameters = Float[Tensor, " parameters"]
Angles = Float[Tensor, "*batch parameters"]
Unitary = Complex[Tensor, "*batch states states"]

MOST_QUBITS = 12  # W then has 2^24 entries


@dataclass(frozen=True)
class Gate:
    """One gate of the circuit: ``kind`` "turn" (one wire, 3 angles) or "block" (two wires, 4 angles).

    ``register`` 2 acts on W from the left; register 1 (only "parted") is transposed and acts from the right. ``wire``
    is the first wire; ``first`` the place of its first angle.
    """

    kind: Literal["turn", "block"]
    register: int
    layer: int
    wire: int
    first: int

    @property
    def parameters(self) -> slice:
        return slice(self.first, self.first + (3 if self.kind == "turn" else 4))

    @property
    def wires(self) -> tuple[int, ...]:
        return (self.wire,) if self.kind == "turn" else (self.wire, self.wire + 1)


def data_qubits(tokens: int) -> int:
    """log2 of the number of tokens. Raises ``ValueError`` unless that is a power of two from 2 on."""
    if tokens < 2 or tokens & (tokens - 1):
        raise ValueError(f"A circuit reads out a power of two of tokens, 2, 4, 8, ..., not {tokens}: pad the scores.")
    return tokens.bit_length() - 1


def register_qubits(tokens: int, auxiliary_qubits: int, extra: int = 1) -> int:
    """q, the wires of one register. Raises ``ValueError`` for fewer than none and for more than can be simulated."""
    if auxiliary_qubits < 0 or extra not in (0, 1):
        raise ValueError(
            f"A circuit takes 0 or more auxiliary qubits and extra 0 or 1, not {auxiliary_qubits}, {extra}."
        )
    qubits = data_qubits(tokens) + auxiliary_qubits + extra
    if qubits > MOST_QUBITS:
        raise ValueError(
            f"{tokens} tokens with {auxiliary_qubits} auxiliary qubits need {qubits} qubits a register, a matrix of "
            f"2^{2 * qubits} amplitudes: at most {MOST_QUBITS} are simulated."
        )
    return qubits


def gates(qubits: int, layers: int, ansatz: Ansatz) -> Iterator[Gate]:
    """The gates in the order of their parameters: turns and layers of register 2, then the layers of register 1."""
    if ansatz not in ("simple", "parted"):
        raise ValueError(f"ansatz = {ansatz!r} is not allowed: choose 'simple' or 'parted'.")
    if layers < 0:
        raise ValueError(f"A circuit has 0 or more layers, not {layers}.")
    for wire in range(qubits):
        yield Gate("turn", 2, 0, wire, 3 * wire)
    first = 3 * qubits
    for register in (2, 1) if ansatz == "parted" else (2,):
        for layer in range(layers):
            for wire in (*range(0, qubits - 1, 2), *range(1, qubits - 1, 2)):
                yield Gate("block", register, layer, wire, first)
                first += 4


def parameter_count(
    tokens: int, *, auxiliary_qubits: int, layers: int, ansatz: Ansatz = "parted", extra: int = 1
) -> int:
    """How many angles the circuit has: 3 q + 4 (q - 1) L, "parted" 3 q + 8 (q - 1) L."""
    qubits = register_qubits(tokens, auxiliary_qubits, extra)
    return sum(gate.parameters.stop - gate.parameters.start for gate in gates(qubits, layers, ansatz))


def inject(scores: Scores, theta: Parameters) -> Angles:
    """The angles: theta times the scores, row by row, repeated until there is one for every parameter.

    Raises ``ValueError`` if there are fewer parameters than scores: some scores would be ignored.
    """
    entries = scores.shape[-1] * scores.shape[-2]
    if theta.ndim != 1 or len(theta) < entries:
        raise ValueError(
            f"theta {tuple(theta.shape)} must hold at least one parameter for each of the {entries} scores: "
            "take more layers or more auxiliary qubits."
        )
    vector = scores.flatten(-2)
    return theta * vector.repeat(*(1,) * (vector.ndim - 1), -(-len(theta) // entries))[..., : len(theta)]


# --- gates as matrices -----------------------------------------------------------------------------------------------


def rotation(axis: Literal["x", "y", "z"], angle: Float[Tensor, "*batch"]) -> Complex[Tensor, "*batch 2 2"]:
    """exp(-i t A / 2) for the Pauli matrix A of that axis."""
    cosine, sine = torch.cos(angle / 2), torch.sin(angle / 2)
    zero = torch.zeros_like(angle)
    diagonal = torch.complex(cosine, -sine if axis == "z" else zero)
    lower = {"x": torch.complex(zero, -sine), "y": torch.complex(sine, zero), "z": torch.complex(zero, zero)}[axis]
    upper = -lower if axis == "y" else lower
    rows = [torch.stack([diagonal, upper], -1), torch.stack([lower, diagonal.conj()], -1)]
    return torch.stack(rows, -2)


def turn(angles: Float[Tensor, "*batch 3"]) -> Complex[Tensor, "*batch 2 2"]:
    """The initial rotation of a wire: Rz(t1) first, then Ry(t2), then Rz(t3)."""
    first, second, third = (rotation(axis, angles[..., k]) for k, axis in enumerate("zyz"))
    return third @ second @ first


def block(angles: Float[Tensor, "*batch 4"]) -> Complex[Tensor, "*batch 4 4"]:
    """CX [Rz(t2) Ry(t1) x Rx(t4) Ry(t3)] CX; the first wire is the control and the more significant bit."""
    control = rotation("z", angles[..., 1]) @ rotation("y", angles[..., 0])
    target = rotation("x", angles[..., 3]) @ rotation("y", angles[..., 2])
    product = torch.einsum("...ij,...kl->...ikjl", control, target).flatten(-2).flatten(-3, -2)
    swapped = [0, 1, 3, 2]  # CX exchanges |10> and |11>
    return product[..., swapped, :][..., swapped]


def matrix(gate: Gate, angles: Angles) -> Tensor:
    """The gate's own matrix (..., 2, 2) or (..., 4, 4)."""
    return (turn if gate.kind == "turn" else block)(angles[..., gate.parameters])


def apply(gate: Gate, angles: Angles, state: Complex[Tensor, "*batch states columns"]) -> Tensor:
    """The gate on the row index of ``state``; wire 0 is the most significant bit."""
    small = matrix(gate, angles)
    wires = state.reshape(*state.shape[:-2], 2**gate.wire, small.shape[-1], -1)
    return (small[..., None, :, :] @ wires).reshape(state.shape)


# --- the circuit -----------------------------------------------------------------------------------------------------


def unitary(angles: Angles, *, qubits: int, layers: int, ansatz: Ansatz = "parted") -> Unitary:
    """W = U2 U1^T (..., N, N) of given angles; "simple" has no U1. Wire 0 is the most significant bit.

    complex128 for float64 angles, complex64 for float32. O(N^2 q layers) operations. Raises ``ValueError`` unless there
    is an angle for every parameter.
    """
    circuit = list(gates(qubits, layers, ansatz))
    expected = circuit[-1].parameters.stop
    if angles.shape[-1] != expected:
        raise ValueError(f"{ansatz}, {qubits} qubits, {layers} layers: {expected} angles, not {angles.shape[-1]}.")
    states = 2**qubits
    dtype = torch.complex128 if angles.dtype == torch.float64 else torch.complex64
    identity = torch.eye(states, dtype=dtype, device=angles.device).expand(*angles.shape[:-1], states, states)
    registers = {2: identity, 1: identity}
    for gate in circuit:
        registers[gate.register] = apply(gate, angles, registers[gate.register])
    return registers[2] @ registers[1].mT if ansatz == "parted" else registers[2]


def read_out(amplitudes: Unitary, tokens: int) -> Scores:
    """P (..., T, T): the probabilities of the data wires, whatever the others show, times T."""
    others = amplitudes.shape[-1] // tokens
    probabilities = amplitudes.real**2 + amplitudes.imag**2
    blocks = probabilities.unflatten(-1, (tokens, others)).unflatten(-3, (tokens, others))
    return blocks.sum((-3, -1)) / others


def doubly_stochastic(
    scores: Scores,
    theta: Parameters,
    *,
    auxiliary_qubits: int = 4,
    layers: int = 16,
    ansatz: Ansatz = "parted",
    extra: int = 1,
) -> Scores:
    """QontOT: the doubly stochastic matrix (..., T, T) that a circuit with angles theta * scores measures.

    scores (..., T, T) with T a power of two from 2 on; theta (``parameter_count``,). Computed in float64 for float64
    scores and in float32 otherwise; the result has the dtype of the scores. Differentiable by autograd in scores and
    theta, which keeps every intermediate W: N^2 complex numbers a gate.
    Zero scores give the identity. Rows and columns sum to 1 whatever the angles are: T is multiplied, nothing
    normalised. Raises ``ValueError`` for what does not fit together.
    Cost: 32 N^2 FLOPs a block with N = 2^(log2 T + auxiliary_qubits + extra): O(T^4 L log T) when q_a = log2 T + 1.
    """
    qubits = check(scores, theta, auxiliary_qubits=auxiliary_qubits, layers=layers, ansatz=ansatz, extra=extra)
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    angles = inject(scores.to(dtype), theta.to(dtype))
    amplitudes = unitary(angles, qubits=qubits, layers=layers, ansatz=ansatz)
    return read_out(amplitudes, scores.shape[-1]).to(scores.dtype)


def doubly_stochastic_fast(
    scores: Scores,
    theta: Parameters,
    *,
    auxiliary_qubits: int = 4,
    layers: int = 16,
    ansatz: Ansatz = "parted",
    extra: int = 1,
) -> Scores:
    """The same, many matrices at once and without stored intermediates; arguments and errors as ``doubly_stochastic``.

    On CUDA a program carries a few columns of W through the whole circuit in its registers; on a CPU gates are gathered
    into matrix products. Backward walks W back gate by gate (adjoint differentiation): memory is a W or two.
    """
    qubits = check(scores, theta, auxiliary_qubits=auxiliary_qubits, layers=layers, ansatz=ansatz, extra=extra)
    from workbench_kernels.circuit.simulation import circuit

    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    angles = inject(scores.to(dtype), theta.to(dtype))
    data = data_qubits(scores.shape[-1])
    probabilities = circuit(angles.reshape(-1, len(theta)), data, qubits, layers, ansatz == "parted")
    return probabilities.reshape(scores.shape).to(scores.dtype)


def check(scores: Tensor, theta: Tensor, *, auxiliary_qubits: int, layers: int, ansatz: Ansatz, extra: int) -> int:
    """Raise ``ValueError`` unless everything fits together; the number of qubits of a register."""
    if scores.ndim < 2 or scores.shape[-1] != scores.shape[-2] or not scores.is_floating_point():
        raise ValueError(f"A circuit takes real scores (..., T, T), not {str(scores.dtype)[6:]} {tuple(scores.shape)}.")
    if not theta.is_floating_point() or theta.device != scores.device:
        raise ValueError(
            f"theta must be real numbers beside the scores on {scores.device}, not {theta.dtype} on {theta.device}."
        )
    qubits = register_qubits(scores.shape[-1], auxiliary_qubits, extra)
    expected = parameter_count(
        scores.shape[-1], auxiliary_qubits=auxiliary_qubits, layers=layers, ansatz=ansatz, extra=extra
    )
    if theta.shape != (expected,):
        raise ValueError(f"theta has shape {tuple(theta.shape)}; this circuit takes ({expected},) parameters.")
    return qubits


def draw_parameters(count: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Parameters:
    """theta ~ U(-1, 1), the paper's choice for its study of expressivity and ours for a static circuit."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1).to(dtype)


def light_cone(qubits: int, data: int, layers: int, ansatz: Ansatz) -> set[Gate]:
    """The blocks of the circuit that can change P at all.

    A block that touches no data wire, and whose wires no later block connects with one, only turns what is summed over.
    The same holds from the other side: auxiliary wires start maximally mixed, and a unitary leaves that so.
    """
    blocks = [gate for gate in gates(qubits, layers, ansatz) if gate.kind == "block"]
    order = [gate for gate in reversed(blocks) if gate.register == 1] + [gate for gate in blocks if gate.register == 2]
    inside = set(order)
    for walk in (order, order[::-1]):
        reached = set(range(data))
        for gate in walk:
            if reached.isdisjoint(gate.wires):
                inside.discard(gate)
            elif gate in inside:
                reached.update(gate.wires)
    return inside
