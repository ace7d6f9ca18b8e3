"""The circuit as a kernel (on a CPU through Triton's interpreter) and as matrix products, against dense matrices."""

import functools

import pytest
import torch

from workbench.conformance import assert_close
from workbench_kernels.circuit import simulation as circuit
from workbench_kernels.circuit import windows as circuit_windows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#        data qubits layers parted log of a program's amplitudes
SMALL = [(1, 1, 0, False, 6), (1, 2, 2, True, 1), (2, 4, 1, True, 6), (2, 3, 1, False, 6)]
LARGE = [(3, 8, 3, True, 10), (3, 8, 3, True, 8), (2, 6, 2, False, 9), (4, 10, 1, True, 9), (4, 11, 1, True, 10)]

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, device=DEVICE)


def count(qubits, layers, parted):
    return 3 * qubits + 4 * (qubits - 1) * layers * (1 + parted)


def dense_register(angles, qubits, layers, turns=None):
    """A register as a product of exponentials of (N, N) Pauli strings, one set of angles, complex128."""
    product = torch.eye(2**qubits, dtype=torch.complex128)

    def rotate(angle, **on):
        nonlocal product
        strings = [circuit_windows.PAULI[on.get(f"w{wire}", "I")] for wire in range(qubits)]
        string = functools.reduce(torch.kron, (torch.tensor(each, dtype=torch.complex128) for each in strings))
        product = torch.cos(angle / 2) * product - 1j * torch.sin(angle / 2) * string @ product

    if turns is not None:
        for wire, three in enumerate(turns.reshape(qubits, 3)):
            for axis, angle in zip("ZYZ", three, strict=True):
                rotate(angle, **{f"w{wire}": axis})
    pairs = [*range(0, qubits - 1, 2), *range(1, qubits - 1, 2)]
    for layer in angles.reshape(layers, len(pairs), 4):
        for wire, (t1, t2, t3, t4) in zip(pairs, layer, strict=True):
            a, b = f"w{wire}", f"w{wire + 1}"
            rotate(t3, **{a: "Z", b: "Y"})
            rotate(t4, **{b: "X"})
            rotate(t1, **{a: "Y", b: "X"})
            rotate(t2, **{a: "Z"})
    return product


def dense(angles, data, qubits, layers, parted):
    """P of one set of angles, differentiable."""
    turns, rest = angles[: 3 * qubits], angles[3 * qubits :]
    middle = 4 * (qubits - 1) * layers
    amplitudes = dense_register(rest[:middle], qubits, layers, turns)
    if parted:
        amplitudes = amplitudes @ dense_register(rest[middle:], qubits, layers).mT
    n, m = 2**data, 2 ** (qubits - data)
    return (amplitudes * amplitudes.conj()).real.reshape(n, m, n, m).sum((1, 3)) / m


@pytest.mark.parametrize(("data", "qubits", "layers", "parted", "log"), SMALL)
def test_matrix_products(data, qubits, layers, parted, log):
    angles = torch.randn(2, count(qubits, layers, parted), dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 2**data, 2**data, dtype=torch.float64)
    settings = (data, qubits, layers, parted)
    expected = torch.stack([dense(each, *settings) for each in angles])
    (expected_grad,) = torch.autograd.grad(expected, angles, upstream)
    output = circuit.circuit(angles, *settings)
    (grad,) = torch.autograd.grad(output, angles, upstream)
    assert_close(output, expected, tolerance=1e-12)
    assert_close(grad, expected_grad, tolerance=1e-10)


@pytest.mark.parametrize(
    ("data", "qubits", "layers", "parted", "log"),
    [*SMALL, *(pytest.param(*case, marks=pytest.mark.gpu) for case in LARGE)],
)
def test_kernel(data, qubits, layers, parted, log):
    angles, upstream = normal(2, count(qubits, layers, parted)), normal(2, 2**data, 2**data)
    settings = (data, qubits, layers, parted)
    output = circuit.forward_triton(angles, *settings, log)
    grad = circuit.backward_triton(upstream, angles, *settings, log)
    expected = circuit_windows.forward_torch(angles.double(), *settings)
    # Rounding adds up over the gates: at 8 wires there are some 200 rotations one after the other.
    assert_close(output, expected, ordinary=circuit_windows.forward_torch(angles, *settings), tolerance=2e-6)
    assert_close(grad, circuit_windows.backward_torch(upstream.double(), angles.double(), *settings), tolerance=1e-5)


def test_the_same_bits_twice():
    angles, upstream = normal(1, count(2, 2, True)), normal(1, 2, 2)
    first, second = (circuit.backward_triton(upstream, angles, 1, 2, 2, True, 1) for _ in range(2))
    assert torch.equal(first, second)


def test_backward_in_pieces(monkeypatch):
    angles, upstream = torch.randn(5, count(3, 2, True)), torch.randn(5, 4, 4)
    whole = circuit_windows.backward_torch(upstream, angles, 2, 3, 2, True)
    monkeypatch.setattr(circuit_windows, "PIECE", 2 * 64)
    assert_close(circuit_windows.backward_torch(upstream, angles, 2, 3, 2, True), whole, tolerance=1e-6)


@pytest.mark.parametrize(("qubits", "layers", "parted"), [(1, 0, False), (3, 2, True), (6, 4, True), (9, 3, False)])
def test_windows_hold_every_gate_once_and_in_order(qubits, layers, parted):
    steps = list(circuit_windows.steps(qubits, layers, parted))
    plan = circuit_windows.windows(qubits, layers, parted)
    carried_out = [step for _, inner in plan for step in inner]
    assert sorted(carried_out, key=str) == sorted(steps, key=str)
    for wire in range(qubits):
        touching = [[step for step in order if step.wire <= wire < step.wire + step.wires]
                    for order in (steps, carried_out)]  # fmt: skip
        assert touching[0] == touching[1]
    assert all(first <= step.wire and step.wire + step.wires <= first + circuit_windows.WINDOW
               for first, inner in plan for step in inner)  # fmt: skip


def test_no_matrices():
    angles = torch.randn(0, count(3, 1, True), requires_grad=True)
    output = circuit.circuit(angles, 2, 3, 1, True)
    assert output.shape == (0, 4, 4)
    assert torch.autograd.grad(output.sum(), angles)[0].shape == angles.shape


def test_the_operator_is_registered_rightly():
    """PyTorch's own checks: schema, fake tensors, autograd, tracing with unknown sizes."""
    angles = torch.randn(2, count(3, 1, True), requires_grad=True)
    checks = torch.library.opcheck(torch.ops.workbench.circuit.default, (angles, 2, 3, 1, True))
    assert set(checks.values()) == {"SUCCESS"}
