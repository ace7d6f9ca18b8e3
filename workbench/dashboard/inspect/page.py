"""Inspect: a sentence through a real pretrained encoder, or an image through a small vision transformer, two
configurations side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import panel as pn
import param

from workbench.dashboard.inspect import first_screen, seeing
from workbench.dashboard.inspect import work_images as inspecting_images
from workbench.dashboard.inspect.seeing import SIDES, Figures, Maps, Sums
from workbench.dashboard.inspect.state import COMPUTED, DEFAULT, WORK, InspectState
from workbench.dashboard.inspect.view import InspectView
from workbench.dashboard.inspect.work import Request, Similarity
from workbench.dashboard.inspect.work_images import Accuracy
from workbench.dashboard.shell.device import device
from workbench.dashboard.shell.jobs import Job, Progress
from workbench.dashboard.shell.page import Page
from workbench.tasks import text_trees

LOOKED_AT = ["layer", "head", "scales", "difference", "patch"]


class InspectPage(Page):
    """Turns what is chosen into jobs, and what jobs bring back into figures."""

    slug, title = "inspect", "Inspect"

    def __init__(self, desk, changed, say) -> None:
        super().__init__(desk, changed, say)
        self.state = InspectState()
        self.maps: dict[str, Maps] = {}
        self.similarities: dict[str, Similarity] = {}
        self.tested: dict[str, Accuracy] = {}
        self.sums: dict[str, Sums] = {}
        self.figures: Figures | None = None
        self.asked: Request | inspecting_images.Request | None = None
        self.summed: tuple | None = None
        self.on_screen = False
        self.look = InspectView(self.figure, self.state, self.pick, self.act)
        self.state.param.watch(self._changed, [*COMPUTED, *LOOKED_AT])

    def open(self, parameters: Mapping[str, str]) -> list[str]:
        wrong = self.state.read(parameters)
        if self.asked is None:
            self._compute()
        return wrong

    def parameters(self) -> dict[str, str]:
        return self.state.written()

    def view(self) -> pn.viewable.Viewable:
        return self.look.layout

    def pick(self, layer: int, head: int) -> None:
        """A small map was tapped, or a picker moved."""
        self.state.change(layer=max(layer, 0), head=max(head, 0))

    def act(self, form: str, name: str, given: Any) -> None:
        """A control was set."""
        self.say("")
        told: list[str] = []
        try:
            if form in SIDES:
                told = self.state.turn(form, name, given)
            elif name == "example":
                told = self.state.change(text=given) if given else []
            else:
                told = self.state.change(**self._meant(name, given))
        except ValueError as error:
            told = [str(error)]
        for sentence in told:
            self.say(sentence)

    def _meant(self, name: str, given: Any) -> dict[str, Any]:
        """The parameters that a control of both sides sets."""
        return {
            "swap": lambda: {"a": self.state.b, "b": self.state.a},
            "copy": lambda: {"b": self.state.a},
            "own": lambda: {"scales": "own" if given else "shared"},
            "others": lambda: {"others": tuple(line.strip() for line in given.splitlines() if line.strip())},
            "punctuation": lambda: {"splits": None},
        }.get(name, lambda: {name: given})()

    # --- computing ---

    def _changed(self, *events: param.parameterized.Event) -> None:
        if COMPUTED.intersection(event.name for event in events):
            self._compute()
        else:
            self._draw()  # first: it is drawn beside what follows
            self.look.controls()
            self._sum()
            self.changed()

    def _compute(self) -> None:
        request, before = self.state.request, self.asked
        self.asked, self.figures = request, None
        self.say("")
        work = WORK[self.state.source]
        try:
            work.check(request)
        except ValueError as error:
            self.desk.cancel(self.slug)
            self.say(str(error))
            self.look.controls()
            return
        if before is not None and type(before) is not type(request):
            self.maps, self.sums, self.summed = {}, {}, None  # of another network
        if request == DEFAULT and not self.maps:
            self.maps = first_screen.load()
        for part in work.known(request):
            self._keep(part)
        self.look.controls()
        self._draw()
        self.desk.run(self.slug, work.compute(request, device()), self._arrived, self._ended)
        self.changed()

    def complete(self) -> None:
        if self.desk.closed:
            return
        self.look.overviews(self.maps)
        if self.state.source == "text":
            self.look.similarity(self.similarities)
        else:
            self.look.image.probabilities(self.maps)
        self.on_screen = True

    def _keep(self, part: Any) -> None:
        if isinstance(part, Maps):
            self.maps[part.side] = part
        elif isinstance(part, Similarity):
            self.similarities[part.side] = part
        elif isinstance(part, Accuracy):
            self.tested[part.side] = part
        elif isinstance(part, Figures):
            self.figures = part

    def _draw(self) -> None:
        """Bring every figure up to date: the large maps now, the rest right after they are on their way."""
        self.look.maps(self.maps)
        self._draw_phrases()
        self._draw_costs(waiting=self.figures is None)
        if self.on_screen:
            self.desk.schedule(self.complete)

    def _draw_phrases(self) -> None:
        if self.state.has_phrases and self.maps:
            tokens = next(iter(self.maps.values())).tokens
            splits = text_trees.clause_starts(tokens) if self.state.splits is None else self.state.splits
            self.look.phrases.show(tokens, splits)

    def _draw_costs(self, waiting: bool) -> None:
        self.look.costs(self.figures, self.maps, self.tested, waiting=waiting)

    def _sum(self) -> None:
        """Start to sum what is shown, unless that is under way or done. Not while somebody drags a knob."""
        shown = (*(id(self.maps[side].maps) for side in self.maps), self.state.layer, self.state.head)
        if shown != self.summed:
            self.summed = shown
            self.desk.run(
                f"{self.slug} sums", seeing.sums(dict(self.maps), self.state.layer, self.state.head), self._summed
            )

    def _summed(self, part: Sums) -> None:
        self.sums[part.side] = part
        self.look.sums(self.sums)

    def _arrived(self, part: Any) -> None:
        if not isinstance(part, Progress):
            self._keep(part)
            self._draw()
        elif part.done > 1:
            self._sum()

    def _ended(self, job: Job) -> None:
        if job.state == "failed":
            self.say(job.error)
        if job.state != "done":
            self._draw_costs(waiting=False)
        self._sum()
        self.changed()

    # --- taking away ---

    def csv(self) -> str:
        """The two maps that are shown, one row a pair of tokens."""
        if set(self.maps) != set(SIDES) or self.maps["a"].tokens != self.maps["b"].tokens:
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
        work = WORK[self.state.source]
        return work.python_lines(self.state.request, self.state.layer, self.state.head, device())
