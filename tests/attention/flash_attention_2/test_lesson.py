"""The lesson on FlashAttention-2: what the text says is so."""

import numpy as np
import pytest
import torch

from workbench import measure
from workbench.attention import flash_attention_2 as paper
from workbench.attention.flash_attention_2 import reference
from workbench.paper import Example
from workbench_widgets.lessons import flash_attention_2 as lesson
from workbench_widgets.lessons.flash_attention_2 import counting, questions, steps


def test_the_prediction_about_blocks_takes_whichever_is_faster_here():
    asked = questions.blocks_alone("cpu", tokens=64)
    assert asked.answer in asked.choices


def test_the_numbers_in_the_text():
    tables = lesson.memory_table([65536])
    assert "8 GiB" in tables and "256 KiB" in tables
    scores = torch.tensor([1.0, 2.0, 4.0, 1.0], dtype=torch.float64)
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0], [0.5, 3.0]], dtype=torch.float64)
    by_hand = lesson.by_hand(scores, values, block=2)
    assert all(number in by_hand for number in ("0.1353", "1.3679", "1.2349", "1.68"))
    assert abs(0.1353 * 1.3679 + 1.0498 - 1.2349) < 1e-4


def test_everything_is_counted_on_both_sides():
    counted = counting.count_all([16, 64], tokens=128, head_dim=8)
    direct = counted["direct formula"].counts
    assert direct["matrix products (FLOPs)"] == 4 * 128 * 128 * 8
    assert direct["divisions"] == direct["exponentials, logarithms"] == direct["multiplications"] == 128 * 128
    for name, blocks in (("16 keys a block", 8), ("64 keys a block", 2)):
        ours = counted[name].counts
        assert ours["matrix products (FLOPs)"] == direct["matrix products (FLOPs)"]
        assert ours["divisions"] == 128 * 8
        # what was summed is corrected in every block, l and the output; the query is scaled once
        assert ours["multiplications"] == 128 * blocks * (8 + 1) + 128 * 8
        assert ours["exponentials, logarithms"] == 128 * 128 + 128 * blocks + 128


def test_the_rest_of_the_arithmetic_depends_on_the_blocks_and_the_sum_does_not():
    first, *others = counting.count_all((16, 64, 128, 256)).values()
    assert all(abs(each.total / first.total - 1) < 0.03 for each in others)
    rest = [each.outside / first.outside for each in others]
    assert rest == sorted(rest, reverse=True) and rest[0] > 2 and rest[-1] < 1


def test_blocks_in_any_order_give_the_same():
    scores = torch.tensor([1.0, 2.0, 4.0, 1.0, 3.0, 0.0], dtype=torch.float64)
    values = torch.randn(6, 2, dtype=torch.float64)
    rows = lesson.any_order(scores, values).split("</tr>")[1:4]
    assert len({row.split("</td>")[0] for row in rows}) == 3 and len({row.split("</td>", 1)[1] for row in rows}) == 1


def test_one_number_a_row_stands_for_the_weights():
    assert lesson.row_dots() < 1e-12


def test_the_printed_formula_is_right_only_while_the_maximum_does_not_grow():
    value = torch.randn(4, 3, dtype=torch.float64)
    falling, growing = torch.tensor([4.0, 3, 2, 1]).double(), torch.tensor([1.0, 2, 3, 4]).double()
    assert torch.allclose(lesson.printed_formula(falling, value, 2), falling.softmax(0) @ value)
    assert not torch.allclose(lesson.printed_formula(growing, value, 2), growing.softmax(0) @ value)


def test_the_picture_counts_the_blocks():
    inputs = lesson.related_tokens(16)
    options = {"is_causal": True, "block_rows": 4, "block_columns": 4}
    figure = lesson.map_with_blocks(Example(inputs, options))
    assert figure.title.text == "10 of 16 blocks visited (62%), 4 with a mask inside"


def test_programs_own_rows_forward_and_columns_backward():
    drawn = lesson.who_computes(2, 3)
    assert drawn.count("<rect") == 2 * 2 * 3


def test_traffic_is_that_of_the_score_matrix():
    moved = lesson.traffic(2048)
    assert moved["direct: S and P, out and in"] == 4 * 2048 * 2048 * 2 / 2**20
    assert sum(list(moved.values())[2:]) < sum(list(moved.values())[:2]) / 3


def test_gradients_and_growth():
    assert lesson.gradient_error() < 1e-13
    assert 0.5 < lesson.growth("cpu", tokens=512) < 1
    assert np.isclose(lesson.occupied(1, 16384), 1 / 132) and lesson.occupied(1, 16384, by_rows=True) > 0.9


def test_growth_is_that_of_what_is_kept(monkeypatch):
    monkeypatch.setattr(lesson.paper, "flash_attention_2", paper.softmax_attention)
    assert 1.9 < lesson.growth("cpu", tokens=512) < 2.1, "the direct formula keeps the scores"


def test_divisions_are_counted_as_they_are_made(monkeypatch):
    assert lesson.normalisations_saved(tokens=64, head_dim=8, block=16) == 4
    finish = reference.finish

    def twice(maximum, normaliser, accumulator):
        return finish(maximum, normaliser, accumulator / 1)

    monkeypatch.setattr(reference, "finish", twice)
    assert lesson.normalisations_saved(tokens=64, head_dim=8, block=16) < 4


def test_what_the_text_says_about_the_recorded_measurements():
    frame = measure.recorded("flash_attention_2")
    rows = frame.query("status == 'ok' and head_dim == 128 and direction == 'forward' and is_causal == False")
    times = rows.pivot(index="size", columns="implementation", values="median_ms")
    assert times["fast"][1024] < 1.5 * times["fast"][512], "the short end is the cost of a call"
    assert times["fast"][512] > times["softmax_attention"][512]
    memory = rows.pivot(index="size", columns="implementation", values="peak_bytes")
    assert memory["softmax_attention"][8192] > 100 * memory["fast"][8192]
    assert times["sdpa_cudnn"][16384] < times["fast"][16384] < times["sdpa_flash"][16384]


@pytest.mark.gpu
def test_the_claims_of_a_gpu():
    measured = lesson.on_a_gpu("cuda")
    assert all(np.isfinite(value) for value in measured.values())


# --- the walk --------------------------------------------------------------------------------------------------------


def trace(**options):
    query, key, value = (tensor[0, 0] for tensor in lesson.related_tokens(12, head_dim=4).values())
    return paper.trace(query, key, value, block_rows=4, block_columns=3, **options)


def test_the_stepper_shows_the_numbers_of_the_trace():
    walk = trace()
    made = steps.online_softmax(walk, row=2)
    step = walk.steps[6]
    assert f"ℓ = {float(step.rescale[2]):.2f} · " in made.go(6)
    assert f"= {float(step.normaliser[2]):.2f}." in made.go(6) and f">{float(step.normaliser[2]):.2f}<" in made.go(6)
    assert made._step.max == 11 and len(made.walks) == 4 and made._walk.value == "row 2 of its block"


def test_the_last_frame_has_arrived():
    for row in range(4):
        assert "off by 0%" in steps.frames(trace(), row)[11].sentence


def test_skipped_blocks_are_said_to_be_skipped():
    walk = trace(is_causal=True)
    skipped = next(index for index, step in enumerate(walk.steps) if step.kind == "skipped")
    frame = steps.frames(walk, 0)[skipped]
    assert "skipped. No query" in frame.sentence and frame.line == "continue"
    assert "masked" in steps.online_softmax(walk).go(0)


def test_a_row_that_sees_nothing_has_a_picture_too():
    query = torch.randn(6, 4, dtype=torch.float64)
    walk = paper.trace(query, query[:2], query[:2], is_causal=True, block_rows=6, block_columns=1)
    made = steps.online_softmax(walk)
    for number in range(len(walk.steps)):
        assert "nan" not in made.go(number).lower()


def test_the_still_shows_the_steps_that_matter():
    walk = trace()
    keys = steps.key_frames(walk, 1)
    assert len(keys) <= 4 and keys[0] == 8 and keys[-1] == 11
    assert steps.online_softmax(walk, row=1).still.count('class="wb-said"') == len(keys)
