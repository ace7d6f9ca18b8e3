"""Walks through Train and Generate that a person would do, in headless Chromium."""

import re

import pytest

from dashboard.test_browser import UNNAMED, card, quiet, slider, still
from dashboard.visitor import PATIENCE_S

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed.")

CURVE = """
() => Bokeh.documents.flatMap((document) => [...document._all_models.values()])
  .filter((model) => model.type === "ColumnDataSource" && ["A", "B"].includes(model.name))
  .map((model) => model.data.x?.length ?? 0)
"""
KINDS = """
() => Bokeh.documents.flatMap((document) => [...document._all_models.values()])
  .find((model) => model.name === "cells")?.data_source.data.kind ?? []
"""


def says(page, text):
    """Wait until the strip between the configurations holds the text: its parts come as they are computed."""
    playwright.expect(page.locator(".strip")).to_contain_text(text, use_inner_text=True, timeout=1000 * PATIENCE_S)


def test_a_race_is_drawn_while_it_runs_and_is_reproduced_by_its_link(visit):
    page = visit("?page=train&steps=128&shape.depth=1&shape.width=16")
    card(page, "B").get_by_label("Tokens are mixed by").select_option("mlp_mixer")
    page.wait_for_url(re.compile("b.mixing=mlp_mixer"))
    page.get_by_role("button", name="Train", exact=True).click()
    page.locator("#status", has_text="step").wait_for()
    page.get_by_text("one step").wait_for()
    quiet(page)
    page.wait_for_function(f"Math.max(...({CURVE})()) === 64")
    strip = page.locator(".strip").inner_text()
    assert re.search(r"held-out accuracy\s+[\d.]+ %", strip) and "→" in strip
    again = visit("?" + page.url.split("?", 1)[1])
    says(again, strip)


def test_a_race_can_be_stopped_and_what_was_drawn_stays(visit):
    page = visit("?page=train&steps=5000")
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text("one step").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped at step").wait_for()
    page.get_by_role("button", name="Train", exact=True).wait_for()
    page.wait_for_function(f"Math.max(...({CURVE})()) >= 1")
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV").click()
    assert saved.value.path().read_text().startswith("side,model,step")


def test_a_choice_that_cannot_be_is_greyed_and_says_why(visit):
    page = visit("?page=train&task=grammar")
    box = card(page, "B").locator("[data-name=doubly_stochastic]")
    assert box.locator("option[value=sinkhorn_attention]").is_disabled()
    box.get_by_text("greyed out: why?").click()
    box.get_by_text("identity", exact=False).first.wait_for()


def test_pictures_and_figures_follow_the_caching_knobs(visit):
    page = visit("?page=generate&count=10")
    quiet(page)
    first = page.locator(".strip").inner_text()
    assert re.search(r"blocks\s+300\s+→\s+66", first)
    slider(page, "interval").fill("1")
    page.wait_for_url(re.compile("b.caching.interval=2"))
    page.get_by_text(re.compile("26 of 50 steps computed")).wait_for()
    quiet(page)
    page.wait_for_function(f"({KINDS})().filter((kind) => kind === 'forecast').length === 24")
    card(page, "A").get_by_label("Caching").select_option("confidence_gated_taylor")
    page.get_by_text("A · CG-Taylor").wait_for()
    quiet(page)
    page.get_by_role("button", name="Python").click()
    page.locator("#lines-text", has_text="diffusion.sample").wait_for()
    page.locator("#lines-close").click()
    again = visit("?" + page.url.split("?", 1)[1])
    assert card(again, "A").get_by_label("Caching").input_value() == "confidence_gated_taylor"
    says(again, page.locator(".strip").inner_text().split("all steps")[0])


@pytest.mark.parametrize("search", ["?page=train", "?page=generate&a.caching=feature_reuse"])
def test_phone_has_one_column_and_every_control_a_name(visit, search):
    page = visit(search, width=390, theme="dark")
    still(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(UNNAMED) == []


def test_keyboard_starts_and_stops_a_race(visit):
    page = visit("?page=train&steps=5000")
    page.get_by_role("button", name="Train", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").wait_for()
    page.wait_for_timeout(700)  # a button that has just become another one ignores what was meant for that one
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Train", exact=True).wait_for()
