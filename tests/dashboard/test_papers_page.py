"""The page Papers without a browser: gallery, knobs that are turned, claims, recorded figures, links."""

import numpy as np
import pandas as pd
import pytest

from dashboard.visitor import Visitor
from workbench import catalog, claims
from workbench.dashboard.inspect.state import InspectState
from workbench.dashboard.measure.page import MeasureState
from workbench.dashboard.papers import page as papers_page
from workbench.dashboard.papers import text as papers_text
from workbench.dashboard.papers import view as papers_view
from workbench.dashboard.papers import work as exploring
from workbench.dashboard.papers.page import PapersPage, PapersState
from workbench.dashboard.papers.work import Arithmetic, Picture, Request
from workbench.dashboard.shell import state
from workbench.dashboard.shell.figures import NOT_DRAWN, when_drawn
from workbench.dashboard.shell.worker import Worker

METHODS = list(catalog.methods())


@pytest.fixture
def page():
    visitor = Visitor(Worker())
    told = []
    made = PapersPage(visitor.desk, lambda: None, told.append)
    made.visitor, made.told = visitor, told
    return made


def finished(page):
    page.visitor.until(lambda: not page.desk.pending)


def parts(request):
    found = [part for part in exploring.compute(request)(lambda: False) if isinstance(part, (Arithmetic, Picture))]
    return found[0], (found[1] if len(found) > 1 else None)


def test_gallery_shows_every_paper_in_its_chapter():
    shown = papers_text.gallery(catalog.papers())
    for paper in catalog.papers():
        assert f"slug={paper.slug}" in shown and f"<h2>{paper.chapter.capitalize()}</h2>" in shown
    assert shown.index("Attention</h2>") < shown.index("Feedforward</h2>")


@pytest.mark.parametrize("slug", list(catalog.slugs()))
def test_every_paper_opens_and_says_what_the_catalog_says(page, slug):
    assert page.open({"slug": slug}) == []
    finished(page)
    assert page.told in ([], [""]) and page.arithmetic is not None
    paper = catalog.paper(slug)
    words = page.look.head.object + page.look.claims.object + page.look.methods.object
    assert paper.notebook in words and paper.arxiv in words and f"workbench/{paper.chapter}/{slug}/" in words
    for method in paper.methods:
        assert f"<code>{method.name}</code>" in words
        assert all(f"<code>{knob}</code>" in words for knob in method.knobs)
    assert page.parameters() == {"slug": slug}
    assert page.csv().startswith("paper,claim")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_arithmetic_and_every_toggle_its_picture(name):
    method = catalog.method(name)
    told, picture = parts(Request(name, exploring.sizes(method)[-1]))
    assert told.flops >= 0 and told.bytes > 0 and set(told.held) == {"reference", "fast"}
    assert (picture is not None) >= (method.toggle is not None)
    if picture is not None:
        assert np.isfinite(picture.y).all()


def test_knobs_change_the_picture_and_the_arithmetic():
    plain, plain_map = parts(Request("flash_attention_2", 256))
    causal, causal_map = parts(Request("flash_attention_2", 256, {"is_causal": True}))
    assert causal.flops < plain.flops
    assert np.triu(causal_map.y, 1).max() == 0 < np.triu(plain_map.y, 1).max()
    grouped = parts(Request("hierarchical_attention", 256, {"block": 8, "levels": 2}))[1].y
    assert np.ptp(grouped[:8, 8:16]) < 1e-6 < np.ptp(grouped[:8, :8])
    few, many = (parts(Request("sinkhorn_attention", 64, {"iterations": n}))[1].y for n in (1, 51))
    assert np.abs(many.sum(0) - 1).max() < 0.05 < np.abs(few.sum(0) - 1).max()
    assert parts(Request("flash_attention_2", 256, {}, {"heads": 8}))[0].flops == 2 * plain.flops


def test_a_forecast_of_higher_order_errs_less():
    errors = [parts(Request("taylorseer", 64, {"order": order}))[1].y.mean() for order in (0, 2)]
    assert errors[1] < errors[0]


def test_turning_a_knob_is_drawn_and_written_into_the_link(page):
    page.open({"slug": "flash_attention_2"})
    finished(page)
    before = page.picture.y
    page.act("option.is_causal", True)
    finished(page)
    assert np.abs(page.picture.y - before).max() > 0
    page.act("size", 0)
    page.act("shape.heads", 0)
    finished(page)
    assert page.parameters() == {
        "slug": "flash_attention_2", "option.is_causal": "True", "shape.heads": "1", "size": "16"
    }  # fmt: skip
    assert "option.is_causal=True" in page.look.cost.object and "b.attention.is_causal=True" in page.look.cost.object
    other = PapersState()
    assert other.read(page.parameters()) == [] and other.request == page.state.request
    scope = {}
    exec(page.lines(), scope)
    assert scope["cost"].flops == page.arithmetic.flops
    np.testing.assert_allclose(scope["map"][0, 0], page.picture.y, atol=1e-6)


def test_a_picture_that_could_not_be_drawn_is_told_and_drawn_with_the_next_choice(page, monkeypatch):
    def drawn():
        finished(page)
        when_drawn(lambda: None).result()
        page.visitor.rest()
        return page.look.drawing

    with monkeypatch.context() as broken:
        broken.setattr(papers_view, "_figure", lambda *given: 1 / 0)
        page.open({"slug": "flash_attention_2"})
        assert drawn().trouble == NOT_DRAWN
    page.act("option.is_causal", True)
    assert drawn().trouble == ""
    shown = drawn().object.select_one("matrix").data_source.data["image"][0]
    np.testing.assert_array_equal(shown, page.picture.y.astype(np.float32))


def test_another_method_starts_at_its_defaults(page):
    page.open({"slug": "quantum_doubly_stochastic", "method": "sinkhorn_attention", "option.iterations": "9"})
    page.act("method", "qontot_attention")
    finished(page)
    assert page.state.options == {} and page.state.size == 16
    page.act("method", "norm_softmax_attention")
    page.open({})
    assert page.parameters() == {}


def test_knobs_that_do_not_fit_together_get_a_sentence(page):
    page.open({"slug": "flash_attention_2", "shape.heads": "4", "shape.kv_heads": "3"})
    page.visitor.until(lambda: any("kv_heads" in each for each in page.told))


@pytest.mark.parametrize("link", [
    {"slug": "polycom", "method": "softmax_attention"}, {"slug": "polycom", "size": "17"}, {"slug": "nothing"},
    {"slug": "polycom", "group": "x", "direction": "sideways", "figure": "beauty"},
    {"slug": "quantum_doubly_stochastic", "option.layers": "-1"},
])  # fmt: skip
def test_a_broken_link_is_told(link):
    assert PapersState().read(link)


def test_links_lead_to_views_that_are_there():
    for method in catalog.methods().values():
        options = {"block": 4} if "block" in method.knobs else {}
        for link in papers_text.links(method, Request(method.name, 64, options)):
            view = state.split(link.split('"')[1].replace("&amp;", "&"))
            if view["page"] == "inspect":
                shown = InspectState()
                assert shown.read(view) == [] and shown.b.methods[method.toggle] == method.name
            elif view["page"] == "measure":
                assert MeasureState("cpu").read(view) == []


def test_claims_stand_beside_the_papers_number_by_scale():
    row = {"paper": "x", "claim": "c", "statement": "S", "where": "Table 1", "reported": "2.0 times", "caveat": ""}
    table = pd.DataFrame([
        row | {"measured": "2.1 times", "verdict": "holds", "scale": "gpu", "source": "recorded: H200"},
        row | {"measured": "0.5 times", "verdict": "does not hold here", "scale": "cpu", "source": "here: laptop"},
        row | {"claim": "d", "measured": "-", "verdict": "not measured yet", "scale": "", "source": ""},
    ], columns=claims.COLUMNS)  # fmt: skip
    cells = papers_text.claims(table).split("<tr>")
    assert cells[2].index("0.5 times") < cells[2].index("2.1 times") and "2.0 times" in cells[2]
    assert "class='bad'" in cells[2] and "class='good'" in cells[2]
    assert cells[3].count("not measured yet") == 2


def test_sampling_runs_are_a_table_with_their_machine():
    row = {"caching": "taylorseer", "steps": 50, "interval": 5.0, "order": 1.0, "threshold": float("nan"),
           "status": "ok", "full_steps": 11.0, "cache_bytes": 2**20, "median_ms": 100.0, "speed_up": 4.2,
           "of_ideal": 0.93}  # fmt: skip
    table = pd.DataFrame([row, row | {"status": "wrong", "caching": "broken"}])
    table.attrs["provenance"] = {"device": "NVIDIA H200"}
    words = papers_text.sampling_runs(table)
    assert "interval 5, order 1" in words and "×4.2" in words and "93 %" in words and "NVIDIA H200" in words
    assert "broken" not in words and "nan" not in words


def test_recorded_rows_are_drawn_dashed_with_their_machine(page):
    slug = next(slug for slug in catalog.slugs() if papers_page.recorded(slug) is not None)
    page.open({"slug": slug})
    page.visitor.until(lambda: page.look.curves.drawn)
    assert page.look.curves.object.renderers
    groups = PapersState.groups_of(slug)
    page.act("group", groups[-1])
    page.act("figure", "peak_bytes")
    assert page.state.group == groups[-1] and page.parameters().get("figure") == "peak_bytes"
