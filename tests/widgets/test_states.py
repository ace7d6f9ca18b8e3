"""State over time: a pointer that three pictures share, and the map that a way of mixing implies."""

import numpy as np
import pytest
import torch

from workbench_widgets import implied_map, state_over_time


def decaying(values, decay=0.5):
    """x_t = decay x_{t-1} + v_t, the state is the output."""
    state, out = torch.zeros(values.shape[1], dtype=values.dtype), []
    for value in values:
        state = decay * state + value
        out.append(state)
    return torch.stack(out)


def test_the_pointer_is_shared():
    states = decaying(torch.eye(6)[:, :4])
    made = state_over_time(states, implied_map(decaying, 6), time=2, what="token", caption="A caption.")
    shown = made.picture.now.renderers[0].data_source
    assert np.allclose(shown.data["right"], states[2]) and made.picture.span.location == 2.5
    made.time = 5
    assert np.allclose(shown.data["right"], states[5]) and made.picture.row.data["top"] == [5]
    assert made.picture.now.title.text == "token 5" and made.picture.span.location == 5.5
    assert "embed_items" in made.still and "A caption." in made.still


def test_a_matrix_for_every_moment():
    states = torch.arange(24.0).reshape(4, 2, 3) - 5
    made = state_over_time(states, what="chunk")
    assert made.time == 2 and len(made.picture.layout.children) == 2
    made.time = 3
    source = made.picture.now.renderers[0]
    assert np.allclose(source.data_source.data["image"][0], states[3])
    mapper = source.glyph.color_mapper
    assert (mapper.low, mapper.high) == (-18, 18), "one scale for all moments, symmetric for both signs"


def test_marks_stand_above_their_moments():
    made = state_over_time(np.eye(5), marks=[True, False, False, True, False], marked="computed")
    over = made.picture.layout.children[0]
    assert list(over.renderers[-1].data_source.data["x"]) == [0.5, 3.5] and "▼ computed" in over.title.text


def test_colours_may_end_before_the_largest_weight_and_cells_are_numbered():
    made = state_over_time(np.eye(30), 8 * np.eye(30) - 1, strongest=2)
    over, now, map = made.picture.layout.children
    mapper = map.renderers[0].glyph.color_mapper
    assert (mapper.low, mapper.high) == (-2, 2)
    assert list(over.xaxis[0].ticker.ticks) == [0.5, 5.5, 10.5, 15.5, 20.5, 25.5]
    assert now.yaxis[0].major_label_overrides[5.5] == "5"


def test_an_implied_map_is_made_of_unit_vectors():
    map = implied_map(decaying, 4)
    assert torch.allclose(map, torch.tril(0.5 ** (torch.arange(4)[:, None] - torch.arange(4)).clamp(min=0).double()))
    with pytest.raises(ValueError, match="not linear"):
        implied_map(lambda values: values.relu(), 4)
    with pytest.raises(ValueError, match="not linear"):
        implied_map(lambda values: values[1:], 4)


@pytest.mark.parametrize(
    "states, options, words",
    [
        (np.zeros(4), {}, "not \\(4,\\)"),
        (np.zeros((0, 3)), {}, "not \\(0, 3\\)"),
        (np.zeros((4, 3)), {"time": 4}, "no moment 4: the last one is 3"),
        (np.zeros((4, 3)), {"mixing": np.eye(3)}, "a row for each of 4"),
        (np.zeros((4, 3)), {"marks": [True]}, "1 marks were given for 4 moments"),
        (np.zeros((700, 600)), {}, "too many to be seen"),
    ],
)
def test_what_cannot_be_shown_is_refused(states, options, words):
    with pytest.raises(ValueError, match=words):
        state_over_time(states, **options)
