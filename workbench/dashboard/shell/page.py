"""What a page of the dashboard is, and the few pieces that pages are laid out with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import panel as pn

from workbench.dashboard.shell.figures import Figure
from workbench.dashboard.shell.jobs import Desk

STYLE = (Path(__file__).parents[1] / "static" / "page.css").read_text(encoding="utf-8")


class Page:
    """One page. The shell makes it when it is first looked at, and keeps it for as long as the visitor stays.

    A page computes nothing on the event loop: it starts jobs at its ``desk`` and draws what comes back. It calls
    ``changed()`` when the link to it is another one, and ``say(sentence)`` when the visitor must be told something.
    """

    slug: str
    title: str

    def __init__(self, desk: Desk, changed: Callable[[], None], say: Callable[[str], None]) -> None:
        self.desk, self.changed, self.say = desk, changed, say

    def open(self, parameters: Mapping[str, str]) -> list[str]:
        """Show what a link asks for; a sentence for each thing that cannot be, see ``state.decode``."""
        raise NotImplementedError

    def parameters(self) -> dict[str, str]:
        """The link to what is shown now, without the page's name."""
        raise NotImplementedError

    def view(self) -> pn.viewable.Viewable:
        """The page itself: built once."""
        raise NotImplementedError

    def complete(self) -> None:
        """Draw what need not be there at the first glance; called once the page is on the screen."""

    def figure(self, **options: Any) -> Figure:
        """A place for a figure."""
        made = Figure(self.desk.schedule, **options)
        self.desk.leaving.append(made.let_go)
        return made

    def csv(self) -> str:
        """The numbers on the page as CSV; empty when there are none yet."""
        return ""

    def lines(self) -> str:
        """The Python lines that compute what is on the screen."""
        return ""


class Text(pn.pane.HTML):
    """HTML that sends its words alone when they change.

    Panel sends everything again, style sheets too; and for those Bokeh walks through the whole document.
    """

    def _update(self, ref: str, model: Any) -> None:
        model.text = self._transform_object(self.object)["object"]


def text(html: str = "", **options: Any) -> pn.pane.HTML:
    """A piece of text. Whatever a visitor typed must be escaped by the caller."""
    return Text(_wrapped(html), stylesheets=[STYLE], sizing_mode="stretch_width", margin=0, **options)


def retext(pane: pn.pane.HTML, html: str) -> None:
    """Another text in the same place; nothing happens when it is the same."""
    if pane.object != _wrapped(html):
        pane.object = _wrapped(html)


def stack(*parts: Any, look: str = "page") -> pn.Column:
    """Parts below each other. ``look``: "page"; "sheet" for a framed one; "sheet a", "sheet b" for the two sides."""
    return pn.Column(*parts, css_classes=look.split(), stylesheets=[STYLE], sizing_mode="stretch_width", margin=0)


def pair(left: Any, right: Any, look: str = "pair") -> pn.Column:
    """Two parts side by side, below each other on a phone. ``look="aside"`` makes the left one a narrow column."""
    return pn.Column(left, right, css_classes=[look], stylesheets=[STYLE], sizing_mode="stretch_width", margin=0)


def three(*parts: Any) -> pn.Column:
    """Three parts side by side, below each other on a phone."""
    return pn.Column(*parts, css_classes=["three"], stylesheets=[STYLE], sizing_mode="stretch_width", margin=0)


def _wrapped(html: str) -> str:
    return f'<div class="text">{html}</div>'
