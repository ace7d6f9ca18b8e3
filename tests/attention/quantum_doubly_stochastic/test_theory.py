"""How many maps the operators tell apart, how far these are from doubly stochastic: the paper's counts, exactly."""

import math

import pytest
import torch

from workbench.attention.quantum_doubly_stochastic import qr, theory


@pytest.fixture(scope="module")
def counts():
    return theory.sphere_counts()


def test_the_sphere_grid_is_all_of_it():
    scores = theory.sphere_grid()
    assert scores.shape == (625, 4, 4) and theory.distinct(scores) == 625
    assert torch.equal(scores.square().sum(-2), torch.ones(625, 4, dtype=torch.float64))
    assert (torch.linalg.matrix_rank(scores) == 4).sum() == 120
    assert theory.sphere_grid(3).shape == (27, 3, 3)
    with pytest.raises(ValueError, match="1 to 5 tokens, not 6"):
        theory.sphere_grid(6)


def test_the_paper_s_counts(counts):
    assert [counts[name] for name in ("softmax", "Sinkhorn, 3", "Sinkhorn, 21")] == [621] * 3
    assert [counts[name] for name in counts if "4 layers" in name or "8 layers" in name] == [625] * 3
    assert counts["QontOT, parted, 2 layers"] == 517 and counts["QontOT, simple, 2 layers"] == 314
    assert 370 <= counts["QR"] <= 390


def test_qr_without_noise_sees_little():
    """Of the 120 matrices of full rank it keeps half apart: two that differ in a sign meet. In the others rounding
    decides what the scores leave open, so their count depends on the machine; it adds little."""
    scores = theory.sphere_grid()
    full = torch.linalg.matrix_rank(scores) == 4
    assert theory.distinct(qr(scores[full], jitter=0.0)) == 60
    assert 60 <= theory.distinct(qr(scores, jitter=0.0)) < 100


def test_sinkhorn_confuses_exactly_the_constant_columns():
    """Scores that are the same in every row give the uniform map: the five choices of one vector for all columns, minus
    the one that stays, are the four that are lost."""
    scores = theory.sphere_grid()
    constant = (scores == scores[:, :, :1]).all((1, 2))
    maps = theory.operators(4)["Sinkhorn, 21"](scores)
    assert constant.sum() == 5 and theory.distinct(maps[constant]) == 1 and theory.distinct(maps[~constant]) == 620


def test_deeper_circuits_tell_more_apart():
    rows = {(row["auxiliary_qubits"], row["layers"]): row["distinct"] for row in theory.depth_counts((1, 2, 8), 500)}
    assert rows[3, 1] < rows[3, 2] < rows[3, 8] == 1
    assert rows[2, 8] < 1


def test_distances_are_ordered_and_grow_with_the_scale():
    study = {(row["scale"], row["operator"]): row for row in theory.scale_study((1.0, 4.0), matrices=8)}
    for scale in (1.0, 4.0):
        far = [study[scale, name]["distance"] for name in ("softmax", "Sinkhorn, 3", "Sinkhorn, 21", "QR")]
        assert far == sorted(far, reverse=True)
        assert study[scale, "QontOT"]["distance"] < 1e-8 > study[scale, "QR"]["distance"]
        assert all(row["entropy"] <= math.log(8) for row in study.values())
    for name in ("softmax", "Sinkhorn, 3", "Sinkhorn, 21"):
        assert study[1.0, name]["distance"] < study[4.0, name]["distance"]
    assert study[1.0, "QR"]["entropy"] == pytest.approx(study[4.0, "QR"]["entropy"], abs=1e-6)


def test_hypercube_matrices_hold_what_they_say():
    scores = theory.hypercube_grid(100, seed=3)
    assert set(scores.unique().tolist()) == {0.0, 0.5, 1.0}
    assert torch.equal(scores, theory.hypercube_grid(100, seed=3))


def test_entropy_is_compared_at_equal_loss():
    """The circuit has more than Sinkhorn only where scores are large: so the paper's sentence needs a condition."""
    gaps = theory.entropy_at_equal_loss(theory.scale_study((0.25, 0.5, 1, 2, 4), matrices=8))
    assert all(row["gap"] < 0 for row in gaps if row["information_loss"] < 6)
    assert all(row["gap"] > 0 for row in gaps if row["information_loss"] > 9)
    by_hand = [
        {"operator": name, "information_loss": loss, "entropy": entropy}
        for name, loss, entropy in (("QontOT", 1, 0), ("QontOT", 3, 2), ("Sinkhorn, 21", 2, 3), ("Sinkhorn, 21", 4, 1))
    ]
    assert theory.entropy_at_equal_loss(by_hand) == [
        {"information_loss": 2, "gap": -2.0},
        {"information_loss": 3, "gap": 0.0},
    ]
