"""Legends in headless Chromium: they take no room from the plot, and can be read."""

import json

import numpy as np
import pytest
from bokeh.embed import file_html
from bokeh.resources import INLINE

from dashboard.test_browser import STILL
from dashboard.test_looks import contrast
from dashboard.visitor import PATIENCE_S
from workbench import measure, plots
from workbench.dashboard.shell.sheets import Sheet

ROOM = """
() => {
  const plot = Bokeh.documents[0].roots()[0]
  return [plot.inner_height, plot.outer_height, document.documentElement.scrollWidth <= innerWidth]
}
"""
INKS = """
() => {
  const inside = function* (root) {
    for (const node of root.querySelectorAll("*")) { yield node; if (node.shadowRoot) yield* inside(node.shadowRoot) }
  }
  const hex = (color) => "#" + color.match(/\\d+/g).slice(0, 3)
    .map((part) => Number(part).toString(16).padStart(2, "0")).join("")
  const ground = (node) => {
    const color = getComputedStyle(node).backgroundColor
    return /, 0\\)$/.test(color) ? ground(node.assignedSlot ?? node.parentNode.host ?? node.parentNode) : color
  }
  return [...inside(document)].filter((node) => node.matches(".bk-label") && node.checkVisibility())
    .map((node) => [hex(getComputedStyle(node).color), hex(ground(node))])
}
"""
LONG = "names that are too long for two columns, number"


def table(count, name="method"):
    return measure.frame(
        {"implementation": f"{name} {index}", "size": size, "status": "ok", "median_ms": (index + 1) * size}
        for index in range(count)
        for size in (64, 128)
    )


def lines(count):
    return {f"function {index}": (np.arange(3), index * np.arange(3)) for index in range(count)}


@pytest.fixture(params=[390, 1280])
def show(browser, request):
    """Puts a figure on a page of its own; what tells the heights of its plot and of the whole, and whether it fits the
    page's width."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.set_default_timeout(1000 * PATIENCE_S)

    def room(made=None, patch=None):
        if made is not None:
            page.goto("about:blank")
            page.set_content(file_html(made, INLINE))
            page.wait_for_function("window.Bokeh?.documents[0]?.roots()[0]?.outer_height > 0")
        if patch is not None:
            page.evaluate("patch => Bokeh.documents[0].apply_json_patch(patch)", json.loads(patch))
        page.evaluate(STILL)  # the legend is laid out once more when its size is known
        return page.evaluate(ROOM)

    yield room
    page.close()


@pytest.mark.parametrize("make", [
    lambda count: plots.curves(table(count), "size", "median_ms", group="implementation", machine="a laptop"),
    lambda count: plots.functions(lines(count)),
], ids=["curves", "functions"])  # fmt: skip
def test_the_plot_is_as_high_with_many_names_as_with_one(show, make):
    (plot, whole, _), (same, higher, fits) = show(make(1)), show(make(16))
    assert plot == same > 200 and higher > whole + 100 and fits


def test_the_plot_stays_as_it_is_when_names_come_and_go(show):
    sheet = Sheet.make(None, plots.curves, (table(1), "size", "median_ms"), {"group": "implementation"})
    rooms = [show(sheet.plot)]
    for names in (table(12, LONG), table(2)):
        how = {"group": "implementation"}
        rooms.append(show(patch=sheet.change(plots.update_curves, (names, "size", "median_ms"), how)))
    (plot, whole, _), (grown, higher, _), (shrunk, lower, fits) = rooms
    assert plot == grown == shrunk > 200
    assert higher > whole + 200 and lower == whole and fits


def test_names_can_be_read_in_both_themes_also_after_a_switch(visit):
    for theme in ("light", "dark"):
        page = visit("?page=measure", theme=theme)
        page.locator(".bk-label").first.wait_for()
        before = page.evaluate(INKS)
        page.get_by_role("button", name="Switch between light and dark").click()
        after = page.evaluate(INKS)
        assert before and len(after) == len(before) and before != after
        for ink, ground in before + after:
            assert contrast(ink, ground) >= 4.5, (theme, ink, ground)
