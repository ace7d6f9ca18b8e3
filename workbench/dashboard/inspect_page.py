"""Inspect: one sentence through a real pretrained encoder, two configurations side by side."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import panel as pn
import param

from workbench.dashboard import first_screen, inspecting, shell, state, toggles
from workbench.dashboard.inspect_view import InspectView
from workbench.dashboard.inspecting import HEADS, LAYERS, Figures, Maps, Request, Similarity
from workbench.dashboard.jobs import Job, Progress
from workbench.dashboard.knobs import Field, Option, field_of, value_of
from workbench.dashboard.page import Page
from workbench.dashboard.state import Entry
from workbench.dashboard.toggles import Configuration
from workbench.models import pretrained

DEFAULT = first_screen.REQUEST
USES = ("attention", "activation")  # the toggles that these weights can take

ENTRIES = (
    Entry("text", DEFAULT.text),
    Entry("with", DEFAULT.others, lambda text: tuple(filter(None, text.split("|"))), "|".join),
    Entry("layer", first_screen.LAYER, state.number(0, LAYERS - 1)),
    Entry("head", first_screen.HEAD, state.number(0, HEADS - 1)),
    Entry("scales", "shared", state.choice(("shared", "own"))),
    Entry("difference", False, state.flag, state.on_off),
)


class InspectState(param.Parameterized):
    """What is chosen on the page. Change a parameter, and everything that depends on it follows."""

    text = param.String(default=DEFAULT.text)
    others = param.ClassSelector(class_=tuple, default=DEFAULT.others)
    a = param.ClassSelector(class_=Configuration, default=DEFAULT.sides["a"])
    b = param.ClassSelector(class_=Configuration, default=DEFAULT.sides["b"])
    layer = param.Integer(default=first_screen.LAYER, bounds=(0, LAYERS - 1))
    head = param.Integer(default=first_screen.HEAD, bounds=(0, HEADS - 1))
    scales = param.Selector(default="shared", objects=["shared", "own"])
    difference = param.Boolean(default=False)

    @property
    def request(self) -> Request:
        return Request(self.text, self.others, {"a": self.a, "b": self.b})

    def read(self, parameters: Mapping[str, str]) -> list[str]:
        """Take over what a link says; a phrase for each thing that it got wrong."""
        values, wrong = state.decode(ENTRIES, parameters)
        sides = {}
        for side in ("a", "b"):
            sides[side], more = toggles.decode(side, DEFAULT.sides[side], inspecting.knobs_of, parameters)
            wrong += more
        values["others"] = values.pop("with")
        self.param.update(**values, **sides)
        return wrong

    def written(self) -> dict[str, str]:
        values = {**self.param.values(), "with": self.others}
        said = state.encode(ENTRIES, values)
        for side in ("a", "b"):
            said |= toggles.encode(side, DEFAULT.sides[side], inspecting.knobs_of, getattr(self, side))
        return said

    def turn(self, side: str, name: str, given: Any) -> None:
        """One control of a side's card was set. Raises ``ValueError`` when that cannot be."""
        configuration: Configuration = getattr(self, side)
        if name in configuration.methods:
            changed = configuration.choose(name, given)
        elif name == "implementation":
            changed = configuration.run_as(given)
        else:
            toggle, knob_name = name.split(".")
            knob = inspecting.knobs_of(toggle, configuration.method(toggle))[knob_name]
            value = configuration.options(toggle).get(knob.name, knob.default)
            changed = configuration.set(toggle, knob, value_of(knob, value, given, limit=limit(knob.name)))
        setattr(self, side, changed)

    def card(self, side: str) -> list[Field]:
        """The controls of one side: the toggles, how the attention runs, and the knobs of what is chosen."""
        configuration: Configuration = getattr(self, side)
        fields = [
            Field(toggle, toggles.label(toggle), "choice", configuration.methods[toggle],
                  tuple(Option(name, method.title, why_not(toggle, name))
                        for name, method in toggles.methods(toggle).items()))
            for toggle in USES
        ]  # fmt: skip
        implementations = configuration.method("attention").implementations
        fields.insert(1, Field("implementation", "Run as", "choice", configuration.implementation, tuple(
            Option(name, name.replace("_", " "), why_not("implementation", configuration.methods["attention"], name))
            for name in ("auto", *implementations))))  # fmt: skip
        for toggle in USES:
            method = configuration.method(toggle)
            for name, knob in inspecting.knobs_of(toggle, method).items():
                value = configuration.options(toggle).get(name, knob.default)
                fields.append(field_of(knob, value, prefix=f"{toggle}.", group=method.title, limit=limit(name)))
        return fields


def limit(knob: str) -> int | None:
    """Beyond a text's length a window or a block makes no difference."""
    return inspecting.MOST_TOKENS if knob.startswith(("window", "block")) else None


@functools.cache
def why_not(what: str, name: str, implementation: str = "auto") -> str:
    """Why the pretrained encoder cannot take this choice, in one sentence; empty when it can."""
    if reasons := pretrained.why_not():
        return " ".join(reasons)
    encoder = pretrained.load(shell.device())
    asked = {"activation": name} if what == "activation" else {"attention": name, "implementation": implementation}
    return " ".join(encoder.why_not(**asked))


class InspectPage(Page):
    """Turns what is chosen into jobs, and what jobs bring back into figures."""

    slug, title = "inspect", "Inspect"

    def __init__(self, desk, changed, say) -> None:
        super().__init__(desk, changed, say)
        self.state = InspectState()
        self.maps: dict[str, Maps] = {}
        self.similarities: dict[str, Similarity] = {}
        self.figures: Figures | None = None
        self.asked: Request | None = None
        self.on_screen = False
        self.look = InspectView(self.state, self.pick, self.act)
        self.state.param.watch(lambda *events: self._compute(), ["text", "others", "a", "b"])
        self.state.param.watch(lambda *events: self._look(), ["layer", "head", "scales", "difference"])

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

    def pick(self, layer: int, head: int) -> None:
        """A small map was tapped, or a picker moved."""
        self.state.param.update(layer=int(np.clip(layer, 0, LAYERS - 1)), head=int(np.clip(head, 0, HEADS - 1)))

    def act(self, form: str, name: str, given: Any) -> None:
        """A control was set."""
        try:
            if form in ("a", "b"):
                self.state.turn(form, name, given)
            elif name == "swap":
                self.state.param.update(a=self.state.b, b=self.state.a)
            elif name == "copy":
                self.state.b = self.state.a
            elif name == "own":
                self.state.scales = "own" if given else "shared"
            elif name == "example":
                if given:
                    self.state.text = given
            elif name == "others":
                self.state.others = tuple(line.strip() for line in given.splitlines() if line.strip())
            else:
                setattr(self.state, name, given)
        except ValueError as error:
            self.say(str(error))

    # --- computing ---

    def _compute(self) -> None:
        request = self.asked = self.state.request
        self.figures = None
        self.say("")
        try:
            inspecting.check(request.text, request.others)
        except ValueError as error:
            self.desk.cancel(self.slug)
            self.say(str(error))
            self.look.controls()
            return
        if request == DEFAULT and not self.maps:
            self.maps = first_screen.load()
        for part in inspecting.known(request):
            self._keep(part)
        self._draw()
        self.look.controls()
        self.desk.run(self.slug, inspecting.compute(request, shell.device()), self._arrived, self._ended)
        self.changed()

    def complete(self) -> None:
        if self.desk.closed:
            return
        self.look.overviews(self.maps)
        self.look.similarity(self.similarities)
        self.on_screen = True

    def _keep(self, part: Any) -> None:
        if isinstance(part, Maps):
            self.maps[part.side] = part
        elif isinstance(part, Similarity):
            self.similarities[part.side] = part
        elif isinstance(part, Figures):
            self.figures = part

    def _draw(self) -> None:
        """Bring every figure up to date: the large maps now, the rest right after they are on their way."""
        self.look.maps(self.maps)
        self.look.costs(self.figures, self.maps, waiting=self.figures is None)
        if self.on_screen:
            self.desk.schedule(self.complete)

    def _arrived(self, part: Any) -> None:
        if not isinstance(part, Progress):
            self._keep(part)
            self._draw()

    def _ended(self, job: Job) -> None:
        if job.state == "failed":
            self.say(job.error)
        if job.state != "done":
            self.look.costs(self.figures, self.maps, waiting=False)
        self.changed()

    def _look(self) -> None:
        self.look.controls()
        self._draw()
        self.changed()

    # --- taking away ---

    def csv(self) -> str:
        """The two maps that are shown, one row a pair of tokens."""
        if set(self.maps) != {"a", "b"}:
            return ""
        import pandas as pd

        chosen = self.state.layer, self.state.head
        tokens = self.maps["a"].tokens
        rows, columns = np.indices((len(tokens), len(tokens)))
        table = pd.DataFrame({
            "layer": chosen[0], "head": chosen[1],
            "query_position": rows.ravel(), "query": [tokens[row] for row in rows.ravel()],
            "key_position": columns.ravel(), "key": [tokens[column] for column in columns.ravel()],
            "weight_a": self.maps["a"].maps[chosen].ravel(), "weight_b": self.maps["b"].maps[chosen].ravel(),
        })  # fmt: skip
        written = io.StringIO()
        table.to_csv(written, index=False)
        return written.getvalue()

    def lines(self) -> str:
        return inspecting.python_lines(self.state.request, self.state.layer, self.state.head, shell.device())
