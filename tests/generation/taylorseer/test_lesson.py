"""The lesson on TaylorSeer: what the text says is so."""

import pandas as pd
import pytest

from workbench import claims
from workbench.generation import taylorseer as paper
from workbench_widgets.lessons import digits as bench
from workbench_widgets.lessons import taylorseer as lesson
from workbench_widgets.lessons.taylorseer import questions


def test_the_numbers_in_the_text():
    by_hand = lesson.by_hand()
    assert all(number in by_hand for number in ("0.5", "1.5", "0.25", "1 · 9 + 2 · 1.5 + 2 · 0.25 = 12.5"))
    assert lesson.parabola_errors()["order 2"].tolist() == pytest.approx([0, -4, -8, -12])
    assert lesson.parabola_errors()["order 2, Newton's weights"].abs().max() < 1e-9
    assert round(questions.cache_size.solution) == 252


def test_the_sweep_says_what_the_text_says():
    few = bench.digits(20)
    frame = lesson.sweep(few, (3, 8), (0, 1, 2))
    assert set(frame["calls"]) == {paper.full_count(50, 3), paper.full_count(50, 8)}
    for interval in (3, 8):
        reuse, first, fewer = (lesson.decibels(frame, interval, order) for order in (0, 1, -1))
        assert first > reuse + 4 and first > fewer + 3
    assert "network calls" in lesson.sweep_table(frame)
    points = pd.DataFrame(lesson.choices(frame)).set_index("name")
    assert set(points["sampler"]) == {"fewer steps, no cache", "reuse", "order 1", "order 2"}
    assert points.loc["order 1, 18 calls", "computed"] == 36 and points["error"].between(0, 1).all()
    assert points.loc["order 1, 18 calls", "error"] < points.loc["reuse, 18 calls", "error"] / 1.5


def test_the_directions_are_in_order_of_how_far_the_output_moves():
    moved = lesson.directions()
    assert moved.shape == (50, 8) and (moved.square().sum(0).diff() <= 0).all()


def test_pictures_are_drawn():
    few = bench.digits(10)
    assert lesson.forecasts() and lesson.errors_by_age()
    assert len(lesson.module_errors(few.few(3)).y_range.factors) == 12
    images = few.draw("taylorseer", interval=5)
    assert bench.side_by_side({"a": few.uncached, "b": images}) and bench.differences(images, few.uncached)
    example = paper.taylorseer.example(50)
    assert lesson.picture(example) and "DiT-XL/2" in lesson.memory_bill()


def test_recorded_runs_are_shown_or_said_to_be_missing():
    assert "sampling run" in bench.sampling_table(["taylorseer"]) or "full steps" in bench.sampling_table(
        ["taylorseer"]
    )


@pytest.mark.parametrize("slug", ["taylorseer", "confidence_gated_taylor"])
def test_a_gpus_speed_is_not_settled_on_a_cpu(slug):
    rows = claims.table(slug).query("claim == 'speed' and source.str.startswith('recorded')")
    assert rows["scale"].tolist() == ["gpu"] and "NVIDIA" in rows["source"].item()
