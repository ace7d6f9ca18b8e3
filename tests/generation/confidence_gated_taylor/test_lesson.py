"""The lesson on confidence-gated Taylor: what the text says is so."""

import numpy as np
import pytest
import torch

from workbench.generation import confidence_gated_taylor as paper
from workbench.generation.taylorseer import full_count
from workbench_widgets.lessons import confidence_gated_taylor as lesson
from workbench_widgets.lessons import digits as bench
from workbench_widgets.lessons.confidence_gated_taylor import questions


def test_the_solution_decides_as_the_package_does():
    first = lesson.blocks()[:1, 0]
    found = questions.solved_gate(first[0], 0.03, 2, 50)
    assert found == np.flatnonzero(paper.decide(first, threshold=0.03).full[0]).tolist()


def test_the_first_block_cache_of_the_exercise_is_the_papers():
    """Counted by hand from the definition in section 7: the change of what the block adds."""
    for added in (torch.arange(40.0).double() + 10, 10 + torch.arange(40.0).double().cos()):
        count, before = 1, added[0]
        for step in range(1, 40):
            if step == 39 or abs(added[step] - before) >= 0.05 * abs(before):
                count, before = count + 1, added[step]
        assert questions.cached_full_steps(added, 0.05) == count > 1


def test_the_numbers_in_the_text():
    assert all(number in lesson.by_hand() for number in ("0.024", "0.091", "0.167", "refused: refresh"))
    assert all(number in lesson.memory_bill() for number in (">63<", ">158<", ">1.12<", ">3.38<"))
    assert lesson.cache_ratio(bench.digits(1)) == 12


def test_the_first_block_tells_the_last():
    pairs = lesson.error_pairs()
    assert lesson.spearman(pairs) > 0.9
    assert all(lesson.spearman(part) > 0.7 for _, part in pairs.groupby("age"))
    assert "age 3" in lesson.pairs_table(pairs)
    assert 1.5 < (pairs["last"] / pairs["first"]).median() < 3


def test_one_trajectory_is_as_good_as_all_with_a_slope_and_worse_without():
    frame = lesson.last_block_frame(bench.digits(20), (4,))
    assert abs(frame["last block, order 1"] - frame["modules, order 1"]).max() < 1
    assert (frame["last block, order 0"] < frame["modules, order 0"] - 1).all()


def test_the_gate_wins_where_the_label_changes():
    switched = bench.digits(20, switch_at=26)
    gate, beside = lesson.gate_sweep(switched, (0.03, 0.05)), lesson.others(switched, (3, 4), (0.2,))
    assert lesson.out_of_order(gate) == 0
    assert lesson.advantage(gate, beside) > 5
    assert "fewer steps, no cache" not in set(beside["name"])
    assert lesson.shares(switched, lesson.GATE, threshold=0.04)[26] == 1
    assert "ahead" in lesson.advantage_words(gate, beside) and "<table" in lesson.gate_table(gate)
    points = lesson.cloud(gate, beside).table.set_index("name")
    assert points.loc["last block, fixed, N = 4", "computed"] == 2 * full_count(50, 4)
    row = gate.iloc[0]
    assert points.loc["gate, threshold 0.03", "computed"] == pytest.approx(2 * (row.full + (50 - row.full) / 6))


def test_pictures_are_drawn():
    few = bench.digits(5)
    gate, fixed = lesson.shares(few, lesson.GATE), lesson.shares(few, "last_block_forecast")
    assert lesson.strip(gate, fixed) and lesson.gate_figure(few, 0.03) and lesson.error_figure(lesson.error_pairs())
    assert lesson.picture(paper.confidence_gated_taylor.example(50))
    batch, sample = lesson.sample_gates(few, 0.04)
    assert 4 <= sample <= 50 and batch == int(batch)
