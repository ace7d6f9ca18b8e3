"""The Triton kernel of the layer norm: in the interpreter at small sizes, on a GPU at real ones."""

import pytest
import torch

from layouts import LAYOUTS
from workbench.conformance import assert_close
from workbench_kernels.normalisation import layer_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Several rows a program, an odd width, a row alone.
WIDTHS = [1, 5, 24, 100] + ([256, 768, 1365, 4096, 8192] if DEVICE == "cuda" else [])

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, device=DEVICE).to(dtype)


def parameters(width, dtype=torch.float32):
    return (1 + 0.1 * normal(width)).to(dtype), (0.1 * normal(width)).to(dtype)


def check(x, weight, bias, tolerance=2e-6):
    """What is stored in fewer bits than float32 is rounded once, half a unit (interpreter: one)."""
    found = layer_norm.forward_triton(x, weight, bias, 1e-5)
    truth = layer_norm.forward_torch(*(tensor.double().cpu() for tensor in (x, weight, bias)), 1e-5)
    unit = (0.51 if DEVICE == "cuda" else 1.0) * torch.finfo(x.dtype).eps if x.dtype != torch.float32 else 0.0
    for name, output, expected in zip(("y", "mean", "scale"), found, truth, strict=True):
        assert output.shape == expected.shape
        assert_close(output.cpu(), expected, tolerance=tolerance + (unit if name == "y" else 0.0), name=name)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("width", WIDTHS)
def test_layer_norm(width, dtype):
    check(normal(7, width, dtype=dtype), *parameters(width, dtype))


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_rows_of_a_program(rows, monkeypatch):
    monkeypatch.setattr(layer_norm, "FORWARD", ((4096, rows, 4),))
    check(normal(11, 40), *parameters(40))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    check(LAYOUTS[layout](normal), *(each[::2] for each in parameters(80)))


def test_a_row_with_a_large_mean():
    """The variance is taken from centred numbers: as a difference of large squares it would have no digits left."""
    check(normal(3, 200) + 300, *parameters(200), tolerance=2e-4)


def test_nan_stays_in_its_row():
    x = normal(4, 48)
    x[1, 3] = torch.nan
    y, *_ = layer_norm.forward_triton(x, *parameters(48), 1e-5)
    assert y.isnan().all(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("parameters_are", ["of its type", "float32"])
def test_gradients(dtype, parameters_are):
    """Through the operator, against PyTorch's layer norm in float64."""
    inputs = [normal(9, 40, dtype=dtype), *parameters(40, dtype if parameters_are == "of its type" else torch.float32)]
    upstream = normal(9, 40, dtype=dtype)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    found = torch.autograd.grad(layer_norm.layer_norm(*inputs), inputs, upstream)
    truth = torch.autograd.grad(torch.nn.functional.layer_norm(exact[0], (40,), *exact[1:]), exact, upstream.double())
    for name, gradient, of, expected in zip(("dx", "dweight", "dbias"), found, inputs, truth, strict=True):
        assert gradient.dtype == of.dtype
        unit = torch.finfo(of.dtype).eps if of.dtype != torch.float32 else 0.0
        assert_close(gradient, expected, tolerance=1e-5 + unit, name=name)


def test_why_not():
    assert layer_norm.why_not(256, torch.bfloat16) == []
    assert "not float64" in layer_norm.why_not(256, torch.float64)[0]
    assert "8192 at most, not 8193" in layer_norm.why_not(8193)[0]


def test_the_operator_is_registered_rightly():
    """PyTorch's own checks: schemas, fake tensors, autograd, tracing with unknown sizes."""
    inputs = tuple(tensor.cpu().requires_grad_() for tensor in (normal(4, 24), *parameters(24)))
    found = torch.library.opcheck(torch.ops.workbench.layer_norm.default, (*inputs, 1e-5))
    assert set(found.values()) == {"SUCCESS"}
