"""Links to views with something to see: those of a page itself, and those that the papers bring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from workbench import catalog
from workbench.paper import View


def worth_seeing(page: str, own: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """What a page's links are called, and what each says: the page's first screen, its ``own``, then the papers'."""
    first = {view.title: {} for view in _views(page) if view.first}
    brought = {view.title: dict(view.settings) for view in _views(page) if not view.first}
    return {**first, **{title: dict(settings) for title, settings in own.items()}, **brought}


def first(page: str) -> dict[str, str]:
    """What the papers say about side B of a page's first screen. Raises ``ValueError`` unless one of them does."""
    found = [view for view in _views(page) if view.first]
    if len(found) != 1:
        raise ValueError(f"One paper says what {page} shows first, not {len(found)}.")
    return dict(found[0].settings)


def _views(page: str) -> Iterator[View]:
    return (view for paper in catalog.papers() for view in paper.views if view.page == page)
