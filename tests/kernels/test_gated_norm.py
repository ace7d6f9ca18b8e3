"""The Triton kernels of the normalised gate: in the interpreter at small sizes, on a GPU at real ones."""

import pytest
import torch

from layouts import LAYOUTS
from workbench.conformance import assert_close
from workbench_kernels.activation import gated_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ACTIVATIONS = ["gelu", "silu", "relu", "identity"]
# Several rows a program, an odd width, a row alone.
HIDDEN = [5, 24, 100] + ([512, 1365, 2048, 4096, 8192] if DEVICE == "cuda" else [])

pytestmark = pytest.mark.usefixtures("poisoned_memory")
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, device=DEVICE).to(dtype)


def parameters(hidden, dtype=torch.float32):
    return (1 + 0.1 * normal(hidden)).to(dtype), (0.1 * normal(hidden)).to(dtype)


def double(*tensors):
    return [tensor.double().cpu() for tensor in tensors]


def check(x, upstream, weight, bias, activation, eps=1e-5):
    """Values to 2e-6 in float32; what is stored in fewer bits is rounded once, half a unit (interpreter: one)."""
    y, statistics = gated_norm.forward_triton(x, weight, bias, activation, eps)
    found = y, *gated_norm.backward_triton(upstream, x, statistics, weight, bias, activation)
    exact, of_rows = gated_norm.forward_torch(*double(x, weight, bias), activation, eps)
    upstream, x64, weight64, bias64 = double(upstream, x, weight, bias)
    truth = exact, *gated_norm.backward_torch(upstream, x64, of_rows, weight64, bias64, activation)
    assert_close(statistics.cpu(), of_rows, tolerance=1e-6, name="statistics")
    rounding = 0.51 if DEVICE == "cuda" else 1.0
    for name, output, expected in zip(("y", "dx", "dweight", "dbias"), found, truth, strict=True):
        unit = 0.0 if output.dtype == torch.float32 else rounding * torch.finfo(output.dtype).eps
        assert_close(output.cpu(), expected, tolerance=unit + (2e-6 if name == "y" else 1e-5), name=name)


@pytest.mark.parametrize(
    ("dtype", "activation"),  # every activation in float32; in the others only loads and stores differ
    [*((torch.float32, each) for each in ACTIVATIONS), (torch.bfloat16, "gelu"), (torch.float16, "silu")],
    ids=lambda value: str(value).removeprefix("torch."),
)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_gated_norm(hidden, activation, dtype):
    check(normal(7, 2 * hidden, dtype=dtype), normal(7, hidden, dtype=dtype), *parameters(hidden, dtype), activation)


@pytest.mark.parametrize("programs", [1, 2, 5])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_programs_take_turns(rows, programs, monkeypatch):
    """Every cut of 11 rows into tiles and of tiles into programs; the parts add up to the same gradients."""
    monkeypatch.setattr(gated_norm, "FORWARD", ((4096, rows, 4),))
    monkeypatch.setattr(gated_norm, "BACKWARD", ((4096, rows, 4, 2, 2),))
    monkeypatch.setattr(gated_norm, "programs_per_tensor", lambda tiles, *_: min(tiles, programs))
    check(normal(11, 80), normal(11, 40), *parameters(40), "gelu")


def test_more_programs_than_a_tile_of_sums(monkeypatch):
    monkeypatch.setattr(gated_norm, "BACKWARD", ((4096, 1, 4, 2, 1),))
    monkeypatch.setattr(gated_norm, "SUM_ROWS", 4)
    check(normal(11, 80), normal(11, 40), *parameters(40), "silu")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    x = LAYOUTS[layout](normal)
    check(x, LAYOUTS[layout](normal)[..., :20], *(each[::2] for each in parameters(40)), "gelu")


def test_a_row_with_a_large_mean():
    """The variance is taken from centred numbers: as a difference of large squares it would have no digits left."""
    x, (weight, bias) = normal(3, 200) + 300, parameters(100)
    y, _ = gated_norm.forward_triton(x, weight, bias, "identity", 1e-5)
    assert_close(y.cpu(), gated_norm.forward_torch(*double(x, weight, bias), "identity", 1e-5)[0], tolerance=2e-4)


def test_a_constant_row():
    """No variance at all: u and v are the bias alone, and eps keeps the gradient finite."""
    x, (weight, bias) = torch.full((2, 48), -8.0, device=DEVICE), parameters(24)
    y, statistics = gated_norm.forward_triton(x, weight, bias, "gelu", 1e-5)
    assert_close(y, (bias * bias).expand(2, 24), tolerance=1e-5)
    gradient = gated_norm.backward_triton(torch.ones_like(y), x, statistics, weight, bias, "gelu")[0]
    assert gradient.isfinite().all()


def test_nan_stays_in_its_row():
    x, (weight, bias) = normal(4, 48), parameters(24)
    x[1, 3] = torch.nan
    y, statistics = gated_norm.forward_triton(x, weight, bias, "relu", 1e-5)
    assert y.isnan().all(1).tolist() == [False, True, False, False]
    gradient = gated_norm.backward_triton(torch.ones_like(y), x, statistics, weight, bias, "relu")[0]
    assert gradient.isnan().any(1).tolist() == [False, True, False, False]


def test_the_same_bits_twice():
    x, upstream, (weight, bias) = normal(17, 200), normal(17, 100), parameters(100)
    _, statistics = gated_norm.forward_triton(x, weight, bias, "gelu", 1e-5)
    first, second = (gated_norm.backward_triton(upstream, x, statistics, weight, bias, "gelu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_why_not():
    assert gated_norm.why_not(512, torch.bfloat16) == []
    assert "not float64" in gated_norm.why_not(512, torch.float64)[0]
    assert "8192 at most, not 8193" in gated_norm.why_not(8193)[0]


@every_activation
def test_the_operator_is_registered_rightly(activation):
    """PyTorch's own checks: schemas, fake tensors, autograd, tracing with unknown sizes."""
    inputs = tuple(tensor.cpu().requires_grad_() for tensor in (normal(4, 24), *parameters(12)))
    arguments = (*inputs, activation, 1e-5)
    assert set(torch.library.opcheck(torch.ops.workbench.gated_norm.default, arguments).values()) == {"SUCCESS"}
