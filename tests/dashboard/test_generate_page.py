"""The page Generate without a browser: walks, pictures, figures, links."""

import gc
import weakref

import numpy as np
import pandas as pd
import pytest
import torch

from dashboard.visitor import Visitor
from workbench.dashboard import first_runs
from workbench.dashboard.generate import work as generating
from workbench.dashboard.generate.page import GeneratePage, GenerateState
from workbench.dashboard.generate.view import TRY, comparison, table
from workbench.dashboard.generate.work import OFF, UNCACHED, Going, Judgement, Request, Setting, Times, Walk
from workbench.dashboard.shell import state
from workbench.dashboard.shell.jobs import Cache, Progress
from workbench.dashboard.shell.toggles import Configuration
from workbench.dashboard.shell.worker import Worker
from workbench.measure import Timing
from workbench.models import diffusion

REUSE = Configuration({"caching": "feature_reuse"}, {"caching": {"interval": 3}})
TAYLOR = Configuration({"caching": "taylorseer"}, {"caching": {"interval": 3}})
GATE = Configuration({"caching": "confidence_gated_taylor"})
SHORT = Setting(steps=12, count=10)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(generating, "cache", Cache(limit=2**26))
    monkeypatch.setattr(generating, "SETTLE_S", 0.0)
    monkeypatch.setattr(generating, "ROUNDS", 1)


@pytest.fixture
def page():
    visitor = Visitor(Worker())
    told = []
    made = GeneratePage(visitor.desk, lambda: None, told.append)
    made.visitor, made.told = visitor, told
    return made


def parts_of(request):
    return [part for part in generating.compute(request, "cpu")(lambda: False) if not isinstance(part, Progress)]


def arrived(parts):
    return {part.side: part for part in parts if isinstance(part, Walk)}


def test_a_job_brings_walks_then_what_they_are_worth_then_times():
    parts = parts_of(Request(SHORT, {"a": REUSE, "b": TAYLOR}))
    kinds = [type(part) for part in parts if not isinstance(part, Going)]
    assert kinds == [Walk] * 3 + [Judgement] * 3 + [Times]
    walks = arrived(parts)
    assert walks["a"].samples.shape == (10, 8, 8) and walks["a"].path.shape == (12, 10, 8, 8)
    assert walks[UNCACHED].blocks == 6 * 12 and walks[UNCACHED].cache_bytes == 0
    assert walks["a"].blocks == 6 * sum(walks["a"].shares)
    judged = {part.side: part for part in parts if isinstance(part, Judgement)}
    assert judged[UNCACHED].psnr_db == np.inf and 20 < judged["a"].psnr_db < judged["b"].psnr_db
    assert len(judged["b"].far) == 12 and max(judged[UNCACHED].far) == 0
    assert set(parts[-1].timings) == {"a", "b", UNCACHED}
    assert len(list(generating.known(Request(SHORT, {"a": REUSE, "b": TAYLOR})))) == 7


def test_a_walk_reports_while_it_is_under_way(monkeypatch):
    monkeypatch.setattr(generating, "TURN_S", 0.0)
    going = [part for part in parts_of(Request(SHORT, {"a": OFF, "b": TAYLOR})) if isinstance(part, Going)]
    mine = [part for part in going if part.side == "b"]
    assert [len(part.shares) for part in mine] == list(range(1, 13))
    assert mine[0].samples.shape == (10, 8, 8)


def test_a_gate_looks_at_the_first_block_of_every_step():
    shares = (1.0, 1.0, 0.0, 0.5)
    assert generating.blocks_of(shares, "confidence_gated_taylor") == 6 + 6 + 1 + 3.5
    assert generating.blocks_of(shares, "taylorseer") == 6 * 2.5
    walk = arrived(parts_of(Request(SHORT, {"a": OFF, "b": GATE})))["b"]
    assert any(error is not None for error in walk.errors)


def test_half_way_another_digit_is_asked_for():
    setting = Setting(digit="8", steps=5, count=10, switch=True)
    assert setting.all_labels().tolist() == [[8] * 10] * 2 + [[1] * 10] * 3
    assert setting.labels().tolist() == [1] * 10
    assert torch.equal(Setting(count=20).labels(), torch.arange(20) % 10)


def test_first_screen_is_there_before_any_job_ran(page):
    page.open({})
    for side in ("a", "b"):
        assert page.look.samples[side].object.select_one("images").data_source.data["image"][0].shape[0] > 8
    kinds = page.look.strip_of_steps.object.select_one("cells").data_source.data["kind"]
    assert kinds.count("forecast") == 39 and "to come" not in kinds
    assert page.times is None and page.judged["b"].psnr_db > 40


def test_first_screen_agrees_with_a_fresh_computation():
    fresh = first_runs.compute_generation()
    with np.load(first_runs.GENERATION_FILE) as kept:
        assert set(kept) == set(fresh)
        for name in kept:
            if not name.endswith("numbers"):
                np.testing.assert_allclose(kept[name], fresh[name], atol=0.05)
            np.testing.assert_allclose(kept[name][:2], fresh[name][:2], atol=0.05)


def test_turning_a_knob_brings_other_pictures_and_figures(page):
    page.open({"steps": "10", "count": "10"})
    page.complete()
    page.visitor.until(lambda: page.times is not None)
    before = page.walks["b"].samples
    page.act("b", "caching.interval", 11)
    page.visitor.until(lambda: page.times is not None)
    assert page.parameters()["b.caching.interval"] == "12"
    assert np.abs(page.walks["b"].samples - before).max() > 0.01
    page.visitor.rest()
    assert page.look.differences["b"].visible and not page.look.differences["a"].visible
    assert "all steps" in page.look.strip.object and "PSNR" in page.look.strip.object
    rows = page.csv().splitlines()
    assert len(rows) == 1 + 3 * 10 and "psnr_db" in rows[0] and "machine_torch" in rows[0]


def test_what_is_known_is_drawn_without_a_job(page):
    page.open({"steps": "10", "count": "10"})
    page.visitor.until(lambda: page.times is not None)
    other = GeneratePage(Visitor(Worker()).desk, lambda: None, lambda text: None)
    other.open({"steps": "10", "count": "10"})
    assert other.times == page.times and not other.desk.jobs


def test_swap_copy_and_the_difference_switch(page):
    page.open({"steps": "10", "count": "10"})
    a, b = page.state.a, page.state.b
    page.act("page", "swap", None)
    assert (page.state.a, page.state.b) == (b, a)
    page.act("page", "copy", None)
    assert page.state.a == page.state.b == b
    page.act("page", "difference", False)
    assert page.parameters()["difference"] == "off"


def test_cancelling_keeps_what_is_on_the_screen(page):
    page.open({"steps": "10", "count": "10"})
    page.visitor.until(lambda: page.times is not None)
    shown = page.look.samples["b"].object
    page.act("page", "count", "200")
    page.desk.cancel()
    page.visitor.until(lambda: not page.desk.pending)
    assert page.look.samples["b"].object is not None and shown is not None
    assert "…" not in page.look.table.object


def test_an_error_is_one_sentence_and_the_page_goes_on(page, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("the device is on fire")

    with monkeypatch.context() as broken:
        broken.setattr(generating.diffusion, "Sampler", fails)
        page.open({"steps": "10", "count": "10"})
        page.visitor.until(lambda: page.told and "on fire" in page.told[-1])
    page.act("page", "seed", 3)
    page.visitor.until(lambda: page.times is not None)


def test_what_was_recorded_names_its_network_and_machine(monkeypatch):
    rows = [
        {"group": "all modules of DiT-XL/2", "method": "forecast_modules", "implementation": name, "size": size,
         "status": "ok", "median_ms": ms}
        for name, ms in (("reference", 3.0), ("fast", 0.1)) for size in (256, 1024)
    ]  # fmt: skip
    rows.append({**rows[0], "group": "something small"})
    found = pd.DataFrame(rows)
    found.attrs["provenance"] = {"device": "NVIDIA H200", "torch": "2.11"}
    monkeypatch.setattr(generating.measure, "recorded", lambda slug: found if slug == "taylorseer" else None)
    line = next(each for each in generating.recorded() if "modules" in each.what)
    assert "256 tokens" in line.what and line.measured == "reference 3 ms, fast 0.1 ms"
    assert line.source.startswith("recorded: NVIDIA H200")
    assert not any("small" in each.what for each in generating.recorded())
    monkeypatch.setattr(generating.measure, "recorded", lambda slug: None)
    assert all("DiT-XL/2" in each.measured for each in generating.recorded())


# --- words and links --------------------------------------------------------------------------------------------------


def test_few_images_have_no_distance_of_distributions():
    request = Request(Setting(count=10), {"a": OFF, "b": TAYLOR})
    judged = {side: Judgement(side, np.inf, None, 1.0, (0.0,)) for side in request.walks}
    words = table(request, {}, judged, None, waiting=False)
    assert "choose 50 images or more" in words and "identical" in words


def test_times_are_said_with_their_spread():
    timings = {side: Timing(ms, ms - 1, ms + 1, 3) for side, ms in (("a", 2000.0), ("b", 500.0), (UNCACHED, 2000.0))}
    request = Request(SHORT, {"a": OFF, "b": TAYLOR})
    times = Times(timings, "a machine")
    words = table(request, {}, {}, times, waiting=False)
    assert "×4.00" in words and "n = 3" in words and "2,000 ms" in words and "500 ms" in words
    assert "×0.25, faster" in comparison(request, {}, {}, times, waiting=False)


@pytest.mark.parametrize("name", ["none", "feature_reuse", "taylorseer", "confidence_gated_taylor"])
def test_what_a_walk_held_is_free_when_it_is_over_without_the_collector(name, monkeypatch):
    made = []

    class Sampler(diffusion.Sampler):
        def _prepared(self, noise, labels):
            run = super()._prepared(noise, labels)
            made.append(weakref.ref(run.stage.images))
            return run

    monkeypatch.setattr(diffusion, "Sampler", Sampler)
    gc.disable()
    try:
        for number in (SHORT.steps, 3):  # to its end, and given up half way
            walk = generating._sample(SHORT, Configuration({"caching": name}), "cpu")
            for _ in range(number):
                assert next(walk).sample.shape[0] == 10
            assert made[-1]() is not None
            walk.close()
            assert made[-1]() is None
    finally:
        gc.enable()


def test_a_view_survives_its_link():
    assert GenerateState().written() == {}
    shown = GenerateState()
    shown.turn("a", "caching", "feature_reuse")
    shown.turn("a", "caching.interval", 7)
    shown.turn("b", "caching", "confidence_gated_taylor")
    shown.turn("b", "caching.threshold", 2)
    for name, given in (("digit", "7"), ("count", "50"), ("steps", 2), ("guidance", 4), ("seed", 6), ("switch", True)):
        shown.turn_common(name, given)
    shown.difference = False
    opened = GenerateState()
    assert opened.read(state.split(state.join(shown.written()))) == []
    assert opened.request == shown.request and not opened.difference


@pytest.mark.parametrize(
    "link",
    [
        "?digit=11&count=7&steps=0&guidance=much&seed=1000&switch=perhaps&difference=x",
        "?a.caching=magic&b.caching.interval=-2&b.caching=none&b.caching.order=3",
        "?%ff%fe=%00&&&===",
    ],
)
def test_a_broken_link_never_raises(link):
    assert all("\n" not in phrase for phrase in GenerateState().read(state.split(link)))


def test_examples_on_the_page_are_links_without_a_mistake():
    for view in TRY.values():
        assert GenerateState().read(view) == []


def test_every_caching_method_has_a_card_and_its_knobs():
    for name, method in generating_methods().items():
        shown = GenerateState()
        shown.turn("b", "caching", name)
        names = {field.name for field in shown.card("b")}
        assert names == {"caching", *(f"caching.{knob}" for knob in method.knobs)}


def generating_methods():
    from workbench.dashboard.shell import toggles

    return {name: method for name, method in toggles.methods("caching").items() if not generating.why_not(name)}


@pytest.mark.parametrize("switch", ["off", "on"])
def test_python_lines_compute_what_is_shown(page, switch):
    page.open({"steps": "10", "count": "10", "switch": switch, "a.caching": "feature_reuse"})
    page.visitor.until(lambda: page.times is not None)
    scope = {}
    exec(page.lines(), scope)
    for side in ("a", "b", UNCACHED):
        np.testing.assert_allclose(scope["samples"][side][:, 0], page.walks[side].samples, atol=1e-5)
        assert scope["quality"][side].accuracy == page.judged[side].accuracy
