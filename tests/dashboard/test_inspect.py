"""The page Inspect without a browser: what it computes, what it shows first, and what wrong input gets."""

import numpy as np
import pytest

import needs
from dashboard.visitor import Visitor
from workbench.dashboard.inspect import first_screen, seeing
from workbench.dashboard.inspect import work as inspecting
from workbench.dashboard.inspect.page import InspectPage
from workbench.dashboard.inspect.seeing import Figures, Maps
from workbench.dashboard.inspect.words import biggest_change, comparison
from workbench.dashboard.inspect.work import Request, Similarity
from workbench.dashboard.shell.jobs import Cache
from workbench.dashboard.shell.toggles import Configuration
from workbench.dashboard.shell.worker import Worker
from workbench.measure import Timing
from workbench.tasks.sentences import EXAMPLES

pytestmark = needs.encoder

PLAIN = Configuration({"attention": "softmax_attention", "activation": "gelu"})
FLASH = Configuration({"attention": "flash_attention_2", "activation": "gelu"})


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(seeing, "cache", Cache(limit=2**26))
    monkeypatch.setattr(seeing, "BUDGET_S", 0.01)
    monkeypatch.setattr(seeing, "SETTLE_S", 0.0)
    visitor = Visitor(Worker())
    told = []
    made = InspectPage(visitor.desk, lambda: None, told.append)
    made.visitor, made.told = visitor, told
    return made


def test_steps_bring_maps_first_then_similarity_then_figures():
    request = Request("A man is eating food.", ("Someone eats a meal.",), {"a": PLAIN, "b": FLASH})
    parts = [
        part for part in inspecting.compute(request, "cpu")(lambda: False) if hasattr(part, "__dataclass_fields__")
    ]
    kinds = [type(part) for part in parts if type(part) in (Maps, Similarity, Figures)]
    assert kinds == [Maps, Maps, Similarity, Similarity, Figures]
    maps = {part.side: part for part in parts if isinstance(part, Maps)}
    assert maps["a"].maps.shape == (6, 12, 8, 8)
    np.testing.assert_allclose(maps["a"].maps.sum(-1), 1, atol=1e-5)
    assert maps["a"].vector @ maps["b"].vector > 0.9999
    similar = next(part for part in parts if isinstance(part, Similarity))
    assert similar.cosines[0, 1] == pytest.approx(0.7614, abs=1e-3)
    assert len(list(inspecting.known(request))) == 5


def test_first_screen_equals_a_fresh_computation():
    fresh = first_screen.compute()
    with np.load(first_screen.FILE) as kept:
        assert set(kept) == set(fresh)
        assert kept["tokens"].tolist() == fresh["tokens"].tolist()
        for name in set(fresh) - {"tokens"}:
            np.testing.assert_allclose(kept[name].astype(np.float32), fresh[name], atol=1e-3)


def test_first_screen_is_there_before_any_job_ran(page):
    page.open({})
    for side in ("a", "b"):
        assert page.look.pictures[side].object.select_one("matrix").data_source.data["image"][0].shape == (15, 15)
    assert page.figures is None


def test_turning_a_knob_brings_another_map_and_figures(page):
    page.open({})
    page.complete()
    before = page.maps["b"].maps
    page.act("b", "activation", "relu")
    page.visitor.until(lambda: page.figures is not None)
    assert np.abs(page.maps["b"].maps - before).max() > 0.1
    assert page.parameters() == {"b.activation": "relu"}
    shown = page.look.pictures["b"].object.select_one("matrix").data_source.data["image"][0]
    np.testing.assert_array_equal(shown, page.maps["b"].maps[page.state.layer, page.state.head])


def test_swap_and_copy(page):
    page.open({"text": "A man is eating food."})
    a, b = page.state.a, page.state.b
    page.act("page", "swap", None)
    assert (page.state.a, page.state.b) == (b, a)
    page.act("page", "copy", None)
    assert page.state.a == page.state.b == b


def test_tapping_a_head_picks_it(page):
    page.open({})
    page.complete()
    page.look.heads["a"]._handle_msg({"picked": [4 * 12 + 7]})
    assert (page.state.layer, page.state.head) == (4, 7)
    assert page.parameters() == {"layer": "4", "head": "7"}


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "empty"), ("   ", "empty"), ("x" * 10_000, "10,000 characters"), ("a " * 400, "more than the 160 tokens")],
)
def test_texts_that_cannot_be_get_a_sentence_and_the_nearest_that_can(page, text, told):
    page.open({})
    page.act("page", "text", text)
    assert any(told in each for each in page.told)
    nearest = {"": EXAMPLES[0], "x": "x" * 2000, "a": "a " * 157 + "a"}
    assert page.state.text == nearest[text.strip()[:1]]
    page.act("page", "text", "Better.")
    page.visitor.until(lambda: page.figures is not None)
    assert page.maps["a"].tokens == ["[CLS]", "better", ".", "[SEP]"]


def test_a_choice_that_cannot_be_gets_the_encoders_sentence(page):
    [told] = page.open({"b.activation": "swiglu"})
    assert "swiglu" in told and page.state.b.methods["activation"] == "gelu"


def test_too_many_sentences_to_compare(page):
    page.open({})
    page.act("page", "others", "\n".join("x" * n for n in range(1, 12)))
    assert "11 sentences" in page.told[-1] and len(page.state.others) == 8


def test_csv_holds_both_maps(page):
    page.open({})
    lines = page.csv().splitlines()
    count = len(page.maps["a"].tokens)
    assert lines[0].startswith("layer,head,") and len(lines) == 1 + count**2


def test_python_lines_compute_what_is_shown(page):
    page.open({"b.attention.window_left": "2", "b.activation": "poly_norm", "b.activation.order": "2", "layer": "1"})
    page.visitor.until(lambda: page.figures is not None)
    scope = {}
    exec(page.lines(), scope)
    for side in ("a", "b"):
        shown = page.maps[side].maps[page.state.layer, page.state.head]
        np.testing.assert_allclose(scope["maps"][side], shown, atol=1e-6)
        np.testing.assert_allclose(scope["cosines"][side], page.similarities[side].cosines, atol=1e-5)
    assert scope["times"]["a"].median_ms > 0


def test_noise_is_called_noise():
    near = {"a": Timing(10.0, 9.0, 11.0, 20), "b": Timing(10.5, 9.8, 12.0, 20)}
    apart = {"a": Timing(10.0, 9.0, 11.0, 20), "b": Timing(5.0, 4.8, 5.2, 20)}
    assert seeing.compared(near) == ("×1.05", "within the noise")
    assert seeing.compared(apart) == ("×0.5", "faster")
    assert seeing.compared(apart, same=True) == ("", "same configuration")
    line = comparison(Figures(apart, {"a": 2048, "b": 1024}, "a machine"), "", waiting=False)
    assert "10 ms" in line and "5 ms" in line and "n = 20" in line and "a machine" in line


def test_what_is_read_aloud_is_escaped():
    weights = {"a": np.eye(3), "b": np.eye(3)[::-1]}
    assert "<script>" not in biggest_change(weights, ["[CLS]", "<script>", "[SEP]"])


def test_examples_fit_on_the_page():
    for text in EXAMPLES:
        inspecting.check(Request(text, (), {}))
