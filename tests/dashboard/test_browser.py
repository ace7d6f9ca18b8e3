"""Walks that a person would do, in headless Chromium."""

import json
import re
import time

import pytest

import needs
from dashboard.visitor import PATIENCE_S

pytestmark = needs.encoder

LONG = "The old bank by the river lent the young man who fished there enough money to buy a boat , and he paid it back"

# Called in the page: turns a control and gives the milliseconds until another map is painted.
TURN = """
async ([side, index, value]) => {
  const models = Bokeh.documents.flatMap((document) => [...document._all_models.values()])
  const plot = models.find((model) => model.type === "Figure" && model.title?.text.startsWith("AB"[side] + " · layer"))
  const source = plot.renderers.find((model) => model.name === "matrix").data_source
  const inside = function* (root) {
    for (const node of root.querySelectorAll("*")) { yield node; if (node.shadowRoot) yield* inside(node.shadowRoot) }
  }
  const slider = [...inside(document)].filter((node) => node.type === "range" && node.closest(".knobs"))[index]
  const changed = new Promise((resolve) => {
    const heard = () => {
      source.properties.data.change.disconnect(heard)
      requestAnimationFrame(() => requestAnimationFrame(resolve))
    }
    source.properties.data.change.connect(heard)
  })
  const start = performance.now()
  slider.value = value
  slider.dispatchEvent(new Event("input", {bubbles: true}))
  await changed
  return performance.now() - start
}
"""

# Resolves when the page has had the same parts in the same places for ten frames and a moment for each.
STILL = """
async () => {
  const look = () => JSON.stringify([...document.querySelectorAll("*")].map((node) => node.getBoundingClientRect()))
    + Bokeh.documents.map((document) => document._all_models.size)
  for (let before = look(), alike = 0; alike < 10;) {
    await new Promise((resolve) => setTimeout(() => requestAnimationFrame(resolve), 30))
    const now = look()
    alike = now === before ? alike + 1 : 0
    before = now
  }
}
"""

UNNAMED = """
() => {
  const inside = function* (root) {
    for (const node of root.querySelectorAll("*")) { yield node; if (node.shadowRoot) yield* inside(node.shadowRoot) }
  }
  return [...inside(document)]
    .filter((node) => node.matches("button, input, select, textarea, a[href], progress, form"))
    .filter((node) => node.checkVisibility())
    .filter((node) => !(node.ariaLabel || node.labels?.length || node.textContent.trim() || node.title))
    .map((node) => node.outerHTML.slice(0, 120))
}
"""


def card(page, side):
    return page.get_by_role("form", name=f"Configuration {side}")


def slider(page, name):
    return page.get_by_role("slider", name=re.compile(f"^{name}"))


def measured(page):
    """Wait until time and memory stand in the line from A to B; the line."""
    strip = page.locator(".strip")
    strip.get_by_text("peak memory").wait_for()
    return strip.inner_text()


def quiet(page):
    page.wait_for_function("document.getElementById('job').dataset.busy === 'no'")


def still(page):
    """Wait until nothing is computed any more and the page has stopped changing: all is drawn and laid out."""
    quiet(page)
    page.evaluate(STILL)


def test_the_walk(visit):
    page = visit()
    page.get_by_label("Your sentence").fill("The trophy does not fit into the suitcase because it is too big.")
    page.get_by_text("Follow the row").wait_for()
    slider(page, "Layer").fill("4")
    slider(page, "Head").fill("3")
    card(page, "B").get_by_label("Attention").select_option("flash_attention_2")
    card(page, "B").get_by_label("Activation").select_option("relu")
    page.wait_for_url(re.compile(r"b\.activation=relu"))
    quiet(page)
    line = measured(page)
    assert "ms" in line and "→" in line and re.search(r"cosine\s+0\.\d+", line)
    reading = page.locator(".text", has_text="Follow the row").first.inner_text()
    link = page.url
    assert "trophy" in link and "layer=4" in link and "head=3" in link

    again = visit("?" + link.split("?", 1)[1])
    assert again.get_by_label("Your sentence").input_value().startswith("The trophy")
    assert card(again, "B").get_by_label("Activation").input_value() == "relu"
    assert slider(again, "Layer").input_value() == "4"
    again.get_by_text("Follow the row").wait_for()
    quiet(again)
    assert again.locator(".text", has_text="Follow the row").first.inner_text() == reading
    measured(again)


def test_the_first_screen_is_painted(visit, browser, server, record_property):
    """In a browser that was never here, from a server that was; how long it took is told, not judged."""
    quiet(visit())
    seconds = []
    for _ in range(3):
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.wait_for_timeout(1500)  # a new window of Chromium is busy with itself
        start = time.monotonic()
        page.goto(server, wait_until="commit")
        page.wait_for_selector(".bk-Figure canvas", state="attached")
        page.wait_for_selector("html[data-ready=yes]")
        whole = time.monotonic() - start
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
        seconds.append((round(paint, 2), round(whole, 2)))
        context.close()
    record_property("first paint and maps drawn (s)", seconds)


def test_a_knob_brings_another_map(visit, record_property):
    page = visit("?text=" + LONG.replace(" ", "+"))
    quiet(page)
    spent = []
    for value in (4, 7, 5, 8, 3, 6):
        spent.append(round(page.evaluate(TURN, [1, 2, value])))
    record_property("knob to map (ms)", spent)


def test_switching_pages_and_the_back_button(visit):
    page = visit()
    page.get_by_role("link", name="Measure").click()
    page.get_by_role("button", name="Run").wait_for()
    page.get_by_role("link", name="Papers").click()
    page.get_by_role("link", name=re.compile("FlashAttention-2")).click()
    page.get_by_role("heading", name="Claims, measured again").wait_for()
    assert "slug=flash_attention_2" in page.url
    page.go_back()
    page.get_by_role("heading", name="Papers").wait_for()
    page.go_back()
    page.get_by_role("button", name="Run").wait_for()
    assert page.evaluate("performance.getEntriesByType('navigation').length") == 1


def test_a_sweep_is_drawn_while_it_runs_and_can_be_cancelled(visit):
    page = visit("?page=measure&run=softmax_attention:fast,flash_attention_2:fast&from=16&to=16384")
    page.get_by_role("button", name="Run").dblclick()
    page.locator("#status", has_text="measured").wait_for()
    page.get_by_role("link", name="Papers").click()  # the sweep goes on
    page.get_by_role("heading", name="Papers").wait_for()
    page.get_by_role("link", name="Measure").click()
    page.locator("#cancel").click()
    page.get_by_text("Cancelled:").wait_for()
    page.get_by_role("button", name="Run").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV").click()
    assert saved.value.path().read_text().startswith("method,")


def test_a_stalled_job_does_not_block_another_visitor(visit):
    busy = visit(
        "?page=measure&run=flash_attention_2:reference&from=64&to=16384&shape.heads=16&direction=forward,backward"
    )
    other = visit("?page=papers")
    busy.get_by_role("button", name="Run").click()
    busy.locator("#cancel").wait_for()
    for name, sign in (("Inspect", "Your sentence"), ("Papers", None), ("Measure", "Number format")):
        other.get_by_role("link", name=name, exact=True).click()
        if sign:
            other.get_by_label(sign).wait_for()
    other.locator(".bk-Figure").first.wait_for()
    other.get_by_label("Number format").select_option("bfloat16")
    other.wait_for_url(re.compile("dtype=bfloat16"))
    assert busy.locator("#cancel").is_visible(), "the sweep was over before the other visitor clicked"
    busy.reload()
    busy.get_by_role("button", name="Run").click()
    busy.locator("#status", has_text=re.compile(r"^([3-9]|1\d) of .* measured")).wait_for()
    assert "taking turns" not in busy.locator("#status").inner_text(), "the job of the page before goes on"
    busy.locator("#cancel").click()
    quiet(busy)


@pytest.mark.parametrize("search", ["?page=zzz&layer=1000&b.attention=quantum", "?%00%ff=%%%"])
def test_a_broken_link_is_told_and_the_address_is_that_of_what_is_shown(visit, search):
    page = visit(search)
    page.get_by_label("Your sentence").wait_for()
    told = page.locator(".message")
    texts = told.all_inner_texts()
    assert len(texts) == (2 if "%" in search else 3)
    told.nth(1).get_by_role("button", name="Dismiss").click()
    page.wait_for_function(f"document.querySelectorAll('.message').length === {len(texts) - 1}")
    assert [each.split("Dismiss")[0] for each in told.all_inner_texts()] == [
        each.split("Dismiss")[0] for place, each in enumerate(texts) if place != 1
    ]
    assert page.url.endswith("?page=inspect" if "%" in search else "?page=inspect&layer=5")


def test_wrong_texts_are_told_and_forgiven(visit):
    page = visit()
    box = page.get_by_label("Your sentence")
    for text, told in (("", "empty"), ("y" * 10_000, "10,000 characters")):
        box.fill(text)
        page.locator(".message", has_text=told).wait_for()
    box.fill("All is well.")
    page.locator(".message").wait_for(state="hidden")
    page.get_by_text("in this head", exact=False).or_(page.get_by_text("Follow the row")).first.wait_for()


def test_python_lines_png_and_link_are_handed_out(visit):
    page = visit()
    page.get_by_role("button", name="Python").click()
    page.locator("#lines-text", has_text="pretrained.load").wait_for()
    page.locator("#lines-close").click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="PNG").click()
    assert saved.value.path().read_bytes().startswith(b"\x89PNG")
    page.get_by_role("button", name="Copy link").click()
    page.locator("#hint", has_text=re.compile("opied|address")).wait_for()


@pytest.mark.parametrize("search", ["", "?page=measure", "?page=papers", "?page=papers&slug=flash_attention_2"])
def test_phone_has_one_column_and_every_control_a_name(visit, search):
    page = visit(search, width=390, theme="dark")
    still(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert json.dumps(page.evaluate(UNNAMED)) == "[]"


def test_keyboard_reaches_the_controls_and_turns_them(visit):
    page = visit()
    slider(page, "Head").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("head=2"))
    page.get_by_label("Your sentence").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    focused = """() => {
      let node = document.activeElement
      while (node.shadowRoot?.activeElement) node = node.shadowRoot.activeElement
      return node.tagName
    }"""
    assert page.evaluate(focused) == "SELECT"


def test_theme_is_switched_and_remembered(visit):
    page = visit()
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
