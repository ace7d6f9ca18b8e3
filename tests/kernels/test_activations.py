"""The Triton kernels of the activations: in the interpreter at small sizes, on a GPU at real ones."""

import pytest
import torch

from layouts import LAYOUTS
from workbench.conformance import assert_close
from workbench_kernels import tiles
from workbench_kernels.activation import gated, pointwise, poly_norm, poly_relu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Widths: one head; head and tail; several rows a program; a row alone; read twice.
WIDTHS = [1, 2, 24, 100] + ([1024, 5504, 8256, 16384, 20000] if DEVICE == "cuda" else [])

pytestmark = pytest.mark.usefixtures("poisoned_memory")
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
# Every order in float32; in the others, where only loads and stores differ, an odd and an even one.
rounded_orders = pytest.mark.parametrize(
    ("dtype", "order"),
    [*((torch.float32, order) for order in (1, 2, 3, 4)), (torch.bfloat16, 3), (torch.float16, 4)],
    ids=lambda value: str(value).removeprefix("torch."),
)
every_order = pytest.mark.parametrize("order", [1, 2, 3, 4])


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, device=DEVICE).to(dtype)


def double(*tensors):
    return [tensor.double().cpu() for tensor in tensors]


def compare(found, truth, dtype, names=("y", "dx", "dweight", "dbias")):
    """Results in x's dtype are rounded once, from float32: half a unit off (a unit in the interpreter)."""
    rounding = 0.51 if DEVICE == "cuda" or dtype != torch.bfloat16 else 1.0
    for name, output, expected in zip(names, found, truth, strict=False):
        unit = torch.finfo(output.dtype).eps
        tolerance = {"y": 2e-6, "dx": 1e-5}.get(name, 2e-5) if output.dtype == torch.float32 else rounding * unit + 2e-6
        assert_close(output.cpu(), expected, tolerance=tolerance, name=name)


def check_poly_norm(x, upstream, weight, bias, eps=1e-6):
    y, scales = poly_norm.forward_triton(x, weight, bias, eps)
    gradients = poly_norm.backward_triton(upstream, x, scales, weight, bias)
    exact, exact_scales = poly_norm.forward_torch(*double(x, weight, bias), eps)
    upstream, x64, weight64, bias64 = double(upstream, x, weight, bias)
    truth = poly_norm.backward_torch(upstream, x64, exact_scales, weight64, bias64)
    compare((y, *gradients), (exact, *truth), x.dtype)
    assert_close(scales.cpu(), exact_scales, tolerance=1e-6)


def check_poly_relu(x, upstream, weight, bias):
    found = poly_relu.forward_triton(x, weight, bias), *poly_relu.backward_triton(upstream, x, weight, bias)
    upstream, x64, weight64, bias64 = double(upstream, x, weight, bias)
    truth = (
        poly_relu.forward_torch(x64, weight64, bias64),
        *poly_relu.backward_torch(upstream, x64, weight64, bias64),
    )
    compare(found, truth, x.dtype)


@rounded_orders
@pytest.mark.parametrize("width", WIDTHS)
def test_poly_norm(width, order, dtype):
    rows = 5
    x, upstream = normal(rows, width, dtype=dtype), normal(rows, width, dtype=dtype)
    if width == 1:  # x / |x|: everything cancels in the gradient, unless eps is large
        check_poly_norm(x, upstream, normal(order), normal(1), eps=1e-2)
    else:
        check_poly_norm(x, upstream, normal(order), normal(1))


def look_tables_up(monkeypatch):
    """Tables that a test puts in the place of PolyNorm's are read, not remembered."""
    for name in ("_forward_shape", "_backward_shape"):
        monkeypatch.setattr(poly_norm, name, getattr(poly_norm, name).__wrapped__)


@every_order
def test_poly_norm_reads_long_rows_twice(order, monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(poly_norm, "LONGEST_ROW", 32)
        monkeypatch.setattr(poly_norm, "LONG_BLOCK", 32)
        look_tables_up(monkeypatch)
    width = 100 if DEVICE == "cpu" else 20000
    check_poly_norm(normal(3, width), normal(3, width), normal(order), normal(1))


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_poly_norm_shapes_of_a_program(rows, reload, monkeypatch):
    monkeypatch.setattr(poly_norm, "FORWARD", ((4096, rows, 4),))
    monkeypatch.setattr(poly_norm, "BACKWARD", ((4096, rows, 4, 2, reload, 1),))
    monkeypatch.setattr(poly_norm, "programs_per_tensor", lambda tiles, *_: min(tiles, 2))
    look_tables_up(monkeypatch)
    check_poly_norm(normal(7, 40), normal(7, 40), normal(3), normal(1))


@rounded_orders
@pytest.mark.parametrize("shape", [(1, 1), (5, 24), (3, 700)])
def test_poly_relu(shape, order, dtype):
    check_poly_relu(normal(*shape, dtype=dtype).abs() - 0.3, normal(*shape, dtype=dtype), normal(order), normal(1))


@every_dtype
@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
@pytest.mark.parametrize("hidden", [1, 24, 2100])
def test_gated(hidden, activation, dtype):
    x, upstream = normal(3, 2 * hidden, dtype=dtype), normal(3, hidden, dtype=dtype)
    found = gated.forward_triton(x, activation), gated.backward_triton(upstream, x, activation)
    truth = gated.forward_torch(*double(x), activation), gated.backward_torch(*double(upstream, x), activation)
    compare(found, truth, dtype)


@every_dtype
def test_relu_squared(dtype):
    x, upstream = normal(3, 900, dtype=dtype), normal(3, 900, dtype=dtype)
    found = pointwise.forward_triton(x), pointwise.backward_triton(upstream, x)
    truth = pointwise.forward_torch(*double(x)), pointwise.backward_torch(*double(upstream, x))
    compare(found, truth, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    x, upstream = LAYOUTS[layout](normal), LAYOUTS[layout](normal)
    weight, bias = normal(6)[::2], normal(1)
    check_poly_norm(x, upstream, weight, bias)
    check_poly_relu(x, upstream, weight, bias)
    half = upstream[..., :20]
    compare(
        (gated.forward_triton(x, "silu"), gated.backward_triton(half, x, "silu")),
        (gated.forward_torch(*double(x), "silu"), gated.backward_torch(*double(half, x), "silu")),
        x.dtype,
    )


def test_nan_stays_in_its_row():
    x = normal(4, 24)
    x[1, 3] = torch.nan
    weight, bias = normal(3), normal(1)
    y, scales = poly_norm.forward_triton(x, weight, bias, 1e-6)
    assert y.isnan().all(1).tolist() == [False, True, False, False]
    dx = poly_norm.backward_triton(torch.ones_like(x), x, scales, weight, bias)[0]
    assert dx.isnan().any(1).tolist() == [False, True, False, False]
    for output in (poly_relu.forward_triton(x, weight, bias), pointwise.forward_triton(x)):
        assert output.isnan().nonzero().tolist() == [[1, 3]]
    for activation in ("silu", "gelu", "relu"):
        assert gated.forward_triton(x, activation).isnan().nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 40.0), (torch.bfloat16, 1e3), (torch.float32, 1e5)])
def test_large_numbers(dtype, size):
    x, upstream = (size * (torch.rand(4, 60, device=DEVICE) - 0.5)).to(dtype), normal(4, 60, dtype=torch.float32)
    check_poly_norm(x, (size * upstream).to(dtype), normal(3), normal(1))


@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("order", [1, 4])
@pytest.mark.parametrize("long", [False, True], ids=["", "long"])
def test_poly_norm_of_numbers_of_any_size(long, order, eps, monkeypatch):
    """Rows of very different size; their powers leave the range of float32, and at either end that of float64."""
    if long:
        monkeypatch.setattr(poly_norm, "LONGEST_ROW", 16)
        monkeypatch.setattr(poly_norm, "LONG_BLOCK", 16)
        look_tables_up(monkeypatch)
    sizes = torch.tensor([1e-30, 1e-12, 1e-4, 1.0, 3e4, 1e6, 1e18, 1e30, 1e37], device=DEVICE)[:, None]
    x, upstream = sizes * normal(len(sizes), 40).clamp(-3, 3), sizes.clamp(max=1e8) * normal(len(sizes), 40)
    weight, bias = normal(order), normal(1)
    y, scales = poly_norm.forward_triton(x, weight, bias, eps)
    gradients = poly_norm.backward_triton(upstream, x, scales, weight, bias)
    exact, exact_scales = poly_norm.forward_torch(*double(x, weight, bias), eps)
    upstream, x64, weight64, bias64 = double(upstream, x, weight, bias)
    truth = poly_norm.backward_torch(upstream, x64, exact_scales, weight64, bias64)
    for found, expected in ((y, exact), (gradients[0], truth[0])):
        for row, of_row in zip(found.cpu(), expected, strict=True):  # each on its own scale
            assert_close(row, of_row, tolerance=2e-5)
    compare(gradients, truth, x.dtype, names=("dx", "dweight", "dbias"))


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_a_row_of_zeros(eps):
    x, ones, weight = torch.zeros(2, 24, device=DEVICE), torch.ones(1, device=DEVICE), normal(3)
    for forward, backward in (
        (poly_norm.forward_triton, poly_norm.backward_triton),
        (poly_norm.forward_torch, poly_norm.backward_torch),
    ):
        y, scales = forward(x, weight, ones, eps)
        assert torch.equal(y, torch.ones_like(y))
        of_x, of_weight, of_bias = backward(torch.ones_like(x), x, scales, weight, ones)
        slope = weight[0] * eps**-0.5 if eps else torch.zeros_like(weight[0])
        assert_close(of_x, slope.expand_as(x), tolerance=1e-6)
        assert of_weight.tolist() == [0.0] * 3 and of_bias.item() == x.numel()


def test_the_same_bits_twice():
    x, upstream, weight, bias = normal(17, 100), normal(17, 100), normal(3), normal(1)
    _, scales = poly_norm.forward_triton(x, weight, bias, 1e-6)
    for first, second in (
        [poly_norm.backward_triton(upstream, x, scales, weight, bias) for _ in range(2)],
        [poly_relu.backward_triton(upstream, x, weight, bias) for _ in range(2)],
    ):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("width", [1, 2, 3, 24, 1024, 5504, 8192, 8256, 16383])
def test_head_and_tail_cover_a_row(width):
    head, tail = tiles.head_and_tail(width)
    assert head <= width <= head + tail
    assert all(part & (part - 1) == 0 for part in (head, tail))
    assert tail == 0 or head + tail // 2 < width


def test_sum_of_many_partials():
    partials = normal(4, 20000)
    weight, bias = torch.empty(3, dtype=torch.bfloat16, device=DEVICE), torch.empty(1, device=DEVICE)
    grad_weight, grad_bias = tiles.sum_partials(partials, weight, bias)
    assert (grad_weight.dtype, grad_bias.dtype) == (torch.bfloat16, torch.float32)
    assert_close(grad_weight, partials.double().sum(1)[:3], tolerance=4e-3)
    assert_close(grad_bias, partials.double().sum(1)[3:], tolerance=1e-5)


def test_why_not():
    assert tiles.why_not(torch.bfloat16) == []
    assert "not float64" in tiles.why_not(torch.float64)[0]


def test_operators_are_registered_rightly():
    """PyTorch's own checks: schemas, fake tensors, autograd, tracing with unknown sizes."""
    x, weight, bias = (tensor.cpu().requires_grad_() for tensor in (normal(4, 12), normal(3), normal(1)))
    calls = [
        (torch.ops.workbench.poly_norm, (x, weight, bias, 1e-6)),
        (torch.ops.workbench.poly_relu, (x, weight, bias)),
        (torch.ops.workbench.gated, (x, "silu")),
        (torch.ops.workbench.relu_squared, (x,)),
    ]
    for operator, arguments in calls:
        assert set(torch.library.opcheck(operator.default, arguments).values()) == {"SUCCESS"}
