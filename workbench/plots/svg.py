"""Small pictures as SVG, drawn in the ink of whatever page they stand on: text and lines are ``currentColor``."""

import html
from collections.abc import Iterable

from workbench.plots.style import FONT as FAMILY

FONT = f"font-family:{FAMILY};font-size:13px;fill:currentColor"
GREY = "#8C8C8C"


def text(
    x: float, y: float, words: object, anchor: str = "start", *, size: float = 13, opacity: float = 1, more: str = ""
) -> str:
    """Words whose base line begins (or ends, or has its middle: ``anchor``) at (x, y); ``more`` is further style."""
    style = f"{FONT};font-size:{size:g}px" + (f";opacity:{opacity:g}" if opacity < 1 else "") + more
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{html.escape(str(words))}</text>'


def box(
    x: float, y: float, width: float, height: float, fill: str, opacity: float = 1, *, edge: float = 0, round: float = 0
) -> str:
    """A rectangle; ``edge`` is the width of an outline in the ink of the page, ``round`` the radius of its corners."""
    line = f' stroke="currentColor" stroke-width="{edge:g}"' if edge else ""
    corners = f' rx="{round:g}"' if round else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" fill="{fill}" '
        f'fill-opacity="{opacity:.2f}"{line}{corners}/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, *, opacity: float = 0.5, dashed: bool = False) -> str:
    """A thin line in the ink of the page."""
    dash = ' stroke-dasharray="3 3"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'opacity="{opacity:g}"{dash}/>'
    )


def picture(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """The parts as one picture of that size in pixels; ``label`` says what it shows to those who cannot see it.

    In a narrower place it shrinks to three quarters, so that it stays legible, and can be scrolled beyond that.
    """
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
    style = f"width:100%;max-width:{width:g}px;min-width:{0.75 * width:g}px;height:auto;display:block"
    drawn = f'<svg {size} style="{style}" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    return f'<div style="overflow-x:auto;max-width:100%">{drawn}</div>'
