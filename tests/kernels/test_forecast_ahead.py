"""The refresh that adds up what coming steps need: in Triton's interpreter, and plain, against one step at a time."""

import pytest
import torch

from workbench.conformance import assert_close
from workbench_kernels.forecast import ahead as forecast_ahead
from workbench_kernels.forecast import differences as forecast

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# (batch, tokens, width): one number; odd; two tiles each way; DiT-XL/2's.
SHAPES = [(1, 1, 1), (2, 5, 20), (2, 9, 70)] + ([(2, 256, 1152)] if DEVICE == "cuda" else [])
# (modules, entries, steps ahead): reuse, by four modules and by one; orders 1 and 4; more sums than a whole tile has.
SIZES = [(4, 1, 1), (1, 1, 1), (4, 2, 2), (6, 5, 4), (3, 3, 11)]
STEPS = 9
# The first step, one in the middle and the last, in float32; where a step is found does not depend on the dtype.
PLACES = [(torch.float32, 0), (torch.float32, 5), (torch.float32, STEPS - 1), (torch.bfloat16, 5), (torch.float16, 0)]

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def inputs(shape, size, dtype, at):
    """Stack, gates out of wider rows, numbers behind two others, the step, and sums that nobody has written."""
    (batch, tokens, width), (modules, entries, ahead) = shape, size
    stack = torch.randn(entries, modules, batch, tokens, width, device=DEVICE).to(dtype)
    gates = torch.randn(STEPS, batch, modules + 2, width, device=DEVICE).to(dtype)[:, :, 1:-1]
    numbers = torch.randn(STEPS, 3 + ahead * entries, device=DEVICE)[:, 2:]
    place = torch.tensor([at], device=DEVICE)
    return stack, gates, numbers, place, torch.full((ahead, *shape), torch.nan, device=DEVICE)


def one_by_one(stack, gates, numbers, at, ahead):
    """The new stack and the sums, float64: a module and a step at a time, as the paper has it."""
    stack, gates, numbers, at = stack.double().cpu(), gates.double().cpu(), numbers.double().cpu(), int(at)
    entries = len(stack)
    rate, weights = numbers[at, 0], numbers[at, 1:].unflatten(0, (ahead, entries))
    batch = stack.shape[2]
    new = torch.stack(
        [
            forecast.refresh_derivatives_torch(outputs, old.transpose(0, 1), rate.expand(batch))
            for outputs, old in zip(stack[-1], stack.unbind(1), strict=True)
        ],
        dim=1,
    )  # (batch, modules, entries, tokens, width)
    sums = torch.zeros(ahead, *stack.shape[2:], dtype=torch.float64)
    for step in range(1, ahead + 1):
        gate = gates[min(at + step, STEPS - 1)]
        sums[(at + step) % ahead] = torch.einsum("bkd,e,bketd->btd", gate, weights[step - 1], new)
    return new.permute(2, 1, 0, 3, 4), sums


@pytest.mark.parametrize(("dtype", "at"), PLACES, ids=lambda value: str(value).removeprefix("torch."))
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel(shape, size, dtype, at):
    given = inputs(shape, size, dtype, at)
    stack, sums = given[0], given[-1]
    new, expected = one_by_one(*given[:-1], size[-1])
    forecast_ahead._refresh_ahead_on_cuda(*given)
    # Rounded once: half a unit off (a unit in the interpreter). The sums are of what was not rounded.
    rounding = 0.51 if DEVICE == "cuda" or dtype != torch.bfloat16 else 1.0
    unit = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert_close(stack.cpu(), new, tolerance=3e-6 + rounding * unit, name="stack")
    assert_close(sums.cpu(), expected, tolerance=3e-6, name="sums")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_plain_pytorch(size):
    stack, gates, numbers, at, sums = inputs((2, 5, 20), size, torch.float64, 3)
    numbers, sums = numbers.double(), sums.double()
    new, expected = one_by_one(stack, gates, numbers, at, size[-1])
    forecast_ahead.refresh_ahead_(stack, gates, numbers, at, sums)
    assert_close(stack.cpu(), new, tolerance=1e-14)
    assert_close(sums.cpu(), expected, tolerance=1e-14)


@pytest.mark.parametrize("chosen", ["_refresh_ahead_on_cuda", "_refresh_ahead_plainly"])
def test_a_rate_of_zero_begins_a_stack(chosen):
    """Whatever was there, NaN included."""
    stack, gates, numbers, at, sums = inputs((2, 5, 20), (4, 3, 2), torch.float32, 1)
    numbers[1, 0], stack[:-1], outputs = 0.0, torch.nan, stack[-1].clone()
    getattr(forecast_ahead, chosen)(stack, gates, numbers, at, sums)
    assert torch.equal(stack[0], outputs) and not stack[1:].any() and sums.isfinite().all()


def test_the_same_input_gives_the_same_bits():
    first, second = (inputs((2, 9, 70), (4, 2, 2), torch.bfloat16, 1) for _ in range(2))
    for given, source in zip(second[:-1], first[:-1], strict=True):
        given.copy_(source)
    for given in (first, second):
        forecast_ahead._refresh_ahead_on_cuda(*given)
    assert torch.equal(first[0], second[0]) and torch.equal(first[-1], second[-1])
