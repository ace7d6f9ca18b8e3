"""Train: two small models side by side on the spot, differing in the toggles; curves grow while they learn."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd
import panel as pn
import param

from workbench import measure
from workbench.dashboard import first_runs
from workbench.dashboard.shell import state, toggles
from workbench.dashboard.shell.device import device
from workbench.dashboard.shell.jobs import Job
from workbench.dashboard.shell.knobs import Field, Option, field_of, value_of
from workbench.dashboard.shell.page import Page
from workbench.dashboard.shell.state import Entry
from workbench.dashboard.train import racers
from workbench.dashboard.train import work as racing
from workbench.dashboard.train.racers import ATTENTION, SEED, SHAPE, SIDES, STEPS, Request, Side, mixings
from workbench.dashboard.train.view import TrainView
from workbench.dashboard.train.work import Point, Start
from workbench.models.vit import no_attention

USES = ("attention", "hierarchy", "doubly_stochastic", "activation")
DRAW_S = 0.3  # growing curves are drawn at most so often
RUN = "run"


class TrainState(param.Parameterized):
    """What is chosen on the page."""

    task = param.String(default=first_runs.RACE.task)
    a = param.ClassSelector(class_=Side, default=first_runs.RACE.sides["a"])
    b = param.ClassSelector(class_=Side, default=first_runs.RACE.sides["b"])
    steps = param.Integer(default=STEPS.default)
    seed = param.Integer(default=SEED.default)
    shape = param.Dict(default={})

    @property
    def request(self) -> Request:
        return Request(self.task, {"a": self.a, "b": self.b}, self.steps, self.seed, self.shape)

    def turn_to(self, task: str) -> None:
        """Another task, with what it starts from."""
        self.param.update(task=task, **racers.start(task), shape={})

    # --- the link ---

    def read(self, parameters: Mapping[str, str]) -> list[str]:
        """Take over what a link says; a sentence for each thing that it got wrong."""
        first = Entry("task", first_runs.RACE.task, _task)
        found, wrong = state.decode([first], parameters)
        values, more = state.decode(self._entries(found["task"]), parameters)
        wrong += more
        sides = {}
        for side, default in racers.start(found["task"]).items():
            configuration, more = toggles.decode(side, default.configuration, racers.knobs_of, parameters)
            wrong += more
            sides[side] = Side(configuration, values[f"{side}.mixing"], values[f"{side}.feed_forward"])
        defaults = racers.shape(found["task"])
        shape = {name: value for name in SHAPE if (value := values[f"shape.{name}"]) != defaults[name]}
        sides, more = racers.fitted(Request(found["task"], sides, values["steps"], values["seed"], shape))
        wrong += more
        self.param.update(task=found["task"], steps=values["steps"], seed=values["seed"], shape=shape, **sides)
        return wrong

    def written(self) -> dict[str, str]:
        said = {} if self.task == first_runs.RACE.task else {"task": self.task}
        values = {"steps": self.steps, "seed": self.seed}
        for side, default in racers.start(self.task).items():
            chosen: Side = getattr(self, side)
            said |= toggles.encode(side, default.configuration, racers.knobs_of, chosen.configuration)
            values |= {f"{side}.mixing": chosen.mixing, f"{side}.feed_forward": chosen.feed_forward}
        values |= {f"shape.{name}": value for name, value in self.request.full_shape.items()}
        return said | state.encode(self._entries(self.task), values)

    @staticmethod
    def _entries(task: str) -> list[Entry]:
        entries = [Entry(knob.name, knob.default, state.turned(knob)) for knob in (STEPS, SEED)]
        for side, default in racers.start(task).items():
            entries.append(Entry(f"{side}.mixing", default.mixing, state.choice(mixings())))
            entries.append(Entry(f"{side}.feed_forward", default.feed_forward, state.flag, state.on_off))
        defaults = racers.shape(task)
        return entries + [Entry(f"shape.{name}", defaults[name], state.turned(knob)) for name, knob in SHAPE.items()]

    # --- the controls ---

    def turn(self, side: str, name: str, given: Any) -> None:
        """One control of a side's card was set. Raises ``ValueError`` when that cannot be."""
        chosen: Side = getattr(self, side)
        configuration = chosen.configuration
        if name == "mixing":
            chosen = Side(configuration, given, chosen.feed_forward)
        elif name == "feed_forward":
            chosen = Side(configuration, chosen.mixing, given == "on")
        else:
            if name in configuration.methods:
                configuration = configuration.choose(name, given)
            elif name == "implementation":
                configuration = configuration.run_as(given)
            else:
                toggle, knob_name = name.split(".")
                knob = racers.knobs_of(toggle, configuration.method(toggle))[knob_name]
                value = configuration.options(toggle).get(knob.name, knob.default)
                limit = racers.limit(self.task, knob.name)
                configuration = configuration.set(toggle, knob, value_of(knob, value, given, limit=limit))
            chosen = Side(configuration, chosen.mixing, chosen.feed_forward)
        setattr(self, side, chosen)

    def turn_common(self, name: str, given: Any) -> None:
        """One control of both sides was set."""
        if name == "task":
            self.turn_to(given)
        elif name in ("steps", "seed"):
            setattr(self, name, value_of({"steps": STEPS, "seed": SEED}[name], getattr(self, name), given))
        else:
            knob = name.removeprefix("shape.")
            sizes, defaults = self.request.full_shape, racers.shape(self.task)
            sizes[knob] = value_of(SHAPE[knob], sizes[knob], given)
            self.shape = {each: value for each, value in sizes.items() if value != defaults[each]}

    def common(self, running: bool, refused: str) -> list[Field]:
        """The controls of both sides."""
        tasks = tuple(Option(name, words, racers.task_why_not(name)) for name, words in racers.TASKS.items())
        sizes = self.request.full_shape
        return [
            Field("task", "What is learned", "choice", self.task, tasks),
            field_of(STEPS, self.steps),
            field_of(SEED, self.seed),
            Field(RUN, "Stop" if running else "Train", "button", "" if running else "strong",
                  why="" if running else refused, sends="stop" if running else "start"),
            Field("swap", "Swap A and B", "button"),
            Field("copy", "Copy A to B", "button"),
            *(field_of(knob, sizes[name], prefix="shape.", group="Model and training, the same for both")
              for name, knob in SHAPE.items()),
        ]  # fmt: skip

    def card(self, side: str) -> list[Field]:
        """The controls of one side."""
        chosen: Side = getattr(self, side)
        configuration, request = chosen.configuration, self.request
        why = functools.partial(racers.conflict, request, side)
        offered = tuple(Option(name, words, why("mixing", name)) for name, words in mixings().items())
        told = no_attention().get(chosen.mixing, "what the toggles beside say")
        fields = [Field("mixing", "Tokens are mixed by", "choice", chosen.mixing, offered, help=told)]
        for toggle in USES:
            options = tuple(Option(name, title, why(toggle, name)) for name, title in toggles.choices(toggle).items())
            fields.append(Field(toggle, toggles.label(toggle), "choice", configuration.methods[toggle], options))
        halves = tuple(Option(name, name, why("feed_forward", name)) for name in ("on", "off"))
        fields.append(
            Field("feed_forward", "Feed-forward part", "choice", state.on_off(chosen.feed_forward), halves)
        )  # fmt: skip
        if chosen.mixing == ATTENTION:
            method = configuration.mixer
            for name, knob in racers.knobs_of(configuration.mixing, method).items():
                value = configuration.options(configuration.mixing).get(name, knob.default)
                limit = racers.limit(self.task, name)
                prefix = f"{configuration.mixing}."
                fields.append(field_of(knob, value, prefix=prefix, group=method.title, limit=limit))
        return fields


class TrainPage(Page):
    """Turns what is chosen into a race, and draws its laps as they come."""

    slug, title = "train", "Train"

    def __init__(self, desk, changed, say) -> None:
        super().__init__(desk, changed, say)
        self.state = TrainState()
        self.asked: Request | None = None  # what the curves on the screen are of
        self.start: Start | None = None
        self.points: list[Point] = []
        self.drawn = 0.0
        self.look = TrainView(self.figure, self.act)
        self.state.param.watch(lambda *events: self._chosen(), ["task", "a", "b", "steps", "seed", "shape"])

    def open(self, parameters: Mapping[str, str]) -> list[str]:
        with param.parameterized.batch_call_watchers(self.state):
            wrong = self.state.read(parameters)
        self._chosen()
        return wrong

    def parameters(self) -> dict[str, str]:
        return self.state.written()

    def view(self) -> pn.viewable.Viewable:
        return self.look.layout

    def act(self, form: str, name: str, given: Any) -> None:
        """A control was set."""
        try:
            if name == RUN and self.running:
                self.desk.cancel(self.slug)
            elif name == RUN:
                self.run()
            elif name == "swap":
                self.state.param.update(a=self.state.b, b=self.state.a)
            elif name == "copy":
                self.state.b = self.state.a
            else:
                with param.parameterized.batch_call_watchers(self.state):
                    if form in SIDES:
                        self.state.turn(form, name, given)
                    else:
                        self.state.turn_common(name, given)
        except ValueError as error:
            self.say(str(error))

    @property
    def running(self) -> bool:
        return any(job.slot == self.slug for job in self.desk.pending)

    def run(self) -> None:
        """Start the race, unless it is refused."""
        request = self.state.request
        refused = racing.estimate(request, device()).refused
        if refused:
            return self.say(refused)
        self.say("")
        self.asked, self.start, self.points = request, None, []
        self.desk.run(self.slug, racing.compute(request, device()), self._arrived, self._ended, lane="long")
        self._chosen()

    def _chosen(self) -> None:
        """What is chosen is another thing now: new controls, a new estimate, what is known of it already."""
        request = self.state.request
        guess = racing.estimate(request, device())
        self.look.controls(self.state, self.running, guess.refused)
        known = racing.known(request)
        if known is None and request == first_runs.RACE and not self.points:
            known = first_runs.race()
        if known is not None and not self.running:
            self.asked, self.start, self.points = request, known.start, list(known.points)
        elif self.asked is not None and self.asked.task != request.task and not self.running:
            self.asked, self.start, self.points = None, None, []
        self.look.estimate(guess, request, self.asked, bool(self.points))
        self._draw()
        self.changed()

    def _arrived(self, part: Any) -> None:
        if isinstance(part, Start):
            self.start = part
        elif isinstance(part, Point):
            self.points.append(part)
        if time.monotonic() - self.drawn > DRAW_S:
            self._draw()

    def _ended(self, job: Job) -> None:
        if job.state == "failed":
            self.say(job.error)
        elif job.state == "cancelled" and self.points:
            self.say(f"Stopped at step {self.points[-1].step:,} of {self.asked.steps:,}: what was drawn stays.")
        self._chosen()

    def _draw(self) -> None:
        self.look.draw(self.asked or self.state.request, self.start, self.points)
        self.drawn = time.monotonic()

    # --- taking away ---

    def csv(self) -> str:
        if not self.points:
            return ""
        score = "validation_loss" if self.asked.task == racers.GRAMMAR else "accuracy"
        table = pd.DataFrame({
            "side": [point.side.upper() for point in self.points],
            "model": [racers.words(self.asked, point.side) for point in self.points],
            "step": [point.step for point in self.points],
            "training_loss": [point.loss for point in self.points],
            score: [point.score for point in self.points],
            "ms_per_step": [point.step_ms for point in self.points],
        })  # fmt: skip
        for name, value in measure.machine(device()).items():
            table[f"machine_{name}"] = value
        return table.to_csv(index=False)

    def lines(self) -> str:
        try:
            return racers.python_lines(self.state.request, device())
        except ValueError as error:
            return f"# {error}"


def _task(text: str) -> str:
    task = state.choice(racers.TASKS)(text)
    if reason := racers.task_why_not(task):
        raise ValueError(reason)
    return task
