"""Doubly stochastic attention: worked examples, invariants, and the arrays that the Sinkformer's code produced.

The circuit has tests of its own, in ``test_circuit.py``.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.attention import quantum_doubly_stochastic as qds
from workbench.attention.quantum_doubly_stochastic import (
    birkhoff_projection,
    diagnostics,
    implicit_gradient,
    norm_softmax,
    norm_softmax_attention,
    potentials,
    qontot_attention,
    qr,
    qr_attention,
    sinkhorn,
    sinkhorn_attention,
    sinkhorn_to_tolerance,
)
from workbench.conformance import assert_close
from workbench.measure import sweep

GOLDEN = Path(__file__).parents[2] / "golden" / "quantum_doubly_stochastic.npz"
COUNTS = [1, 2, 3, 5, 21, 101]
DOUBLY_STOCHASTIC = [sinkhorn_attention, qr_attention, qontot_attention]
each_method = pytest.mark.parametrize("method", DOUBLY_STOCHASTIC, ids=lambda method: method.name)
each_implementation = pytest.mark.parametrize("implementation", ["reference", "fast"])


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def close(result, expected, atol=1e-12):
    torch.testing.assert_close(result, torch.as_tensor(expected, dtype=result.dtype), rtol=0, atol=atol)


def permutation(tokens):
    return torch.eye(tokens, dtype=torch.float64)[torch.randperm(tokens)]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


# --- golden arrays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
def test_golden_maps_and_potentials(golden, count):
    atol = 1e-10 if count <= 21 else 1e-9
    close(sinkhorn(golden["scores"], count), golden[f"A_k{count}"], atol)
    u, v = potentials(golden["scores"], count)
    close(u - math.log(8), golden[f"u_k{count}"], atol)  # there the rows sum to 1/T until the end
    close(v, golden[f"v_k{count}"], atol)


@pytest.mark.parametrize("count", COUNTS)
def test_golden_gradients(golden, count):
    scores = golden["scores"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sinkhorn(scores, count), scores, golden["cotangent"])
    close(gradient, golden[f"grad_k{count}"], 1e-10 if count <= 21 else 1e-9)


@each_implementation
def test_golden_attention_layer(golden, implementation):
    heads, width = int(golden["meta_heads"]), int(golden["meta_dim_head"])
    projected = (golden["x"] @ golden["attn.to_qkv.weight"].mT).unflatten(-1, (3, heads, width))
    query, key, value = projected.permute(2, 0, 3, 1, 4)
    options = {"iterations": int(golden["meta_attn_max_iter"]), "implementation": implementation}
    close(sinkhorn_attention.attention_map(query, key, **options), golden["attn_map"], 1e-10)
    mixed = sinkhorn_attention(query, key, value, **options).transpose(1, 2).flatten(2)
    close(mixed @ golden["attn.to_out.0.weight"].mT + golden["attn.to_out.0.bias"], golden["y"], 1e-10)


# --- worked examples -------------------------------------------------------------------------------------------------


def test_sinkhorn_by_hand():
    scores = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    close(sinkhorn(scores, 1), [[0.731059, 0.268941], [0.5, 0.5]], 1e-6)
    close(sinkhorn(scores, 2), [[0.593845, 0.349755], [0.406155, 0.650245]], 1e-6)
    close(sinkhorn(scores, 3), [[0.62934, 0.37066], [0.384471, 0.615529]], 1e-6)
    limit = math.exp(0.5) / (math.exp(0.5) + 1)  # sqrt(ad) / (sqrt(ad) + sqrt(bc))
    close(sinkhorn(scores, 101)[0, 0], limit)


def test_qr_by_hand():
    scores = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 3.0]], dtype=torch.float64)
    close(qr(scores, jitter=0.0), [[0.8, 0, 0.2], [0, 1, 0], [0.2, 0, 0.8]])


# --- Sinkhorn --------------------------------------------------------------------------------------------------------


def test_one_half_step_is_softmax():
    scores = normal(2, 9, 9)
    close(sinkhorn(scores, 1), scores.softmax(-1))
    query, key, value = normal(1, 2, 9, 4), normal(1, 2, 9, 4), normal(1, 2, 9, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    close(sinkhorn_attention(query, key, value, iterations=1), expected)


def test_the_last_half_step_is_exact_and_the_other_side_converges():
    scores = 3 * normal(2, 9, 9)
    errors = []
    for count in range(1, 22):
        map = sinkhorn(scores, count)
        exact, other = (map.sum(-1), map.sum(-2)) if count % 2 else (map.sum(-2), map.sum(-1))
        close(exact, torch.ones_like(exact))
        errors.append((other - 1).abs().amax().item())
    assert all(after < before for before, after in zip(errors[::2], errors[2::2], strict=False))
    converged = sinkhorn(normal(2, 9, 9), 1001)
    close(converged.sum(-1), torch.ones(2, 9), 1e-8)
    close(converged.sum(-2), torch.ones(2, 9), 1e-8)


def test_the_limit_knows_no_row_or_column_offset():
    scores, rows, columns = normal(6, 6), normal(6, 1), normal(1, 6)
    close(sinkhorn(scores + rows + columns, 2001), sinkhorn(scores, 2001), 1e-8)
    close(sinkhorn(scores + rows, 1), sinkhorn(scores, 1))
    assert not torch.allclose(sinkhorn(scores + columns, 1), sinkhorn(scores, 1), atol=1e-3)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_sinkhorn_follows_permutations(count):
    scores, left, right = normal(6, 6), permutation(6), permutation(6)
    close(sinkhorn(left @ scores @ right, count), left @ sinkhorn(scores, count) @ right)


def test_to_a_tolerance():
    scores = 2 * normal(3, 7, 7)
    found = sinkhorn_to_tolerance(scores, tolerance=1e-9)
    assert found.converged and "reached 1.0e-09" in str(found)
    assert found.half_steps == 2 * len(found.history) - 1
    close(found.probabilities, sinkhorn(scores, found.half_steps))
    close(found.error, (found.probabilities.sum(-2) - 1).abs().amax(-1))
    assert found.history[-1] <= 1e-9 < found.history[-2]

    short = sinkhorn_to_tolerance(scores, tolerance=1e-9, iterations=4)
    assert not short.converged and short.half_steps == 3 and "did not reach" in str(short)
    close(short.probabilities, sinkhorn(scores, 3))
    lost = sinkhorn_to_tolerance(scores.clone().index_fill_(0, torch.tensor(1), torch.nan))
    assert not lost.converged and lost.half_steps == 1


def test_the_gradient_of_the_limit():
    scores, upstream = normal(2, 6, 6).requires_grad_(), normal(2, 6, 6)
    unrolled = sinkhorn(scores, 2001)
    (expected,) = torch.autograd.grad(unrolled, scores, upstream)
    close(implicit_gradient(unrolled.detach(), upstream), expected, 1e-6)
    found = sinkhorn_to_tolerance(scores, tolerance=1e-12)
    close(torch.autograd.grad(found.probabilities, scores, upstream)[0], expected, 1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 21])
@pytest.mark.parametrize("spread", [1.0, 8.0])
@pytest.mark.parametrize("tokens", [2, 40])
def test_the_gradient_that_is_undone_half_step_by_half_step(tokens, spread, count):
    leaves, upstream = [normal(1, 2, tokens, 5).requires_grad_() for _ in range(3)], normal(1, 2, tokens, 5)
    results = []
    for implementation in ("reference", "fast"):
        output = sinkhorn_attention(*leaves, implementation=implementation, iterations=count, scale=spread)
        results.append([output, *torch.autograd.grad(output, leaves, upstream)])
    for fast, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(fast, expected, rtol=1e-9, atol=1e-11 * expected.abs().max().item())


def test_fast_works_on_a_few_heads_at_a_time(monkeypatch):
    inputs = [normal(3, 5, 12, 4) for _ in range(3)]
    together = sinkhorn_attention(*inputs, implementation="fast")
    monkeypatch.setattr("workbench.attention.quantum_doubly_stochastic.scaling.NUMBERS_AT_A_TIME", 4 * 144)
    close(sinkhorn_attention(*inputs, implementation="fast"), together)


COUNTS_OF_LARGE = [1, 2, 5, 10, 40, 100, 101]


def gradients(query, key, value, upstream, dtype, **options):
    """Output and gradients of query, key and value, computed in that precision."""
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (query, key, value)]
    output = sinkhorn_attention(*leaves, scale=1.0, **options)
    return output.detach(), *torch.autograd.grad(output, leaves, upstream.to(dtype))


def in_long_double(scores, count):
    """Sinkhorn's map as numpy computes it in the longest numbers that the machine has."""
    scores = scores.numpy().astype(np.longdouble)
    u, v = np.zeros(len(scores), np.longdouble), np.zeros(len(scores), np.longdouble)
    for half_step in range(count):
        if half_step % 2 == 0:
            u = -np.logaddexp.reduce(scores + v[None, :], axis=1)
        else:
            v = -np.logaddexp.reduce(scores + u[:, None], axis=0)
    return torch.from_numpy(np.exp(scores + u[:, None] + v[None, :]).astype(np.float64))


@pytest.mark.parametrize("count", COUNTS_OF_LARGE)
@pytest.mark.parametrize("size", [1.0, 10.0, 17.0])
def test_large_scores_and_many_half_steps(size, count):
    """Scores of deviation 3, 283 and 817: at 101 half-steps u and v have moved by more than float32 can hold a factor
    for. In float64 all agree; in float32 fast is as near to that as the equations are."""
    query, key, value = (torch.randn(1, 1, 64, 8) for _ in range(3))
    inputs = size * query, size * key, value, torch.randn(1, 1, 64, 8)
    truth = gradients(*inputs, torch.float64, iterations=count, implementation="reference")
    map = in_long_double((inputs[0].double() @ inputs[1].double().mT)[0, 0], count)
    close(truth[0][0, 0], map @ value[0, 0].double(), 1e-11)
    exact = gradients(*inputs, torch.float64, iterations=count, implementation="fast")
    ours = gradients(*inputs, torch.float32, iterations=count, implementation="fast")
    plain = gradients(*inputs, torch.float32, iterations=count, implementation="reference")
    for name, expected, *found in zip(("output", "dq", "dk", "dv"), truth, exact, ours, plain, strict=True):
        assert_close(found[0], expected, tolerance=1e-10, name=name)
        assert_close(found[1], expected, ordinary=found[2], tolerance=1e-6, name=name)


@pytest.mark.parametrize("count", [20, 64, 101])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_grow_as_fast_as_they_can(dtype, count):
    """All queries but one want the same key, and that one the other keys: with every half-step the entries that nobody
    wants grow by a factor of T - 1, from e^-400, until they count."""
    query, key = 0.1 * torch.randn(2, 1, 1, 64, 8)
    query[..., :2], query[..., -1, :2] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    key[..., :2], key[..., 0, :2] = torch.tensor([-400.0, 0.0]), torch.tensor([0.0, -400.0])
    inputs = query, key, torch.randn(1, 1, 64, 8), torch.randn(1, 1, 64, 8)
    truth = gradients(*inputs, torch.float64, iterations=count, implementation="reference")
    ours = gradients(*inputs, dtype, iterations=count, implementation="fast")
    # Gradients of query and key are what is left of numbers as large as these.
    terms = 400 * (inputs[3] @ inputs[2].mT).abs().max().item()
    for name, expected, found in zip(("output", "dq", "dk", "dv"), truth, ours, strict=True):
        scale = terms if name in ("dq", "dk") else None
        assert_close(found, expected, tolerance=400 * torch.finfo(dtype).eps, scale=scale, name=name)


@pytest.mark.parametrize(
    ("implementation", "dtype"),
    [("reference", torch.float32), ("reference", torch.float64)]
    + [("fast", dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)],
)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_whatever_the_scores_the_last_sums_are_one(size, dtype, implementation):
    """Scores of 1e9 are rounded to hundreds in float32, and there is no telling the map from another; it is one."""
    inputs = [size * normal(1, 1, 9, 8), size * normal(1, 1, 9, 8), torch.ones(1, 1, 9, 8), normal(1, 1, 9, 8)]
    for count in (1, 2, 9, 10, 101):
        results = gradients(*inputs, dtype, iterations=count, implementation=implementation)
        assert all(result.isfinite().all() for result in results)
        if count % 2:
            close(results[0].double(), torch.ones(1, 1, 9, 8), 4 * torch.finfo(dtype).eps)


# --- QR --------------------------------------------------------------------------------------------------------------


def test_qr_is_doubly_stochastic_and_sees_neither_scale_nor_sign():
    scores = normal(3, 7, 7)
    map = qr(scores, jitter=0.0)
    close(map.sum(-1), torch.ones(3, 7))
    close(map.sum(-2), torch.ones(3, 7))
    triangle = normal(7, 7).triu() + 3 * torch.eye(7)
    signs = torch.diag(torch.tensor([1.0, -1, -1, 1, -1, 1, 1], dtype=torch.float64))
    for other in (5 * scores, -scores, scores @ triangle, signs @ scores):
        close(qr(other, jitter=0.0), map, 1e-10)
    close(map[:, :, 0], scores[:, :, 0] ** 2 / (scores[:, :, 0] ** 2).sum(-1, keepdim=True))


def test_qr_depends_on_the_order_of_keys():
    scores, order = normal(6, 6), torch.tensor([1, 0, 2, 3, 4, 5])
    assert not torch.allclose(qr(scores[:, order], jitter=0.0), qr(scores, jitter=0.0)[:, order], atol=1e-2)
    close(qr(scores[order], jitter=0.0), qr(scores, jitter=0.0)[order])
    close(sinkhorn(scores[:, order], 5), sinkhorn(scores, 5)[:, order])


def test_noise_makes_scores_of_low_rank_usable():
    scores = normal(2, 8, 3) @ normal(2, 3, 8)
    first = qr(scores)
    assert torch.equal(first, qr(scores)) and not torch.allclose(first, qr(scores, seed=1), atol=1e-2)
    close(first.sum(-2), torch.ones(2, 8), 1e-10)
    first_columns = [qr(scores, seed=seed)[..., :3] for seed in range(2)]
    close(*first_columns, atol=1e-5)  # the noise decides only what the scores leave open


def test_noise_is_standard_normal_and_the_same_everywhere():
    from workbench.attention.quantum_doubly_stochastic.operators import gaussian_noise

    noise = gaussian_noise(torch.Size((400, 500)), 3, torch.device("cpu"))
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01 and abs((noise**4).mean() - 3) < 0.1
    neighbours = torch.stack([noise[:, :-1].flatten(), noise[:, 1:].flatten(), noise.roll(1, 0)[:, 1:].flatten()])
    assert (torch.corrcoef(neighbours) - torch.eye(3)).abs().max() < 0.01
    close(noise[0, :3], [0.8297740805527593, 0.34891742703897277, 1.594249624795604])
    assert not torch.equal(noise, gaussian_noise(torch.Size((400, 500)), 4, torch.device("cpu")))


# --- the other operators ---------------------------------------------------------------------------------------------


def test_projection():
    scores, other = 2 * normal(3, 6, 6), normal(3, 6, 6)
    projected = birkhoff_projection(scores)
    close(projected.sum(-1), torch.ones(3, 6), 1e-8)
    close(projected.sum(-2), torch.ones(3, 6), 1e-8)
    assert projected.min() >= 0
    close(birkhoff_projection(projected), projected, 1e-8)
    vertex = permutation(6)
    close(birkhoff_projection(vertex), vertex)
    norm = torch.linalg.matrix_norm
    assert (norm(projected - birkhoff_projection(other)) <= norm(scores - other)).all()
    for nearer in (sinkhorn(scores, 101), qr(scores), vertex):  # none of these is nearer
        assert (norm(scores - projected) <= norm(scores - nearer) + 1e-8).all()


def test_norm_softmax_by_its_definition():
    scores = normal(2, 5, 5)
    for spread, power in (("deviation", 1), ("variance", 2)):
        divisor = scores.flatten(1).std(1, correction=0).pow(power)[:, None, None]
        close(norm_softmax(scores, ceiling=1e9, spread=spread), (scores / divisor).softmax(-1))
        close(norm_softmax(scores, ceiling=1e-3, spread=spread), (scores / 1e-3).softmax(-1))
    close(norm_softmax(torch.ones(4, 4, dtype=torch.float64), ceiling=2.0), torch.full((4, 4), 0.25))


@pytest.mark.parametrize("spread", ["deviation", "variance"])
def test_norm_softmax_takes_the_variance_from_the_moments(spread):
    query, key, value = normal(2, 3, 9, 4) / 3 + 2, normal(2, 3, 9, 4) / 3 - 1, normal(2, 3, 9, 4)
    fast, expected = (
        norm_softmax_attention(query, key, value, spread=spread, implementation=implementation)
        for implementation in ("fast", "reference")
    )
    close(fast, expected)


@each_implementation
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("spread", ["deviation", "variance"])
def test_equal_tokens_have_no_spread(spread, dtype, implementation):
    """Their scores differ by rounding, which is no temperature: every weight is 1 / T."""
    query, key = (normal(1, 2, 1, 64).expand(1, 2, 21, 64).to(dtype) for _ in range(2))
    value = normal(1, 2, 21, 64).to(dtype)
    output = norm_softmax_attention(query, key, value, spread=spread, implementation=implementation)
    expected = value.double().mean(-2, keepdim=True).expand_as(value)
    close(output.double(), expected, 4 * torch.finfo(dtype).eps)


@each_implementation
def test_norm_softmax_takes_any_number_of_queries(implementation):
    query, key, value = normal(1, 2, 5, 4), normal(1, 2, 12, 4), normal(1, 2, 12, 4)
    scores = query @ key.mT
    expected = (scores / scores.std((-2, -1), correction=0, keepdim=True).clamp(max=2)).softmax(-1) @ value
    close(norm_softmax_attention(query, key, value, implementation=implementation), expected)


@pytest.mark.parametrize("method", [*DOUBLY_STOCHASTIC, norm_softmax_attention], ids=lambda method: method.name)
@each_implementation
def test_a_scale_that_learns(method, implementation):
    inputs, scale = [normal(1, 2, 4, 8) for _ in range(3)], torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    output = method(*inputs, scale=scale, implementation=implementation)
    close(output.detach(), method(*inputs, scale=0.3, implementation=implementation))
    (found,) = torch.autograd.grad(output.square().sum(), scale)
    step = 1e-5
    after, before = (method(*inputs, scale=0.3 + sign * step).square().sum() for sign in (1, -1))
    close(found, (after - before) / (2 * step), 1e-5)


@pytest.mark.parametrize("method", DOUBLY_STOCHASTIC, ids=lambda method: method.name)
def test_fast_is_differentiable_once_and_says_so(method):
    inputs = [normal(1, 1, 4, 8).requires_grad_() for _ in range(3)]
    for implementation in ("reference", "fast"):
        (first,) = torch.autograd.grad(
            method(*inputs, implementation=implementation).square().sum(), inputs[0], create_graph=True
        )
        if implementation == "reference":
            assert torch.autograd.grad(first.square().sum(), inputs[0])[0].isfinite().all()
        else:
            with pytest.raises(NotImplementedError, match="implementation='reference'"):
                torch.autograd.grad(first.square().sum(), inputs[0])


@pytest.mark.parametrize("method", DOUBLY_STOCHASTIC, ids=lambda method: method.name)
@each_implementation
def test_of_nothing_comes_nothing(method, implementation):
    inputs = [torch.zeros(0, 2, 4, 8, requires_grad=True) for _ in range(3)]
    output = method(*inputs, implementation=implementation)
    assert output.shape == (0, 2, 4, 8)
    assert all(gradient.shape == (0, 2, 4, 8) for gradient in torch.autograd.grad(output.sum(), inputs))


def test_gradients_of_all_operators():
    scores = normal(4, 4).requires_grad_()
    for operator in (
        lambda m: sinkhorn(m, 3),
        lambda m: qr(m, jitter=0.0),
        lambda m: norm_softmax(m, ceiling=2.0),
        lambda m: norm_softmax(m, ceiling=2.0, spread="variance"),
        lambda m: qds.qontot(m, qds.parameters_of(4, 2, 1, 0), layers=2, auxiliary_qubits=1),
    ):
        assert torch.autograd.gradcheck(operator, scores)


def test_diagnostics():
    scores = normal(3, 6, 6)
    soft, exact = diagnostics(scores.softmax(-1), scores), diagnostics(qr(scores, jitter=0.0))
    close(soft.row_error, torch.zeros(3))
    assert (soft.column_error > 0.1).all() and (soft.distance > 0.05).all()
    assert (soft.distance <= soft.column_error + 1e-9).all()
    for error in (exact.row_error, exact.column_error, exact.distance):
        close(error, torch.zeros(3), 1e-8)
    assert exact.information_loss is None and (soft.information_loss > 0).all()
    close(diagnostics(permutation(6)).entropy, 0.0)
    close(diagnostics(torch.full((5, 5), 0.2, dtype=torch.float64)).entropy, math.log(5))
    order = [diagnostics(sinkhorn(4 * scores, count)).distance for count in (1, 3, 21, 1001)]
    assert all((nearer < further).all() for further, nearer in zip(order, order[1:], strict=False))


# --- as attention ----------------------------------------------------------------------------------------------------


@each_method
@each_implementation
def test_the_mean_token_is_kept(method, implementation):
    query, key, value = normal(2, 2, 8, 16), normal(2, 2, 8, 16), normal(2, 2, 8, 16)
    options = {"iterations": 101} if method is sinkhorn_attention else {}
    output = method(query, key, value, implementation=implementation, **options)
    close(output.mean(-2), value.mean(-2), 1e-9)
    soft = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert not torch.allclose(soft.mean(-2), value.mean(-2), atol=1e-3)


@each_method
@each_implementation
def test_what_cannot_be_is_refused_with_the_reason(method, implementation):
    query, key = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 5, 8)
    with pytest.raises(ValueError, match="can only be the identity"):
        method(query, query, query, is_causal=True, implementation=implementation)
    with pytest.raises(ValueError, match="as many queries as keys are needed, not 4 and 5"):
        method(query, key, key, implementation=implementation)


@each_implementation
def test_norm_softmax_cannot_be_causal(implementation):
    query = torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match="future ones included"):
        norm_softmax_attention(query, query, query, is_causal=True, implementation=implementation)
    with pytest.raises(ValueError, match=r"positive scale, not -1\.0"):
        norm_softmax_attention(query, query, query, scale=-1.0, implementation=implementation)


def test_operators_refuse_what_is_not_square():
    for operator in (sinkhorn, qr, birkhoff_projection, sinkhorn_to_tolerance, diagnostics):
        for scores in (torch.zeros(3, 4), torch.zeros(4), torch.zeros(0, 0), torch.zeros(2, 2).long()):
            with pytest.raises(ValueError, match="square real scores"):
                operator(scores)
    with pytest.raises(ValueError, match="must have one shape"):
        diagnostics(torch.zeros(3, 3), torch.zeros(2, 2))
    for settings in ({"tolerance": 0.0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="positive tolerance and at least 1 half-step"):
            sinkhorn_to_tolerance(torch.zeros(2, 2), **settings)


# --- QontOT as attention ---------------------------------------------------------------------------------------------


@each_implementation
def test_equal_tokens_of_zero_are_left_alone(implementation):
    zero, value = torch.zeros(1, 2, 8, 4).double(), normal(1, 2, 8, 4)
    close(qontot_attention(zero, zero, value, implementation=implementation), value)


def test_a_circuit_is_as_deep_as_the_tokens_need():
    assert qds.circuit_of(8, 2, 1) == {"tokens": 8, "layers": 2, "auxiliary_qubits": 1}
    assert qds.circuit_of(8, 16, 4) == {"tokens": 8, "layers": 16, "auxiliary_qubits": 4}
    assert qds.circuit_of(9, 2, 1)["layers"] == 6 and len(qds.parameters_of(9, 2, 1, 0)) >= 256
    assert qds.circuit_of(1, 2, 1)["tokens"] == 2
    with pytest.raises(ValueError, match="at most 64 tokens are simulated"):
        qontot_attention(*[torch.zeros(1, 1, 65, 4)] * 3)


@each_implementation
def test_a_circuit_can_be_trained(implementation):
    inputs, theta = [normal(1, 2, 4, 4) for _ in range(3)], qds.parameters_of(4, 2, 1, 0).requires_grad_()
    given = qontot_attention(*inputs, theta=theta, implementation=implementation)
    close(given, qontot_attention(*inputs, implementation=implementation))
    assert (torch.autograd.grad(given.square().sum(), theta)[0] != 0).any()
    with pytest.raises(ValueError, match=r"theta .*parameters"):
        qontot_attention(*inputs, theta=theta[:-1], implementation=implementation)


def test_a_size_beyond_the_largest_is_not_measured():
    (row,) = sweep([(qontot_attention, "fast")], [17], device="cpu")
    assert row["status"] == "too large" and "up to size 16" in row["reason"]
