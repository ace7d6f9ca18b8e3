"""Curves that grow, the strip of steps, and sheets of small images."""

import numpy as np
import pytest

from workbench import plots


def data_of(made, name):
    return next(each.data_source.data for each in made.renderers if each.data_source.name == name)


def test_curves_of_two_sides_grow_without_moving_the_steps():
    made = plots.run_curves("loss", steps=100, floor=(0.5, "lowest"))
    end = made.x_range.end
    plots.update_run_curves(made, {"A": ([10, 20], [2.0, 1.5])}, {"A": "softmax", "B": "none"})
    assert data_of(made, "A")["y"] == [2.0, 1.5] and data_of(made, "B")["x"] == []
    assert [item.label.value for item in made.legend[0].items] == ["A: softmax", "B: none"]
    plots.update_run_curves(made, {"A": ([10, 20], [2.0, 1.5]), "B": ([10], [3.0])})
    assert data_of(made, "B")["y"] == [3.0] and made.x_range.end == end >= 100
    assert [item.label.value for item in made.legend[0].items] == ["A", "B"]


def test_shares_are_percent_and_times_follow_their_curves():
    made = plots.run_curves("accuracy", steps=10, share=True)
    assert (made.y_range.start, made.yaxis[0].formatter.format) == (0, "0%")
    assert plots.run_curves("loss", steps=None, x_label="seconds").x_range.__class__.__name__ == "DataRange1d"


def test_a_strip_tells_computed_forecast_and_to_come():
    made = plots.timeline(4)
    plots.update_timeline(made, {"A": [1.0, 0.0, 0.5], "B": []}, 4, {"A": ["", "error 0.1"]})
    cells = made.select_one("cells").data_source.data
    assert cells["kind"] == ["computed", "forecast", "computed for 50 %", "to come"] + ["to come"] * 4
    assert cells["alpha"][0] == 1 > cells["alpha"][2] > cells["alpha"][1] > cells["alpha"][3] == 0
    assert cells["more"][1] == "error 0.1" and cells["step"][:4] == [1, 2, 3, 4]
    plots.update_timeline(made, {}, 6)
    assert len(made.select_one("cells").data_source.data["x"]) == 12 and made.x_range.end == 6


def test_images_lie_in_rows_with_a_gap_and_square_pixels():
    images = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((5, 3, 3), dtype=np.float32)
    made = plots.image_grid(images, columns=4)
    sheet = made.select_one("images").data_source.data["image"][0]
    assert sheet.shape == (7, 15) and made.aspect_ratio == 15 / 7
    assert sheet[0, 0] == 0 and sheet[0, 4] == 1 and sheet[4, 0] == 4
    assert np.isnan(sheet[:, 3]).all() and np.isnan(sheet[4:, 4:]).all()
    plots.update_image_grid(made, images[:2, None], columns=4)
    assert made.select_one("images").data_source.data["image"][0].shape == (3, 7)


def test_differences_have_a_scale_around_zero():
    made = plots.image_grid(np.zeros((2, 3, 3)), columns=2, signed=0.25)
    mapper = made.select_one("images").glyph.color_mapper
    assert (mapper.low, mapper.high) == (-0.25, 0.25)


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 3), (2, 3, 3, 3)])
def test_what_is_no_stack_of_images_is_refused(shape):
    with pytest.raises(ValueError, match="Images are"):
        plots.image_grid(np.zeros(shape), columns=2)
