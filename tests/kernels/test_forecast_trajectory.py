"""What is seen of a run, and where a gate computes it: the kernels against plain PyTorch in float64."""

import itertools
import math

import pytest
import torch

from workbench.conformance import assert_close
from workbench_kernels.forecast import trajectory

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1, 1), (2, 5, 20), (3, 9, 30)] + ([(2, 256, 1152)] if DEVICE == "cuda" else [])
STEPS = 9

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch):
    """Small ones for the interpreter, so that some shapes have more than one."""
    if DEVICE == "cpu":
        monkeypatch.setattr(trajectory, "TILE", 64)
        monkeypatch.setattr(trajectory, "ERROR_TILE", 64)
        monkeypatch.setattr(trajectory, "SUM_BLOCK", 4)


def tables(groups, entries, steps=STEPS):
    """Any steps, any factors, some of them zero."""
    chosen = torch.randint(steps, (groups, steps, entries), device=DEVICE)
    factors = torch.randn(groups, steps, entries, device=DEVICE)
    return chosen, torch.where(factors.abs() < 0.3, 0.0, factors)


def sums(features, chosen, factors):
    """As the docstring says, in float64."""
    features, factors = features.double().cpu(), factors.double().cpu().expand(len(features), -1, -1)
    chosen = chosen.cpu().expand(len(features), -1, -1)
    rows = [[sum(f * features[b, c] for c, f in zip(chosen[b, s], factors[b, s], strict=True))
             for s in range(chosen.shape[1])] for b in range(len(features))]  # fmt: skip
    return torch.stack([torch.stack(row) for row in rows])


def smooth(batch, tokens, width, dtype=torch.float32):
    """Slow waves, and one kink, so that a gate has something to find."""
    time = torch.arange(STEPS)[None, :, None, None] / STEPS
    waves = torch.randn(2, batch, 1, tokens, width)
    kink = (time * STEPS - 5).clamp(min=0) * torch.randn(batch, 1, tokens, width) / 3
    return (waves[0] * torch.cos(2 * time) + waves[1] * time + 2 + kink).to(DEVICE, dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("per_sample", "entries", "dtype"),
    [(False, 1, torch.bfloat16), (True, 2, torch.float32), (False, 5, torch.float16)],
)
def test_seen(shape, dtype, per_sample, entries):
    batch, tokens, width = shape
    features = torch.randn(batch, STEPS, tokens, width, device=DEVICE).to(dtype)
    known = tables(batch if per_sample else 1, entries)
    truth = sums(features, *known)
    tolerance = 1e-6 + (0 if dtype == torch.float32 else torch.finfo(dtype).eps)
    assert_close(trajectory.seen_triton(features, *known, STEPS).cpu(), truth, tolerance=tolerance)
    assert_close(trajectory.seen_torch(features, *known, STEPS).cpu(), truth, tolerance=tolerance)


def test_seen_takes_slices_and_looks_at_nothing_that_does_not_count():
    both = torch.randn(2, 2, STEPS, 5, 20, device=DEVICE)
    features, (chosen, factors) = both[:, 1], tables(1, 2)
    chosen[0, 3], factors[0, 3] = torch.tensor([4, 5], device=DEVICE), torch.tensor([1.0, 0.0], device=DEVICE)
    expected = features[:, 4].clone()
    features[:, 5] = torch.nan
    found = trajectory.seen_triton(features, chosen, factors, STEPS)
    assert torch.equal(found[:, 3], expected)
    turned = features.transpose(2, 3)
    assert torch.equal(trajectory.seen_triton(turned, chosen, factors, STEPS)[:, 3], expected.mT)


@pytest.mark.parametrize("per_sample", [False, True])
def test_seen_can_be_differentiated_once(per_sample):
    features = torch.randn(2, 5, 2, 3, dtype=torch.float64, requires_grad=True)
    chosen, factors = tables(2 if per_sample else 1, 2, steps=5)
    chosen, factors = chosen.cpu(), factors.double().cpu()
    assert torch.autograd.gradcheck(lambda each: trajectory.seen(each, chosen, factors), features)
    once = trajectory.seen(features, chosen, factors)
    (first,) = torch.autograd.grad(once.square().sum(), features, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiated once"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("shape", "dtype", "orders", "per_sample"),
    [
        (SHAPES[0], torch.float32, (1, 1), False),
        (SHAPES[-1], torch.float32, (0, 0), True),
        (SHAPES[-1], torch.bfloat16, (1, 1), False),
        (SHAPES[1], torch.float16, (3, 1), True),
        (SHAPES[1], torch.float32, (1, 4), True),
        (SHAPES[1], torch.float32, (2, 0), False),
    ],
)
def test_gate(shape, dtype, orders, per_sample):
    first = smooth(*shape, dtype)
    threshold = 0.02 if orders[0] else 0.2
    found = trajectory.gate_triton(first, threshold, 1, *orders, per_sample, False)
    exact = trajectory.gate_torch(first.double().cpu(), threshold, 1, *orders, per_sample, False)
    for name, mine, truth in zip(("chosen", "factors", "full", "refreshed", "errors"), found, exact, strict=True):
        if mine.is_floating_point():
            assert_close(mine.cpu(), truth, tolerance=1e-4, name=name)
        else:
            assert torch.equal(mine.cpu(), truth), name
    later = found[2][:, 2:-1]
    assert later.any() and not later.all(), "the gate had nothing to decide"


@pytest.mark.parametrize("per_sample", [False, True])
def test_gate_relative_to_the_forecast(per_sample):
    first = smooth(2, 5, 20)
    found = trajectory.gate_triton(first, 0.05, 0, 0, 0, per_sample, True)
    exact = trajectory.gate_torch(first.double().cpu(), 0.05, 0, 0, 0, per_sample, True)
    assert torch.equal(found[2].cpu(), exact[2]) and torch.equal(found[0].cpu(), exact[0])
    assert_close(found[4].cpu(), exact[4], tolerance=1e-5)
    other = trajectory.gate_torch(first.double().cpu(), 0.05, 0, 0, 0, per_sample, False)
    assert not torch.equal(other[4], exact[4])


@pytest.mark.parametrize(("warmup", "threshold"), [(0, math.inf), (3, math.inf), (50, math.inf), (0, 0.0)])
def test_gate_at_its_ends(threshold, warmup):
    first = smooth(2, 5, 20)
    for run in (trajectory.gate_triton, trajectory.gate_torch):
        found = run(first, threshold, warmup, 1, 1, False, False)
        chosen, factors, full, refreshed, errors = (each.cpu() for each in found)
        expected = [threshold == 0 or step <= warmup or step in (0, STEPS - 1) for step in range(STEPS)]
        assert full[0].tolist() == expected
        assert refreshed[0].tolist() == [threshold == 0 or step <= warmup for step in range(STEPS)]
        assert errors.isnan()[0].tolist() == [step <= warmup for step in range(STEPS)]
        assert torch.equal(chosen[0, :, 0][full[0]], torch.arange(STEPS)[full[0]])
        assert torch.equal(factors[0][full[0]], torch.tensor([1.0, 0.0]).expand(sum(expected), -1))


def test_gate_of_zeros_trusts_nothing():
    for run in (trajectory.gate_triton, trajectory.gate_torch):
        found = run(torch.zeros(1, STEPS, 2, 3, device=DEVICE), 0.5, 1, 1, 1, False, False)
        assert found[2].all() and found[4].isnan().all()


@pytest.mark.parametrize("order", [0, 2, 4])
def test_combinations_are_the_differences(order):
    """Of random features at uneven steps: the recurrence on tensors."""
    features, stack, known = torch.randn(20, 3).double(), [], trajectory.Combination(order)
    before = None
    for step in (0, 1, 3, 7, 8, 12, 19):
        gap = step - before if before is not None else 1
        new = [features[step]]
        for old in stack[:order]:
            new.append((new[-1] - old) / gap)
        stack, before = new, step
        known.refresh(step)
        assert known.gap == (gap if len(known.steps) > 1 else 1)
        for weights in itertools.islice(itertools.permutations([0.5, -1.0, 2.0, 3.0, 0.0][: len(stack)]), 5):
            chosen, factors = known.forecast(list(weights))
            found = sum(factor * features[place] for place, factor in zip(chosen, factors, strict=True))
            expected = sum(weight * entry for weight, entry in zip(weights, stack, strict=True))
            assert_close(found, expected, tolerance=1e-12)
