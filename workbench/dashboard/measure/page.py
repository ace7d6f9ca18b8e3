"""Measure: speed, memory and throughput over size, live here, with what was recorded on a GPU beside it."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd
import panel as pn
import param
from bokeh.plotting import figure as Plot

from workbench import catalog, measure, naming, plots
from workbench.dashboard.measure import work as measuring
from workbench.dashboard.measure.work import DIRECTIONS, DTYPES, HIGHEST, LOWEST, Request
from workbench.dashboard.shell import state, toggles
from workbench.dashboard.shell.device import device
from workbench.dashboard.shell.figures import when_drawn
from workbench.dashboard.shell.jobs import Job
from workbench.dashboard.shell.knobs import Field, Form, Option, field_of, value_of
from workbench.dashboard.shell.page import Page, pair, retext, stack, text
from workbench.dashboard.shell.state import Entry

DEFAULT_SIZES = {"attention": (6, 11)}  # of any other family (8, 13)
SIZES = [2**power for power in range(LOWEST, HIGHEST + 1)]
DRAW_S = 1.0  # a running sweep is drawn at most so often
GROUP = ("method", "implementation", "direction")
Y = {"median_ms": "Time", "peak_bytes": "Memory", "tflops_per_s": "Throughput"}


class MeasureState(param.Parameterized):
    """What is chosen on the page."""

    family = param.String()
    chosen = param.ClassSelector(class_=tuple, default=())
    low = param.Integer(default=6, bounds=(LOWEST, HIGHEST))
    high = param.Integer(default=11, bounds=(LOWEST, HIGHEST))
    dtype = param.Selector(default="float32", objects=list(DTYPES))
    directions = param.ClassSelector(class_=tuple, default=("forward",))
    shape = param.Dict(default={})
    options = param.Dict(default={})
    recorded = param.String(
        doc="Which recorded setting stands beside; empty: the one that is most like what is chosen."
    )

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.turn_to(next(iter(measuring.families())))

    @property
    def request(self) -> Request:
        return Request(
            **{name: value for name, value in self.param.values().items() if name not in ("name", "recorded")}
        )

    def turn_to(self, family: str) -> None:
        """Another family, with what it starts from."""
        low, high = DEFAULT_SIZES.get(family, (8, 13))
        self.param.update(
            family=family, chosen=self.start(family), low=low, high=high, shape={}, options={}, recorded=""
        )

    def start(self, family: str) -> tuple[tuple[str, str], ...]:
        """The first choice: methods that their own papers name in ``recordings``, three at most, the first one also as
        equations; so there is something recorded beside them. Of a family without any: its first three methods."""
        methods = measuring.families()[family]
        recorded = [name for paper in catalog.papers() for each in paper.recordings for name in each.methods
                    if name in methods and name in {method.name for method in paper.methods}]  # fmt: skip
        names = list(dict.fromkeys(recorded)) or list(methods)
        chosen = [(names[0], "fast"), (names[0], "reference"), *((name, "fast") for name in names[1:3])]
        return tuple(pair for pair in chosen if not self.why_not(*pair))

    def why_not(self, method: str, implementation: str) -> str:
        return measuring.why_not(method, implementation, self.device, self.dtype)

    # --- the link ---

    def entries(self, family: str) -> list[Entry]:
        low, high = DEFAULT_SIZES.get(family, (8, 13))
        methods = measuring.families()[family]
        pairs = [f"{method.name}:{name}" for method in methods.values() for name in method.implementations]
        return [
            Entry(
                "run", tuple(map(":".join, self.start(family))), state.listed(state.choice(pairs)), state.with_commas
            ),
            Entry("from", 2**low, state.one_of(SIZES)),
            Entry("to", 2**high, state.one_of(SIZES)),
            Entry("dtype", "float32", state.choice(DTYPES)),
            Entry("recorded", ""),
            Entry("direction", ("forward",), state.listed(state.choice(DIRECTIONS)), state.with_commas),
        ]

    def read(self, parameters: Mapping[str, str]) -> list[str]:
        """Take over what a link says; a sentence for each thing that it got wrong."""
        families = measuring.families()
        found, wrong = state.decode([Entry("what", next(iter(families)), state.choice(families))], parameters)
        family = found["what"]
        values, more = state.decode(self.entries(family), parameters)
        wrong += more
        chosen, more = self._can_run(values["run"], values["dtype"], family)
        wrong += more
        low, high = (size.bit_length() - 1 for size in sorted((values["from"], values["to"])))
        asked = Request(family, chosen, low, high)
        knobs = {}
        for kind, offered in (("shape", measuring.shape_knobs(family)), ("option", measuring.option_knobs(asked))):
            entries = [Entry(f"{kind}.{name}", knob.default, state.turned(knob)) for name, knob in offered.items()]
            given, more = state.decode(entries, parameters)
            wrong += more
            knobs[kind] = {name: given[f"{kind}.{name}"] for name, knob in offered.items()
                           if given[f"{kind}.{name}"] != knob.default}  # fmt: skip
        said = {"family": family, "chosen": chosen, "low": low, "high": high, "dtype": values["dtype"],
                "directions": values["direction"], "shape": knobs["shape"], "options": knobs["option"]}  # fmt: skip
        beside, more = self._beside(Request(**said), values["recorded"])
        self.param.update(**said, recorded=beside)
        return wrong + more

    def _can_run(self, run: tuple[str, ...], dtype: str, family: str) -> tuple[tuple[tuple[str, str], ...], list[str]]:
        """What can run here of what a link asks for, and a sentence for each that cannot."""
        kept, told = [], []
        for method, implementation in (each.split(":") for each in run):
            if reason := measuring.why_not(method, implementation, self.device, dtype):
                title, name = catalog.method(method).title, naming.implementation(implementation, method)
                told.append(f"{title}, {name}, cannot run here ({reason.rstrip('.')}): it is left out.")
            else:
                kept.append((method, implementation))
        if told and not kept:
            kept = list(self.start(family))
        return tuple(kept), told

    @staticmethod
    def _beside(request: Request, group: str) -> tuple[str, list[str]]:
        """The recorded setting that a link asks for; none, and a sentence, when there is no such."""
        found = measuring.recorded(request, group)
        if not group or (found is not None and group in found.groups):
            return group, []
        near = state.nearest(group, found.groups) if found is not None else None
        why = "nothing of that name was recorded for what is chosen"
        return near or "", [state.complaint("recorded", group, why, near or "")]

    def written(self) -> dict[str, str]:
        first = next(iter(measuring.families()))
        said = {} if self.family == first else {"what": self.family}
        values = {"run": tuple(map(":".join, self.chosen)), "from": 2**self.low, "to": 2**self.high,
                  "dtype": self.dtype, "direction": self.directions, "recorded": self.recorded}  # fmt: skip
        said |= state.encode(self.entries(self.family), values)
        said |= {f"shape.{name}": str(value) for name, value in self.shape.items()}
        return said | {f"option.{name}": str(value) for name, value in self.options.items()}

    # --- the controls ---

    def turn(self, name: str, given: Any) -> None:
        """One control was set. Raises ``ValueError`` when that cannot be."""
        if name == "what":
            self.turn_to(given)
        elif name.startswith("run."):
            method = name.removeprefix("run.")
            kept = {each: [implementation for other, implementation in self.chosen if other == each]
                    for each in measuring.families()[self.family]} | {method: given}  # fmt: skip
            self.chosen = tuple((each, implementation) for each, names in kept.items() for implementation in names)
            offered = measuring.option_knobs(self.request)
            self.options = {knob: value for knob, value in self.options.items() if knob in offered}
        elif name in ("from", "to"):
            power = LOWEST + given
            low, high = (power, max(power, self.high)) if name == "from" else (min(power, self.low), power)
            self.param.update(low=low, high=high)
        elif name == "dtype":
            self.dtype = given
            self.chosen = tuple(pair for pair in self.chosen if not self.why_not(*pair))
        elif name in ("directions", "recorded"):
            setattr(self, name, given)
        else:
            kind, knob_name = name.split(".")
            where, offered = (("shape", measuring.shape_knobs(self.family)) if kind == "shape"
                              else ("options", measuring.option_knobs(self.request)))  # fmt: skip
            knob = offered[knob_name]
            values = dict(getattr(self, where))
            value = value_of(knob, values.get(knob_name, knob.default), given)
            values[knob_name] = value
            if value == knob.default:
                del values[knob_name]
            setattr(self, where, values)

    def fields(self, running: bool, refused: str) -> list[Field]:
        families = measuring.families()
        sizes = tuple(f"{2**power:,}" for power in range(LOWEST, HIGHEST + 1))
        unit = measuring.axis(self.family)
        fields = [
            Field("what", "What", "choice", self.family, tuple(Option(each, _family_words(each)) for each in families))
        ]
        for method in families[self.family].values():
            options = tuple(Option(name, naming.implementation(name, method.name), self.why_not(method.name, name))
                            for name in method.implementations)  # fmt: skip
            on = tuple(implementation for name, implementation in self.chosen if name == method.name)
            fields.append(Field(f"run.{method.name}", method.title, "many", on, options))
        fields += [
            Field("directions", "Direction", "many", self.directions, tuple(Option(each, each) for each in DIRECTIONS)),
            Field("dtype", "Number format", "choice", self.dtype, tuple(Option(each, each) for each in DTYPES)),
            Field("from", f"From ({unit})", "slider", self.low - LOWEST, stops=sizes),
            Field("to", f"To ({unit})", "slider", self.high - LOWEST, stops=sizes),
            Field("run", "Measuring …" if running else "Run", "button", "strong", why=refused,
                  sends="again" if running else "start"),
        ]
        beside = measuring.recorded(self.request, self.recorded)
        if beside is not None and len(beside.groups) > 1:
            settings = tuple(Option(each, each) for each in beside.groups)
            fields.append(Field("recorded", "Recorded beside it", "choice", beside.group, settings))
        for name, knob in measuring.shape_knobs(self.family).items():
            fields.append(field_of(knob, self.shape.get(name, knob.default), prefix="shape.", group="Shape"))
        for name, knob in measuring.option_knobs(self.request).items():
            fields.append(field_of(knob, self.options.get(name, knob.default), prefix="option.", group="Knobs"))
        return fields


class MeasurePage(Page):
    """Turns what is chosen into a sweep, and draws its rows as they come."""

    slug, title = "measure", "Measure"

    def __init__(self, desk, changed, say) -> None:
        super().__init__(desk, changed, say)
        self.state = MeasureState(device())
        self.rows: list[dict] = []
        self.ceilings: measure.Ceilings | None = None
        self.asked: Request | None = None
        self.seen = threading.Event()
        self.drawn = 0.0
        self.recorded: Any = None
        self.lines_of: dict[str, tuple] = {}
        self.shown: dict[str, tuple] = {}
        self.form = Form(self.act, look="panel", legend="What to measure", folded=["Knobs"])
        self.estimate = text()
        self.beside = text()
        self.problems = text()
        self.figures = {y: self.figure(min_height=340) for y in Y}
        self.roof = self.figure(min_height=300)
        duration, memory, rate = (stack(text(f"<h2>{Y[y]}</h2>"), self.figures[y], look="sheet") for y in Y)
        self.limit = stack(text("<h2>Distance to this machine's limit</h2>"), self.roof, look="sheet")
        self.sheets = stack(duration, pair(memory, rate), self.limit)
        self.layout = stack(
            text("<p>Choose what to compare, and run it here. Every result is checked against the reference before it "
                 "is timed; lines are medians, bands hold 20 to 80 % of the repeats.</p>"),
            pair(
                stack(self.form, look="sheet"),
                stack(self.estimate, self.sheets, self.beside, self.problems),
                look="aside",
            ),
        )  # fmt: skip
        self.state.param.watch(lambda *events: self._chosen(), list(self.state.param.values()))

    def open(self, parameters: Mapping[str, str]) -> list[str]:
        with param.parameterized.batch_call_watchers(self.state):
            wrong = self.state.read(parameters)
        self._chosen()
        return wrong

    def parameters(self) -> dict[str, str]:
        return self.state.written()

    def view(self) -> pn.viewable.Viewable:
        return self.layout

    def act(self, name: str, given: Any) -> None:
        if name == "run":
            return self.run()
        try:
            with param.parameterized.batch_call_watchers(self.state):
                self.state.turn(name, given)
        except ValueError as error:
            self.say(str(error))

    @property
    def running(self) -> bool:
        return any(job.slot == self.slug for job in self.desk.pending)

    def run(self) -> None:
        """Start the sweep, unless it runs already or is refused."""
        request = self.state.request
        if self.running and self.asked == request:
            return self.say("This sweep is running already: it can be cancelled at the top.")
        refused = measuring.estimate(request, device()).refused
        if refused:
            return self.say(refused)
        self.rows, self.asked = [], request
        self.say("")
        self._draw()
        self.desk.run(
            self.slug, measuring.compute(request, device(), self.seen), self._arrived, self._ended, lane="long"
        )
        self._chosen()

    def _chosen(self) -> None:
        """What is chosen is another thing now: new controls, a new estimate, what is known of it already."""
        request = self.state.request
        guess = measuring.estimate(request, device())
        self.form.show(self.state.fields(self.running, guess.refused))
        hint = "" if self.rows or guess.refused else " Nothing is measured yet: press <b>Run</b>."
        retext(self.estimate, f"<p>{html.escape(guess.words)}{hint}</p>")
        rows, ceilings = measuring.known(request)
        if rows and not self.running:
            self.rows, self.ceilings, self.asked = rows, ceilings, request
        if self.asked is None or self.asked.family != request.family:
            self.rows = []
        self._draw()
        self.changed()

    def _arrived(self, part: Any) -> None:
        if isinstance(part, measure.Ceilings):
            self.ceilings = part
        elif isinstance(part, dict):
            self.rows.append(part)
            # Drawing takes time from what is being timed: not before each line has a first point, then now and then.
            first = len(self.asked.chosen) * len(self.asked.directions)
            if len(self.rows) >= first and time.monotonic() - self.drawn > DRAW_S:
                self._draw(last=False)
            when_drawn(lambda: self.desk.schedule(self.seen.set))  # behind what is sent

    def _ended(self, job: Job) -> None:
        if job.state == "failed":
            self.say(job.error)
        elif job.state == "cancelled":
            self.say(f"Cancelled: {len(self.rows)} measurements were made and are shown.")
        self._chosen()

    def _draw(self, last: bool = True) -> None:
        beside = measuring.recorded(self.state.request, self.state.recorded)
        self.recorded = None if beside is None else beside.table
        self.sheets.visible = bool(self.rows) or beside is not None
        lines = self._lines()
        shown = (lines, len(self.rows), self.rows, None if beside is None else beside.what)
        for y in Y:
            if self.shown.get(y) == shown:
                continue
            self.shown[y] = shown
            self._redraw(y, lines)
        self.limit.visible = self.ceilings is not None and bool(self.rows)
        if last and self.limit.visible:
            self.roof.draw(_roof, measure.frame(self.rows), self.ceilings, lines[1])
        retext(self.beside, f"<p class='small'>{_recorded_words(beside)}</p>")
        retext(self.problems, _problems(self.rows))
        self.drawn = time.monotonic()

    def _lines(self) -> tuple:
        """What the lines are: the axis, the columns that tell them apart, those measured here, those recorded."""
        recorded = [] if self.recorded is None else self.recorded.to_dict("records")
        several = len({row["direction"] for row in [*self.rows, *recorded]}) > 1
        group = [name for name in GROUP if several or name != "direction"]

        def names(rows: list[dict]) -> list[tuple]:
            return list(dict.fromkeys(tuple(row[each] for each in group) for row in rows))

        return (measuring.axis(self.state.family), group, names(self.rows), names(recorded))

    def _redraw(self, y: str, lines: tuple) -> None:
        """Bring one figure up to date. The first names the lines and is higher by as much; the others look the same."""
        pane, table = self.figures[y], measure.frame(self.rows)
        options = {"group": lines[1], "recorded": self.recorded}
        if self.lines_of.get(y) == lines and pane.drawn:
            pane.change(plots.update_curves, table, "size", y, **options)
            return
        here = measure.machine_line(measure.machine(device()))
        pane.draw(_curves, table, y, machine=here, x_label=lines[0], **options)
        self.lines_of[y] = lines

    # --- taking away ---

    def csv(self) -> str:
        if not self.rows:
            return ""
        table = measure.frame(self.rows)
        for name, value in measure.machine(device()).items():
            table[f"machine_{name}"] = value
        return table.to_csv(index=False)

    def lines(self) -> str:
        return measuring.python_lines(self.state.request, device())


def _curves(table: pd.DataFrame, y: str, **options: Any) -> Plot:
    made = plots.curves(table, "size", y, **options)
    made.legend[0].visible = y == next(iter(Y))
    return made


def _roof(table: pd.DataFrame, ceilings: measure.Ceilings, group: list[str]) -> Plot:
    made = plots.roofline(table, ceilings, group=group)
    made.legend[0].visible = False
    return made


def _family_words(family: str) -> str:
    return toggles.label(family) if family in toggles.TOGGLES else catalog.paper(family).title


def _recorded_words(beside: measuring.Recorded | None) -> str:
    if beside is None:
        return "No recorded figures yet for what is chosen: only what is measured here is shown."
    return f"Thin and hollow: recorded on {html.escape(beside.machine)} ({html.escape(beside.group)})."


def _problems(rows: list[dict]) -> str:
    """The rows that have no time, and why."""
    lines = [
        f"<tr><td>{html.escape(row['method'])} · {html.escape(row['implementation'])} · {row['direction']}</td>"
        f"<td>{row['size']:,}</td><td>{row['status']}</td><td>{html.escape(row['reason'])}</td></tr>"
        for row in rows
        if row["status"] != "ok"
    ]
    if not lines:
        return ""
    head = "<tr><th>not measured</th><th>size</th><th>status</th><th>why</th></tr>"
    return f"<div class='table'><table>{head}{''.join(lines)}</table></div>"
