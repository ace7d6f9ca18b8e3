"""Generate: digits from noise, with and without a cache; which steps were computed, and what that saves and costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
import param

from workbench import measure
from workbench.dashboard import first_runs
from workbench.dashboard.generate import work as generating
from workbench.dashboard.generate.view import GenerateView
from workbench.dashboard.generate.work import (
    COUNTS,
    DIGITS,
    GUIDANCE,
    SEED,
    SIDES,
    STEPS,
    Going,
    Judgement,
    Request,
    Setting,
    Times,
    Walk,
)
from workbench.dashboard.shell import state, toggles
from workbench.dashboard.shell.device import device
from workbench.dashboard.shell.jobs import Job
from workbench.dashboard.shell.knobs import Field, Option, field_of, value_of
from workbench.dashboard.shell.page import Page
from workbench.dashboard.shell.state import Entry
from workbench.dashboard.shell.toggles import Configuration

DRAW_S = 0.12  # a walk under way is drawn at most so often
KNOBS = {knob.name: knob for knob in (GUIDANCE, STEPS, SEED)}
START = first_runs.GENERATION

ENTRIES = (
    Entry("digit", START.setting.digit, state.choice(DIGITS)),
    Entry("count", START.setting.count, state.one_of(COUNTS)),
    *(Entry(name, getattr(START.setting, name), state.turned(knob)) for name, knob in KNOBS.items()),
    Entry("switch", START.setting.switch, state.flag, state.on_off),
    Entry("difference", True, state.flag, state.on_off),
)


class GenerateState(param.Parameterized):
    """What is chosen on the page."""

    setting = param.ClassSelector(class_=Setting, default=START.setting)
    a = param.ClassSelector(class_=Configuration, default=START.sides["a"])
    b = param.ClassSelector(class_=Configuration, default=START.sides["b"])
    difference = param.Boolean(default=True)

    @property
    def request(self) -> Request:
        return Request(self.setting, {"a": self.a, "b": self.b})

    def read(self, parameters: Mapping[str, str]) -> list[str]:
        """Take over what a link says; a sentence for each thing that it got wrong."""
        values, wrong = state.decode(ENTRIES, parameters)
        difference = values.pop("difference")
        sides = {}
        for side in SIDES:
            sides[side], more = toggles.decode(side, START.sides[side], generating.knobs_of, parameters)
            wrong += more
            sides[side], more = toggles.fitted(
                side, sides[side], START.sides[side], lambda configuration, what, name: generating.why_not(name)
            )
            wrong += more
        self.param.update(setting=Setting(**values), difference=difference, **sides)
        return wrong

    def written(self) -> dict[str, str]:
        said = state.encode(ENTRIES, {**vars(self.setting), "difference": self.difference})
        for side in SIDES:
            said |= toggles.encode(side, START.sides[side], generating.knobs_of, getattr(self, side))
        return said

    def turn(self, side: str, name: str, given: Any) -> None:
        """One control of a side's card was set. Raises ``ValueError`` when that cannot be."""
        configuration: Configuration = getattr(self, side)
        if name == "caching":
            changed = configuration.choose(name, given)
        else:
            knob = configuration.method("caching").knobs[name.removeprefix("caching.")]
            value = configuration.options("caching").get(knob.name, knob.default)
            changed = configuration.set("caching", knob, value_of(knob, value, given))
        setattr(self, side, changed)

    def turn_common(self, name: str, given: Any) -> None:
        """One control of both sides was set."""
        if name in KNOBS:
            given = value_of(KNOBS[name], getattr(self.setting, name), given)
        elif name == "count":
            given = int(given)
        self.setting = replace(self.setting, **{name: given})

    def common(self) -> list[Field]:
        """The controls of both sides."""
        digits = tuple(Option(digit, "0 to 9 in turn" if digit == "all" else digit) for digit in DIGITS)
        counts = tuple(Option(str(count), str(count)) for count in COUNTS)
        return [
            Field("digit", "Digit", "choice", self.setting.digit, digits),
            Field("count", "Images", "choice", str(self.setting.count), counts),
            *(field_of(knob, getattr(self.setting, name)) for name, knob in KNOBS.items()),
            Field("switch", "Half way, ask for another digit", "flag", self.setting.switch),
            Field("difference", "Show the difference", "flag", self.difference),
            Field("swap", "Swap A and B", "button"),
            Field("copy", "Copy A to B", "button"),
        ]

    def card(self, side: str) -> list[Field]:
        """The controls of one side: what is cached, and the knobs of that."""
        configuration: Configuration = getattr(self, side)
        options = tuple(
            Option(name, "none: every step is computed" if name == toggles.NONE else title, generating.why_not(name))
            for name, title in toggles.choices("caching").items()
        )
        fields = [Field("caching", "Caching", "choice", configuration.methods["caching"], options)]
        if configuration.is_on("caching"):
            method = configuration.method("caching")
            for name, knob in generating.knobs_of("caching", method).items():
                value = configuration.options("caching").get(name, knob.default)
                fields.append(field_of(knob, value, prefix="caching.", group=method.title))
        return fields


class GeneratePage(Page):
    """Turns what is chosen into a job, and what it brings back into pictures and numbers."""

    slug, title = "generate", "Generate"

    def __init__(self, desk, changed, say) -> None:
        super().__init__(desk, changed, say)
        self.state = GenerateState()
        self.walks: dict[str, Walk] = {}
        self.going: dict[str, Going] = {}
        self.judged: dict[str, Judgement] = {}
        self.times: Times | None = None
        self.asked: Request | None = None
        self.on_screen = False
        self.drawn = 0.0
        self.look = GenerateView(self.figure, self.act)
        self.state.param.watch(lambda *events: self._compute(), ["setting", "a", "b"])
        self.state.param.watch(lambda *events: self._look(), ["difference"])

    def open(self, parameters: Mapping[str, str]) -> list[str]:
        with param.parameterized.batch_call_watchers(self.state):
            wrong = self.state.read(parameters)
        if self.asked != self.state.request:
            self._compute()
        return wrong

    def parameters(self) -> dict[str, str]:
        return self.state.written()

    def view(self) -> pn.viewable.Viewable:
        return self.look.layout

    def act(self, form: str, name: str, given: Any) -> None:
        """A control was set."""
        try:
            if form in SIDES:
                self.state.turn(form, name, given)
            elif name == "swap":
                self.state.param.update(a=self.state.b, b=self.state.a)
            elif name == "copy":
                self.state.b = self.state.a
            elif name == "difference":
                self.state.difference = given
            else:
                self.state.turn_common(name, given)
        except ValueError as error:
            self.say(str(error))

    def complete(self) -> None:
        self.on_screen = True
        if not self.desk.closed:
            self._draw(waiting=bool(self.desk.pending))

    # --- computing ---

    def _compute(self) -> None:
        request = self.asked = self.state.request
        first = not self.walks
        self.walks, self.going, self.judged, self.times = {}, {}, {}, None
        self.say("")
        if first and request == START:
            for part in first_runs.generation():
                self._keep(part)
        for part in generating.known(request):
            self._keep(part)
        self.look.controls(self.state)
        self._draw()
        if self.times is None:
            self.desk.run(self.slug, generating.compute(request, device()), self._arrived, self._ended)
        else:
            self.desk.cancel(self.slug)
        self.changed()

    def _keep(self, part: Any) -> None:
        if isinstance(part, Walk):
            self.walks[part.side] = part
        elif isinstance(part, Going):
            self.going[part.side] = part
        elif isinstance(part, Judgement):
            self.judged[part.side] = part
        elif isinstance(part, Times):
            self.times = part

    def _arrived(self, part: Any) -> None:
        self._keep(part)
        if isinstance(part, Going):
            if time.monotonic() - self.drawn > DRAW_S:
                self.look.timeline(self.state.setting.steps, self.going, self.walks)
                self.look.pictures(self.state.setting, self.going, self.walks, self._difference)
                self.drawn = time.monotonic()
        elif isinstance(part, (Walk, Judgement, Times)):
            self._draw()

    def _ended(self, job: Job) -> None:
        if job.state == "failed":
            self.say(job.error)
        self._draw(waiting=False)
        self.changed()

    def _look(self) -> None:
        self.look.controls(self.state)
        self._draw()
        self.changed()

    @property
    def _difference(self) -> bool:
        return self.state.difference and self.on_screen

    def _draw(self, waiting: bool = True) -> None:
        setting = self.state.setting
        self.look.timeline(setting.steps, self.going, self.walks)
        self.look.pictures(setting, self.going, self.walks, self._difference)
        if self.on_screen:
            self.look.distance(setting.steps, self.judged)
        self.look.numbers(self.state.request, self.walks, self.judged, self.times, waiting)
        self.drawn = time.monotonic()

    # --- taking away ---

    def csv(self) -> str:
        """One row a step and side: what it was, its estimate, how far from the walk without a cache."""
        if not self.judged:
            return ""
        rows = []
        for side, judged in self.judged.items():
            walk, far = self.walks[side], judged.far
            for step, (share, error) in enumerate(zip(walk.shares, walk.errors, strict=True)):
                rows.append((side, step + 1, share, np.nan if error is None else error, far[step]))
        table = pd.DataFrame(rows, columns=["side", "step", "computed_share", "gate_error", "distance_to_uncached"])
        for side, judged in self.judged.items():
            walk = self.walks[side]
            chosen = table["side"] == side
            table.loc[chosen, ["blocks", "cache_bytes"]] = walk.blocks, walk.cache_bytes
            if self.times is not None:
                table.loc[chosen, "median_ms"] = self.times.timings[side].median_ms
            table.loc[chosen, ["psnr_db", "accuracy"]] = judged.psnr_db, judged.accuracy
        for name, value in measure.machine(device()).items():
            table[f"machine_{name}"] = value
        return table.to_csv(index=False)

    def lines(self) -> str:
        return generating.python_lines(self.state.request, device())
