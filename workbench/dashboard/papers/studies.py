"""A paper's studies on its page: one is chosen, turned, run and cancelled here; its curve is drawn as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import param

from workbench import catalog, measure, plots
from workbench.controls import Knob
from workbench.dashboard.shell import state
from workbench.dashboard.shell.device import device
from workbench.dashboard.shell.figures import Figure
from workbench.dashboard.shell.jobs import Cancelled, Desk, Job, Progress
from workbench.dashboard.shell.knobs import Field, Form, Option, field_of, value_of
from workbench.dashboard.shell.page import pair, retext, stack, text
from workbench.dashboard.shell.state import Entry
from workbench.measure.studies import cell, settings_line
from workbench.paper import Paper, Study
from workbench.study import SIZES, Size

DRAW_S = 0.3  # a growing curve is drawn at most so often
MOST_ROWS = 12  # of the table under it
RUN = "run"
PREFIX = "study."  # of its entries in a link
SHOWN: tuple[Size, ...] = ("laptop", "ci", "gpu")
WORDS = {"ci": "seconds", "laptop": "about a minute", "gpu": "the paper's, for a GPU"}


@dataclass(frozen=True)
class Row:
    """One row of a study, as a job hands it over."""

    values: Mapping[str, Any]


def compute(study: Study, run: measure.StudyRun) -> Callable[[Cancelled], Iterator[Any]]:
    """The job: every row as it comes, and how far it is."""

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        total = run.total(study)
        running = run.rows(study)
        try:
            for done, row in enumerate(running, start=1):
                yield Row(row)
                yield Progress(done, total or 0, f"{study.title}, row {done}")
        finally:
            running.close()

    return steps


class StudyState(param.Parameterized):
    """Which study of the paper is shown, how large it is to be, and its knobs that differ from that size's."""

    slug = param.String()
    chosen = param.String()
    size = param.String(default="laptop")
    knobs = param.Dict(default={})

    @property
    def study(self) -> Study | None:
        return catalog.paper(self.slug).study(self.chosen) if self.chosen else None

    @property
    def run(self) -> measure.StudyRun:
        return measure.StudyRun(self.size, device(), 0, dict(self.knobs))

    @property
    def settings(self) -> dict[str, Any]:
        return self.study.settings(self.size, self.knobs)

    def read(self, slug: str, parameters: Mapping[str, str]) -> list[str]:
        """Take over what a link says about a paper's studies; a sentence for each thing that it got wrong."""
        paper = catalog.paper(slug)
        if not paper.studies:
            self.param.update(slug=slug, chosen="", knobs={})
            return []
        chosen, wrong = state.decode(self._entries(paper), parameters)
        study = paper.study(chosen["study"])
        defaults = study.settings(chosen[f"{PREFIX}size"])
        entries = [Entry(f"{PREFIX}{name}", defaults[name], state.turned(knob)) for name, knob in study.knobs.items()]
        values, more = state.decode(entries, parameters)
        turned = {name: values[f"{PREFIX}{name}"] for name in study.knobs}
        self.param.update(slug=slug, chosen=study.name, size=chosen[f"{PREFIX}size"], knobs=_other(turned, defaults))
        return wrong + more

    def written(self) -> dict[str, str]:
        if not self.chosen:
            return {}
        values = {"study": self.chosen, f"{PREFIX}size": self.size}
        said = state.encode(self._entries(catalog.paper(self.slug)), values)
        return said | {f"{PREFIX}{name}": str(value) for name, value in self.knobs.items()}

    def turn(self, name: str, given: Any) -> None:
        """One control was set. Raises ``ValueError`` when that cannot be."""
        if name == "study":
            self.param.update(chosen=given, knobs={})
        elif name == "size":
            self.param.update(size=given, knobs={})
        else:
            knob: Knob = self.study.knobs[name.removeprefix("knob.")]
            before = self.settings
            after = {**before, knob.name: value_of(knob, before[knob.name], given)}
            self.knobs = _other(after, self.study.settings(self.size))

    def fields(self, running: bool) -> list[Field]:
        paper, study = catalog.paper(self.slug), self.study
        refused = " ".join(study.why_not(device()))
        settings = self.settings
        studies = tuple(Option(each.name, each.title) for each in paper.studies)
        return [
            Field("study", "Study", "choice", self.chosen, studies),
            Field("size", "How large", "choice", self.size, tuple(Option(size, WORDS[size]) for size in SHOWN)),
            *(field_of(knob, settings[name], prefix="knob.", group="Its knobs") for name, knob in study.knobs.items()),
            Field(RUN, "Cancel" if running else "Run", "button", "" if running else "strong",
                  why="" if running else refused, sends="stop" if running else "start"),
        ]  # fmt: skip

    @staticmethod
    def _entries(paper: Paper) -> list[Entry]:
        names = [study.name for study in paper.studies]
        return [
            Entry("study", names[0], state.choice(names)),
            Entry(f"{PREFIX}size", "laptop", state.choice(SIZES)),
        ]


class Studies:
    """The part of a paper's page that runs its studies."""

    slot = "study"

    def __init__(
        self, desk: Desk, figure: Callable[..., Figure], changed: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self.desk, self.changed, self.say = desk, changed, say
        self.state = StudyState()
        self.rows: list[Mapping[str, Any]] = []
        self.asked: tuple[Study, measure.StudyRun] | None = None  # what the rows are of
        self.note = ""
        self._drawn_at, self._made_for = 0.0, None
        self._recorded: pd.DataFrame | None = None
        self.question, self.words, self.table = (text() for _ in range(3))
        self.form = Form(self.act, look="panel", legend="The study")
        self.curve = figure(min_height=340)
        sheet = stack(self.question, self.curve, self.words, self.table, look="sheet")
        self.layout = stack(text("<h2>Run its studies</h2>"), pair(self.form, sheet, look="aside"))

    def open(self, slug: str, parameters: Mapping[str, str]) -> list[str]:
        """Show the studies of a paper as a link asks for them; a sentence for each thing that it got wrong."""
        other = slug != self.state.slug
        wrong = self.state.read(slug, parameters)
        if other:
            self.desk.cancel(self.slot)
            self.asked, self.rows, self.note = None, [], ""
        self.layout.visible = bool(self.state.chosen)
        self.update()
        return wrong

    def written(self) -> dict[str, str]:
        return self.state.written()

    def act(self, name: str, given: Any) -> None:
        """A control was set."""
        try:
            if name == RUN and self.running:
                self.desk.cancel(self.slot)
            elif name == RUN:
                self.run()
            else:
                self.state.turn(name, given)
        except ValueError as error:
            self.say(str(error))
            return
        self.update()
        self.changed()

    @property
    def running(self) -> bool:
        return any(job.slot == self.slot for job in self.desk.pending)

    def run(self) -> None:
        """Start the study as it is set."""
        self.say("")
        self.asked, self.rows, self.note = (self.state.study, self.state.run), [], ""
        self.desk.run(self.slot, compute(*self.asked), self._arrived, self._ended, lane="long")

    def update(self) -> None:
        """Bring all of it up to date with what is chosen, and with the rows that are there."""
        if not self.state.chosen:
            return
        self.form.show(self.state.fields(self.running))
        self._recorded = measure.recorded_study(catalog.paper(self.state.slug), self.state.study)
        retext(self.question, f"<p>{escape(self.state.study.question)}</p>")
        self._draw()

    def _arrived(self, part: Any) -> None:
        if isinstance(part, Row):
            self.rows.append(part.values)
            if time.monotonic() - self._drawn_at > DRAW_S:
                self._draw()

    def _ended(self, job: Job) -> None:
        if job.state == "failed":
            self.say(job.error)
        if job.state != "done":
            self.note = f"Stopped after {len(self.rows)} rows: what was drawn stays."
        self.update()

    def _draw(self) -> None:
        study, recorded = self.state.study, self._recorded
        mine = self.asked is not None and self.asked[0] is study
        table = measure.study_frame(study, self.rows if mine else [])
        made_for = (study, mine and self.asked[1].device)
        if made_for != self._made_for or not self.curve.drawn:
            self.curve.draw(_curve, study, table, recorded)
            self._made_for = made_for
        else:
            self.curve.change(plots.update_study_curves, study, table, recorded)
        retext(self.words, f"<p class='small'>{self._said(mine, recorded)}</p>")
        retext(self.table, _table(study, table))
        self._drawn_at = time.monotonic()

    def _said(self, mine: bool, recorded: pd.DataFrame | None) -> str:
        words = []
        if not mine or not (self.rows or self.running):
            words.append("Nothing was run here yet: press <b>Run</b>.")
        elif self.asked[1] != self.state.run:
            words.append("<b>These rows are of another choice.</b> Press <b>Run</b> for this one.")
        else:
            total = self.asked[1].total(self.asked[0])
            words.append(f"{len(self.rows)} rows" + (f" of {total}." if total else "."))
        words.append(self.note if mine else "")
        if recorded is not None:
            machine = measure.machine_line(recorded.attrs["provenance"])
            words.append(f"Recorded on {escape(machine)} ({escape(settings_line(recorded.attrs['run']))}): hollow.")
        return " ".join(filter(None, words))

    # --- taking away ---

    def csv(self) -> str:
        """The rows with the machine that they come from; empty when nothing was run."""
        if not self.rows:
            return ""
        table = measure.study_frame(self.asked[0], self.rows)
        for name, value in measure.machine(self.asked[1].device).items():
            table[f"machine_{name}"] = value
        return table.to_csv(index=False)

    def lines(self) -> str:
        """The Python lines that run the study as it is set; empty where the paper has none."""
        if not self.state.chosen:
            return ""
        run = self.state.run
        knobs = "".join(f", {name}={value!r}" for name, value in run.knobs.items())
        return (
            f"study = catalog.paper({self.state.slug!r}).study({self.state.chosen!r})\n"
            f"rows = list(study.rows({run.size!r}, device={run.device!r}{knobs}))"
        )


def _curve(study: Study, table: pd.DataFrame, recorded: pd.DataFrame | None) -> Any:
    return plots.study_curves(study, table, machine=measure.machine_line(measure.machine(device())), recorded=recorded)


def _table(study: Study, table: pd.DataFrame) -> str:
    """The last rows, units in the headings."""
    if not len(table):
        return ""
    heads = "".join(f"<th>{escape(study.heading(name))}</th>" for name in table)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell(value))}</td>" for value in row) + "</tr>"
        for row in table.tail(MOST_ROWS).itertuples(index=False)
    )
    more = f"<p class='small'>The last {MOST_ROWS} rows.</p>" if len(table) > MOST_ROWS else ""
    return f"<div class='table'><table><tr>{heads}</tr>{rows}</table></div>{more}"


def _other(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != defaults[name]}
