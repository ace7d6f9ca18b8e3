"""How the page Train looks: controls, curves, the line that compares."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bokeh.plotting import figure as Plot

from workbench import measure, plots
from workbench.dashboard.shell import state, views
from workbench.dashboard.shell.figures import Figure
from workbench.dashboard.shell.knobs import Form
from workbench.dashboard.shell.page import pair, retext, stack, text
from workbench.dashboard.train import racers
from workbench.dashboard.train import work as racing
from workbench.dashboard.train.racers import GRAMMAR, SIDES, Request
from workbench.dashboard.train.work import Estimate, Point, Start
from workbench.writing import duration, number

if TYPE_CHECKING:
    from workbench.dashboard.train.page import TrainState

MODEL = "Model and training, the same for both"
SECONDS = "seconds of training"

# Links to races with something to see, each one click away from the first screen.
OWN = {
    "Attention, or a gate that never looks around?": {},
    "What if the patches never meet?": {"a.mixing": "mlp_mixer", "b.mixing": "none"},
    "ReLU against GELU": {"b.mixing": "attention", "b.activation": "relu"},
    "The same model twice: what is noise?": {"b.mixing": "attention"},
    "A small language": {"task": GRAMMAR},
}
TRY = views.worth_seeing("train", OWN)


class TrainView:
    """The parts of the page and how to bring each of them up to date. Knows nothing of jobs."""

    def __init__(self, figure: Callable[..., Figure], act: Callable[[str, str, Any], None]) -> None:
        self.common = Form(lambda name, given: act("page", name, given), legend="Training", folded=[MODEL])
        self.cards = {
            side: Form(lambda name, given, side=side: act(side, name, given), look="card", badge=side.upper(),
                       legend=f"Configuration {side.upper()}")
            for side in SIDES
        }  # fmt: skip
        self.hint = text()
        self.figures = {name: figure(min_height=300) for name in ("loss", "second")}
        self.made: dict[str, tuple] = {}  # how each figure was made
        self.curves: dict[str, tuple] = {}  # and what it shows
        self.heads = {name: text() for name in self.figures}
        self.strip = text()
        sheets = (stack(self.heads[name], self.figures[name], look="sheet") for name in self.figures)
        self.layout = stack(
            text(_introduction()),
            stack(self.common, look="sheet"),
            pair(self.cards["a"], self.cards["b"]),
            self.hint,
            pair(*sheets),
            text("<p class='small'>Both sides start from the same random numbers and see the same examples in the same "
                 "order. Caching makes no difference here: it saves work while images are generated, see "
                 "<a href='?page=generate'>Generate</a>.</p>"),
            stack(self.strip, look="stick"),
        )  # fmt: skip

    def controls(self, chosen: TrainState, running: bool, refused: str) -> None:
        self.common.show(chosen.common(running, refused))
        for side in SIDES:
            self.cards[side].show(chosen.card(side))

    def estimate(self, guess: Estimate, request: Request, shown: Request | None, drawn: bool) -> None:
        """The line between the controls and the curves."""
        words = html.escape(guess.words)
        if drawn and shown is not None and shown != request:
            words = f"<b>These curves are of another choice.</b> Press <b>Train</b> for this one. {words}"
        elif not drawn and not guess.refused:
            words = f"Nothing is trained yet: press <b>Train</b>. {words}"
        retext(self.hint, f"<p class='small'>{words}</p>")

    def draw(self, shown: Request, start: Start | None, points: Sequence[Point]) -> None:
        """Bring both figures and the line that compares up to date."""
        names = {side.upper(): racers.words(shown, side) for side in SIDES}
        machine = "" if start is None else start.machine
        loss = {side.upper(): _column(points, side, "loss") for side in SIDES}
        if shown.task == GRAMMAR:
            second = {side.upper(): _over_time(points, side) for side in SIDES}
            kinds = ("training loss (nats a character)", SECONDS, "Loss over time")
        else:
            second = {side.upper(): _column(points, side, "score") for side in SIDES}
            kinds = ("accuracy on held-out images", "step", "Accuracy")
        unit = "nats a character" if shown.task == GRAMMAR else "nats"
        floor = racers.floor(shown.task)
        self._figure("loss", loss, names, (f"training loss ({unit})", "step", "Loss"), shown.steps, floor, machine)
        steps = None if kinds[1] == SECONDS else shown.steps
        timed = steps is None  # a figure with times says on which machine
        self._figure("second", second, names, kinds, steps, floor if timed else None, machine if timed else "")
        retext(self.strip, comparison(shown, start, points))

    def _figure(
        self,
        name: str,
        curves: Mapping[str, tuple],
        names: Mapping[str, str],
        words: tuple[str, str, str],
        steps: int | None,
        floor: tuple[float, str] | None,
        machine: str,
    ) -> None:
        y_label, x_label, head = words
        pane, made = self.figures[name], (words, steps, floor, machine)
        shown, self.curves[name] = self.curves.get(name), (made, dict(curves), dict(names))
        if shown == self.curves[name]:
            return
        if self.made.get(name) != made or not pane.drawn:
            self.made[name] = made
            retext(self.heads[name], f"<h2>{head}</h2>")
            share = y_label.startswith("accuracy")
            pane.draw(_curves, y_label, curves, names,
                      steps=steps, x_label=x_label, share=share, floor=floor, machine=machine)  # fmt: skip
        else:
            pane.change(plots.update_run_curves, curves, names)


def _curves(y_label: str, curves: Mapping[str, tuple], names: Mapping[str, str], **options: Any) -> Plot:
    made = plots.run_curves(y_label, **options)
    plots.update_run_curves(made, curves, names)
    return made


def comparison(shown: Request, start: Start | None, points: Sequence[Point]) -> str:
    """A to B in one line: weights, time a step, loss and score at the last point."""
    parts = []
    if start is not None:
        parts.append(_part("weights", *(f"{start.parameters[side]:,}" for side in SIDES)))
    paces = [racing.pace(points, side) for side in SIDES]
    if all(paces):
        a, b = paces
        more = " · ".join(f"{side.upper()} {number(each.low)} to {duration(each.high)}, n = {each.laps} laps"
                          for side, each in zip(SIDES, paces, strict=True))  # fmt: skip
        ratio = f"×{b.median / a.median:.2f}"
        timings = (measure.Timing(each.median, each.low, each.high, each.laps) for each in paces)
        same = shown.sides["a"] == shown.sides["b"]
        verdict = measure.verdict(*timings, same=same)
        times = (duration(each.median) for each in paces)
        parts.append(_part("one step", *times, note=verdict if same else f"{ratio}, {verdict}", more=more))
    last = [next((point for point in reversed(points) if point.side == side), None) for side in SIDES]
    if all(last):
        parts.append(_part("training loss", *(f"{point.loss:.3f}" for point in last), note=f"at step {last[0].step:,}"))
        if all(point.score is not None for point in last):
            if shown.task == GRAMMAR:
                parts.append(_part("held-out loss", *(f"{point.score:.3f}" for point in last)))
            else:
                parts.append(_part("held-out accuracy", *(f"{100 * point.score:.1f} %" for point in last)))
    if not parts:
        parts.append("<div class='note'>weights, time a step, loss and accuracy stand here once something ran</div>")
    if start is not None:
        escaped = html.escape(start.machine or "computed beforehand: press Train for the times of this machine")
        parts.append(f"<div class='note where' title='{escaped}'>{escaped}</div>")
    return f"<div class='strip' role='status'><span class='what'>A → B</span>{''.join(parts)}</div>"


def _part(what: str, a: str, b: str, note: str = "", more: str = "") -> str:
    return (
        f"<div title='{html.escape(more)}'><span class='what'>{what}</span> "
        f"<b class='a'>{a}</b> → <b class='b'>{b}</b> <span class='note'>{note}</span></div>"
    )


def _column(points: Sequence[Point], side: str, name: str) -> tuple[list[int], list[float]]:
    mine = [point for point in points if point.side == side and getattr(point, name) is not None]
    return [point.step for point in mine], [getattr(point, name) for point in mine]


def _over_time(points: Sequence[Point], side: str) -> tuple[list[float], list[float]]:
    seconds, losses, spent, before = [], [], 0.0, 0
    for point in points:
        if point.side == side:
            spent += point.step_ms * (point.step - before) / 1000
            before = point.step
            seconds.append(spent)
            losses.append(point.loss)
    return seconds, losses


def _introduction() -> str:
    links = " · ".join(
        f'<a href="{html.escape(state.join({"page": "train", **view}))}">{name}</a>' for name, view in TRY.items()
    )
    return (
        "<p>Two small models learn the same thing at the same time, as <b>A</b> and as <b>B</b>. Change what mixes "
        "their tokens or what bends their numbers, press <b>Train</b>, and watch. "
        f"<span class='small'>Try: {links}</span></p>"
    )
