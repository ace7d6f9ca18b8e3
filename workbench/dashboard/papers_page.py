"""Papers: the gallery by chapter, and one page for every paper, both read from the catalog."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from html import escape
from itertools import groupby

import pandas as pd
import panel as pn
import param

from workbench import catalog, claims
from workbench.controls import Knob
from workbench.dashboard import measuring, shell, state
from workbench.dashboard.page import Page, retext, text
from workbench.dashboard.state import Entry
from workbench.paper import Method, Paper

ENTRIES = (Entry("slug", "", state.choice(catalog.slugs())),)


class PapersState(param.Parameterized):
    """The paper that is shown; empty: the gallery."""

    slug = param.String()


class PapersPage(Page):
    """Nothing is computed here: both pages are text."""

    slug, title = "papers", "Papers"

    def __init__(self, desk, changed, say) -> None:
        super().__init__(desk, changed, say)
        self.state = PapersState()
        self.pane = text()

    def open(self, parameters: Mapping[str, str]) -> list[str]:
        values, wrong = state.decode(ENTRIES, parameters)
        self.state.slug = values["slug"]
        if self.state.slug:
            retext(self.pane, one(catalog.paper(self.state.slug)))
        else:
            retext(self.pane, gallery(catalog.papers()))
        return wrong

    def parameters(self) -> dict[str, str]:
        return state.encode(ENTRIES, {"slug": self.state.slug})

    def view(self) -> pn.viewable.Viewable:
        return self.pane

    def csv(self) -> str:
        return claims.table(self.state.slug or None).to_csv(index=False)

    def lines(self) -> str:
        if not self.state.slug:
            return "from workbench import catalog, claims\n\nlist(catalog.papers())\nclaims.table()"
        slug = self.state.slug
        return f"from workbench import catalog, claims\n\npaper = catalog.paper({slug!r})\nclaims.table(paper.slug)"


def gallery(papers: Iterable[Paper]) -> str:
    """Every paper of the catalog as a card, by chapter."""
    parts = [
        "<h1>Papers</h1><p>Each is a readable reference, a fast version, a lesson, and its claims measured again.</p>"
    ]
    for chapter, group in groupby(papers, key=lambda paper: paper.chapter):
        cards = "".join(
            f'<li><a href="{_link(page="papers", slug=paper.slug)}"><b>{escape(paper.title)}</b>'
            f"{escape(paper.idea)}<br><small>{paper.year} · {_count(len(paper.methods), 'method')} · "
            f"{_count(len(paper.claims), 'claim')}</small></a></li>"
            for paper in group
        )
        parts.append(f"<h2>{escape(chapter.capitalize())}</h2><ul class='cards'>{cards}</ul>")
    return "".join(parts)


def one(paper: Paper) -> str:
    """A paper's page: idea, where to read and run it, its methods with their knobs, its claims."""
    source = f"workbench/{paper.chapter}/{paper.slug}.py"
    return (
        f'<p class="small"><a href="?page=papers">All papers</a> / {escape(paper.chapter)}</p>'
        f"<h1>{escape(paper.title)}</h1><p class='small'>{escape(paper.authors)}, {paper.year} · "
        f'<a href="{escape(paper.url)}" target="_blank" rel="noopener noreferrer">arXiv {escape(paper.arxiv)}</a></p>'
        f"<p>{escape(paper.idea)}</p>"
        f"<p class='small'>Lesson: <code>{escape(paper.notebook)}</code> (open it with <code>make lab</code>) · "
        f"source: <code>{source}</code> · from Python: "
        f"<code>from workbench.{paper.chapter} import {paper.slug}</code></p>"
        f"<h2>Methods</h2>{''.join(_method(paper, method) for method in paper.methods)}"
        f"<h2>Claims, measured again</h2>{_claims(claims.table(paper.slug))}"
    )


def _method(paper: Paper, method: Method) -> str:
    links = [_view("Measure it", page="measure", **_measured(method))]
    if method.toggle in ("attention", "activation") and method.branches == 1:
        links.insert(0, _view("Inspect it as B", page="inspect", **{f"b.{method.toggle}": method.name}))
    rows = "".join(_knob(knob) for knob in method.knobs.values())
    knobs = (
        f"<div class='table'><table><tr><th>knob</th><th>default</th><th>allowed</th><th></th></tr>{rows}</table></div>"
    )
    return (
        f"<article><h3>{escape(method.title)} <code>{escape(method.name)}</code></h3>"
        f"<p>{escape(method.idea)} {' · '.join(links)}</p>"
        f"<ul>{''.join(f'<li>{_implementation(method, name)}</li>' for name in method.implementations)}</ul>"
        f"{knobs if rows else '<p class=small>It has no knobs.</p>'}"
        "<details><summary>Its equations as code: reference</summary>"
        f"<pre>{escape(_source(method.reference))}</pre></details></article>"
    )


def _implementation(method: Method, name: str) -> str:
    why = measuring.why_not(method.name, name, shell.device(), "float32")
    return f"<code>{escape(name)}</code> " + (f"<span class='small'>{escape(why)}</span>" if why else "runs here")


def _knob(knob: Knob) -> str:
    cells = (knob.name, knob.default, knob.allowed, knob.help)
    return (
        f"<tr><td><code>{escape(str(cells[0]))}</code></td>"
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells[1:])
        + "</tr>"
    )


def _claims(table: pd.DataFrame) -> str:
    if not len(table):
        return "<p class='small'>This paper has no claims to settle.</p>"
    head = "<tr><th>claim</th><th>the paper says</th><th>measured</th><th>verdict</th></tr>"
    rows = []
    for row in table.itertuples():
        look = {"holds": "good", "fails": "bad", "does not hold here": "bad"}.get(row.verdict, "")
        rows.append(
            f"<tr><td>{escape(row.statement)} <small>{escape(row.caveat)}</small></td>"
            f"<td>{escape(row.reported)}<br><small>{escape(row.where)}</small></td>"
            f"<td>{escape(row.measured)}<br><small>{escape(row.source)}</small></td>"
            f"<td class='{look}'>{escape(row.verdict)}</td></tr>"
        )
    return f"<div class='table'><table>{head}{''.join(rows)}</table></div>"


@functools.cache
def _source(function: Callable) -> str:
    return inspect.getsource(function)


def _measured(method: Method) -> dict[str, str]:
    family = next(name for name, methods in measuring.families().items() if method.name in methods)
    first = {} if family == next(iter(measuring.families())) else {"what": family}
    return {**first, "run": f"{method.name}:reference,{method.name}:fast"}


def _view(words: str, **parameters: str) -> str:
    return f'<a href="{_link(**parameters)}">{words}</a>'


def _link(**parameters: str) -> str:
    return escape(state.join(parameters))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
