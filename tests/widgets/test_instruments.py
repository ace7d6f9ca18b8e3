"""Explorer, viewers and benchmark: what a reader does with them, done without a browser."""

import re
import threading

import numpy as np
import pytest

from doubles import adan_step, fusemax_model, selective_scan
from workbench import measure, plots
from workbench.attention import flash_attention_2 as attention
from workbench.controls import Knob, Range
from workbench.feedforward import polycom
from workbench_widgets import attention_viewer, benchmark, explore, runnable, sentence_viewer, show_fast, show_recorded
from workbench_widgets import knobs as knob_widgets
from workbench_widgets.fast_section import ahead
from workbench_widgets.lessons import flash_attention_2 as lesson
from workbench_widgets.session import Session


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Timing is tested elsewhere; here a call is timed once."""
    monkeypatch.setattr(measure.rows, "time_call", lambda *_, **__: measure.Timing(1.0, 0.9, 1.2, 3))


# --- knobs ---


@pytest.mark.parametrize(
    "knob, kind",
    [
        (Knob("ticked", "flag", True), "Checkbox"),
        (Knob("which", "choice", "a", choices=("a", "b")), "Dropdown"),
        (Knob("size", "int", 8, range=Range(1, 64, log=True)), "Dropdown"),
        (Knob("count", "int", 3, range=Range(1, 9)), "IntSlider"),
        (Knob("rate", "float", 0.5, range=Range(0, 1)), "FloatSlider"),
        (Knob("window", "int", None, range=Range(0, 64), optional=True), "Dropdown"),
    ],
)
def test_a_knob_becomes_a_widget(knob, kind):
    widget = knob_widgets.widget(knob)
    assert type(widget).__name__ == kind
    assert knob_widgets.value_of(widget) == knob.default


def test_a_menu_offers_none_zero_and_powers_of_two_and_takes_others():
    widget = knob_widgets.widget(Knob("window", "int", None, range=Range(0, 8), optional=True))
    assert [value for _, value in widget.options] == ["not set", 0, 1, 2, 4, 8]
    knob_widgets.turn(widget, 3)
    assert knob_widgets.value_of(widget) == 3
    knob_widgets.turn(widget, None)
    assert knob_widgets.value_of(widget) is None


# --- explore ---


def test_the_explorer_of_attention_follows_its_knobs():
    made = explore(
        attention.flash_attention_2, "size", "is_causal", "block_rows", "block_columns", size=16,
        block_rows=4, block_columns=4, picture=lesson.map_with_blocks, inputs=lesson.related_tokens,
    )  # fmt: skip
    title = made.figure.title.text
    assert title.startswith("16 of 16 blocks visited (100%), 0 ")
    made.set(is_causal=True)
    assert made.figure.title.text.startswith("10 of 16 blocks visited (62%), 4 ")
    made.set(size=32)
    assert made.example.inputs["query"].shape == (1, 1, 32, 8)
    assert "reference" in made._said.value and "fast" in made._said.value and "embed_items" in made.still


def test_the_explorer_of_an_activation_has_a_knob_for_each_coefficient():
    made = explore(polycom.poly_norm, "a_1", "a_2", "a_3", "a_0", size=4, hidden=32)
    assert made.example.inputs["weight"].tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    made.set(a_2=-1.0, a_0=0.5)
    assert made.example.inputs["weight"][1] == -1 and made.example.inputs["bias"].tolist() == [0.5]


def test_the_explorer_takes_every_method():
    for method in (attention.softmax_attention, polycom.gelu, polycom.swiglu, polycom.poly_relu):
        assert explore(method, size=4).still


def test_the_explorer_refuses_what_is_not_allowed_and_lives_on():
    with pytest.raises(ValueError, match="has no knob colour"):
        explore(polycom.gelu, "colour")
    made = explore(attention.softmax_attention, "size", "heads", size=4)
    with pytest.raises(ValueError, match="heads = 1000"):
        made.set(heads=1000)
    made.set(size=256)
    assert "too fine to be seen" in made._said.value
    made.set(size=8)
    assert "too fine" not in made._said.value


def test_the_explorer_refuses_what_would_not_fit(monkeypatch):
    monkeypatch.setattr(measure, "memory_limit", lambda device: 1000)
    with pytest.raises(ValueError, match="GiB are allowed"):
        explore(attention.softmax_attention, size=16)


# --- attention maps ---


def test_the_attention_viewer_follows_sliders_and_taps():
    maps = np.random.default_rng(0).random((2, 3, 4, 4))
    made = attention_viewer(maps, ["a", "b", "c", "d"], layer=1, head=2)
    assert made.picked == (1, 2) and made.figure.title.text == "layer 1, head 2"
    plots.heads_source(made.overview).selected.indices = [1]
    assert made.picked == (0, 1)
    shown = made.figure.select_one("matrix").data_source.data["image"][0]
    assert np.allclose(shown, maps[0, 1])
    made.pick(1, 0)
    assert plots.heads_source(made.overview).selected.indices == [3]
    with pytest.raises(ValueError, match="layers, heads"):
        attention_viewer(maps[0], ["a", "b", "c", "d"])


def test_a_sentence_of_the_readers_own():
    from workbench.models import pretrained

    if reasons := pretrained.why_not():
        pytest.skip(" ".join(reasons))
    made = sentence_viewer("The cat sat.", layer=1, head=1)
    assert made.inspection.tokens[1:4] == ["the", "cat", "sat"] and "<b>1.000</b>" in made._said.value
    made.set(window=0)
    assert made.weight("cat", "cat") == pytest.approx(1)
    cosine = float(re.search(r"<b>(.*?)</b>", made._said.value)[1])
    assert cosine < 0.9
    made.set(window=None, text="A dog barks.")
    assert "dog" in made.inspection.tokens
    made.set(text="  ")
    assert "The text is empty" in made._said.value
    made.set(text="Alive again.")
    assert "alive" in made.inspection.tokens


@pytest.mark.parametrize("method", [adan_step.METHOD, selective_scan.METHOD, fusemax_model.METHOD], ids=repr)
def test_any_kind_of_method_can_be_explored(method):
    """Trees of results, whole numbers, one axis, a state: each has its knobs, a picture and its costs."""
    made = explore(method, size=8)
    assert made.figure.select({"name": "functions"}) and "error against float64 reference" in made.still
    made.set(size=16)
    assert next(iter(made.example.inputs.values())).shape[made.method is selective_scan.METHOD] == 16


# --- benchmark ---


def made_benchmark(sizes=(8, 16), **options):
    choices = [(attention.flash_attention_2, "reference"), (attention.flash_attention_2, "fast")]
    return benchmark(choices, list(sizes), device="cpu", budget_s=0.01, caption="A caption.", **options)


def test_the_benchmark_measures_and_shows():
    made = made_benchmark()
    assert len(made.frame) == 4 and set(made.frame["status"]) == {"ok"}
    assert made.median_ms("fast", 8) == 1.0 and np.isnan(made.median_ms("fast", 9))
    assert "embed_items" in made.still and "A caption." in made.still


def test_a_row_without_a_time_says_why():
    made = benchmark([(attention.flash_attention_2, "sdpa_cudnn")], [8], device="cpu", budget_s=0.01)
    assert "unavailable" in made.still and "CUDA only" in made.still


def test_measuring_again_can_be_cancelled(monkeypatch):
    made = made_benchmark()
    second, go_on = threading.Event(), threading.Event()
    original = measure.sweep

    def slow(*arguments, **options):
        for number, row in enumerate(original(*arguments, **options)):
            yield row
            if number == 0:
                second.set()
                assert go_on.wait(20)

    monkeypatch.setattr(measure, "sweep", slow)
    thread = made.start()
    assert second.wait(20) and made._start.disabled and not made._cancel.disabled
    made._cancel.click()
    go_on.set()
    thread.join(20)
    assert not thread.is_alive() and len(made.rows) == 1
    assert not made._start.disabled and made._cancel.disabled
    assert "Stopped after 1 of 4 rows" in made._said.value


def test_an_interrupt_keeps_what_was_measured(monkeypatch):
    original = measure.sweep

    def interrupted(*arguments, **options):
        yield next(original(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "sweep", interrupted)
    made = made_benchmark()
    assert len(made.rows) == 1 and "Stopped after 1 of 4 rows" in made.still


def test_what_runs_here():
    names = [name for _, name in runnable(attention.flash_attention_2, device="cpu", dtype="float32")]
    assert names == ["reference", "fast", "softmax_attention"]
    assert len(runnable(attention.flash_attention_2, device="cpu", dtype="float32", without=["fast"])) == 2


def test_the_crossover_is_where_the_quick_one_stays_ahead():
    made = made_benchmark(sizes=(8, 16, 32))
    for row in made.rows:
        slow = {8: 1.0, 16: 3.0, 32: 8.0}[row["size"]]
        row["median_ms"] = slow if row["implementation"] == "reference" else 2.0
    assert made.ratios("reference", "fast") == {8: 0.5, 16: 1.5, 32: 4.0}
    assert made.crossover("reference", "fast") == 16
    assert made.crossover("fast", "reference") is None
    made.rows.pop()
    assert list(made.ratios("reference", "fast")) == [8, 16], "a size without a time says nothing"


def test_the_fast_section_says_from_where_on_it_pays(displayed):
    session = Session(device="cpu", scale="ci")
    made = show_fast(
        polycom.poly_relu, [4, 8], session, x_label="rows", shape={"hidden": 16}, memory="Kept.", roofline="Bound.",
        without=["torch_compile"],
    )  # fmt: skip
    assert made.total == 2 * len(made.choices) and "Kept." in displayed.html and "Bound." in displayed.html
    assert "fast is ahead of reference from 4 rows on; at 8 rows it is 1 times as fast." in displayed.html
    for row in made.rows:
        row["median_ms"] = 1.0 if row["implementation"] == "reference" else 2.0
    said = "fast is ahead of reference at none of these sizes; at 8 rows it is 0.5 times as fast."
    assert ahead(made, "reference", "rows") == said
    assert ahead(made, "sdpa", "rows") == "fast and sdpa were not both measured."


def test_recorded_measurements_are_shown_or_said_to_be_missing(monkeypatch, displayed):
    monkeypatch.setattr(measure, "recorded", lambda slug: None)
    show_recorded("flash_attention_2", "size > 0", "median_ms", group="implementation")
    assert "No measurement" in displayed.html
    frame = made_benchmark().frame
    frame.attrs["provenance"] = {"device": "Some GPU", "cuda": "13", "date": "2026-01-01"}
    monkeypatch.setattr(measure, "recorded", lambda slug: frame)
    show_recorded("flash_attention_2", "size > 0", "median_ms", group="implementation")
    assert "recorded on Some GPU" in displayed.html
