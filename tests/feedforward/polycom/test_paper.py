"""What PolyCom's specification demands: invariants, golden arrays, theory, memory. Run on the reference and on fast."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from workbench.feedforward import polycom
from workbench.feedforward.compiled import compiled as baseline_of
from workbench.feedforward.polycom import (
    FeedForward,
    equal_parameter_hidden,
    fit_coefficients,
    from_official_order,
    geglu,
    gelu,
    poly_norm,
    poly_relu,
    reglu,
    relu,
    relu_squared,
    swiglu,
)
from workbench.measure import saved_bytes

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "polycom.npz")
GATED = {"swiglu": swiglu, "geglu": geglu, "reglu": reglu}
POLYNOMIAL = {"poly_norm": poly_norm, "poly_relu": poly_relu}

both = pytest.mark.parametrize("implementation", ["reference", "fast"])
every_order = pytest.mark.parametrize("order", [1, 2, 3, 4])
polynomials = pytest.mark.parametrize("method", POLYNOMIAL.values(), ids=POLYNOMIAL)
gated = pytest.mark.parametrize("method", GATED.values(), ids=GATED)


def normal(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def coefficients(order=3, dtype=torch.float64):
    return normal(order, dtype=dtype), normal(1, dtype=dtype)


def error(output, truth):
    return ((output - truth).abs().max() / truth.abs().max()).item()


def differentiated(function, inputs, upstream):
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, upstream)]


# --- golden arrays: the official functions ---------------------------------------------------------------------------


@both
@pytest.mark.parametrize("drawn", ["init", "rand"])
@pytest.mark.parametrize(("method", "name"), [(poly_norm, "PolyNorm"), (poly_relu, "PolyReLU")], ids=POLYNOMIAL)
def test_golden(method, name, drawn, implementation):
    arrays = {key: torch.from_numpy(GOLDEN[f"{name}_{drawn}_{key}"]) for key in ("y", "dx", "dweight", "dbias")}
    weight = from_official_order(torch.from_numpy(GOLDEN[f"{name}_{drawn}_weight"]))
    bias = torch.from_numpy(GOLDEN[f"{name}_{drawn}_bias"])
    x, upstream = torch.from_numpy(GOLDEN["x"]), torch.from_numpy(GOLDEN["gout"])
    call = functools.partial(method, implementation=implementation)
    y, dx, dweight, dbias = differentiated(call, (x, weight, bias), upstream)
    found = {"y": y, "dx": dx, "dweight": from_official_order(dweight), "dbias": dbias}
    for key, value in found.items():
        assert error(value, arrays[key]) < 1e-12, key


def test_golden_block():
    block = FeedForward(12, 24, poly_norm).double()
    block.up.weight.data, block.down.weight.data = map(torch.from_numpy, (GOLDEN["mlp_W1"], GOLDEN["mlp_W2"]))
    block.activation.weight.data.fill_(1 / 3)  # a float32 third is not a float64 third
    assert error(block(torch.from_numpy(GOLDEN["mlp_in"])), torch.from_numpy(GOLDEN["mlp_out"])) < 1e-12


def test_official_order():
    assert from_official_order(torch.tensor([3.0, 2.0, 1.0])).tolist() == [1, 2, 3]


# --- invariants of the specification ---------------------------------------------------------------------------------


@both
def test_poly_relu_contains_relu_and_its_square(implementation):
    x, zero = normal(7, 33, dtype=torch.float32), torch.zeros(1)
    linear, square = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    assert torch.equal(poly_relu(x, linear, zero, implementation=implementation), relu(x))
    assert torch.equal(poly_relu(x, square, zero, implementation=implementation), relu_squared(x))


@both
def test_poly_relu_contains_relu_networks(implementation):
    network = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    same = nn.Sequential(*network)
    for place in (1, 3):
        same[place] = polycom.PolyReLU(implementation=implementation)
        same[place].weight.data = torch.tensor([1.0, 0, 0])
    x = normal(9, 5, dtype=torch.float32)
    assert torch.equal(same(x), network(x))


@both
def test_poly_norm_ignores_the_scale_of_a_row(implementation):
    x, (weight, bias) = 1 + normal(4, 50), coefficients()
    call = functools.partial(poly_norm, weight=weight, bias=bias, eps=0.0, implementation=implementation)
    assert error(call(3.7 * x), call(x)) < 1e-12
    odd = poly_norm(x, torch.stack([weight[0], 0 * weight[1], weight[2]]), 0 * bias, eps=0.0)
    assert error(call(-x), call(x) - 2 * odd) < 1e-12


@both
@every_order
def test_every_term_has_unit_mean_square(order, implementation):
    x, eps = 0.3 * normal(6, 40), 1e-3
    for p in range(1, order + 1):
        weight = torch.eye(order, dtype=torch.float64)[p - 1]
        term = poly_norm(x, weight, torch.zeros(1, dtype=torch.float64), eps=eps, implementation=implementation)
        mean = (x**p).square().mean(-1)
        assert error(term.square().mean(-1), mean / (mean + eps)) < 1e-12


@both
def test_rows_and_columns_permute(implementation):
    x, (weight, bias) = normal(6, 40), coefficients()
    call = functools.partial(poly_norm, weight=weight, bias=bias, implementation=implementation)
    columns, rows = torch.randperm(40), torch.randperm(6)
    assert error(call(x[:, columns]), call(x)[:, columns]) < 1e-14
    assert torch.equal(call(x[rows]), call(x)[rows])
    other = x.clone()
    other[2] = 5
    changed = (call(other) != call(x)).any(1)
    assert changed.tolist() == [False, False, True, False, False, False]


@both
@every_order
def test_gradient_along_the_row(order, implementation):
    """Euler: PolyNorm does not depend on a row's scale, so its gradient has no part along the row."""
    x, upstream = 1 + normal(5, 30), normal(5, 30)
    weight, bias = coefficients(order)
    call = functools.partial(poly_norm, eps=0.0, implementation=implementation)
    dx = differentiated(call, (x, weight, bias), upstream)[1]
    assert (x * dx).sum(-1).abs().max() < 1e-10
    dx = differentiated(functools.partial(poly_relu, implementation=implementation), (x, weight, bias), upstream)[1]
    q = x.clamp(min=0)
    expected = sum(p * weight[p - 1] * q**p for p in range(1, order + 1))
    assert error((x * dx).sum(-1), (upstream * expected).sum(-1)) < 1e-12


@both
@every_order
@polynomials
def test_gradcheck(method, order, implementation):
    x, (weight, bias) = normal(4, 6), coefficients(order)
    x[1] = 0
    options, allowed = {}, 1e-8
    if method is poly_norm:  # a row of zeros turns over within sqrt(eps), which must be large beside the step
        options = {"eps": 1e-2}
    else:  # PolyReLU has a kink at 0 unless a_1 is 0, and finite differences see half of its curvature there
        weight[0], allowed = 0, 2e-6
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    call = functools.partial(method, implementation=implementation, **options)
    assert torch.autograd.gradcheck(call, inputs, atol=allowed, rtol=1e-6)


@both
def test_a_row_of_zeros(implementation):
    x, upstream = torch.zeros(2, 8, dtype=torch.float64), normal(2, 8)
    weight, bias = torch.full((3,), 1 / 3, dtype=torch.float64), normal(1)
    y, dx, *_ = differentiated(
        functools.partial(poly_norm, eps=0.0, implementation=implementation), (x, weight, bias), upstream
    )
    assert torch.equal(y, bias.expand(2, 8)) and torch.equal(dx, torch.zeros(2, 8, dtype=torch.float64))
    y, dx, *_ = differentiated(functools.partial(poly_norm, implementation=implementation), (x, weight, bias), upstream)
    assert torch.equal(y, bias.expand(2, 8))
    assert error(dx, upstream / 3 * 1e3) < 1e-12
    y, dx, *_ = differentiated(functools.partial(poly_relu, implementation=implementation), (x, weight, bias), upstream)
    assert torch.equal(dx, torch.zeros(2, 8, dtype=torch.float64))


@both
def test_a_row_of_one(implementation):
    x = torch.tensor([[7.0], [-0.5]], dtype=torch.float64)
    unit = torch.tensor([1.0, 0, 0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert error(poly_norm(x, *unit, implementation=implementation), x.sign()) < 1e-5


def test_two_forms():
    x, (weight, bias) = normal(5, 60), coefficients()
    assert error(poly_norm.fast(x, weight, bias), poly_norm.reference(x, weight, bias)) < 1e-13
    paper = sum(a * x**p / (x**p).norm(dim=-1, keepdim=True) for p, a in enumerate(weight, start=1)) + bias
    assert error(poly_norm(x, weight / 60**0.5, bias, eps=0.0), paper) < 1e-13


@both
@gated
def test_the_gate_comes_first(method, implementation):
    value = normal(3, 8)
    for gate in (torch.zeros(3, 8, dtype=torch.float64), torch.full((3, 8), -60.0, dtype=torch.float64)):
        x = torch.cat([gate, value], dim=-1)
        assert method(x, implementation=implementation).abs().max() < 1e-20
    gate = torch.full((3, 8), 60.0, dtype=torch.float64)
    assert error(method(torch.cat([gate, value], -1), implementation=implementation), 60 * value) < 1e-12


def test_gelu():
    x = normal(5, 40)
    for approximate in ("none", "tanh"):
        expected = nn.functional.gelu(x, approximate=approximate)
        assert error(gelu.reference(x, approximate=approximate), expected) < 1e-14


# --- low precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [40.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@polynomials
def test_large_numbers(method, dtype, largest):
    """The sixth power of 40 is past float16, that of 1000 is not past float32, and rounding happens once."""
    x = (largest * torch.rand(6, 200) - largest / 2).to(dtype)
    weight, bias = torch.tensor([0.3, -0.2, 0.5]), torch.tensor([0.1])
    if method is poly_relu:
        weight = weight / torch.tensor([largest, largest**2, largest**3])
    y = method.fast(x, weight, bias)
    truth = method.reference(x.double(), weight.double(), bias.double())
    unit = torch.finfo(dtype).eps * truth.abs().clamp(min=torch.finfo(dtype).tiny)
    assert y.dtype == dtype
    assert ((y.double() - truth).abs() <= 1.001 * unit + 1e-6).all()


@polynomials
def test_coefficients_keep_their_own_dtype(method):
    x, weight, bias = normal(4, 16, dtype=torch.bfloat16), *coefficients(dtype=torch.float32)
    for implementation in ("reference", "fast"):
        call = functools.partial(method, implementation=implementation)
        y, dx, dweight, dbias = differentiated(call, (x, weight, bias), normal(4, 16, dtype=torch.bfloat16))
        assert (y.dtype, dx.dtype, dweight.dtype, dbias.dtype) == (x.dtype, x.dtype, weight.dtype, bias.dtype)


# --- memory, repeatability, models -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "eager", "fast"),
    [(poly_norm, 6, 1), (poly_relu, 3, 1), (gelu, None, 1), (relu, 1, 1), (swiglu, None, 2), (reglu, None, 2)],
    ids=lambda value: getattr(value, "name", None),
)
def test_saved_bytes(method, eager, fast):
    example = method.example(32)
    output = method(*example.inputs.values())
    if eager:
        assert saved_bytes(method.reference, *example.inputs.values()) / output.nbytes == pytest.approx(eager, rel=0.01)
    assert saved_bytes(method.fast, *example.inputs.values()) / output.nbytes == pytest.approx(fast, rel=0.01)


def test_saved_bytes_of_what_pytorch_users_write():
    x = swiglu.example(32).inputs["x"]
    assert saved_bytes(swiglu.function("eager"), x) / swiglu(x).nbytes == pytest.approx(3)
    inputs = poly_norm.example(32).inputs.values()
    assert saved_bytes(poly_norm.function("checkpointed"), *inputs) / poly_norm(*inputs).nbytes == pytest.approx(
        1, rel=0.01
    )


@polynomials
def test_backward_is_repeatable(method):
    inputs = [normal(300, 700, dtype=torch.float32), *coefficients(dtype=torch.float32)]
    upstream = normal(300, 700, dtype=torch.float32)
    first, second = (differentiated(method.fast, inputs, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@both
@polynomials
def test_checkpointed_equals_kept(method, implementation):
    inputs, upstream = [normal(20, 30), *coefficients()], normal(20, 30)
    call = functools.partial(method, implementation=implementation)
    kept = differentiated(call, inputs, upstream)
    again = differentiated(lambda *arguments: checkpoint(call, *arguments, use_reentrant=False), inputs, upstream)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_equal_parameters():
    assert equal_parameter_hidden(5504, 2, 1) == 8256

    def parameters(method):
        block = FeedForward(16, equal_parameter_hidden(64, 2, method.branches), method)
        return sum(weight.numel() for weight in block.parameters())

    assert parameters(swiglu) == parameters(relu) == parameters(poly_norm) - 4


@pytest.mark.parametrize("method", polycom.PAPER.methods, ids=lambda method: method.name)
def test_feed_forward_trains(method):
    block, x = FeedForward(8, 12, method, order=2), normal(3, 5, 8, dtype=torch.float32)
    output = block(x)
    assert output.shape == x.shape
    output.square().sum().backward()
    assert all(weight.grad.isfinite().all() and weight.grad.abs().max() > 0 for weight in block.parameters())


@polynomials
def test_fit_finds_the_coefficients(method):
    x, (weight, bias) = normal(30, 20), coefficients()
    fitted = fit_coefficients(method, x, method(x, weight, bias))
    assert error(torch.cat(fitted), torch.cat([weight, bias])) < 1e-10
    fitted = fit_coefficients(method, x.float(), gelu(x.float()), order=4)
    assert [(len(each), each.dtype) for each in fitted] == [(4, torch.float32), (1, torch.float32)]
    by_hand = nn.functional.mse_loss(method(x, *map(torch.Tensor.double, fitted)), gelu(x))
    assert by_hand < gelu(x).var() / 10


def test_fit_takes_columns_that_coincide():
    x = -torch.rand(4, 5)  # PolyReLU is its bias there
    weight, bias = fit_coefficients(poly_relu, x, torch.full_like(x, 2.0))
    assert weight.abs().max() < 1e-6
    assert bias.item() == pytest.approx(2)
    with pytest.raises(ValueError, match=r"\(4, 5\), not \(5,\)"):
        fit_coefficients(poly_relu, x, x[0])


# --- a shape of its own for every compiled baseline ------------------------------------------------------------------


def test_the_compiled_baseline_does_not_give_up(monkeypatch):
    """PyTorch stops compiling a function after 8 shapes and would then time plain PyTorch, without a word."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # no C++ compiler needed
    compiled = baseline_of(relu_squared.reference).function
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=2):
        for width in range(3, 7):
            x = normal(2, width, dtype=torch.float32)
            assert torch.equal(compiled(x), relu_squared.reference(x))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4


# --- cost, bad input, theory -----------------------------------------------------------------------------------------


class Counted(float):
    """A number that counts what is done with it."""

    operations = 0

    def _count(self, other):
        Counted.operations += 1
        return Counted(1.0)

    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = _count


@every_order
def test_cost_counts_what_horner_does(order):
    """The kernels' arithmetic for one number, written down once more and counted."""
    x, g, c = Counted(2), Counted(3), Counted(4)

    def powers():
        found = [x]
        for _ in range(order - 1):
            found.append(found[-1] * x)
        return found

    def horner(z, terms):
        value = c
        for _ in range(terms):
            value = value * z + c
        return value

    def count(work):
        Counted.operations = 0
        work()
        return Counted.operations

    def norm_forward():
        for p, power in enumerate(powers()):
            c + (x if p == 0 and order > 1 else power * power)  # x^2 is one of the powers already
        horner(x, order)

    def norm_backward():
        for power in powers():
            c + g * power
        c + g
        g * horner(x, order - 1) - x * horner(c, order - 1)

    numbers = 48 * 1024
    example = poly_norm.example(48, order=order)
    cost = poly_norm.cost(*example.inputs.values())
    assert cost.flops == count(norm_forward) * numbers
    # The square in the odd polynomial is a power that is there already, for orders over 1.
    assert cost.backward_flops == count(norm_backward) * numbers
    cost = poly_relu.cost(*example.inputs.values())
    assert cost.flops == (1 + count(lambda: horner(x, order))) * numbers


@pytest.mark.parametrize(("size", "order"), [(1e5, 4), (1e6, 3), (1e30, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_whose_powers_overflow(dtype, size, order):
    x, upstream = (size * normal(4, 60)).to(dtype).requires_grad_(), normal(4, 60)
    weight, bias = normal(order), normal(1)
    y = poly_norm.fast(x, weight.to(dtype), bias.to(dtype))
    x64, weight, bias = x.detach().double().requires_grad_(), weight.to(dtype).double(), bias.to(dtype).double()
    truth = poly_norm.reference(x64, weight, bias)
    unit = torch.finfo(dtype).eps
    assert error(y, truth) < 4 * unit
    (dx,) = torch.autograd.grad(y, x, upstream.to(dtype))
    (expected,) = torch.autograd.grad(poly_norm.fast(x64, weight, bias), x64, upstream.to(dtype).double())
    assert error(dx, expected) < 4 * unit
    if size < 1e30:  # beyond, the derivative of the equations overflows in float64, too
        assert error(expected, torch.autograd.grad(truth, x64, upstream.to(dtype).double())[0]) < 1e-12


@both
@pytest.mark.parametrize("method", polycom.PAPER.methods, ids=lambda method: method.name)
def test_no_rows_give_no_rows_and_gradients_of_zero(method, implementation):
    inputs = [tensor.requires_grad_() for tensor in method.example(2, hidden=6).inputs.values()]
    inputs[0] = inputs[0].detach()[:0].requires_grad_()
    output = method(*inputs, implementation=implementation)
    assert output.shape == (0, 6)
    for gradient, of in zip(torch.autograd.grad(output.sum(), inputs), inputs, strict=True):
        assert torch.equal(gradient, torch.zeros_like(of))


@polynomials
def test_coefficients_with_gaps(method):
    x, weight, bias = normal(3, 8), normal(6)[::2], normal(2)[::2]
    assert error(method.fast(x, weight, bias), method.reference(x, weight, bias)) < 1e-12


BAD = {
    "whole numbers": (lambda: poly_norm(torch.ones(2, 3, dtype=torch.int64), *coefficients()), "floating.*int64"),
    "a bare number": (lambda: relu(torch.tensor(1.0)), r"at least one column, not \(\)"),
    "no columns": (lambda: poly_norm(torch.ones(2, 0), *coefficients()), r"not \(2, 0\)"),
    "five coefficients": (lambda: poly_norm(torch.ones(2, 3), torch.ones(5), torch.ones(1)), r"1 to 4.*\(5,\)"),
    "a table of coefficients": (lambda: poly_norm(torch.ones(2, 3), torch.ones(3, 2), torch.ones(1)), r"\(3, 2\)"),
    "two biases": (lambda: poly_relu(torch.ones(2, 3), torch.ones(3), torch.ones(2)), r"one bias, \(1,\), not \(2,\)"),
    "whole coefficients": (
        lambda: poly_relu(torch.ones(2, 3), torch.ones(3, dtype=torch.int64), torch.ones(1)),
        "floating-point coefficients, not torch.int64",
    ),
    "two devices": (lambda: poly_norm(torch.ones(2, 3), torch.ones(3, device="meta"), torch.ones(1)), "one device"),
    "an odd width": (lambda: swiglu(torch.ones(2, 3)), "even, not 3"),
    "eps out of bounds": (lambda: poly_norm(torch.ones(2, 3), *coefficients(), eps=-1.0), "eps = -1.0.*choose"),
    "order out of bounds": (lambda: polycom.PolyNorm(order=5), "order = 5.*1 to 4"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_theory():
    found = polycom.identity_errors(normal(500), normal(500))
    assert set(found) == {"x^2", "x^3", "x y"}
    assert max(found.values()) <= 1e-15
    for pieces, expected in ((4, 0.0078125), (32, 1.220703125e-4)):
        assert polycom.piecewise_linear_error(pieces) == pytest.approx(expected, rel=1e-9)
    for depth in range(1, 7):
        assert polycom.sawtooth_error(depth) == pytest.approx(4.0 ** -(depth + 1), rel=1e-9)
    sizes = (4, 8, 16, 32, 64)
    for power, expected in (
        (1, (2.26e-1, 5.7e-2, 1.5e-2, 3.8e-3, 9.6e-4)),
        (3, (5.5e-2, 1.5e-3, 7.8e-5, 4.5e-6, 2.9e-7)),
    ):
        errors = [polycom.spline_error(size, power) for size in sizes]
        assert errors == pytest.approx(expected, rel=0.03)
        assert polycom.rate(sizes[2:], errors[2:]) == pytest.approx(power + 1, abs=0.1)


def test_order_errors_fall():
    found = polycom.order_errors((1, 2, 3), units=48, seeds=3)
    assert found[1] > found[2] > found[3] > 0


def test_effective_rank():
    assert polycom.effective_rank(torch.eye(6)) == pytest.approx(6)
    assert polycom.effective_rank(torch.ones(6, 4)) == pytest.approx(1)
    assert 1 < polycom.effective_rank(normal(6, 4)) < 4


def test_initial_scale():
    """What comes out of standard-normal numbers at the start of training."""
    x, weight, bias = poly_norm.example(64, hidden=16384).inputs.values()
    y, z = poly_norm(x, weight, bias), poly_relu(x, weight, bias)
    assert y.mean() == pytest.approx(0.193, abs=2e-3)
    assert y.std() == pytest.approx(0.685, abs=4e-3)
    assert z.mean() == pytest.approx(0.566, abs=4e-3)
    assert z.std() == pytest.approx(1.400, abs=2e-2)
