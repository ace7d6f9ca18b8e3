"""Tokens over an image: what is counted, what is drawn, what is refused."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from workbench import plots
from workbench_widgets import token_flow

IMAGE = np.linspace(-1, 1, 48).reshape(6, 8)
FLOW = np.array([[0, 1, 2, 3, 4, 5], [0, 0, 2, 3, 3, 5], [0, 0, -1, 0, 0, -1]])


def made(**options):
    return token_flow(IMAGE, FLOW, grid=(2, 3), **options)


def test_the_share_that_is_left():
    assert plots.tokens_left(FLOW).tolist() == [6, 4, 1]
    assert plots.tokens_left(np.full((1, 4), -1)).tolist() == [0]


def test_a_layer_is_told_in_a_sentence():
    flow = made()
    assert flow.step == 3
    assert "After layer 3 of 3: 1 of 6 tokens are left (17%); 3 were merged into others, 2 dropped" in flow.picture
    flow.step = 2
    assert "4 of 6 tokens are left (67%); 2 were merged into others, 0 dropped" in flow.picture
    assert made(layer=1).step == 1


def groups(picture):
    """What the hover says, and how many patches are drawn for it."""
    return sorted((said, cells.count("<rect")) for said, cells in re.findall("<title>(.*?)</title>(.*?)</g>", picture))


def test_every_patch_is_drawn_once_in_its_group():
    assert groups(made(layer=1).picture) == [("a token on its own", 1)] * 6
    assert groups(made(layer=3).picture) == [("2 dropped", 2), ("4 tokens in one", 4)]


def test_groups_side_by_side_have_other_colours_and_lines_between_them():
    flow = np.repeat(np.repeat(np.arange(9).reshape(3, 3), 2, 0), 2, 1).reshape(1, 36)
    picture = token_flow(IMAGE, flow).picture
    colors = re.findall('class="wb-group" fill="(.*?)"', picture)
    grid = np.array(colors).reshape(3, 3)
    assert (grid[:, 1:] != grid[:, :-1]).all() and (grid[1:] != grid[:-1]).all()
    assert re.search('<path d="(M[^"]*)" fill="none"', picture)[1].count("M") == 24, "only between groups"


def test_the_still_has_the_first_the_middle_and_the_last_layer():
    assert re.findall(r"After layer (\d)", re.sub("aria-label=\".*?\"", "", made().still)) == ["1", "2", "3"]


BYTES = np.rint((IMAGE + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize("image", [IMAGE, np.repeat(IMAGE[..., None], 3, 2), BYTES])
def test_grey_and_coloured_images_of_floats_and_of_bytes(image):
    picture = token_flow(image, FLOW, grid=(2, 3)).picture
    written = base64.b64decode(re.search("base64,([^\"]*)", picture)[1])
    shown = np.asarray(Image.open(io.BytesIO(written)))
    assert shown.shape == (6, 8, 3) and shown[0, 0].tolist() == [0] * 3 and shown[-1, -1].tolist() == [255] * 3


@pytest.mark.parametrize(
    "image, flow, words",
    [
        (IMAGE[0], FLOW, r"An image is \(height, width\)"),
        (IMAGE, FLOW[:, :5], r"2 x 3 tokens need assignments \(layers, 6\), not \(3, 5\)"),
        (IMAGE, FLOW[:0], "need assignments"),
        (IMAGE, FLOW + 0.5, "a whole number from 0 on"),
        (IMAGE, FLOW - 1, "or dropped: -1"),
        (IMAGE, FLOW[::-1], "does not come back"),
    ],
)
def test_what_does_not_fit_is_refused(image, flow, words):
    with pytest.raises(ValueError, match=words):
        token_flow(image, flow, grid=(2, 3))
