"""The pages on a GPU, driven without a browser: every choice of every toggle is made once, and brings its figures.

With WORKBENCH_RESULTS set, what each choice took is written there, into ``dashboard/toggles.json``.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from dashboard.visitor import Visitor
from workbench import measure
from workbench.dashboard.generate.page import GeneratePage
from workbench.dashboard.inspect.page import InspectPage
from workbench.dashboard.shell import toggles
from workbench.dashboard.shell.worker import Worker
from workbench.dashboard.train import racers
from workbench.dashboard.train.page import TrainPage
from workbench.models import pretrained

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

CHOICES = [(toggle, name) for toggle in toggles.TOGGLES for name in toggles.methods(toggle)]
FOUND: list[dict] = []


@pytest.fixture(scope="module", autouse=True)
def written():
    yield
    if (results := os.environ.get("WORKBENCH_RESULTS")) and FOUND:
        path = Path(results) / "dashboard" / "toggles.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"provenance": measure.machine("cuda"), "rows": FOUND}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@pytest.fixture
def opened():
    """A page at a link, as a visitor of a fresh server has it; the sentences that it said."""

    def open_page(kind, parameters):
        visitor, told = Visitor(Worker()), []
        page = kind(visitor.desk, lambda: None, told.append)
        assert page.open(parameters) == []
        return page, visitor, told

    return open_page


def found(page, toggle, name, **figures):
    FOUND.append({"page": page, "toggle": toggle, "method": name, **figures})


def costs(figures):
    """Milliseconds and bytes of the two sides."""
    return {
        f"{what}_{side}": value
        for side in "ab"
        for what, value in (("ms", figures.timings[side].median_ms), ("bytes", figures.peaks[side]))
    }


@pytest.mark.parametrize("source", ["text", "image"])
@pytest.mark.parametrize(("toggle", "name"), [choice for choice in CHOICES if choice[0] != "caching"])
def test_inspect(opened, source, toggle, name):
    if source == "text" and pretrained.why_not():
        pytest.skip(" ".join(pretrained.why_not()))
    page, visitor, told = opened(InspectPage, {"source": source, f"b.{toggle}": name})
    visitor.until(lambda: page.figures is not None or any(told))
    if page.figures is None:  # greyed out, with its reason
        found(f"Inspect, {source}", toggle, name, reason=" ".join(told))
        return
    assert set(page.maps) == {"a", "b"} and page.maps["b"].maps.shape == page.maps["a"].maps.shape
    assert torch.tensor(page.maps["b"].maps).isfinite().all()
    found(f"Inspect, {source}", toggle, name, **costs(page.figures))


@pytest.mark.parametrize("name", toggles.methods("caching"))
def test_generate(opened, name):
    page, visitor, told = opened(GeneratePage, {"b.caching": name})
    visitor.until(lambda: page.times is not None or any(told))
    if page.times is None:
        found("Generate", "caching", name, reason=" ".join(told))
        return
    walk, judged = page.walks["b"], page.judged["b"]
    figures = {"ms": page.times.timings["b"].median_ms, "blocks": walk.blocks, "cache_bytes": walk.cache_bytes}
    found("Generate", "caching", name, **figures, psnr_db=judged.psnr_db, accuracy=judged.accuracy)


@pytest.mark.parametrize(("toggle", "name"), [choice for choice in CHOICES if choice[0] != "caching"])
def test_train(opened, toggle, name):
    page, visitor, told = opened(TrainPage, {"steps": "40", "b.mixing": "attention", f"b.{toggle}": name})
    if reason := racers.conflict(page.state.request, "b", toggle, name):
        found("Train", toggle, name, reason=reason)
        return
    page.act("page", "run", None)
    visitor.until(lambda: not page.running)
    last = {point.side: point for point in page.points}
    assert set(last) == {"a", "b"}, told
    found("Train", toggle, name, **{f"step_ms_{side}": last[side].step_ms for side in "ab"}, loss_b=last["b"].loss)
