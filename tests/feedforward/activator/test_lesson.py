"""The lesson on the Activator: what the text says is so."""

import pytest
import torch

from workbench import plots
from workbench.feedforward import activator as paper
from workbench.tasks import images
from workbench_widgets import race_models
from workbench_widgets.lessons import activator as lesson


def test_the_numbers_in_the_text():
    """Section 1, the worked example, and the comparison of operations."""
    shape = {"tokens": 4096, "width": 256, "hidden": 512}
    assert round(paper.macs("attention", **shape) / 1e6, 1) == 2.6
    assert round(paper.macs("activator", **shape) / 1e6, 2) == 0.39
    assert round(lesson.mac_ratio("Activator A"), 2) == 1.18 and round(lesson.mac_ratio("Activator B"), 2) == 0.71
    gate, value = (torch.tensor(numbers, dtype=torch.float64) for numbers in ([4, -1, -3, 0], [2, 0, 2, 0]))
    table = lesson.by_hand(gate, value)
    assert all(number in table for number in ("(4, 0, 0, 0)", "1, 1.732", "(1.732, -0.577", "(1, -1, 1, -1)"))


def test_shuffling_keeps_the_patches():
    pixels = images.load("digits").test[:5]
    moved = lesson.shuffled(pixels)
    assert not torch.equal(moved, pixels) and torch.equal(moved, lesson.shuffled(pixels))

    def patches(each):
        return sorted(
            tuple(patch.flatten().tolist()) for row in each[0].unfold(0, 2, 2).unfold(1, 2, 2) for patch in row
        )

    assert all(patches(one) == patches(other) for one, other in zip(pixels, moved, strict=True))


def test_pictures_are_drawn():
    assert lesson.blocks_svg().count("<rect") == sum(map(len, lesson.BLOCKS.values()))
    assert plots.ORANGE in lesson.blocks_svg()
    assert plots.ORANGE not in lesson.blocks_svg(["ViT", "Activator A"]), "section 2 says not yet where tokens meet"
    assert lesson.shuffled_digits()
    for activation in ("gelu", "identity"):
        example = lesson.a_row()
        assert len(lesson.gate_curves(type(example)(example.inputs, {"activation": activation})).legend[0].items) == 3
    assert set(lesson.macs_frame()["block"]) == set(lesson.KINDS)


@pytest.fixture(scope="module")
def race():
    return race_models(lesson.MODELS, "digits", seeds=2, steps=2, lap=1)


def test_what_is_read_off_a_race(race):
    mean = race.final()["mean"]
    assert lesson.spread(race) == mean.max() - mean.min() >= 0
    assert lesson.spatial_map(race)


def test_the_probe_costs_an_activator_nothing(race):
    probed = lesson.probe(race)
    assert lesson.lost(probed, "Activator A", "Activator B") == 0
    plain, moved = probed["ViT"]
    assert lesson.lost(probed, "ViT") == pytest.approx(100 * (plain - moved))
    assert "MLP-Mixer" in lesson.probe_table(race)


def test_the_family_has_as_many_weights():
    assert len({lesson.parameters(config) for config in lesson.family().values()}) == 1
