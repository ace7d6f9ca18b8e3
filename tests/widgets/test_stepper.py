"""The stepper and its recorder: a toy algorithm is run, watched and walked through, without a browser."""

import re

import numpy as np
import pytest
import torch

from workbench.plots import Bars, Cells
from workbench.plots.cells import short
from workbench_widgets import Frame, record, stepper
from workbench_widgets.stepper import key_frames


def running_sums(numbers):
    """Adds up from the left."""
    sums = torch.zeros(len(numbers))
    total = 0.0
    for place, number in enumerate(numbers):
        total = (
            total
            + number
        )  # fmt: skip
        sums[place] = total
    return sums


# --- recorder ---


def test_a_recorder_takes_a_frame_whenever_something_changes_and_keeps_what_it_was():
    frames = record(running_sums, [1.0, 2.0, 4.0], show=("total", "sums"))
    assert len(frames) == 2 + 2 * 3
    assert frames[0].sentence == "New: sums." and frames[2].sentence == "New: total."
    assert [frame.values["sums"].tolist() for frame in frames[3::2]] == [[1, 0, 0], [1, 3, 0], [1, 3, 7]]
    assert frames[0].values["sums"].tolist() == [0, 0, 0], "what the algorithm changed in place later"


def test_a_recorder_takes_a_frame_after_the_lines_that_were_asked_for():
    frames = record(
        running_sums, [1.0, 2.0], show=lambda seen: {"twice": 2 * seen["total"]}, at=("+ number",),
        say=lambda seen: f"Number {seen['place']} is added.",
    )  # fmt: skip
    assert [frame.values["twice"] for frame in frames] == [2.0, 6.0], "once a statement, however many lines it has"
    assert [frame.sentence for frame in frames] == ["Number 0 is added.", "Number 1 is added."]
    assert stepper(frames, source=running_sums).go(1).count('class="hll"') == 1


def test_a_recorder_leaves_a_tracer_as_it_was_and_says_what_is_wrong():
    import sys

    before = sys.gettrace()
    with pytest.raises(ValueError, match="no line with 'minus'"):
        record(running_sums, [1.0], show=("total",), at=("minus",))
    with pytest.raises(ValueError, match="No frame was taken"):
        record(running_sums, [], show=("number",))
    with pytest.raises(ValueError, match="More than 500 frames"):
        record(running_sums, [1.0] * 600, show=("total",))
    assert sys.gettrace() is before


# --- stepper ---


def hand_made():
    matrix = np.arange(4.0).reshape(2, 2)
    return [
        Frame("It begins.", {"matrix": matrix, "row": [1.0, -2.0]}, "sums = "),
        Frame("One number grew.", {"matrix": matrix + np.eye(2)[0] * [[1], [0]], "row": [1.0, -2.0]}, "total = ("),
        Frame("<b>The end</b>.", {"matrix": matrix, "picture": "<svg>mine</svg>"}),
    ]


def test_a_frame_shows_its_sentence_its_values_and_the_line():
    made = stepper(hand_made(), source=running_sums, what="sum")
    assert "It begins." in made.go(0) and re.search(r'class="hll">.*sums', made.go(0))
    assert "&lt;b&gt;The end" in made.go(2) and "<svg>mine</svg>" in made.go(2) and 'class="hll"' not in made.go(2)
    assert made.frame.sentence == "<b>The end</b>." and made._step.description == "sum"


def test_what_changed_is_marked_and_nothing_else():
    made = stepper(hand_made())
    assert made.go(0).count("<path") == 0
    assert made.go(1).count("<path") == 1 and ">1.00<" in made.go(1)


def test_values_of_one_name_have_one_scale():
    made = stepper([Frame("", {"x": [1.0]}), Frame("", {"x": [2.0]})])
    weak, strong = (float(re.search(r'fill-opacity="([\d.]+)"', made.go(step))[1]) for step in range(2))
    assert weak == pytest.approx(0.06 + 0.25) and strong == pytest.approx(0.56)


def test_steps_stay_within_the_walk_and_a_menu_changes_it():
    made = stepper({"long": hand_made(), "short": hand_made()[:1]})
    assert "The end" in made.go(2)
    assert "It begins." in made.go(0, "short") and made._step.max == 0
    made._move(1)
    assert made._step.value == 0
    made._walk.value = "long"
    made._move(1)
    assert made._step.value == 1


def test_the_still_is_a_strip_of_the_frames_that_matter():
    frames = [Frame(f"step {number}") for number in range(10)]
    assert key_frames(frames) == [0, 3, 6, 9] and key_frames(frames[:2]) == [0, 1]
    made = stepper(frames, keys=(0, 9), source=running_sums)
    assert made.still.count('class="wb-said"') == 2 and "step 9" in made.still
    assert made.still.count('<div class="wb-code">') == 1, "the source stands there once"


def test_what_cannot_be_walked_is_refused():
    for wrong in ([], {}, {"a": []}):
        with pytest.raises(ValueError, match="at least one frame"):
            stepper(wrong)
    with pytest.raises(ValueError, match="no frame 7"):
        stepper(hand_made(), keys=(7,))
    with pytest.raises(ValueError, match="no line with 'minus'"):
        stepper([Frame("", {}, "minus")], source=running_sums)
    with pytest.raises(ValueError, match="not an array of shape"):
        stepper([Frame("", {"cube": np.zeros((2, 2, 2))})])


# --- cells and bars ---


def test_cells_take_any_numbers():
    for numbers in (3, [1, 2], torch.ones(2, 2, dtype=torch.bfloat16), torch.tensor([3j]), np.zeros((40, 2)), [np.nan]):
        cells = Cells(numbers)
        assert "nan" not in cells.draw("x", cells.reach()).lower()
    assert ">3<" in Cells(torch.tensor(3)).draw("x", 3) and ">3.00<" in Cells(torch.tensor(3.0)).draw("x", 3)
    assert "24 × 2 of 40 × 2" in Cells(np.zeros((40, 2))).draw("x", 1)


def test_sums_of_rows_and_columns():
    drawn = Cells([[0.2, 0.8], [0.5, 0.5]], sums="rows").draw("map", 1)
    assert drawn.count(">1.00<") == 2 and ">0.70<" in drawn and ">1.30<" in drawn and "stroke-dasharray" in drawn


def test_bars_begin_at_zero_or_where_they_are_told():
    drawn = Bars([1.0, -1.0, np.nan], outlines=[0.5], orange=[False, True, False]).draw("x", 1)
    assert drawn.count("<rect") == 3 and "−1.00" in drawn
    assert Bars([5.0, 6.0], low=4.0).reach() == 2


@pytest.mark.parametrize(
    "number, words",
    [(0, "0.00"), (1, "1.00"), (-0.44, "−0.44"), (0.002, "0.002"), (3e-17, "3·10⁻¹⁷"), (1234.5, "1234"), (2e7, "2·10⁷"),
     (float("inf"), "∞"), (float("-inf"), "−∞")],
)  # fmt: skip
def test_a_number_in_a_cell_is_for_people(number, words):
    assert short(number) == words
