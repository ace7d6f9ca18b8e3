"""The lesson on doubly stochastic attention: what the text says is so."""

import pytest
import torch

from workbench.attention import quantum_doubly_stochastic as paper
from workbench.attention.quantum_doubly_stochastic import circuit, theory
from workbench_widgets.lessons import quantum_doubly_stochastic as lesson
from workbench_widgets.lessons.quantum_doubly_stochastic import questions, steps

# --- the walks -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores():
    return theory.normal_scores(2.0, matrices=1, tokens=4, seed=3)[0]


def test_sinkhorn_half_step_by_half_step(scores):
    walk = steps.sinkhorn_steps(scores)
    assert "Rows are off by nothing but rounding" in walk.go(1) and "every row is divided" in walk.go(1)
    assert "columns by nothing but rounding" in walk.go(2) and "every column is divided" in walk.go(2)
    assert "exp(M)" in walk.go(0)
    assert walk.still.count('class="wb-said"') == 4


def test_a_circuit_gate_by_gate(scores):
    walk = steps.circuit_steps(scores)
    order = steps.meeting_order(3, 1)
    assert len(walk.walks["the scores"]) == len(order) + 1 == 8
    assert all("off by nothing but rounding" in walk.go(step) for step in range(8))
    assert "U₁, transposed, on wire 1 and 2" in walk.go(1) and "U₂, on wire 0" in walk.go(3)
    of_nothing = [walk.go(step, "0 × the scores") for step in range(8)]
    assert all(frame.count(">1.00<") == 4 + 8 and frame.count(">0.00<") == 12 for frame in of_nothing)


def test_the_walk_ends_where_the_circuit_does():
    angles = torch.randn(3 * 3 + 8 * 2 * 2, dtype=torch.float64)
    state = steps.states(steps.meeting_order(3, 2), angles, 3)[-1]
    torch.testing.assert_close(state, circuit.unitary(angles, qubits=3, layers=2), rtol=0, atol=1e-13)


# --- numbers in the text ---------------------------------------------------------------------------------------------


def test_the_numbers_by_hand():
    table = lesson.sinkhorn_by_hand(torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert all(number in table for number in ("0.731059", "0.593845", "0.62934", "0.622459"))
    assert "0.8, 0, 0.2<br>0, 1, 0<br>0.2, 0, 0.8" in lesson.qr_by_hand(questions.EXAMPLE)
    assert lesson.one_wire().count("0.882421") == 3


def test_a_sink_of_the_real_encoder():
    tokens, softmax = lesson.encoder_map()
    assert softmax.sum(-2).max() > 0.8 * len(tokens) or len(tokens) == 12
    converged = paper.sinkhorn(softmax.log(), 101)
    assert (converged.sum(-2) - 1).abs().max() < 0.2
    assert len(lesson.before_and_after(tokens, softmax)) == 2
    assert "cosine" in lesson.swapped_in() or "needs the package" in lesson.swapped_in()


def test_pictures_are_drawn():
    frame = lesson.scale_frame((1.0, 2.0), matrices=4)
    assert lesson.scatter(frame).legend[0].items
    assert lesson.counts_figure({"QR": 383, "QontOT": 625})
    inputs = lesson.sharp_tokens(8)
    for method in (paper.sinkhorn_attention, paper.qontot_attention):
        figure = lesson.map_with_figures(method)(lesson.Example(inputs))
        assert "distance to doubly stochastic" in figure.title.text
    assert "16 times" in lesson.costs_table(lesson.circuit_costs([2, 4], "cpu", layers=2, budget_s=0.01))


def test_claims_come_out_of_the_studies():
    frame = lesson.scale_frame((0.5, 2, 8), matrices=8)
    measured = lesson.studied(frame, theory.sphere_counts(), 200)
    judged = {claim.name: claim.holds(measured[claim.name]) for claim in paper.PAPER.claims if claim.name in measured}
    assert not judged.pop("circuit_keeps_entropy")  # with small scores it is the other way
    assert all(judged.values()) and len(judged) == 6


def test_claims_on_training_are_judged_by_the_worst():
    laps = [
        {"operator": name, "seed": seed, "step": 1, "loss": 0.0, "accuracy": mean + spread * sign}
        for name, mean, spread in (("softmax", 0.9, 0.02), ("QR", 0.95, 0.01), ("Sinkhorn", 0.89, 0.03))
        for seed, sign in enumerate((-1, 1))
    ]
    found = lesson.learned(lesson.Race(lesson.pd.DataFrame(laps)))
    assert found["accuracy"] == pytest.approx(-1) and found["stability"] == pytest.approx(1.5)
    judged = {claim.name: claim.holds(found[claim.name]) for claim in paper.PAPER.claims if claim.name in found}
    assert judged == {"accuracy": False, "stability": False}


def test_a_race_leaves_laps_and_the_claims_on_it():
    race = lesson.run_race(["softmax", "QR"], seeds=2, steps=2, lap=1, device="cpu", batch=4)
    assert len(race.laps) == 2 * 2 * 2 and set(race.accuracy().index) == {"softmax", "QR"}
    assert set(lesson.learned(race)) == {"accuracy", "stability"}
    assert lesson.race_figure(race, "machine")


def test_a_race_that_is_stopped_keeps_its_laps(monkeypatch):
    original = lesson.train

    def stopped(*arguments, **options):
        yield next(original(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(lesson, "train", stopped)
    race = lesson.run_race(["Sinkhorn"], seeds=1, steps=2, lap=1, device="cpu", batch=4)
    assert len(race.laps) == 1
