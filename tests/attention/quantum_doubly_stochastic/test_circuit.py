"""The QontOT circuit: the worked examples of its specification, Bell pairs simulated in full, and its invariants."""

import math

import pytest
import torch

from workbench.attention.quantum_doubly_stochastic import circuit
from workbench.attention.quantum_doubly_stochastic.circuit import Gate, doubly_stochastic, inject, unitary
from workbench.conformance import assert_close

ANSATZE = ("simple", "parted")
SMALL = torch.tensor([[1.0, -0.5], [0.25, 2.0]], dtype=torch.float64)
TINY = {"auxiliary_qubits": 1, "layers": 1, "extra": 0}


def ramp(count):
    return torch.linspace(-1, 1, count, dtype=torch.float64)


def case(tokens=4, *, batch=(), seed=0, **settings):
    """Scores, parameters and settings of a random circuit."""
    scores = torch.randn(*batch, tokens, tokens, dtype=torch.float64)
    return scores, circuit.draw_parameters(circuit.parameter_count(tokens, **settings), seed=seed), settings


# --- the worked examples ---------------------------------------------------------------------------------------------


def test_one_wire_without_layers():
    angles = torch.tensor([0.3, 0.7, 0.2], dtype=torch.float64)
    probabilities = circuit.read_out(unitary(angles, qubits=1, layers=0, ansatz="simple"), 2)
    assert probabilities.diagonal().tolist() == pytest.approx([math.cos(0.35) ** 2] * 2, abs=1e-15)


def test_the_simple_example():
    angles = inject(SMALL, ramp(10))
    assert angles[:5].tolist() == pytest.approx([-1, 0.388889, -0.138889, -0.666667, -0.111111], abs=1e-6)
    amplitudes = unitary(angles, qubits=2, layers=1, ansatz="simple")[0, :2]
    assert amplitudes[0].item() == pytest.approx(0.809523 + 0.400322j, abs=1e-6)
    assert amplitudes[1].item() == pytest.approx(-0.220278 + 0.326459j, abs=1e-6)
    probabilities = doubly_stochastic(SMALL, ramp(10), ansatz="simple", **TINY)
    expected = [[0.9610599123724484, 0.0389400876275513], [0.0389400876275513, 0.9610599123724484]]
    torch.testing.assert_close(probabilities, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


def test_the_parted_example():
    probabilities = doubly_stochastic(SMALL, ramp(14), ansatz="parted", **TINY)
    assert probabilities.diagonal().tolist() == pytest.approx([0.9514705486295958] * 2, abs=1e-14)


def test_the_paper_s_number_of_parameters():
    assert circuit.parameter_count(4, auxiliary_qubits=3, layers=2) == 98
    for ansatz, blocks in (("simple", 1), ("parted", 2)):
        for layers in (1, 4, 16):
            count = circuit.parameter_count(8, auxiliary_qubits=4, layers=layers, ansatz=ansatz)
            assert count == 3 * 8 + 4 * 7 * layers * blocks


# --- Bell pairs ------------------------------------------------------------------------------------------------------


def full_matrix(gate: Gate, angles, wires: int, offset: int):
    """The gate as a (2^wires, 2^wires) matrix, its register starting at wire ``offset``."""
    small = circuit.matrix(gate, angles)
    before = torch.eye(2 ** (offset + gate.wire), dtype=small.dtype)
    after = torch.eye(2 ** (wires - offset - gate.wire - len(gate.wires)), dtype=small.dtype)
    return torch.kron(torch.kron(before, small), after)


def measured_pairs(angles, tokens, qubits, layers, ansatz):
    """P from the state of 2 q qubits: Bell pairs, U2 on one register, U1 on the other, the data wires measured."""
    wires = 2 * qubits
    state = torch.eye(2**qubits, dtype=torch.complex128).flatten() / 2 ** (qubits / 2)
    for gate in circuit.gates(qubits, layers, ansatz):
        state = full_matrix(gate, angles, wires, 0 if gate.register == 2 else qubits) @ state
    others = 2**qubits // tokens
    probabilities = state.abs().square().reshape(tokens, others, tokens, others).sum((1, 3))
    return tokens * probabilities


@pytest.mark.parametrize("ansatz", ANSATZE)
@pytest.mark.parametrize(("qubits", "tokens"), [(2, 2), (3, 2), (3, 4), (4, 4)])
def test_bell_pairs_measured(qubits, tokens, ansatz):
    count = list(circuit.gates(qubits, 2, ansatz))[-1].parameters.stop
    angles = 3 * torch.randn(count, dtype=torch.float64)
    expected = measured_pairs(angles, tokens, qubits, 2, ansatz)
    found = circuit.read_out(unitary(angles, qubits=qubits, layers=2, ansatz=ansatz), tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# --- invariants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_rows_and_columns_sum_to_one(ansatz):
    scores, theta, settings = case(8, batch=(2, 3), auxiliary_qubits=2, layers=3, ansatz=ansatz)
    probabilities = doubly_stochastic(5 * scores, theta, **settings)
    ones = torch.ones(2, 3, 8, dtype=torch.float64)
    for axis in (-1, -2):
        torch.testing.assert_close(probabilities.sum(axis), ones, rtol=0, atol=1e-12)
    assert (probabilities >= 0).all()


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_w_is_unitary_and_its_phase_is_not_seen(ansatz):
    angles = torch.randn(2, 3 * 4 + 4 * 3 * 2 * (1 + (ansatz == "parted")), dtype=torch.float64)
    amplitudes = unitary(angles, qubits=4, layers=2, ansatz=ansatz)
    identity = torch.eye(16, dtype=torch.complex128).expand(2, 16, 16)
    torch.testing.assert_close(amplitudes.mH @ amplitudes, identity, rtol=0, atol=1e-12)
    phase = torch.exp(torch.tensor(0.7j, dtype=torch.complex128))
    torch.testing.assert_close(
        circuit.read_out(phase * amplitudes, 4), circuit.read_out(amplitudes, 4), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_zero_scores_give_the_identity(ansatz):
    scores, theta, settings = case(4, auxiliary_qubits=3, layers=2, ansatz=ansatz)
    assert torch.equal(doubly_stochastic(0 * scores, theta, **settings), torch.eye(4, dtype=torch.float64))


def test_it_is_not_scale_invariant():
    scores, theta, settings = case(4, auxiliary_qubits=3, layers=2)
    one, two = (doubly_stochastic(factor * scores, theta, **settings) for factor in (1, 2))
    assert (one - two).abs().max() > 0.01


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_gradients(ansatz):
    scores, theta, settings = case(4, auxiliary_qubits=1, layers=1, ansatz=ansatz, extra=0)
    leaves = scores.requires_grad_(), theta.requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: doubly_stochastic(*inputs, **settings), leaves)


@pytest.mark.parametrize("ansatz", ANSATZE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_fast_gives_the_same_values_and_gradients(ansatz, dtype, tolerance):
    scores, theta, settings = case(4, batch=(2, 3), auxiliary_qubits=2, layers=2, ansatz=ansatz)
    leaves = scores.requires_grad_(), theta.requires_grad_()
    upstream = torch.randn_like(scores)
    expected = doubly_stochastic(*leaves, **settings)
    wanted = torch.autograd.grad(expected, leaves, upstream)
    rounded = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
    output = circuit.doubly_stochastic_fast(*rounded, **settings)
    assert output.dtype == dtype
    assert_close(output, expected, tolerance=tolerance)
    for found, gradient in zip(torch.autograd.grad(output, rounded, upstream.to(dtype)), wanted, strict=True):
        assert_close(found, gradient, tolerance=tolerance)


def test_fast_on_half_precision():
    scores, theta, settings = case(4, auxiliary_qubits=2, layers=2)
    output = circuit.doubly_stochastic_fast(scores.bfloat16(), theta.float(), **settings)
    assert output.dtype == torch.bfloat16
    assert_close(output, doubly_stochastic(scores.bfloat16().double(), theta, **settings), tolerance=4e-3)


@pytest.mark.parametrize("ansatz", ANSATZE)
@pytest.mark.parametrize("layers", [1, 2])
def test_blocks_outside_the_light_cone_change_nothing(ansatz, layers):
    qubits, data = 6, 1
    circuit_gates = list(circuit.gates(qubits, layers, ansatz))
    angles = torch.randn(circuit_gates[-1].parameters.stop, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 2, dtype=torch.float64)
    (weights * circuit.read_out(unitary(angles, qubits=qubits, layers=layers, ansatz=ansatz), 2)).sum().backward()
    blocks = [gate for gate in circuit_gates if gate.kind == "block"]
    inside = circuit.light_cone(qubits, data, layers, ansatz)
    assert all(angles.grad[gate.parameters].abs().max() < 1e-15 for gate in set(blocks) - inside)
    assert all(angles.grad[gate.parameters].abs().max() > 1e-15 for gate in inside)
    assert inside != set(blocks)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "changes", "words"),
    [
        (3, {}, "power of two"),
        (1, {}, "power of two"),
        (4, {"auxiliary_qubits": 20}, "at most 12 are simulated"),
        (4, {"auxiliary_qubits": -1}, "0 or more auxiliary qubits"),
        (4, {"extra": 2}, "extra 0 or 1"),
        (4, {"ansatz": "trotter"}, "choose 'simple' or 'parted'"),
        (4, {"layers": 3}, r"takes \(138,\) parameters"),
    ],
)
def test_what_does_not_fit_is_refused(tokens, changes, words):
    settings = {"auxiliary_qubits": 3, "layers": 2, "ansatz": "parted", **changes}
    with pytest.raises(ValueError, match=words):
        doubly_stochastic(torch.zeros(tokens, tokens), torch.zeros(98), **settings)


def test_too_few_parameters_are_refused():
    with pytest.raises(ValueError, match="at least one parameter for each of the 64 scores"):
        doubly_stochastic(torch.zeros(8, 8), torch.zeros(47), auxiliary_qubits=1, layers=1, extra=1)
    with pytest.raises(ValueError, match="at least one parameter for each of the 64 scores"):
        inject(torch.zeros(8, 8), torch.zeros(40))
    with pytest.raises(ValueError, match=r"36 angles, not 2"):
        unitary(torch.zeros(2), qubits=2 + 2, layers=1)
    with pytest.raises(ValueError, match="real scores"):
        doubly_stochastic(torch.zeros(4, 4).long(), torch.zeros(98), auxiliary_qubits=3, layers=2)
