"""Methods of other kinds than the papers that are there: each small, and true to its paper."""

import pytest
import torch

from doubles import adan_step, fusemax_model, selective_scan
from workbench import measure

DOUBLES = [adan_step.METHOD, selective_scan.METHOD, fusemax_model.METHOD]
every_double = pytest.mark.parametrize("method", DOUBLES, ids=lambda method: method.name)


def test_adans_first_step_is_that_of_the_sign():
    theta, gradient, zero = torch.randn(5).double(), torch.randn(5).double(), torch.zeros(5).double()
    options = {"step": 1, "lr": 0.1, "decay": 0.02}
    moved, state = adan_step.METHOD(theta, gradient, zero, zero, zero, gradient, **options)
    torch.testing.assert_close(moved, (theta - 0.1 * gradient / (gradient.abs() + 1e-8)) / 1.002)
    assert torch.equal(state.previous, gradient) and torch.equal(state.difference, zero)


def test_without_the_difference_adan_is_adam():
    theta = torch.randn(7, dtype=torch.float64)
    weight = torch.nn.Parameter(theta.clone())
    adam = torch.optim.Adam([weight], lr=0.01, betas=(0.9, 0.99))
    state, previous = adan_step.State(*(torch.zeros_like(theta) for _ in range(4))), None
    for step in range(1, 11):
        weight.grad = torch.randn(7, dtype=torch.float64)
        adam.step()
        previous = weight.grad if previous is None else previous
        options = {"step": step, "lr": 0.01, "beta1": 0.9, "beta2": 0.0, "beta3": 0.99, "decay": 0.0}
        theta, state = adan_step.METHOD(theta, weight.grad.clone(), *state[:3], previous, **options)
        previous = state.previous
    torch.testing.assert_close(theta, weight.detach(), atol=1e-12, rtol=0)


def test_the_scan_forgets_what_decays_fast_and_sums_what_does_not_decay():
    u, delta, decay, into, out_of, skip = selective_scan.example(9, dtype="float64").inputs.values()
    step = torch.nn.functional.softplus(delta)
    summed, last = selective_scan.METHOD(u, delta, 0 * decay, into, out_of, 0 * skip)
    expected = ((step * u)[..., None] * into[:, :, None]).cumsum(1)
    torch.testing.assert_close(summed, (expected * out_of[:, :, None]).sum(-1))
    torch.testing.assert_close(last, expected[:, -1])
    forgot, _ = selective_scan.METHOD(u, delta, 1e9 * decay, into, out_of, skip)
    torch.testing.assert_close(forgot, step * u * (into * out_of).sum(-1, keepdim=True) + skip * u)


# BERT at 1K to 1M tokens, configuration "binding", from the artifact's tables: seconds, bytes, J, share of the array.
ARTIFACT = {
    "latency": [0.002013140425531915, 0.02970035744680851, 0.46516616170212766, 7.402500357446808, 118.2793728,
                1891.8274331234043],
    "traffic": [402653184, 1610612736, 6442450944, 38654705664, 463856467968, 6803228196864],
    "energy": [1.9506451498552659, 30.897520074119223, 493.10911189164744, 7885.539507510327, 126588.34632312841,
               2028812.9992244227],
    "utilisation": [0.8896103896103895, 0.9647887323943661, 0.9856115107913668, 0.9909584086799277,
                    0.9923042100497962, 0.9926412317445941],
}  # fmt: skip


def test_fusemax_figures_are_those_of_the_artifact():
    found = fusemax_model.METHOD(1024 * 4 ** torch.arange(6))
    for name in ("latency", "traffic", "utilisation"):
        expected = torch.tensor(ARTIFACT[name], dtype=torch.float64)
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=0)
    share = found["energy"] / torch.tensor(ARTIFACT["energy"], dtype=torch.float64)
    assert share.min() > 0.965 and share.max() < 0.973  # arithmetic and memory, without what lies between


@every_double
def test_it_is_measured_like_any_other(method):
    directions = ["forward"] if method.traits.gradients == 0 else ["forward", "backward"]
    choices = [(method, name) for name in method.implementations]
    dtype = method.traits.dtypes[-1]
    for row in measure.sweep(choices, [4, 8], device="cpu", dtype=dtype, directions=directions, budget_s=0.01):
        assert row["status"] == "ok" and row["median_ms"] > 0, row["reason"]


@pytest.mark.parametrize("method", [adan_step.METHOD, fusemax_model.METHOD], ids=lambda method: method.name)
def test_a_backward_pass_that_is_not_there_is_said_to_be_missing(method):
    choices, dtype = [(method, "fast")], method.traits.dtypes[0]
    (row,) = measure.sweep(choices, [4], device="cpu", dtype=dtype, directions=["backward"], budget_s=0.01)
    assert row["status"] == "unavailable" and row["reason"] == f"{method.title} has no backward pass."


def test_a_dtype_that_it_does_not_take_is_said():
    (row,) = measure.sweep([(adan_step.METHOD, "fast")], [4], device="cpu", dtype="bfloat16", budget_s=0.01)
    assert row["status"] == "unavailable" and row["reason"] == "Adan's step takes float64, float32, not bfloat16."


def test_other_counts_are_shown_with_their_units():
    example = adan_step.example(4)
    (count,) = adan_step.METHOD.cost(*example.inputs.values()).counts.values()
    assert str(count) == "4,096 bytes"
