"""Papers: the gallery by chapter, and a page for every paper with its knobs to turn, its claims and what was recorded.

All of it is read from the catalog: a paper to come is on this page without a line more.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pandas as pd
import panel as pn
import param

from workbench import catalog, claims, measure
from workbench.dashboard.papers import text as papers_text
from workbench.dashboard.papers import work as exploring
from workbench.dashboard.papers.studies import Studies
from workbench.dashboard.papers.view import PapersView
from workbench.dashboard.papers.work import Arithmetic, Picture, Request
from workbench.dashboard.shell import state
from workbench.dashboard.shell.jobs import Job
from workbench.dashboard.shell.knobs import Field, Option, field_of, value_of
from workbench.dashboard.shell.page import Page
from workbench.dashboard.shell.state import Entry

SIZE = 4096
DIRECTIONS = ("forward", "backward")
MEASURED = {
    "median_ms": "time of one call",
    "peak_bytes": "peak memory",
    "tflops_per_s": "throughput",
    "roofline": "fraction of the machine's limit",
}


class PapersState(param.Parameterized):
    """The paper that is shown (empty: the gallery), the method whose knobs are turned, and what of the recorded rows.

    ``options`` and ``shape`` hold the method's knobs and those of its example that differ from their defaults.
    """

    slug = param.String()
    method = param.String()
    size = param.Integer(default=SIZE)
    options = param.Dict(default={})
    shape = param.Dict(default={})
    group = param.String()
    direction = param.String(default="forward")
    figure = param.String(default="median_ms")

    @property
    def request(self) -> Request:
        return Request(self.method, self.size, dict(self.options), dict(self.shape))

    def read(self, parameters: Mapping[str, str]) -> list[str]:
        """Take over what a link says; a sentence for each thing that it got wrong."""
        values, wrong = state.decode([Entry("slug", "", _slug)], parameters)
        if not values["slug"]:
            self.param.update(slug="", method="", options={}, shape={}, group="", size=SIZE)
            return wrong
        methods = [method.name for method in catalog.paper(values["slug"]).methods]
        known = self.groups_of(values["slug"])
        chosen, more = state.decode([
            Entry("method", first_of(values["slug"]), state.choice(methods)),
            Entry("group", known[0] if known else "", state.choice(known)),
            Entry("direction", "forward", state.choice(DIRECTIONS)),
            Entry("figure", "median_ms", state.choice(MEASURED)),
        ], parameters)  # fmt: skip
        there = directions_of(values["slug"], chosen["group"]) if known else list(DIRECTIONS)
        if chosen["direction"] not in there:
            why = "it was not recorded there"
            more.append(state.complaint("direction", chosen["direction"], why, there[0]))
            chosen["direction"] = there[0]
        method = catalog.method(chosen["method"])
        sizes = exploring.sizes(method)
        knobs = {f"{kind}.{name}": knob
                 for kind, offered in exploring.knobs(method).items() for name, knob in offered.items()}  # fmt: skip
        set_to, others = state.decode([
            Entry("size", min(SIZE, sizes[-1]), state.one_of(sizes)),
            *(Entry(name, knob.default, state.turned(knob)) for name, knob in knobs.items()),
        ], parameters)  # fmt: skip
        changed = {name: set_to[name] for name, knob in knobs.items() if set_to[name] != knob.default}
        self.param.update(**values, **chosen, size=set_to["size"], **_by_kind(changed))
        return wrong + more + others

    def written(self) -> dict[str, str]:
        if not self.slug:
            return {}
        said = {"slug": self.slug}
        known = self.groups_of(self.slug)
        entries = [Entry("method", first_of(self.slug)), Entry("group", known[0] if known else ""),
                   Entry("direction", "forward"), Entry("figure", "median_ms"),
                   Entry("size", min(SIZE, exploring.sizes(catalog.method(self.method))[-1]), write=str)]  # fmt: skip
        said |= state.encode(entries, self.param.values())
        for kind in ("option", "shape"):
            said |= {f"{kind}.{name}": str(value) for name, value in self._set(kind).items()}
        return said

    def turn(self, name: str, given: Any) -> None:
        """One control was set. Raises ``ValueError`` when that cannot be."""
        if name == "method":
            sizes = exploring.sizes(catalog.method(given))
            self.param.update(method=given, options={}, shape={}, size=min(self.size, sizes[-1]))
        elif name == "size":
            self.size = exploring.sizes(catalog.method(self.method))[given]
        elif "." in name:
            kind, knob_name = name.split(".")
            knob = exploring.knobs(catalog.method(self.method))[kind][knob_name]
            before = self._set(kind)
            value = value_of(knob, before.get(knob_name, knob.default), given)
            after = {**before, knob_name: value}
            if value == knob.default:
                after.pop(knob_name)
            self.param.update(**{"options" if kind == "option" else "shape": after})
        elif name == "group":
            self.param.update(group=given, direction=directions_of(self.slug, given)[0])
        else:
            self.param.update(**{name: given})

    def fields(self) -> list[Field]:
        """The controls that turn the method's knobs."""
        paper, method = catalog.paper(self.slug), catalog.method(self.method)
        sizes = exploring.sizes(method)
        fields = [
            Field("method", "Method", "choice", self.method, tuple(Option(m.name, m.title) for m in paper.methods)),
            Field("size", "size", "slider", sizes.index(self.size), stops=tuple(f"{size:,}" for size in sizes),
                  help="Tokens, rows or steps: what the method's cost grows with.", group="Its knobs"),
        ]  # fmt: skip
        for kind, group in (("option", "Its knobs"), ("shape", "The example's shape")):
            for name, knob in exploring.knobs(method)[kind].items():
                value = self._set(kind).get(name, knob.default)
                fields.append(field_of(knob, value, prefix=f"{kind}.", group=group))
        return fields

    def recorded_fields(self) -> list[Field]:
        """The controls that choose among the recorded rows."""
        directions = directions_of(self.slug, self.group)
        return [
            Field("group", "Recorded", "choice", self.group,
                  tuple(Option(name, name) for name in self.groups_of(self.slug))),
            Field("direction", "Direction", "choice", self.direction, tuple(
                Option(name, name, "" if name in directions else f"{name.capitalize()} was not recorded here.")
                for name in DIRECTIONS)),
            Field("figure", "Shown", "choice", self.figure, tuple(Option(*each) for each in MEASURED.items())),
        ]  # fmt: skip

    @staticmethod
    def groups_of(slug: str) -> list[str]:
        rows = recorded(slug)
        return [] if rows is None else list(dict.fromkeys(rows["group"]))

    def _set(self, kind: str) -> dict[str, Any]:
        return self.options if kind == "option" else self.shape


def first_of(slug: str) -> str:
    """The method that a paper's page opens with: the one that is named like it, or the last one of a toggle."""
    methods = catalog.paper(slug).methods
    names = [method.name for method in methods if method.toggle] or [methods[0].name]
    return slug if slug in names else names[-1]


def directions_of(slug: str, group: str) -> list[str]:
    """What was recorded of a group: "forward", "backward" or both."""
    rows = recorded(slug)
    return sorted(set(rows[rows["group"] == group]["direction"]), reverse=True)


@functools.cache
def recorded(slug: str) -> pd.DataFrame | None:
    """The rows of a paper that were recorded and came out well; None when there are none."""
    found = measure.recorded(slug)
    if found is None:
        return None
    rows = found[found["status"] == "ok"]
    rows.attrs = found.attrs
    return rows if len(rows) else None


class PapersPage(Page):
    """Shows what the catalog says; computes a method's arithmetic and picture when a knob is turned."""

    slug, title = "papers", "Papers"

    def __init__(self, desk, changed, say) -> None:
        super().__init__(desk, changed, say)
        self.state = PapersState()
        self.studies = Studies(desk, self.figure, changed, say)
        self.look = PapersView(self.figure, self.act, self.studies.layout)
        self.arithmetic: Arithmetic | None = None
        self.picture: Picture | None = None
        self.shown = ""
        self.asked: Request | None = None
        self.drawn: tuple = ()

    def open(self, parameters: Mapping[str, str]) -> list[str]:
        wrong = self.state.read(parameters)
        if not self.state.slug:
            self.look.gallery(papers_text.gallery(catalog.papers()))
        elif self.state.slug != self.shown:
            paper = catalog.paper(self.state.slug)
            runs = measure.recorded_sampling() if any(each.toggle == "caching" for each in paper.methods) else None
            self.look.paper(paper, claims.table(paper.slug), recorded(paper.slug) is not None, runs)
        self.shown = self.state.slug
        if self.state.slug:
            wrong += self.studies.open(self.state.slug, parameters)
        self._update()
        return wrong

    def parameters(self) -> dict[str, str]:
        return self.state.written() | (self.studies.written() if self.state.slug else {})

    def view(self) -> pn.viewable.Viewable:
        return self.look.layout

    def act(self, name: str, given: Any) -> None:
        """A control was set."""
        try:
            self.state.turn(name, given)
        except ValueError as error:
            self.say(str(error))
            return
        self._update()
        self.changed()

    def _update(self) -> None:
        if not self.state.slug:
            return
        self.look.fields(self.state.fields())
        drawn = (self.state.slug, self.state.group, self.state.direction, self.state.figure)
        if self.state.group and drawn != self.drawn:
            self.drawn = drawn
            rows = recorded(self.state.slug)
            chosen = rows[(rows["group"] == self.state.group) & (rows["direction"] == self.state.direction)]
            chosen.attrs = rows.attrs  # the figure says which machine it was
            self.look.recorded(self.state.recorded_fields(), chosen, self.state.figure)
        if self.state.request != self.asked:
            self.asked = self.state.request
            self.say("")
            self.desk.run(self.slug, exploring.compute(self.asked), self._arrived, self._ended)

    def _arrived(self, part: Any) -> None:
        if isinstance(part, Arithmetic):
            self.arithmetic, self.picture = part, None
            request = self.asked
            self.look.words(papers_text.arithmetic(part, request, catalog.method(request.method)))
        elif isinstance(part, Picture):
            self.picture = part
            self.look.picture(part, catalog.method(self.asked.method).title)

    def _ended(self, job: Job) -> None:
        if job.state == "failed":
            self.say(job.error)
        elif self.picture is None:
            self.look.picture(None, "")
        self.changed()

    def csv(self) -> str:
        """The rows of the study that was run here; before one was, the claims with what was measured for them."""
        return self.studies.csv() or claims.table(self.state.slug or None).to_csv(index=False)

    def lines(self) -> str:
        if not self.state.slug:
            return "from workbench import catalog, claims\n\nlist(catalog.papers())\nclaims.table()"
        slug = self.state.slug
        return (
            f"{exploring.python_lines(self.state.request)}\n\n"
            f"from workbench import claims, measure\n\nclaims.table({slug!r})\nmeasure.recorded({slug!r})\n"
            f"{self.studies.lines()}"
        )


def _slug(text: str) -> str:
    return text and state.choice(catalog.slugs())(text)


def _by_kind(changed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"options": {}, "shape": {}}
    for name, value in changed.items():
        kind, knob = name.split(".")
        found["options" if kind == "option" else "shape"][knob] = value
    return found
