"""The forecast kernels: in Triton's interpreter at small sizes, on a GPU at real ones."""

import pytest
import torch

from workbench.conformance import assert_close
from workbench_kernels.forecast import differences as forecast
from workbench_kernels.forecast import errors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (batch, tokens, width): one number; odd; several tiles each way; DiT-XL/2's.
SHAPES = [(1, 1, 1), (2, 5, 20), (2, 9, 136), (3, 17, 33)] + ([(2, 256, 1152)] if DEVICE == "cuda" else [])

pytestmark = pytest.mark.usefixtures("poisoned_memory")
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, device=DEVICE).to(dtype)


def double(*tensors):
    return [tensor.double().cpu() for tensor in tensors]


def compare(output, truth, name):
    """Added in float32, rounded once: half a unit off (a unit in the interpreter)."""
    rounding = 0.51 if DEVICE == "cuda" or output.dtype != torch.bfloat16 else 1.0
    tolerance = 3e-6 + (0.0 if output.dtype == torch.float32 else rounding * torch.finfo(output.dtype).eps)
    assert_close(output.cpu(), truth, tolerance=tolerance, name=name)


@every_shape
@pytest.mark.parametrize(
    ("dtype", "modules", "entries"),
    [
        (torch.float32, 1, 1),
        (torch.float32, 3, 2),
        (torch.float32, 4, 5),
        (torch.bfloat16, 3, 2),
        (torch.float16, 4, 5),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_forecast_modules(shape, modules, entries, dtype):
    batch, tokens, width = shape
    hidden, gates = normal(*shape, dtype=dtype), normal(batch, modules, width, dtype=dtype)
    stack, weights = normal(batch, modules, entries, tokens, width, dtype=dtype), normal(batch, entries)
    found = forecast.forecast_modules_triton(hidden, stack, gates, weights)
    compare(found, forecast.forecast_modules_torch(*double(hidden, stack, gates, weights)), "forecast")


def test_forecast_modules_takes_views():
    """Gates out of a wider matrix, one row of weights for every sample, a stack with gaps between its batches."""
    rows, stack = normal(2, 7 * 20), normal(2, 5, 2, 9, 20)[:, 1:4]
    gates, weights = rows.unflatten(1, (7, 20))[:, 2:5], normal(2).expand(2, 2)
    hidden = normal(2, 9, 20)
    found = forecast.forecast_modules_triton(hidden, stack, gates, weights)
    compare(found, forecast.forecast_modules_torch(*double(hidden, stack, gates, weights)), "forecast")


@every_dtype
@every_shape
def test_forecast_of_one_stack(shape, dtype):
    stack, weights = normal(shape[0], 3, *shape[1:], dtype=dtype), normal(shape[0], 3)
    out = torch.empty(shape, dtype=dtype, device=DEVICE)
    found = forecast._forecast_on_cuda(None, stack[:, None], None, weights, out)
    assert found is out
    compare(out, torch.einsum("be,betd->btd", *double(weights, stack)), "forecast")


@every_dtype
@every_shape
@pytest.mark.parametrize("entries", [1, 2, 5])
def test_refresh(shape, entries, dtype):
    feature, stack = normal(*shape, dtype=dtype), normal(shape[0], entries, *shape[1:], dtype=dtype)
    rates = 1 / torch.arange(1, shape[0] + 1, device=DEVICE)
    truth = forecast.refresh_derivatives_torch(*double(feature, stack, rates))
    compare(forecast.refresh_derivatives_triton(feature, stack, rates), truth, "new stack")
    forecast._refresh_on_cuda(feature, stack, stack, rates)
    compare(stack, truth, "stack in place")


def test_refresh_of_one_module_leaves_the_others_alone():
    network, feature = normal(2, 3, 2, 9, 20), normal(2, 9, 20)
    others, stack, rates = network[:, ::2].clone(), network[:, 1], torch.full((1,), 0.25, device=DEVICE).expand(2)
    truth = forecast.refresh_derivatives_torch(*double(feature, stack, rates))
    forecast._refresh_on_cuda(feature, stack, stack, rates)
    compare(stack, truth, "one module's stack")
    assert torch.equal(network[:, ::2], others), "another module's stack was changed"


@every_dtype
@every_shape
def test_add_gated(shape, dtype):
    hidden, feature, gates = (normal(*shape, dtype=dtype) for _ in range(3))
    gates = gates[:, 0]  # of a wider matrix, as the network's are
    found = forecast._add_gated_on_cuda(hidden, feature, gates)
    compare(found, torch.addcmul(*double(hidden, gates[:, None], feature)), "residual stream")


@every_dtype
@every_shape
def test_error_sums(shape, dtype):
    hidden, stack = normal(*shape, dtype=dtype), normal(shape[0], 2, *shape[1:], dtype=dtype)
    weights = normal(shape[0], 2)
    found = errors.error_sums_triton(hidden, stack, weights, False)
    assert found.dtype == torch.float32
    truth = errors.error_sums_torch(*double(hidden, stack, weights), False)
    assert_close(found.cpu(), truth, tolerance=1e-5)
    assert torch.equal(found, errors.error_sums_triton(hidden, stack, weights, False)), "the order of the sum changed"
    means = errors.error_sums_triton(hidden, stack, weights, True)
    assert means.dtype == dtype
    tolerance = 1e-5 + (0 if dtype == torch.float32 else torch.finfo(dtype).eps)
    assert_close(means.cpu(), truth / hidden[0].numel(), tolerance=tolerance)


@pytest.mark.parametrize("shape", [(0, 5, 20), (2, 0, 20), (2, 5, 0)])
def test_of_nothing(shape):
    batch, tokens, width = shape
    hidden, stack, weights = normal(*shape), normal(batch, 3, 2, tokens, width), normal(batch, 2)
    assert forecast.forecast_modules(hidden, stack, normal(batch, 3, width), weights).shape == shape
    assert forecast.refresh_derivatives(hidden, stack[:, 0], normal(batch)).shape == (batch, 2, tokens, width)
    for run in (errors.error_sums_triton, errors.error_sums_torch):
        assert torch.equal(run(hidden, stack[:, 0], weights, False).cpu(), torch.zeros(batch, 2))
        assert run(hidden, stack[:, 0], weights, True).isnan().all()


def test_what_a_sampler_calls_is_plain_pytorch_where_there_is_no_kernel():
    hidden, feature, stack = (torch.randn(2, 4, 6, dtype=torch.float64) for _ in range(3))
    stack, gates, rates = torch.stack((stack, 2 * stack), dim=1), torch.randn(2, 6).double(), torch.ones(2).double()
    before = stack.clone()
    assert_close(forecast.add_gated(hidden, feature, gates), hidden + gates[:, None] * feature, tolerance=1e-15)
    forecast.refresh_(feature, stack, rates)
    assert_close(stack, forecast.refresh_derivatives(feature, before, rates), tolerance=0.0)
    weights = torch.randn(2, 2).double()
    assert_close(forecast.forecast(stack, weights), torch.einsum("be,betd->btd", weights, stack), tolerance=1e-14)
