"""How things get onto the page of a notebook, so that they stand there with and without a reader.

A Bokeh figure is put down as HTML with its data: it needs no kernel and no network, and it can be hovered and zoomed in
JupyterLab and in an exported page alike. A widget is put down twice: as a still, and live. Where the live one comes to
life it hides its still; in an exported page, where nobody can turn a knob, the still is what remains.
"""

import html
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import ipywidgets
from bokeh.embed import components
from bokeh.model import Model
from bokeh.resources import Resources
from IPython.display import HTML, display

from workbench.plots.style import INK

STYLE = """
<style>
.wb-caption {max-width: 52em; margin: .3em 0 1.2em; font-size: .92em; line-height: 1.45; opacity: .85}
.wb-box {border: 1px solid rgba(128,128,128,.35); border-left: 4px solid #0072B2; border-radius: 4px;
         padding: .7em 1em; margin: .5em 0 1em; max-width: 56em; line-height: 1.5}
.wb-box.wb-right {border-left-color: #009E73}
.wb-box.wb-open {border-left-color: #E69F00}
.wb-box p {margin: .25em 0 .45em}
.wb-box code {font-size: .92em}
.wb-columns {display: grid; grid-template-columns: minmax(16em, 1fr) minmax(24em, 1.5fr); gap: 1em; align-items: center}
@media (max-width: 900px) {.wb-columns {grid-template-columns: 1fr}}
.wb-columns > * {min-width: 0}
.wb-box input[type=radio] {opacity: 1; accent-color: #0072B2}
body[data-jp-theme-light=false] .wb-box input[type=radio] {color-scheme: dark; accent-color: #56B4E9}
.wb-table {border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .3em 0 .6em}
/* the class stands twice, or JupyterLab's own rule for the cells of a table would win */
table.wb-table.wb-table th, table.wb-table.wb-table td {padding: .25em .9em .25em 0; text-align: left;
                            border-bottom: 1px solid rgba(128,128,128,.3)}
table.wb-table.wb-table td.wb-number, table.wb-table.wb-table th.wb-number {text-align: right}
.wb-table th {vertical-align: bottom}
.wb-glossary {max-width: 56em; margin: .3em 0 1em; line-height: 1.45}
.wb-glossary dt {font-weight: 600; margin-top: .35em}
.wb-glossary dd {margin: 0 0 0 1.2em}
.wb-caveat {font-size: .9em; max-width: 34em; line-height: 1.4}
.wb-table caption {white-space: nowrap; caption-side: bottom; text-align: left; font-size: .85em; opacity: .8;
                   padding-top: .3em}
</style>"""

_numbers = itertools.count()
_loaded = False


def load_bokeh() -> None:
    """Put BokehJS and our few styles on the page, from this installation. The figures of the notebook draw with it."""
    global _loaded
    _loaded = True
    script = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    ink = Path(__file__).with_name("ink.js").read_text(encoding="utf-8").replace("INK", json.dumps(INK), 1)
    display(HTML(f"{STYLE}<script>if (!window.Bokeh) {{ {script} }}\n{ink}</script>"))


def figures_html(figures: Sequence[Model]) -> str:
    """Figures, one below the other, as HTML. A figure may be used once: a model belongs to one document."""
    script, divs = components(list(figures))
    return "".join(divs) + script


def caption_html(caption: str) -> str:
    """A caption under a figure; it may hold HTML."""
    return f'<div class="wb-caption">{caption}</div>' if caption else ""


def show(*figures: Model, caption: str = "") -> None:
    """Show figures, one below the other, with a caption that says what to see."""
    if not _loaded:
        load_bokeh()
    display(HTML(figures_html(figures) + caption_html(caption)))


def show_html(content: str, caption: str = "") -> None:
    """Show a piece of HTML (a table, an SVG picture) with a caption."""
    if not _loaded:
        load_bokeh()
    display(HTML(content + caption_html(caption)))


def table_html(
    headings: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "", *, left: bool = False
) -> str:
    """A small table. A column that holds a number (no string, or one that starts with a digit or a minus) is set to the
    right, heading and all, unless ``left``: where numbers stand among words."""

    def is_number(value: object) -> bool:
        return not isinstance(value, str) or value[:1].isdigit() or value[:1] in ("-", "−")

    right = [not left and any(is_number(row[column]) for row in rows) for column in range(len(headings))]

    def line(tag: str, cells: Sequence[object]) -> str:
        marks = (" class=wb-number" if number else "" for number in right)
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for cell, mark in zip(cells, marks, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    below = f"<caption>{caption}</caption>" if caption else ""
    head = f"<thead><tr>{line('th', headings)}</tr></thead>"
    return f'<table class="wb-table">{below}{head}<tbody>{body}</tbody></table>'


def escape(text: object) -> str:
    """Text that is not HTML, as HTML."""
    return html.escape(str(text))


class WithStill:
    """A widget with a still that stands for it where nobody can move it. Shown when it is the last value of a cell.

    A subclass builds ``live`` (a widget) and ``still`` (HTML) and may be asked for ``_ipython_display_`` once or often.
    """

    live: ipywidgets.Widget
    still: str

    def _ipython_display_(self) -> None:
        if not _loaded:
            load_bokeh()
        number = next(_numbers)
        # An exported page marks its body as the notebook: there, the still stays and the dead widget goes.
        style = ipywidgets.HTML(
            f"<style>body:not(.jp-Notebook) .wb-still-{number} {{display: none}}"
            f" body.jp-Notebook .wb-live-{number} {{display: none}}</style>",
            layout=ipywidgets.Layout(height="0", margin="0"),
        )
        box = ipywidgets.VBox([style, self.live], layout=ipywidgets.Layout(width="100%"))
        box.add_class(f"wb-live-{number}")
        display(HTML(f'<div class="wb-still-{number}">{self.still}</div>'))
        display(box)


class Progress:
    """A line under a long cell that says how far it is; it disappears when the work is done."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._handle = display(HTML(self._line(0, "")), display_id=True)

    def update(self, done: int, what: str, picture: str = "") -> None:
        """``done`` of ``total`` are done; ``what`` was last, ``picture`` (HTML) shows what there is so far."""
        self._tell(self._line(done, what) + picture)

    def close(self) -> None:
        """Leave nothing behind."""
        self._tell("")

    def _tell(self, content: str) -> None:
        if self._handle is not None:  # outside a notebook there is nothing to update
            self._handle.update(HTML(content))

    def _line(self, done: int, what: str) -> str:
        return f'<progress value="{done}" max="{self.total}"></progress> {done} of {self.total} {escape(what)}'
