"""Walks in headless Chromium: every click is heard once, is a step of the history, and a silent server is noticed."""

import re
import signal

import psutil
import pytest

import needs
from dashboard.conftest import free_port, serving
from dashboard.test_browser import card, quiet, slider
from dashboard.visitor import PATIENCE_S

pytestmark = needs.encoder

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed.")


def test_what_was_set_is_a_step_back_and_a_drag_is_one(visit):
    page = visit("?page=inspect&layer=0")
    quiet(page)
    steps = page.evaluate("history.length")
    box = slider(page, "Layer").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 4, middle)
    page.mouse.down()
    for part in range(1, 11):
        page.mouse.move(box["x"] + (box["width"] - 4) * part / 10, middle)
        page.wait_for_timeout(60)
    page.mouse.up()
    page.wait_for_url(re.compile("layer=5"))
    card(page, "B").get_by_label("Activation").select_option("relu")
    page.wait_for_url(re.compile("b.activation=relu"))
    quiet(page)
    assert page.evaluate("history.length") == steps + 2
    page.go_back()
    page.wait_for_function("() => !location.search.includes('relu')")
    assert "layer=5" in page.url
    page.go_back()
    page.wait_for_function("() => location.search.includes('layer=0')")
    # The browser knows its own history at once; what it held comes back from the server.
    playwright.expect(slider(page, "Layer")).to_have_value("0", timeout=1000 * PATIENCE_S)
    page.go_forward()
    page.wait_for_url(re.compile("layer=5"))


def test_a_double_click_starts_a_race_once_and_a_refused_button_says_why(visit):
    page = visit("?page=train&steps=5000")
    page.get_by_role("button", name="Train", exact=True).dblclick()
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_text("one step").wait_for()  # it runs, and goes on
    assert page.get_by_text("Stopped at step").count() == 0
    page.wait_for_timeout(700)
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped at step").wait_for()
    page.get_by_role("link", name="Measure", exact=True).click()
    page.get_by_label("Number format").wait_for()
    for box in page.get_by_role("group", name="Direction").get_by_role("checkbox").all():
        box.uncheck()
    run = page.get_by_role("button", name="Run")
    page.wait_for_function("() => !document.querySelector('#job[data-busy=yes]')")
    assert run.get_attribute("aria-disabled") == "true" and "at least one" in run.get_attribute("title")
    run.focus()
    page.keyboard.press("Enter")
    page.locator(".message", has_text="at least one").wait_for()


def test_a_server_that_is_frozen_or_gone_is_noticed_and_the_view_comes_back(browser, tmp_path):
    port = free_port()
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    banner = page.locator("#server")
    with serving(port, tmp_path / "first") as (process, address):
        page.goto(address + "?page=papers")
        page.wait_for_selector("html[data-ready=yes]")
        quiet(page)
        everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in everyone:
            each.send_signal(signal.SIGSTOP)
        try:
            page.get_by_role("link", name=re.compile("FlashAttention-2")).click()
            assert page.locator("#job").get_attribute("data-busy") == "yes"  # heard in the browser
            banner.get_by_text("has not answered").wait_for()
        finally:
            for each in everyone:
                each.send_signal(signal.SIGCONT)
        banner.wait_for(state="hidden")
        page.get_by_role("heading", name="Claims, measured again").wait_for()
        page.get_by_label("Method", exact=True).wait_for()
        quiet(page)
        shown = page.url
    banner.get_by_text("is lost").wait_for()
    page.get_by_label("Direction").select_option("backward")
    page.locator("[data-waiting]").wait_for()
    with serving(port, tmp_path / "second"):
        page.wait_for_function("performance.getEntriesByType('navigation')[0].type === 'reload'")
        page.wait_for_selector("html[data-ready=yes]")
        page.get_by_role("heading", name="Claims, measured again").wait_for()
        assert page.url == shown and not banner.is_visible()
        page.close()
