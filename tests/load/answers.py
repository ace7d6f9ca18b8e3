"""One visitor in a browser: when is the first screen there, and what do a knob, a click and Cancel wait for?

``PYTHONPATH=.:kernels:widgets python -m tests.load.answers`` starts a server on two cores and prints a table, each line
beside what it should reach at most. Needs Chromium, and a machine that does nothing else. ``--trace FILE`` keeps what
the browser did for the first screen, for its own profiler.
"""

import argparse
import os
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, field

from playwright.sync_api import sync_playwright

from .server import start_server

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PATIENCE_MS = 60_000
SETTLE_MS = 2000
TRAIN = "?page=train&steps=1500&shape.width=96&shape.batch=128"  # steps of about a quarter of a second
SWEEP = (
    "?page=measure&run=flash_attention_2:reference,softmax_attention:fast&from=1024&to=8192&direction=forward,backward"
)
TEXT = "The old bank by the river lent the young man who fished there enough money to buy a boat"
WORDS = TEXT.replace(" ", "+")
SINKHORN = f"?b.doubly_stochastic=sinkhorn_attention&text={WORDS}"
QONTOT = "?b.doubly_stochastic=qontot_attention&text=The+bank+lent+the+young+man+money+to+buy+a+boat"

# Run before anything of the page: remembers when the first figure was painted, and when all are that the page has.
WATCH = """
window.painted = []
document.addEventListener("drawn", () => requestAnimationFrame(() => requestAnimationFrame(
  () => painted.push(performance.now()))))
"""

# Turns the control called `name`; milliseconds until another map of B is painted.
TURN = """
async ([name, value]) => {
  const inside = function* (root) {
    for (const node of root.querySelectorAll("*")) { yield node; if (node.shadowRoot) yield* inside(node.shadowRoot) }
  }
  const called = new RegExp(`^${name}( |$)`, "i")
  const control = [...inside(document)].find((node) => node.matches("input, select")
    && called.test((node.labels?.[0]?.textContent ?? node.ariaLabel ?? "").trim()))
  const plot = Bokeh.documents.flatMap((document) => [...document._all_models.values()])
    .find((model) => model.type === "Figure" && model.title?.text.startsWith("B · layer"))
  const source = plot.renderers.find((model) => model.name === "matrix").data_source
  const changed = new Promise((resolve) => {
    const heard = () => {
      source.properties.data.change.disconnect(heard)
      requestAnimationFrame(() => requestAnimationFrame(resolve))
    }
    source.properties.data.change.connect(heard)
  })
  const start = performance.now()
  control.value = value
  control.dispatchEvent(new Event(control.matches("select") ? "change" : "input", {bubbles: true}))
  await changed
  return performance.now() - start
}
"""


@dataclass
class Line:
    """Milliseconds of one thing that a visitor waits for, and how many there should be at most."""

    what: str
    most: float
    took: list[float] = field(default_factory=list)

    def __str__(self):
        took = sorted(self.took)
        if not took:
            return f"{self.what:44} not measured"
        middle = statistics.median(took)
        sign = "" if middle <= self.most else "  over"
        return f"{self.what:44} {middle:7.0f} {took[0]:7.0f} {took[-1]:7.0f} {len(took):3}  {self.most:6.0f}{sign}"


def opened(browser, address, search=""):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(WATCH)
    page.wait_for_timeout(SETTLE_MS)  # a new window of Chromium is busy with itself
    page.goto(address + search, wait_until="commit")
    page.wait_for_selector("html[data-ready=yes]")
    return page


def quiet(page):
    page.wait_for_function("document.getElementById('job').dataset.busy === 'no'")


def first_screen(browser, address, repeats, trace=None):
    paint, drawn = Line("first paint", 1000), Line("first figures drawn", 2000)
    for number in range(repeats):
        if trace and number == repeats - 1:
            browser.start_tracing(path=trace)
        page = opened(browser, address)
        page.wait_for_function("painted.length >= 2")
        paint.took.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        drawn.took.append(page.evaluate("painted[1]"))
        if trace and number == repeats - 1:
            browser.stop_tracing()
        quiet(page)
        page.context.close()
    return [paint, drawn]


def knob(browser, address, what, search, name, values, most):
    line = Line(what, most)
    page = opened(browser, address, search)
    page.wait_for_function("painted.length >= 2")
    quiet(page)
    for value in values:
        line.took.append(page.evaluate(TURN, [name, str(value)]))
        page.wait_for_timeout(300)
    page.context.close()
    return line


def beside_a_race(browser, address):
    """Another visitor's clicks while two large models are trained, and how long Cancel takes."""
    click, stop = Line("another visitor's knob during a large Train", 500), Line("Cancel of a large Train", 1000)
    busy, other = opened(browser, address, TRAIN), opened(browser, address, "?text=" + WORDS)
    other.wait_for_function("painted.length >= 2")
    quiet(other)
    busy.get_by_role("button", name="Train").click()
    busy.locator("#status", has_text="step").wait_for()
    for value in (4, 7, 5, 8, 3, 6):
        click.took.append(other.evaluate(TURN, ["Head", str(value)]))
        other.wait_for_timeout(300)
    for _ in range(3):
        stop.took.append(cancelled(busy))
        busy.get_by_role("button", name="Train").click()
        busy.locator("#status", has_text="step").wait_for()
    cancelled(busy)
    other.context.close()
    busy.context.close()
    return [click, stop]


def cancelling_a_sweep(browser, address):
    line = Line("Cancel of a large Measure", 1000)
    page = opened(browser, address, SWEEP)
    for after in (1.0, 3.0, 5.0):
        page.get_by_role("button", name="Run").click()
        page.locator("#cancel").wait_for()
        page.wait_for_timeout(1000 * after)
        if page.locator("#cancel").is_visible():
            line.took.append(cancelled(page))
    page.context.close()
    return line


def cancelled(page):
    """Milliseconds from the click on Cancel until nothing is under way."""
    start = time.monotonic()
    page.locator("#cancel").click()
    quiet(page)
    return 1000 * (time.monotonic() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="of a server that runs already")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trace", help="file for what the browser did for the first screen")
    given = parser.parse_args()
    if CHROMIUM is None:
        parser.error("No Chromium on this machine.")
    process, address = (None, given.address) if given.address else start_server()
    try:
        if process is not None:
            time.sleep(20)  # what the server fetches at its start is there
        with sync_playwright() as running:
            browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            text = "?text=" + WORDS
            lines = [
                *first_screen(browser, address, given.repeats, given.trace),
                knob(browser, address, "head to map", text, "Head", (4, 7, 5, 8, 3, 6), 150),
                knob(browser, address, "Sinkhorn's iterations to map", SINKHORN, "iterations", (1, 9, 2, 8, 3, 7), 150),
                knob(browser, address, "QontOT's layers to map", QONTOT, "layers", (4, 1, 5, 7, 3, 6), 500),
                *beside_a_race(browser, address),
                cancelling_a_sweep(browser, address),
            ]
            browser.close()
    finally:
        if process is not None:
            process.terminate()
            process.wait(20)
    print(f"{'what a visitor waits for (ms)':44} {'median':>7} {'least':>7} {'most':>7} {'n':>3}  {'reach':>6}")
    print("\n".join(map(str, lines)))
    return int(any(line.took and statistics.median(line.took) > line.most for line in lines))


if __name__ == "__main__":
    sys.exit(main())
