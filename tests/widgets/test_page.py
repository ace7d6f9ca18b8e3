"""Figures stand on the page without a kernel or a network, and every widget has a still that stands for it."""

import re

import ipywidgets
import pytest
from bokeh.plotting import figure

from workbench_widgets import page


class Counter(page.WithStill):
    def __init__(self):
        self.live, self.still = ipywidgets.IntSlider(), "<p>a still</p>"


def test_a_widget_is_put_down_as_a_still_and_live(displayed):
    page.load_bokeh()
    Counter()._ipython_display_()
    still, live = displayed[-2:]
    number = re.search(r"wb-still-(\d+)", still.data)[1]
    assert "a still" in still.data and isinstance(live.children[1], ipywidgets.IntSlider)
    Counter()._ipython_display_()
    assert f"wb-still-{number}" not in displayed[-2].data, "each display hides its own still and no other"


def test_the_live_widget_hides_its_still_and_an_exported_page_hides_the_dead_widget(displayed):
    Counter()._ipython_display_()
    style = displayed[-1].children[0].value
    number = re.search(r"wb-still-(\d+)", style)[1]
    assert f"body:not(.jp-Notebook) .wb-still-{number} {{display: none}}" in style
    assert f"body.jp-Notebook .wb-live-{number} {{display: none}}" in style
    assert f"wb-live-{number}" in displayed[-1]._dom_classes


def test_figures_need_no_other_host(displayed):
    made = figure(height=100)
    made.line([0, 1], [0, 1])
    page.load_bokeh()
    page.show(made, caption="What to see.")
    assert not re.search(r"<(script|link)[^>]+(src|href)=", displayed.html)
    assert "embed_items" in displayed.html and "What to see." in displayed.html


def test_tables_align_numbers_and_show_a_caption():
    table = page.table_html(("name", "value"), [("a", 3), ("b", "−2 ms")], "caption")
    assert "<th>name</th><th class=wb-number>value</th>" in table and table.count("<td class=wb-number>") == 2
    assert "<caption>caption</caption>" in table


def test_progress_outside_a_notebook_is_silent(displayed):
    bar = page.Progress(3)
    bar.update(1, "first")
    bar.close()


@pytest.mark.parametrize("scale, device, message", [("huge", "cpu", "choose ci, laptop, gpu"), ("ci", "tpu", "choose")])
def test_a_lesson_refuses_scales_and_devices_that_there_are_not(scale, device, message):
    from workbench_widgets import begin

    with pytest.raises(ValueError, match=message):
        begin(device, scale)


def test_a_session_picks_by_scale():
    from workbench_widgets.session import Session

    assert Session("cpu", "ci").pick(ci=1, laptop=2) == 1
    assert Session("cuda", "gpu").pick(ci=1, laptop=2) == 2
    assert Session("cuda", "gpu").pick(ci=1, laptop=2, gpu=3) == 3
