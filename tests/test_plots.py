"""Figures: what they show, that they can be redrawn, and that they can be read on any page."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from bokeh.embed import file_html
from bokeh.models import ColorBar, HoverTool, ImageURL
from bokeh.resources import INLINE

from workbench import catalog, measure, plots
from workbench.plots import patches
from workbench.plots.looks import oklab
from workbench.plots.style import INK

TOKENS = ["[CLS]", "the", "cat", "the", "[SEP]"]


def weights(n=5, seed=0):
    scores = np.exp(np.random.default_rng(seed).normal(size=(n, n)))
    return scores / scores.sum(-1, keepdims=True)


def rows(method="toy", factor=1.0):
    made = []
    for name, speed in (("reference", 4.0), ("fast", 1.0)):
        for size in (128, 256, 512):
            time = factor * speed * size / 100
            made.append(
                {
                    "method": method, "implementation": name, "size": size, "status": "ok", "median_ms": time,
                    "low_ms": 0.9 * time, "high_ms": 1.2 * time, "repeats": 9, "peak_bytes": size * 2**20,
                    "flops": 1e6 * size, "bytes": 1e4 * size, "tflops_per_s": 1e-3 / time, "gb_per_s": 1 / time,
                    "roofline": 0.5,
                }
            )  # fmt: skip
    made.append({"method": method, "implementation": "fast", "size": 10**6, "status": "too large"})
    return measure.frame(made)


CEILINGS = measure.Ceilings("cpu", "float32", 3e10, 2e11)
FIGURES = {
    "attention_map": lambda: plots.attention_map(weights(), TOKENS, TOKENS, title="A"),
    "difference_map": lambda: plots.difference_map(weights(), weights(seed=1), TOKENS, TOKENS),
    "head_overview": lambda: plots.head_overview(np.stack([[weights(seed=s) for s in range(3)]] * 2)),
    "block_grid": lambda: plots.block_grid(np.array([[1, 0], [2, 1]])),
    "similarity": lambda: plots.similarity(np.eye(2), ["a cat", "a very long sentence about something else"]),
    "curves": lambda: plots.curves(rows(), "size", "median_ms", group="implementation", machine="a laptop"),
    "roofline": lambda: plots.roofline(rows(), CEILINGS, group="implementation"),
    "functions": lambda: plots.functions({"relu": (np.arange(-2, 3), np.maximum(np.arange(-2, 3), 0))}),
    "bars": lambda: plots.bars(["eager", "fast"], [10, 4000], "GB/s", machine="a laptop"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_fills_its_width_explains_itself_and_needs_no_network(name, caplog):
    made = FIGURES[name]()
    assert made.sizing_mode == "stretch_width"
    assert made.background_fill_alpha == made.border_fill_alpha == 0
    assert made.select({"type": HoverTool}) or name == "bars"
    assert made.toolbar.active_drag is None and made.toolbar.active_scroll is None
    assert not made.select({"type": ImageURL})
    if name not in ("similarity",):
        assert made.xaxis[0].axis_label
    for theme, ink in INK.items():
        plots.themed(made, theme)
        assert {axis.major_label_text_color for axis in made.axis} == {ink}
    assert "<script" in file_html(made, INLINE)
    assert not caplog.records  # Bokeh logs a glyph that refers to a column which is not there


def contrast(a, b):
    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_text_can_be_read():
    assert contrast(INK["light"], "#FFFFFF") > 7
    assert contrast(INK["dark"], "#181C20") > 7
    assert min(contrast(INK["neutral"], page) for page in ("#FFFFFF", "#111111")) > 4


# --- colours ---------------------------------------------------------------------------------------------------------


def test_colours_are_fixed_and_within_a_figure_distinct():
    assert plots.color_of("A") == plots.BLUE and plots.color_of("B") == plots.ORANGE
    assert plots.color_of("something new") == plots.color_of("something new") in plots.PALETTE
    names = [f"method {index}" for index in range(len(plots.PALETTE))]
    assert len(set(plots.colors_of(names).values())) == len(names)
    assert set(plots.colors_of([*names, "one", "more"])) == {*names, "one", "more"}


def test_a_method_has_its_colour_whatever_else_there_is(monkeypatch):
    before = {name: plots.look_of(name, "fast") for name in catalog.methods()}
    assert plots.look_of("poly_norm", "reference").color == plots.color_of("PolyNorm") == before["poly_norm"].color
    assert plots.look_of("poly_norm", "reference").dash != before["poly_norm"].dash
    assert plots.look_of("flash_attention_2", "softmax_attention").color == before["softmax_attention"].color
    first = catalog.method("softmax_attention")
    more = {f"mock_{place}": replace(first, name=f"mock_{place}", title=f"Mock {place}") for place in range(20)}
    known = catalog.methods() | more
    monkeypatch.setattr(catalog, "methods", lambda toggle=None: known)
    assert {name: plots.look_of(name, "fast") for name in before} == before
    attention = [name for name, method in known.items() if isinstance(method.slot, type(first.slot))]
    assert len({plots.color_of(name) for name in attention}) == len(attention) > 20


def test_the_colours_of_the_wheel_are_told_apart_and_seen_on_any_page():
    colors = plots.wheel(24)
    apart = [np.linalg.norm(oklab(one) - oklab(other)) for one, other in combinations(colors, 2)]
    assert min(apart) > 0.07  # blue and sky blue of Okabe and Ito: 0.24; what is just seen: 0.02
    for color in colors[len(plots.PALETTE) :]:
        assert contrast(color, "#FFFFFF") > 3 and contrast(color, "#181C20") > 2.4
    assert plots.wheel(500)[: len(colors)] == colors


def test_diverging_map_is_symmetric_with_a_light_middle():
    assert len(plots.DIVERGING) % 2
    assert plots.DIVERGING[len(plots.DIVERGING) // 2].upper() == "#F4F4F2"


# --- maps ------------------------------------------------------------------------------------------------------------


def test_map_shows_the_weights_first_row_on_top_and_the_sums_at_its_edges():
    given = weights()
    made = plots.attention_map(given, TOKENS, TOKENS)
    np.testing.assert_allclose(made.select_one("matrix").data_source.data["image"][0], given, rtol=1e-6)
    assert made.y_range.start > made.y_range.end == 0
    sums = made.select_one("sums").data_source.data["sum"]
    np.testing.assert_allclose(sums, np.r_[given.sum(1), given.sum(0)], rtol=1e-6)
    assert list(made.xaxis[0].major_label_overrides.values()) == TOKENS  # a token may come twice


def test_a_line_marks_the_sum_of_one():
    made = plots.attention_map(3 * np.eye(5), TOKENS, TOKENS)
    bars, ones = (made.select_one(name).data_source.data for name in ("sums", "ones"))
    assert ones["x0"][0] - bars["left"][0] == pytest.approx((bars["right"][0] - bars["left"][0]) / 3)
    assert ones["y0"][1] - bars["top"][5] == pytest.approx((bars["bottom"][5] - bars["top"][5]) / 3)
    plots.update_attention_map(made, np.eye(5) / 2, TOKENS, TOKENS)
    assert made.select_one("ones").data_source.data["x0"][0] > made.select_one("sums").data_source.data["right"][0]
    difference = plots.difference_map(np.eye(5), np.eye(5), TOKENS, TOKENS)
    assert len(difference.select_one("ones").data_source.data["x0"]) == 0


def test_a_tree_stands_above_the_map_and_frames_its_groups():
    made = plots.attention_map(weights(), TOKENS, TOKENS, tree=[(0, 5, 2), (1, 3, 1), (3, 4, 1)])
    brackets, frames = (made.select_one(name).data_source.data for name in ("brackets", "frames"))
    assert made.y_range.end == min(min(ys) for ys in brackets["ys"]) * 2.5 / 2 < 0
    assert [min(ys) for ys in brackets["ys"]][0] < [min(ys) for ys in brackets["ys"]][1]
    assert (list(frames["left"]), list(frames["bottom"])) == ([1], [3])  # neither the whole nor a single token
    plots.update_attention_map(made, weights(), TOKENS, TOKENS)
    assert made.y_range.end == 0 and not made.select_one("brackets").data_source.data["xs"]


def test_two_maps_share_a_scale_on_request():
    mapper = plots.attention_map(weights(), TOKENS, TOKENS, high=0.9).select_one("matrix").glyph.color_mapper
    assert (mapper.low, mapper.high) == (0, 0.9)


def test_difference_is_centred_and_of_equal_maps_is_zero():
    mapper = plots.difference_map(weights(), weights(seed=1), TOKENS, TOKENS).select_one("matrix").glyph.color_mapper
    assert mapper.low == -mapper.high < 0
    same = plots.difference_map(weights(), weights(), TOKENS, TOKENS)
    assert not same.select_one("matrix").data_source.data["image"][0].any()


def test_map_is_updated_in_place_with_another_size():
    made = plots.attention_map(weights(), TOKENS, TOKENS)
    cells, colors = made.select_one("matrix"), made.select_one(ColorBar).color_mapper
    plots.update_attention_map(made, weights(60), [f"t{i}" for i in range(60)], [f"t{i}" for i in range(60)], high=0.5)
    assert made.select_one("matrix") is cells and cells.data_source.data["width"] == [60]
    assert colors.high == 0.5
    assert len(made.xaxis[0].ticker.ticks) == 20 and made.x_range.end > 60


def test_map_that_does_not_fit_its_tokens_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5, 5\) does not fit 5 queries and 2 keys"):
        plots.attention_map(weights(), TOKENS, TOKENS[:2])
    with pytest.raises(ValueError, match="layers, heads, queries, keys"):
        plots.head_overview(weights())


def test_blocks_of_a_kernel_are_drawn_over_the_map():
    kinds = np.array([[1, 0], [2, 1]])
    plain = plots.attention_map(weights(), TOKENS, TOKENS)
    overlaid = plots.attention_map(weights(), TOKENS, TOKENS, overlay=(kinds, 3, 3))
    assert len(overlaid.renderers) == len(plain.renderers) + 1
    assert list(overlaid.renderers[-1].data_source.data["right"]) == [3, 5, 3, 5]


def test_head_is_picked_through_the_data_source():
    maps = np.stack([[weights(100, seed=s) for s in range(3)]] * 2)
    made = plots.head_overview(maps, selected=(1, 2))
    source = plots.heads_source(made)
    assert source.selected.indices == [5]
    assert (source.data["layer"][5], source.data["head"][5]) == (1, 2)
    mosaic = made.select_one("mosaic").data_source.data["image"][0]
    assert mosaic.shape[0] <= 2 * 50 and np.nanmax(mosaic) <= 1
    plots.select_head(made, (0, 2))
    assert plots.heads_source(made).selected.indices == [2]
    plots.update_head_overview(made, maps[:1, :2], selected=(0, 1))
    assert plots.heads_source(made) is source and source.selected.indices == [1] and len(source.data["x"]) == 2


def test_block_grid_counts_its_blocks():
    labels = [item.label.value for item in plots.block_grid(np.array([[1, 0], [2, 1]])).legend[0].items]
    assert labels == ["full (1)", "masked inside (2)", "skipped (1)"]


def test_similarities_are_written_in():
    made = plots.similarity(np.array([[1, 0.25], [0.25, 1]]), ["a", "b"])
    assert made.select_one("numbers").data_source.data["text"] == ["1.00", "0.25", "0.25", "1.00"]
    plots.update_similarity(made, np.eye(3), ["a", "b", "c"])
    assert len(made.select_one("numbers").data_source.data["text"]) == 9


# --- curves ----------------------------------------------------------------------------------------------------------


def lines(made):
    return {line.data_source.name: line for line in made.select({"name": "lines"})}


def looks_of(made):
    """Colour, dash and marker of every line, in the order in which they were drawn."""
    drawn = [each.glyph for each in made.renderers if each.name == "lines"]
    marks = [each.glyph for each in made.renderers if hasattr(each.glyph, "marker")]
    return [(line.line_color, tuple(line.line_dash), mark.marker) for line, mark in zip(drawn, marks, strict=True)]


def test_curves_have_a_band_and_leave_out_what_was_not_measured():
    made = plots.curves(rows(), "size", "median_ms", group="implementation")
    data = lines(made)["live: fast"].data_source.data
    assert list(data["x"]) == [128, 256, 512]
    assert (data["low"] < data["y"]).all() and (data["y"] < data["high"]).all()
    assert made.yaxis[0].axis_label == "time of one call (ms)"


def test_band_of_a_rate_is_that_of_the_time_upside_down():
    data = lines(plots.curves(rows(), "size", "tflops_per_s", group="implementation"))["live: fast"].data_source.data
    np.testing.assert_allclose(data["low"], data["y"] / 1.2)
    np.testing.assert_allclose(data["high"], data["y"] / 0.9)
    memory = lines(plots.curves(rows(), "size", "peak_bytes", group="implementation"))["live: fast"].data_source.data
    assert list(memory["y"]) == list(memory["low"]) == [128, 256, 512]  # MiB


def test_recorded_curves_look_different_and_say_where_they_come_from():
    recorded = rows(factor=0.1)
    recorded.attrs["provenance"] = {"device": "NVIDIA H200", "cuda": "13.0", "date": "2026-01-01"}
    made = plots.curves(rows(), "size", "median_ms", group="implementation", recorded=recorded, machine="a laptop")
    drawn = lines(made)
    hollow, full = (next(dots for dots in made.renderers if dots.data_source.name == f"{kind}: fast" and hasattr(
        dots.glyph, "marker")).glyph for kind in ("recorded", "live"))  # fmt: skip
    assert hollow.fill_alpha == 0 and full.fill_alpha == 1 and hollow.marker == full.marker
    assert drawn["recorded: fast"].glyph.line_width < drawn["live: fast"].glyph.line_width
    assert drawn["recorded: fast"].glyph.line_color == drawn["live: fast"].glyph.line_color
    assert drawn["recorded: fast"].glyph.line_dash == drawn["live: fast"].glyph.line_dash == []
    notes = {title.text for title in made.select({"name": "note"})}
    assert notes == {"a laptop", "hollow: recorded on NVIDIA H200 · 2026-01-01"}
    assert [item.label.value for item in made.legend[0].items] == ["reference", "fast"]


def test_lines_of_two_machines_are_told_apart_and_every_row_says_its_shape():
    here = rows().assign(dtype="bfloat16", heads=16, machine="NVIDIA H200", date="2026-01-01")
    there = rows(factor=2).assign(dtype="float32", heads=8, machine="NVIDIA H100", date="2026-01-02")
    both = pd.concat([here, there], ignore_index=True)
    made = plots.curves(rows()[:0], "size", "median_ms", group="implementation", recorded=both)
    names = [item.label.value for item in made.legend[0].items]
    assert set(names) == {f"{name}, {machine}" for name in ("reference", "fast")
                          for machine in ("NVIDIA H200 · 2026-01-01", "NVIDIA H100 · 2026-01-02")}  # fmt: skip
    looks = looks_of(made)
    assert len(set(looks)) == len(looks) == 4
    said = [title.text.replace("\n", " ") for title in made.select({"name": "note"})]
    assert any("H200 · 2026-01-01, bfloat16, heads 16" in text and "H100" in text for text in said)
    data = lines(made)["recorded: fast, NVIDIA H100 · 2026-01-02"].data_source.data
    assert set(data["settings"]) == {"float32, heads 8"} and "H100" in data["where"][0]


def test_more_lines_than_colours_are_numbered_and_none_looks_like_another():
    table = pd.concat([rows(f"method {index}") for index in range(20)])
    made = plots.curves(table, "size", "median_ms", group=["method", "implementation"])
    names = [item.label.value for item in made.legend[0].items]
    assert names[0] == "1 method 0 · reference" and len(set(names)) == 40
    assert list(made.select_one("ends").data_source.data["text"]) == [str(place) for place in range(1, 41)]
    assert len(set(looks_of(made))) == 40


def test_curves_grow_while_a_sweep_runs():
    table = rows()
    made = plots.curves(table[:0], "size", "median_ms", group=["method", "implementation"])
    assert made.legend[0].items == []
    plots.update_curves(made, table[:2], "size", "median_ms", group=["method", "implementation"])
    line = lines(made)["live: toy · reference"]
    plots.update_curves(made, table, "size", "median_ms", group=["method", "implementation"])
    assert lines(made)["live: toy · reference"] is line and len(line.data_source.data["x"]) == 3
    assert len(made.legend[0].items) == 2
    plots.update_curves(made, rows("other"), "size", "median_ms", group=["method", "implementation"])
    assert len(line.data_source.data["x"]) == 0
    assert [item.label.value for item in made.legend[0].items] == ["other · reference", "other · fast"]


def test_roofline_has_dots_under_the_roof_also_without_rows():
    made = plots.roofline(rows(), CEILINGS, group="implementation")
    assert len(made.select({"name": "dots"})) == 2
    roof = made.renderers[0].data_source.data
    assert roof["y"].max() == pytest.approx(0.2) and roof["x"][1] == pytest.approx(2e11 / 3e10)
    empty = plots.roofline(measure.frame([]), vars(CEILINGS), group="implementation")
    assert np.isfinite(empty.renderers[0].data_source.data["x"]).all()


def test_bars_write_their_values_and_refuse_negative_ones():
    made = plots.bars(["eager", "fast"], [87.25, 4266], "GB/s")
    assert made.renderers[-1].data_source.data["text"] == ["87.2", "4,266"]
    for bad in (-1, float("nan")):
        with pytest.raises(ValueError, match="from 0 on"):
            plots.bars(["a"], [bad], "s")


# --- patches of an image ---------------------------------------------------------------------------------------------


def test_patches_cover_the_image_with_what_they_weigh():
    image, given = np.zeros((8, 8)), np.linspace(0, 0.5, 16)
    made = patches.patch_attention(image, given, 6, high=0.5, title="A")
    shown = patches.patch_source(made)
    assert shown.selected.indices == [6] and shown.data["name"][6] == "2, 3" and shown.data["x"][6] == 5
    assert shown.data["cover"][0] == 0 and shown.data["cover"][-1] == patches.COVER
    patches.update_patch_attention(made, np.zeros((28, 28)), np.full(49, 1 / 49), 0)
    assert len(shown.data["x"]) == 49 and (made.x_range.end, made.y_range.start) == (28, 28)
    with pytest.raises(ValueError, match="square"):
        patches.patch_attention(image, np.ones(15), 0)


def test_classes_have_a_bar_a_side():
    sides = {"A": np.array([0.2, 0.8]), "B": np.array([1.0, 0.0])}
    made = patches.class_probabilities(["cat", "dog"], sides, right="dog")
    assert "dog" in made.xaxis[0].axis_label and [item.label.value for item in made.legend[0].items] == ["A", "B"]
    patches.update_class_probabilities(made, {"A": sides["B"], "B": sides["A"]})
    source = made.select_one("bars A").data_source
    assert list(source.data["A"]) == [1, 0] and source.data["class"] == ["cat", "dog"]
