"""What the page Papers says: the gallery, and of one paper its head, claims and methods. Text only."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from html import escape
from itertools import groupby
from typing import Any

import pandas as pd

from workbench import measure, writing
from workbench.controls import Knob
from workbench.dashboard.inspect import seeing
from workbench.dashboard.measure import work as measuring
from workbench.dashboard.papers.work import Arithmetic, Request
from workbench.dashboard.shell import state, toggles
from workbench.dashboard.shell.device import device
from workbench.measure.memory import in_words
from workbench.paper import Method, Paper

LOOKS = {"holds": "good", "fails": "bad", "does not hold here": "bad"}
PAGES = {  # where a toggle's methods can be seen at work
    "attention": ("inspect", "train"), "activation": ("inspect", "train"), "hierarchy": ("inspect", "train"),
    "doubly_stochastic": ("inspect", "train"), "caching": ("generate",),
}  # fmt: skip


def gallery(papers: Iterable[Paper]) -> str:
    """Every paper of the catalog as a card, by chapter."""
    parts = [
        "<h1>Papers</h1><p>Each is a readable reference, a fast version, a lesson, and its claims measured again.</p>"
    ]
    for chapter, group in groupby(papers, key=lambda paper: paper.chapter):
        cards = "".join(
            f'<li><a href="{_link(page="papers", slug=paper.slug)}"><b>{escape(paper.title)}</b>'
            f"{escape(paper.idea)}<br><small>{paper.year} · {_count(len(paper.methods), 'method')} · "
            f"{_count(len(paper.claims), 'claim')}{_toggles(paper)}</small></a></li>"
            for paper in group
        )
        parts.append(f"<h2>{escape(chapter.capitalize())}</h2><ul class='cards'>{cards}</ul>")
    return "".join(parts)


def head(paper: Paper) -> str:
    """A paper's title, idea, and where to read and run it."""
    source = f"workbench/{paper.chapter}/{paper.slug}/"
    return (
        f'<p class="small"><a href="?page=papers">All papers</a> / {escape(paper.chapter)}</p>'
        f"<h1>{escape(paper.title)}</h1><p class='small'>{escape(paper.authors)}, {paper.year} · "
        f'<a href="{escape(paper.url)}" target="_blank" rel="noopener noreferrer">arXiv {escape(paper.arxiv)}</a></p>'
        f"<p>{escape(paper.idea)}</p>"
        f"<p><b>When to take it:</b> {escape(paper.take_when)}<br><b>When not:</b> {escape(paper.leave_when)}</p>"
        f"<p class='small'>Lesson: <code>{escape(paper.notebook)}</code> (open it with <code>make lab</code>) · "
        f"source: <code>{source}</code> · from Python: "
        f"<code>from workbench.{paper.chapter} import {paper.slug}</code></p>"
        f"<details><summary>How to cite it</summary><pre>{escape(paper.citation)}</pre></details>"
    )


def arithmetic(told: Arithmetic | None, request: Request, method: Method) -> str:
    """What one call costs, in words, and where to see the method at work with these values."""
    if told is None:
        return "<p class='wait'>computing …</p>"
    intensity = f"{told.flops / told.bytes:,.1f} FLOPs a byte" if told.bytes else ""
    parts = [
        f"<b>{_flops(told.flops)}</b>",
        f"at least <b>{in_words(int(told.bytes))}</b> to move",
        intensity,
        "held meanwhile: "
        + ", ".join(f"{name} <b>{in_words(int(held))}</b>" for name, held in told.held.items()),
        *(f"{escape(name.replace('_', ' '))} <b>{escape(str(count))}</b>" for name, count in told.counts.items()),
    ]
    return (
        f"<p>One forward call at size {request.size:,} in float32 (estimate): {' · '.join(filter(None, parts))}.</p>"
        f"<p>{' · '.join(links(method, request))}</p>"
    )


def links(method: Method, request: Request) -> list[str]:
    """Where to see a method at work, at the values that are set."""
    values = {f"option.{name}": str(value) for name, value in request.options.items()}
    values |= {f"shape.{name}": str(value) for name, value in request.shape.items()}
    found = [_view("Measure it", page="measure", **_measured(method), **values)]
    if method.toggle is None or method.branches > 1:
        return found
    chosen = {f"b.{method.toggle}": method.name}
    if method.toggle != "activation":
        chosen |= {f"b.{method.toggle}.{name}": str(value) for name, value in request.options.items()}
    own = {"b.hierarchy.tree": "windows"} if set(request.options) & set(seeing.OF_WINDOWS) else {}
    words = {"inspect": "Inspect it as B", "train": "Train with it as B", "generate": "Generate with it as B"}
    extra = {"inspect": own}
    return [_view(words[page], page=page, **chosen, **extra.get(page, {})) for page in PAGES[method.toggle]] + found


def crossovers(table: pd.DataFrame | None) -> str:
    """From which size on the methods pay, as it was recorded; empty when nothing was."""
    found = [] if table is None else list(measure.crossovers(table))
    if not found:
        return ""
    lines = "".join(f"<li>{escape(str(each))}</li>" for each in found)
    machine = escape(measure.machine_line(table.attrs["provenance"]))
    return (
        f"<details><summary>From which size on it pays</summary><ul>{lines}</ul>"
        f"<p class='small'>Against the quickest of everything else that was recorded; {machine}</p></details>"
    )


def claims(table: pd.DataFrame) -> str:
    """The paper's numbers beside those measured, on CPUs and GPUs."""
    if not len(table):
        return "<p class='small'>This paper has no claims to settle.</p>"
    heads = "<tr><th>claim</th><th>the paper says</th><th>measured on a CPU</th><th>measured on a GPU</th></tr>"
    rows = []
    for _, group in table.groupby("claim", sort=False):
        first = group.iloc[0]
        rows.append(
            f"<tr><td>{escape(first.statement)} <small>{escape(first.caveat)}</small></td>"
            f"<td>{escape(first.reported)}<br><small>{escape(first['where'])}</small></td>"
            + "".join(f"<td>{_measurement(group[group.scale == scale])}</td>" for scale in ("cpu", "gpu"))
            + "</tr>"
        )
    return f"<div class='table'><table>{heads}{''.join(rows)}</table></div>"


def _measurement(rows: pd.DataFrame) -> str:
    """The numbers of one scale: the one measured here, then the recorded one."""
    if not len(rows):
        return "<small>not measured yet</small>"
    return "<br>".join(
        f"{escape(row.measured)} <span class='{LOOKS.get(row.verdict, '')}'>{escape(row.verdict)}</span>"
        f"<br><small>{escape(row.source)}</small>"
        for row in rows[::-1].itertuples()
    )


def sampling_runs(table: pd.DataFrame) -> str:
    """Whole sampling runs of a diffusion transformer, recorded on a GPU."""
    heads = ("cache", "knobs", "steps", "network calls", "time", "faster", "of what the calls allow", "cache memory")
    knobs = dict.fromkeys(name for method in toggles.methods("caching").values() for name in method.knobs)
    rows = []
    for row in table[table["status"] == "ok"].to_dict("records"):
        given = {name: row[name] for name in knobs if name in row and not pd.isna(row[name])}
        cells = (
            row["caching"].replace("_", " "),
            ", ".join(f"{name} {writing.number(value)}" for name, value in given.items()),
            f"{row['steps']}", writing.number(row["full_steps"]), writing.duration(row["median_ms"]),
            writing.ratio(row["speed_up"]),
            f"{100 * row['of_ideal']:.0f} %", in_words(int(row["cache_bytes"])),
        )  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    machine = escape(measure.machine_line(table.attrs["provenance"]))
    head = "".join(f"<th>{each}</th>" for each in heads)
    return (
        "<h2>Whole runs of DiT-XL/2, recorded on a GPU</h2>"
        f"<div class='table'><table><tr>{head}</tr>{''.join(rows)}</table></div><p class='small'>{machine}</p>"
    )


def method_details(paper: Paper) -> str:
    """The methods: implementations, knobs, the reference's source; and what the paper's folder begins with."""
    module = sys.modules[f"workbench.{paper.chapter}.{paper.slug}"]
    return "".join(map(_method, paper.methods)) + (
        f"<details><summary>How it begins, workbench/{paper.chapter}/{paper.slug}/__init__.py</summary>"
        f"<pre>{escape(_source(module))}</pre></details>"
    )


def _method(method: Method) -> str:
    rows = "".join(_knob(knob) for knob in method.knobs.values())
    knobs = (
        f"<div class='table'><table><tr><th>knob</th><th>default</th><th>allowed</th><th></th></tr>{rows}</table></div>"
    )
    toggle = f" · toggle “{toggles.label(method.toggle).lower()}”" if method.toggle else ""
    return (
        f"<article><h3>{escape(method.title)} <code>{escape(method.name)}</code></h3>"
        f"<p>{escape(method.idea)} <small>{toggle}</small></p>"
        f"<ul>{''.join(f'<li>{_implementation(method, name)}</li>' for name in method.implementations)}</ul>"
        f"{knobs if rows else '<p class=small>It has no knobs.</p>'}"
        "<details><summary>Its equations as code: reference</summary>"
        f"<pre>{escape(_source(method.reference))}</pre></details></article>"
    )


def _implementation(method: Method, name: str) -> str:
    why = measuring.why_not(method.name, name, device(), "float32")
    return f"<code>{escape(name)}</code> " + (f"<span class='small'>{escape(why)}</span>" if why else "runs here")


def _knob(knob: Knob) -> str:
    cells = (knob.name, knob.default, knob.allowed, knob.help)
    return (
        f"<tr><td><code>{escape(str(cells[0]))}</code></td>"
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells[1:])
        + "</tr>"
    )


@functools.cache
def _source(what: Callable | Any) -> str:
    return inspect.getsource(what)


def _measured(method: Method) -> Mapping[str, str]:
    family = next(name for name, methods in measuring.families().items() if method.name in methods)
    first = {} if family == next(iter(measuring.families())) else {"what": family}
    return {**first, "run": f"{method.name}:reference,{method.name}:fast"}


def _toggles(paper: Paper) -> str:
    names = dict.fromkeys(toggles.label(method.toggle).lower() for method in paper.methods if method.toggle)
    return f" · toggle{'s' if len(names) > 1 else ''}: {', '.join(names)}" if names else ""


def _flops(count: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return writing.quantity(count / size, f"{unit}FLOP")
    return f"{count:.0f} FLOP"


def _view(words: str, **parameters: str) -> str:
    return f'<a href="{_link(**parameters)}">{words}</a>'


def _link(**parameters: str) -> str:
    return escape(state.join(parameters))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
