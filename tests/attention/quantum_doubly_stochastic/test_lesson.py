"""The lesson on doubly stochastic attention: what the text says is so."""

import pytest
import torch

from workbench import measure
from workbench.attention import quantum_doubly_stochastic as paper
from workbench.attention.quantum_doubly_stochastic import circuit, theory
from workbench.models import training
from workbench_widgets.lessons import quantum_doubly_stochastic as lesson
from workbench_widgets.lessons.quantum_doubly_stochastic import gates, questions, steps

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
    of_nothing = [steps.circuit_steps(scores, factors=(1, 0)).go(step, "0 × the scores") for step in range(8)]
    assert all(frame.count(">1.00<") == 4 + 8 and frame.count(">0.00<") == 12 for frame in of_nothing)


def test_the_walk_ends_where_the_circuit_does():
    angles = torch.randn(3 * 3 + 8 * 2 * 2, dtype=torch.float64)
    state = steps.states(steps.meeting_order(3, 2), angles, 3)[-1]
    torch.testing.assert_close(state, circuit.unitary(angles, qubits=3, layers=2), rtol=0, atol=1e-13)


def test_the_drawn_gates_are_the_block():
    angles = torch.randn(4, dtype=torch.float64)
    expected = circuit.block(angles)
    torch.testing.assert_close(gates.multiplied(angles), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(gates.pauli_strings(angles), expected, rtol=0, atol=1e-14)
    drawn = gates.block_picture()
    assert [drawn.count(f">{name}<") for name in ("Ry(t₁)", "Rz(t₂)", "Ry(t₃)", "Rx(t₄)")] == [1] * 4
    assert drawn.count("<circle") == 2 * 2


def test_rotations_are_exponentials_of_pauli_matrices():
    angle = torch.tensor(0.7, dtype=torch.float64)
    for axis, pauli in gates.PAULI.items():
        assert torch.equal(pauli @ pauli, torch.eye(2, dtype=pauli.dtype))
        torch.testing.assert_close(circuit.rotation(axis, angle), torch.matrix_exp(-0.5j * angle * pauli))


def test_the_whole_circuit_is_drawn_with_its_angles():
    drawn = steps.circuit_picture(3, 1, 2)
    count = circuit.parameter_count(4, auxiliary_qubits=1, layers=1, extra=0)
    assert all(
        f">{gate.parameters.start + 1}–{gate.parameters.stop}<" in drawn for gate in circuit.gates(3, 1, "parted")
    )
    assert f"–{count}<" in drawn


def test_the_numbers_of_half_steps_in_the_text():
    needed = {scale: lesson.half_steps_needed(scale) for scale in (1, 8)}
    assert needed[8] > 15 * needed[1]
    scores = theory.normal_scores(1, matrices=15)

    def reached(half_steps):
        return sum(paper.sinkhorn_to_tolerance(each, iterations=half_steps).converged for each in scores)

    assert reached(needed[1] - 2) < 7.5 < reached(needed[1])


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


class _Ended:
    """A race that is over: three operators, two seeds each."""

    table = lesson.pd.DataFrame(
        {"model": name, "accuracy": mean + spread * sign}
        for name, mean, spread in (("softmax", 90, 2), ("QR", 95, 1), ("Sinkhorn", 89, 3))
        for sign in (-1, 1)
    )

    def final(self):
        return self.table.groupby("model", sort=False)["accuracy"].agg(["mean", "std", "min", "max"])


def test_claims_on_training_are_judged_by_the_worst():
    found = lesson.learned(_Ended())
    assert found["accuracy"] == pytest.approx(-1) and found["stability"] == pytest.approx(1.5)
    judged = {claim.name: claim.holds(found[claim.name]) for claim in paper.PAPER.claims if claim.name in found}
    assert judged == {"accuracy": False, "stability": False}
    said = lesson.outcome(_Ended())
    assert "QR is ahead of softmax by 5.0 points" in said and "more than the 4.2 points" in said


def test_a_race_leaves_laps_and_the_claims_on_it():
    race = lesson.run_race(["softmax", "QR"], seeds=2, steps=2, lap=1, device="cpu", batch=4)
    assert len(race.table) == 2 * 2 * 2 and set(race.final().index) == {"softmax", "QR"}
    assert set(lesson.learned(race)) == {"accuracy", "stability"} and "is ahead of" in lesson.outcome(race)


def test_a_race_that_is_stopped_keeps_its_laps(monkeypatch):
    original = training.train

    def stopped(*arguments, **options):
        yield next(original(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stopped)
    race = lesson.run_race(["Sinkhorn"], seeds=1, steps=2, lap=1, device="cpu", batch=4)
    assert len(race.table) == 1


def test_recorded_times_and_the_size_of_scores_are_shown_with_units():
    table = lesson.headline(measure.recorded("quantum_doubly_stochastic"))
    assert "(ms)" in table and "float32" in table and "H200" in table
    labels = [figure.yaxis[0].axis_label for figure in lesson.scale_figures(lesson.scale_frame((1.0, 2.0), matrices=4))]
    assert "norm" in labels[0] and "nats" in labels[1]
