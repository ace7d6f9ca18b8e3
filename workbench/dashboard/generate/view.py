"""How the page Generate looks: controls, the strip of steps, samples, numbers."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.plotting import figure as Plot

from workbench import plots
from workbench.dashboard.generate import work as generating
from workbench.dashboard.generate.work import (
    SIDES,
    UNCACHED,
    Going,
    Judgement,
    Request,
    Setting,
    Times,
    Walk,
    decibels,
)
from workbench.dashboard.inspect import seeing
from workbench.dashboard.shell import state, views
from workbench.dashboard.shell.figures import Figure
from workbench.dashboard.shell.knobs import Form
from workbench.dashboard.shell.page import pair, retext, stack, text
from workbench.measure import Timing
from workbench.measure.memory import in_words
from workbench.writing import duration, number

if TYPE_CHECKING:
    from workbench.dashboard.generate.page import GenerateState

COLUMNS = {10: 5, 20: 10, 50: 10, 100: 10, 200: 20}

# Links to views with something to see, each one click away from the first screen.
TRY = views.worth_seeing("generate", {})


class GenerateView:
    """The parts of the page and how to bring each of them up to date. Knows nothing of jobs."""

    def __init__(self, figure: Callable[..., Figure], act: Callable[[str, str, Any], None]) -> None:
        self.common = Form(lambda name, given: act("page", name, given), legend="What is drawn")
        self.cards = {
            side: Form(lambda name, given, side=side: act(side, name, given), look="card", badge=side.upper(),
                       legend=f"Configuration {side.upper()}")
            for side in SIDES
        }  # fmt: skip
        self.strip_of_steps = figure(min_height=150)
        self.samples = {side: figure() for side in SIDES}
        self.heads = {side: text() for side in SIDES}
        self.differences = {side: figure() for side in SIDES}
        self.equal = {side: text() for side in SIDES}
        self.errors = figure(min_height=300)
        self.table = text()
        self.recorded = stack(text(recorded()), look="sheet")
        self.recorded.visible = bool(recorded())
        self.strip = text()
        self.shown: dict[Any, Any] = {}
        sheets = (
            stack(self.heads[side], self.samples[side], self.equal[side], self.differences[side], look=f"sheet {side}")
            for side in SIDES
        )
        self.layout = stack(
            text(_introduction()),
            stack(self.common, look="sheet"),
            pair(self.cards["a"], self.cards["b"]),
            stack(text("<h2>Steps</h2><p class='small'>Full: the network was computed. Pale: its output was forecast "
                       "from earlier steps. Outlined: still to come.</p>"), self.strip_of_steps, look="sheet"),
            pair(*sheets),
            pair(stack(text("<h2>Distance to the walk without a cache</h2>"), self.errors, look="sheet"),
                 stack(text("<h2>In numbers</h2>"), self.table, look="sheet")),
            self.recorded,
            text("<p class='small'>A diffusion transformer of 6 blocks turns noise into digits. Attention, activation, "
                 "hierarchy and doubly stochastic normalisation are fixed by its trained weights: for those see "
                 "<a href='?page=inspect'>Inspect</a> and <a href='?page=train'>Train</a>.</p>"),
            stack(self.strip, look="stick"),
        )  # fmt: skip

    def controls(self, chosen: GenerateState) -> None:
        self.common.show(chosen.common())
        for side in SIDES:
            self.cards[side].show(chosen.card(side))

    def timeline(self, steps: int, going: Mapping[str, Going], walks: Mapping[str, Walk]) -> None:
        """The strip: what each step was, as far as it is known."""
        done = {side: each for side in SIDES if (each := walks.get(side) or going.get(side)) is not None}
        shares = {side.upper(): each.shares for side, each in done.items()}
        more = {side.upper(): [_gate(error) for error in each.errors] for side, each in done.items()}
        if not self.strip_of_steps.drawn:
            self.strip_of_steps.draw(_timeline, shares, steps, more)
        else:
            self.strip_of_steps.change(plots.update_timeline, shares, steps, more)

    def pictures(
        self, setting: Setting, going: Mapping[str, Going], walks: Mapping[str, Walk], difference: bool
    ) -> None:
        """The samples of both sides as far as they are, and below each what differs from those without a cache."""
        columns = COLUMNS[setting.count]
        reference = walks.get(UNCACHED)
        gaps = {}
        for side in SIDES:
            if (shown := walks.get(side) or going.get(side)) is not None:
                self._grid(self.samples[side], ("samples", side), shown.samples, columns)
            if side in walks and reference is not None:
                gaps[side] = walks[side].samples - reference.samples
        largest = max((float(np.abs(gap).max()) for gap in gaps.values()), default=0.0)
        for side in SIDES:
            gap = gaps.get(side)
            differs = gap is not None and bool(np.any(gap))
            self.differences[side].visible = difference and differs
            if difference and differs:
                self._grid(self.differences[side], ("gap", side), gap, columns, signed=largest)
            told = ""
            if difference and gap is not None:
                told = f"<p class='small'>{_difference(float(np.abs(gap).max()), largest)}</p>"
            retext(self.equal[side], told)

    def _grid(self, pane: Any, key: Any, images: np.ndarray, columns: int, signed: float | None = None) -> None:
        before = self.shown.get(key)
        same = before is not None and before[1:] == (columns, signed) and np.array_equal(before[0], images)
        if same:
            return
        self.shown[key] = (images, columns, signed)
        if not pane.drawn:
            pane.draw(plots.image_grid, images, columns=columns, signed=signed)
        else:
            pane.change(plots.update_image_grid, images, columns=columns, signed=signed)

    def distance(self, steps: int, judged: Mapping[str, Judgement]) -> None:
        """How far each side is from the walk without a cache, after every step."""
        if not judged and self.errors.drawn:
            return
        curves = {}
        for side in filter(judged.__contains__, SIDES):
            kept = [(step + 1, each) for step, each in enumerate(judged[side].far) if each > 0]
            curves[side.upper()] = tuple(zip(*kept, strict=True)) if kept else ((), ())
        before, self.shown["far"] = self.shown.get("far"), (steps, curves)
        if before == self.shown["far"]:
            return
        if before is None or before[0] != steps or not self.errors.drawn:
            self.errors.draw(_errors, steps, curves)
        else:
            self.errors.change(plots.update_run_curves, curves)

    def numbers(
        self,
        request: Request,
        walks: Mapping[str, Walk],
        judged: Mapping[str, Judgement],
        times: Times | None,
        waiting: bool,
    ) -> None:
        """Everything counted and measured: heads of the samples, table, the line from A to B."""
        for side in SIDES:
            retext(self.heads[side], _head(side, request, walks.get(side)))
        retext(self.table, table(request, walks, judged, times, waiting))
        retext(self.strip, comparison(request, walks, judged, times, waiting))


def _timeline(shares: Mapping[str, Any], steps: int, more: Mapping[str, Any]) -> Plot:
    made = plots.timeline(steps)
    plots.update_timeline(made, shares, steps, more)
    return made


def _errors(steps: int, curves: Mapping[str, tuple]) -> Plot:
    made = plots.run_curves("relative distance", steps=steps, x_label="sampling step", log_y=True)
    plots.update_run_curves(made, curves)
    return made


def _difference(own: float, largest: float) -> str:
    if not own:
        return "Nothing differs from the same noise without a cache."
    return (
        f"The difference to the same noise without a cache, at most {number(own, 2)} where black to white is "
        f"2. Blue: brighter, orange: darker; the strongest colour is {number(largest, 2)} on both sides."
    )


def _spread(timing: Timing) -> str:
    between = f"{duration(timing.low_ms)} to {duration(timing.high_ms)}, n = {timing.repeats}"
    between = between if timing.repeats > 1 else "one run"
    return f"{duration(timing.median_ms)}<br><small>{between}</small>"


def _counted(walk: Walk) -> str:
    return f"{sum(share > 0 for share in walk.shares)} of {len(walk.shares)}"


def _gate(error: float | None) -> str:
    return "" if error is None else f"gate's estimate of the error: {number(error)}"


def _head(side: str, request: Request, walk: Walk | None) -> str:
    configuration = request.sides[side]
    title = configuration.method("caching").title if configuration.is_on("caching") else "no cache"
    counted = "sampling …" if walk is None else f"{_counted(walk)} steps computed"
    return f"<h2>{side.upper()} · {html.escape(title)} <small>{counted}</small></h2>"


def table(
    request: Request, walks: Mapping[str, Walk], judged: Mapping[str, Judgement], times: Times | None, waiting: bool
) -> str:
    """Three columns: without a cache, A, B."""
    sides = (UNCACHED, *SIDES)
    wait = "…" if waiting else "–"

    def row(what: str, cell: Callable[[str], str], note: str = "") -> str:
        cells = "".join(f"<td>{cell(side)}</td>" for side in sides)
        return f"<tr title='{html.escape(note)}'><td>{what}</td>{cells}</tr>"

    def of(found: Mapping[str, Any], words: Callable[[Any], str]) -> Callable[[str], str]:
        return lambda side: words(found[side]) if side in found else wait

    timings = {} if times is None else times.timings
    base = timings.get(UNCACHED)
    rows = [
        row("steps computed", of(walks, _counted)),
        row("blocks computed", of(walks, lambda walk: number(walk.blocks, 4)),
            "of the network's 6 blocks, over all steps, for one image on average"),
        row("all steps took", of(timings, _spread),
            "median, smallest and largest of runs made in turn"),
        row("faster by", of(timings, lambda each: f"×{base.median_ms / each.median_ms:.2f}"), "without a cache / with"),
        row("cache holds", of(walks, lambda walk: in_words(walk.cache_bytes) if walk.cache_bytes else "nothing")),
        row("PSNR to no cache", of(judged, lambda each: decibels(each.psnr_db)),
            "likeness to the samples from the same noise without a cache, mean over the images"),
        row("Fréchet distance", of(judged, lambda each: "–" if each.frechet is None else f"{each.frechet:.2f}"),
            "to the real digits, in the features of a small classifier; compare at equal numbers of images only"),
        row("digit recognised", of(judged, lambda each: f"{100 * each.accuracy:.0f} %"),
            "share of the images that a classifier takes for the digit that was asked for"),
    ]  # fmt: skip
    note = ""
    if judged and all(each.frechet is None for each in judged.values()):
        note = (
            f"<p class='small'>The Fréchet distance compares distributions: choose {generating.JUDGED} images or more, "
            "of all digits.</p>"
        )
    head = "<tr><th></th><th>no cache</th><th>A</th><th>B</th></tr>"
    return f"<div class='table'><table>{head}{''.join(rows)}</table></div>{note}"


def comparison(
    request: Request, walks: Mapping[str, Walk], judged: Mapping[str, Judgement], times: Times | None, waiting: bool
) -> str:
    """A to B in one line: blocks, time, cache, likeness."""
    parts = []
    if all(side in walks for side in SIDES):
        parts.append(_part("blocks", *(number(walks[side].blocks, 4) for side in SIDES)))
    if times is not None:
        a, b = (times.timings[side] for side in SIDES)
        said = filter(None, seeing.compared(times.timings, request.sides["a"] == request.sides["b"]))
        parts.append(_part("all steps", duration(a.median_ms), duration(b.median_ms), ", ".join(said)))
    elif waiting:
        parts.append("<div class='note'>measuring time …</div>")
    if all(side in walks for side in SIDES):
        sizes = (in_words(walks[side].cache_bytes) if walks[side].cache_bytes else "none" for side in SIDES)
        parts.append(_part("cache", *sizes))
    if all(side in judged for side in SIDES):
        parts.append(_part("PSNR to no cache", *(decibels(judged[side].psnr_db) for side in SIDES)))
    if times is not None:
        machine = html.escape(times.machine)
        parts.append(f"<div class='note where' title='{machine}'>{machine}</div>")
    return f"<div class='strip' role='status'><span class='what'>A → B</span>{''.join(parts)}</div>"


def _part(what: str, a: str, b: str, note: str = "") -> str:
    return (
        f"<div><span class='what'>{what}</span> <b class='a'>{a}</b> → <b class='b'>{b}</b> "
        f"<span class='note'>{note}</span></div>"
    )


@functools.cache
def recorded() -> str:
    """What was recorded on a GPU with a network of the papers' size, labelled as such; empty when nothing was."""
    rows = "".join(
        f"<tr><td>{html.escape(line.what)}</td><td>{html.escape(line.reported) or '–'}</td>"
        f"<td>{html.escape(line.measured)}<br><small>{html.escape(line.source)}</small></td></tr>"
        for line in generating.recorded()
    )
    if not rows:
        return ""
    head = "<tr><th>what</th><th>the paper says</th><th>recorded</th></tr>"
    return (
        f"<h2>Recorded on a GPU, {generating.LARGE}</h2><p class='small'>Not measured here: the network of the papers' "
        f"size, with random weights.</p><div class='table'><table>{head}{rows}</table></div>"
    )


def _introduction() -> str:
    links = " · ".join(
        f'<a href="{html.escape(state.join({"page": "generate", **view}))}">{name}</a>' for name, view in TRY.items()
    )
    return (
        "<p>The same noise becomes digits twice, as <b>A</b> and as <b>B</b>. A cache skips the network at some steps "
        "and forecasts what it would have said: how many can be skipped unseen? "
        f"<span class='small'>Try: {links}</span></p>"
    )
