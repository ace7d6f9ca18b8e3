"""Walks through Inspect and Papers that a person would do, in headless Chromium."""

import json
import re

import pytest

import needs
from dashboard.test_browser import UNNAMED, card, measured, quiet, slider, still

pytestmark = needs.encoder

TEXT = "The+cat+sleeps%2C+the+dog+runs."
MATRICES = """() => Bokeh.documents.flatMap((document) => [...document._all_models.values()])
  .filter((model) => model.name === "matrix")
  .map((model) => JSON.stringify(Array.from(model.data_source.data.image[0]))).sort()"""


def test_phrases_are_chosen_edited_and_followed_by_the_map(visit):
    page = visit(f"?text={TEXT}")
    card(page, "B").get_by_label("Hierarchy").select_option("hierarchical_attention")
    page.get_by_role("button", name="Join , and the").wait_for()
    assert card(page, "B").get_by_label("Attention").is_disabled()
    quiet(page)
    line, matrix = measured(page), page.evaluate(MATRICES)
    page.get_by_role("button", name="Split between cat and sleeps").click()
    page.wait_for_url(re.compile(r"splits=3%2C5"))
    page.get_by_role("button", name="Join cat and sleeps").wait_for()
    quiet(page)
    assert measured(page) != line
    page.wait_for_function(f"before => JSON.stringify(({MATRICES})()) !== JSON.stringify(before)", arg=matrix)
    page.get_by_role("button", name="Join cat and sleeps").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(re.compile(r"splits=2%2C5"))
    page.get_by_role("button", name="Phrases as punctuation has them").click()
    page.wait_for_url(lambda url: "splits" not in url)


def test_doubly_stochastic_sums_are_told_and_the_toggle_excludes_hierarchy(visit):
    page = visit(f"?text={TEXT}")
    card(page, "B").get_by_label("Doubly stochastic").select_option("sinkhorn_attention")
    page.wait_for_url(re.compile("b.doubly_stochastic=sinkhorn_attention"))
    told = page.locator(".text", has_text="distance to doubly stochastic")
    told.nth(1).wait_for()
    quiet(page)
    columns = [float(re.search(r"columns by ([\d.]+)", told.nth(side).inner_text())[1]) for side in (0, 1)]
    assert columns[1] < columns[0] / 2
    hierarchy = card(page, "B").get_by_label("Hierarchy")
    assert hierarchy.locator("option[value=hierarchical_attention]").is_disabled()
    slider(page, "iterations").fill("0")
    page.wait_for_url(re.compile("iterations=1"))


def test_an_image_is_picked_and_taken_apart(visit):
    page = visit("?b.doubly_stochastic=sinkhorn_attention")
    page.get_by_label("Look at").select_option("image")
    page.wait_for_url(re.compile("source=image"))
    page.locator(".strip", has_text="right on").wait_for()
    page.get_by_role("button", name=re.compile("^Image 7:")).click()
    page.wait_for_url(re.compile("image=7"))
    page.locator(".text", has_text="The framed patch").first.wait_for()
    quiet(page)
    line = measured(page)
    assert re.search(r"it sees\s+\d \(\d+ %\)", line) and re.search(r"right on 360 test images\s+9\d\.\d %", line)
    assert {each.count(",") + 1 for each in page.evaluate(MATRICES)} >= {16 * 16}
    page.get_by_label("Look at").select_option("text")
    page.get_by_label("Your sentence").wait_for()
    page.locator(".text", has_text="Follow the row").first.wait_for()


@pytest.mark.parametrize("source", ["image", "text"])
def test_a_phone_has_one_column_and_every_control_a_name(visit, source):
    page = visit(f"?source={source}&b.hierarchy=hierarchical_attention", width=390, theme="dark")
    still(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert json.dumps(page.evaluate(UNNAMED)) == "[]"


def test_a_papers_knob_is_turned_and_leads_to_the_other_pages(visit):
    page = visit("?page=papers")
    page.get_by_role("link", name=re.compile("Hierarchical Self-Attention")).click()
    page.get_by_role("heading", name="Turn its knobs").wait_for()
    page.wait_for_function(f"({MATRICES})().length > 0")
    before = page.evaluate(MATRICES)
    slider(page, "block").fill("2")
    page.wait_for_url(re.compile("option.block=4"))
    page.wait_for_function(f"before => JSON.stringify(({MATRICES})()) !== JSON.stringify(before)", arg=before)
    page.get_by_role("link", name="Inspect it as B").click()
    page.get_by_label("Your sentence").wait_for()
    assert card(page, "B").get_by_label("Hierarchy").input_value() == "hierarchical_attention"


PLOT = """(start) => Bokeh.documents.flatMap((document) => [...document._all_models.values()])
  .find((model) => model.type === "Figure" && model.title?.text.startsWith(start))"""


def test_a_tapped_head_is_shown_large_and_both_maps_show_the_same_part(visit):
    page = visit()
    quiet(page)
    page.wait_for_function(f"({PLOT})('A · layer') && ({PLOT})('B · layer')")
    page.evaluate("""() => Bokeh.documents.flatMap((document) => [...document._all_models.values()])
      .find((model) => model.tags?.includes("picked")).selected.indices = [4 * 12 + 7]""")
    page.wait_for_url(re.compile("layer=4&head=7"))
    for side in "AB":
        page.wait_for_function(f"({PLOT})('{side} · layer 4, head 7')")
    picked = """() => Bokeh.documents.flatMap((document) => [...document._all_models.values()])
      .filter((model) => model.tags?.includes("picked")).map((model) => model.selected.indices[0])"""
    page.wait_for_function(f"JSON.stringify(({picked})()) === '[55,55]'")
    shown = page.evaluate(f"""() => {{
      const [a, b] = ["A · layer", "B · layer"].map({PLOT})
      const cross = (plot) => plot.toolbar.tools.find((tool) => tool.type === "CrosshairTool").overlay[1]
      a.x_range.setv({{start: 2, end: 6}})
      b.y_range.setv({{start: 5, end: 1}})
      cross(b).location = 3
      return [b.x_range.start, b.x_range.end, a.y_range.start, a.y_range.end, cross(a).location]
    }}""")
    assert shown == [2, 6, 5, 1, 3]


def test_a_figure_that_was_hidden_is_drawn_when_it_is_shown(visit):
    page = visit()
    page.get_by_role("switch", name="Show the difference").check()
    page.wait_for_function(f"({PLOT})('A − B')")
    box = """() => { const plot = (PLOT)('A − B'), view = [...Bokeh.index.roots].find((view) => view.model === plot)
      if (!view) return false
      const {width, height} = view.el.getBoundingClientRect(), frame = view.frame.bbox
      return width > 500 && height > 400 && frame.width > 300 && frame.height > 300 }""".replace("PLOT", PLOT)
    page.wait_for_function(box)
    page.get_by_role("switch", name="Show the difference").uncheck()
    page.wait_for_url(lambda url: "difference" not in url)
    slider(page, "Head").fill("4")
    page.wait_for_url(re.compile("head=4"))
    page.get_by_role("switch", name="Show the difference").check()
    page.wait_for_function(box)
    page.get_by_role("link", name="Measure", exact=True).click()
    page.get_by_label("Number format").wait_for()
    page.go_back()
    page.wait_for_function(box)
