"""The page Inspect on images, without a browser."""

import itertools

import numpy as np
import pytest
import torch

from dashboard.visitor import Visitor
from workbench.dashboard.inspect import seeing
from workbench.dashboard.inspect import work_images as inspecting_images
from workbench.dashboard.inspect.fitting import why_not
from workbench.dashboard.inspect.page import InspectPage
from workbench.dashboard.inspect.parts import Gallery
from workbench.dashboard.inspect.state import InspectState
from workbench.dashboard.inspect.work_images import Request
from workbench.dashboard.shell import toggles
from workbench.dashboard.shell.jobs import Cache
from workbench.dashboard.shell.worker import Worker
from workbench.models import vit
from workbench.tasks import images

IMAGE = {"source": "image", "image": "4"}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(seeing, "cache", Cache(limit=2**26))
    monkeypatch.setattr(seeing, "BUDGET_S", 0.01)
    monkeypatch.setattr(seeing, "SETTLE_S", 0.0)
    monkeypatch.setattr(inspecting_images, "TESTED", 120)
    visitor = Visitor(Worker())
    told = []
    made = InspectPage(visitor.desk, lambda: None, told.append)
    made.visitor, made.told = visitor, told
    return made


def finished(page):
    page.visitor.until(lambda: page.figures is not None)
    page.complete()
    page.visitor.until(lambda: not page.desk.pending)


def test_maps_probabilities_accuracy_and_costs_of_both_sides(page):
    page.open({**IMAGE, "b.doubly_stochastic": "sinkhorn_attention"})
    finished(page)
    a, b = (page.maps[side] for side in "ab")
    assert a.maps.shape == (4, 4, 16, 16) and a.tokens[:5] == ["1,1", "1,2", "1,3", "1,4", "2,1"]
    expected = vit.pretrained().inspect(images.load("digits").test[[4]])
    np.testing.assert_allclose(a.maps, expected.maps, atol=1e-5)
    np.testing.assert_allclose(a.vector, expected.logits.softmax(-1), atol=1e-5)
    assert page.sums["b"].column_error < page.sums["a"].column_error
    assert page.tested["a"].right > 100 and page.tested["a"].total == 120 > page.tested["b"].right
    strip = page.look.strip.object
    assert "it sees" in strip and "right on 120 test images" in strip and "64 images at once" in strip
    bars = page.look.image.bars.object.select_one("bars A").data_source.data
    assert bars["A"].sum() == pytest.approx(1) and bars["B"].argmax() == b.vector.argmax()
    assert page.csv().count("\n") == 1 + 16**2


def test_a_patch_is_framed_and_read_aloud(page):
    page.open(IMAGE)
    finished(page)
    made = page.look.image.pictures["a"].object
    weights = made.select_one("patches").data_source.data["weight"]
    np.testing.assert_array_equal(weights, page.maps["a"].maps[page.state.layer, page.state.head, page.state.patch])
    page.look.image.pictures["a"]._handle_msg({"picked": [10]})
    assert page.state.patch == 10 and page.parameters()["patch"] == "10"
    assert "“3,3”" in page.look.reading.object
    shown = page.look.image.pictures["a"].object.select_one("patches").data_source
    assert shown.selected.indices == [10]


def test_switching_between_text_and_image_keeps_each_in_bounds(page):
    page.open({"layer": "5", "head": "11"})
    page.act("page", "source", "image")
    assert (page.state.layer, page.state.head) == (3, 3) and page.state.size == (4, 4)
    finished(page)
    assert page.maps["a"].maps.shape[0] == 4 and page.look.image.choice.visible and not page.look.compared.visible
    page.act("page", "source", "text")
    page.visitor.until(lambda: set(page.maps) == {"a", "b"} and page.maps["b"].maps.shape[0] == 6)
    assert not page.look.image.patches.visible and page.look.compared.visible


def test_rows_of_patches_are_the_natural_tree(page):
    page.open({**IMAGE, "b.hierarchy": "hierarchical_attention"})
    finished(page)
    assert page.maps["b"].groups == ((0, 16, 2), (0, 4, 1), (4, 8, 1), (8, 12, 1), (12, 16, 1))
    assert np.ptp(page.maps["b"].maps[:, :, :4, 4:8], axis=(2, 3)).max() < 1e-6
    assert not page.look.phrases.layout.visible


def test_images_that_are_not_there_get_a_sentence(page, monkeypatch):
    monkeypatch.setattr(images, "FASHION_MNIST", images.FASHION_MNIST / "nowhere")
    page.open({**IMAGE, "collection": "fashion_mnist"})
    assert "dataset-fashion-mnist" in page.told[-1]
    field = next(field for field in page.look.image.fields() if field.name == "collection")
    assert [bool(option.why) for option in field.options] == [False, True]
    page.act("page", "collection", "digits")
    finished(page)


def test_another_set_is_learned_first(monkeypatch):
    """The same way for clothes, on digits that stand in for them."""
    digits = images.load("digits")
    small = images.Images("small", digits.train, digits.train_labels, digits.test, digits.test_labels, digits.classes)
    monkeypatch.setitem(images._READERS, "small", lambda: small)
    monkeypatch.setattr(inspecting_images, "shape", lambda collection: vit.ViTConfig(depth=4, width=16))
    monkeypatch.setattr(inspecting_images, "LEARNING", {"steps": 40, "batch": 16, "learning_rate": 3e-3, "lap": 20})
    monkeypatch.setattr(inspecting_images, "_learned", {})
    request = Request("small", 0, InspectState(b=InspectState().a).sides)
    job = inspecting_images.compute(request, "cpu")(lambda: False)
    said = list(itertools.takewhile(lambda part: part.note != "computing maps", job))
    assert all("learns small first" in part.note for part in said) and "% right" in said[-1].note
    assert len(said) > 40 and said[-1].done == 40  # every step of the training is one of the job, too
    assert next(job).maps.shape == (4, 4, 16, 16)
    job.close()


def test_python_lines_compute_what_is_shown(page):
    page.open({**IMAGE, "b.doubly_stochastic": "sinkhorn_attention", "b.doubly_stochastic.swapped_layers": "last",
               "b.activation": "poly_norm", "layer": "3"})  # fmt: skip
    finished(page)
    scope = {}
    with torch.no_grad():
        exec(page.lines(), scope)
    for side in ("a", "b"):
        shown = page.maps[side].maps[page.state.layer, page.state.head]
        np.testing.assert_allclose(scope["maps"][side], shown, atol=1e-5)
        np.testing.assert_allclose(scope["probabilities"][side], page.maps[side].vector, atol=1e-4)


def test_what_the_small_network_cannot_take_is_greyed():
    for name, method in toggles.methods("activation").items():
        assert bool(why_not("image", "activation", name)) == (method.branches > 1)
    shown = InspectState(source="image")
    runs = next(field for field in shown.card("b") if field.name == "implementation")
    assert {option.value for option in runs.options if not option.why} == {"auto", "reference", "fast"}
    shown.turn("b", "activation", "poly_norm")
    assert not any(field.name == "activation.order" for field in shown.card("b"))


def test_every_choice_runs_on_an_image():
    inspecting_images._learned.setdefault("digits", vit.pretrained())
    start = InspectState().a
    for toggle in ("attention", *toggles.REPLACING, "activation"):
        for name in toggles.methods(toggle):
            if not why_not("image", toggle, name):
                request = Request("digits", 0, {"a": start.choose(toggle, name)})
                maps = inspecting_images._maps(request, "a", "cpu").maps
                assert np.isfinite(maps).all() and maps.shape == (4, 4, 16, 16)


def test_a_mask_for_texts_is_not_offered_on_an_image_and_does_no_harm(page):
    page.open({**IMAGE, "b.attention.is_causal": "True"})
    finished(page)
    assert page.told[-1] == "" and page.figures is not None
    assert page.maps["b"].maps[0, 0, 0, 1:].max() > 0  # the first patch sees others
    assert "attention.is_causal" not in {field.name for field in page.state.card("b")}
    page.act("page", "source", "text")
    assert "attention.is_causal" in {field.name for field in page.state.card("b")}
    assert page.state.b.options("attention")["is_causal"]


def test_gallery_shows_grey_images_and_hears_which():
    heard = []
    gallery = Gallery(heard.append)
    gallery.show(np.array([[[-1.0, 1.0], [0.0, 2.0]]]), ["Image 0: 7"], 0)
    assert gallery.images == {"pixels": "AP9//w==", "size": 2, "labels": ["Image 0: 7"]}
    for message in ({"index": 1}, {"index": -1}, {"index": "0"}, None):
        gallery._handle_msg(message)
    gallery._handle_msg({"index": 0})
    assert heard == [0]
