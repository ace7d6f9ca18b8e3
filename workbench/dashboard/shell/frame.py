"""The frame around the pages: which one is shown, its link, messages, what the device is doing, and export.

One visitor has one ``Shell``. Pages are switched without a reload; the link in the address bar always opens the view
that is on the screen. A page to come is one line in ``PAGES`` and one module with a ``Page``.
"""

from __future__ import annotations

import contextlib
import functools
import html
import importlib
import logging
import pkgutil
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import panel as pn
import param
from panel.theme.base import Design
from tornado.ioloop import IOLoop, PeriodicCallback

from workbench.dashboard.shell import garbage, state
from workbench.dashboard.shell.asking import Asking
from workbench.dashboard.shell.device import device, device_words
from workbench.dashboard.shell.jobs import Desk, Mailbox, sentence
from workbench.dashboard.shell.page import Page, stack, text
from workbench.dashboard.shell.presence import when_left
from workbench.dashboard.shell.turns import Turns
from workbench.dashboard.shell.worker import Worker

PAGES = {
    "inspect": ("Inspect", "workbench.dashboard.inspect.page:InspectPage"),
    "measure": ("Measure", "workbench.dashboard.measure.page:MeasurePage"),
    "train": ("Train", "workbench.dashboard.train.page:TrainPage"),
    "generate": ("Generate", "workbench.dashboard.generate.page:GeneratePage"),
    "papers": ("Papers", "workbench.dashboard.papers.page:PapersPage"),
}
STATIC = Path(__file__).parents[1] / "static"

log = logging.getLogger(__name__)


GIVE_WAY_S = 0.5  # so long a job waits for clicks at most before each of its steps
LOOK_S = 5.0  # so often it is asked whether it is time to look for garbage
_loops: list[IOLoop] = []  # the event loop of this server, once somebody came


@functools.cache
def worker() -> Worker:
    """The one worker of this server."""
    return Worker(clicks_first)


def clicks_first() -> None:
    """Wait until the event loop has gone round once: whatever was clicked by then has been answered.

    Python runs one thread at a time. A job that went on meanwhile would take every second turn from the answers.
    """
    if _loops:
        gone_round = threading.Event()
        _loops[0].add_callback(gone_round.set)
        gone_round.wait(GIVE_WAY_S)


@functools.cache
def turns() -> Turns:
    """The order in which visitors' pages are drawn."""
    loop = IOLoop.current()
    return Turns(loop.add_callback, loop.call_later)


@functools.cache
def look_for_garbage() -> garbage.Keeper:
    """Have the server's keeper look from time to time, from now on."""
    PeriodicCallback(garbage.keeper.look, 1000 * LOOK_S).start()
    return garbage.keeper


class Bridge(Asking):
    """What Python and the frame's script (shell.js) tell each other."""

    page = param.String(doc="The page that is shown.")
    search = param.String(doc="The link to the view that is shown.")
    messages = param.List(default=[], doc="Sentences for the visitor; each stays until it is dismissed or outdated.")
    status = param.Dict(default={"text": "", "busy": False, "part": None}, doc="What the visitor's job is doing.")

    _esm = STATIC / "shell.js"

    def __init__(self, on_message: Any, **params: Any) -> None:
        super().__init__(**params)
        self._on_message = on_message

    def hear(self, data: Any) -> None:
        if isinstance(data, dict):
            self._on_message(data)


class Frame(pn.Template):
    """The page around what Panel places in it."""

    def __repr__(self) -> str:
        return "Frame"  # Panel writes down all that is placed whenever something is; that takes a fifth of an opening


class Shell:
    """One visitor's dashboard."""

    def __init__(self, desk: Desk, search: str = "") -> None:
        self.desk = desk
        self.pages: dict[str, Page] = {}
        self.page: Page | None = None
        self.body = stack()
        self.about_the_link: list[str] = []
        self.about_the_page: list[str] = []
        self.ticking: Any = None  # what calls ``tick`` while a job is under way, once there is an event loop
        self.bridge = Bridge(self.receive)
        self.go(search)

    # --- pages and links ---

    def go(self, search: str) -> None:
        """Show what a link asks for. Whatever is wrong with it: a sentence, and the nearest thing that works."""
        parameters = state.split(search)
        (chosen, wrong) = state.decode([state.Entry("page", "inspect", state.choice(PAGES))], parameters)
        slug = chosen["page"]
        self.about_the_page, self.about_the_link = [], []
        try:
            page = self._page(slug)
            wrong = [*parameters.wrong, *wrong, *self._open(page, parameters)]
            if list(self.body) != [page.view()]:
                self.body[:] = [page.view()]
            switched = self.page is not None
            self.page = page
            if switched:
                page.complete()
        except Exception as error:
            log.exception("The page %s could not be shown", slug)
            self.page = None
            self.body[:] = [text(f"<h1>This page could not be shown</h1><p>{html.escape(sentence(error))}</p>"
                                 '<p><a href="?page=inspect">Back to the start</a></p>')]  # fmt: skip
        self.bridge.page = slug
        self.about_the_link = state.told(wrong)
        self._tell()
        self.changed()

    @staticmethod
    def _open(page: Page, parameters: state.Link) -> list[str]:
        """Have a page show what a link asks for; where that fails, what it shows without one. The complaints."""
        try:
            return page.open(parameters) + parameters.left_over(page.title)
        except Exception as error:
            log.exception("The page %s could not show a link", page.slug)
            return [f"The link could not be shown: {sentence(error)}", *page.open({})]

    def changed(self) -> None:
        """Bring the address bar and the status line up to date."""
        if self.page is not None:
            self.bridge.search = state.join({"page": self.page.slug, **self.page.parameters()})
        self.tick()

    def say(self, message: str) -> None:
        """Tell the visitor something beside what they were told already; nothing to say: what the page told them is
        outdated. What was wrong with a link stays until it is dismissed, or another one is followed."""
        if not message:
            self.about_the_page = []
        elif message not in self.about_the_page:
            self.about_the_page.append(message)
        self._tell()

    def _tell(self) -> None:
        self.bridge.messages = list(dict.fromkeys([*self.about_the_link, *self.about_the_page]))

    def _heard(self, message: str) -> None:
        """The visitor has dismissed a message."""
        for told in (self.about_the_link, self.about_the_page):
            if message in told:
                told.remove(message)
        self._tell()

    def loaded(self) -> None:
        """The first picture is on the visitor's screen: the rest may follow."""
        if self.page is not None:
            self.page.complete()

    def _page(self, slug: str) -> Page:
        if slug not in self.pages:
            module, name = PAGES[slug][1].split(":")
            make = getattr(importlib.import_module(module), name)
            self.pages[slug] = make(self.desk, self.changed, self.say)
        return self.pages[slug]

    # --- what the device is doing ---

    def tick(self) -> None:
        """Say where this visitor's jobs stand; called several times a second while there are any."""
        pending = self.desk.pending
        if self.ticking is not None and self.ticking.running != bool(pending):
            (self.ticking.start if pending else self.ticking.stop)()
        if not pending:
            self.bridge.status = {"text": "", "busy": False, "part": None}
            return
        job = max(pending, key=lambda job: job.lane == "long")
        progress, ahead = job.progress, self.desk.worker.ahead(job)
        part = progress.done / progress.total if progress and progress.total else None
        if job.stop.is_set():
            words = "cancelling"
        elif job.state == "waiting" and ahead:
            words = f"waiting, {ahead} ahead of you"
        else:
            words = progress.note if progress and progress.note else "working"
            if ahead:
                words += " · taking turns"
        self.bridge.status = {"text": words, "busy": True, "part": part}

    # --- from the frame ---

    def receive(self, data: dict) -> None:
        """What shell.js sends. Unknown messages are ignored."""
        kind = data.get("kind")
        if kind == "go":
            self.go(str(data.get("search", "")))
        elif kind == "cancel":
            self.desk.cancel()
            self.tick()
        elif kind == "heard":
            self._heard(str(data.get("text", "")))
        elif kind == "csv" and self.page is not None:
            if content := self.page.csv():
                self.bridge._send_msg({"kind": "save", "name": f"workbench-{self.page.slug}.csv", "text": content})
            else:
                self.say("There are no numbers to save on this page yet.")
        elif kind == "lines" and self.page is not None:
            self.bridge._send_msg({"kind": "lines", "text": self.page.lines()})

    def close(self) -> None:
        """The visitor has gone: drop the jobs and let go of everything that they hold."""
        self.desk.close()
        self.pages.clear()
        self.page = None


def open_session() -> None:
    """Build the dashboard for the visitor whose session is being made (``main.py`` calls this)."""
    _loops[:] = [IOLoop.current()]
    document, in_turn = pn.state.curdoc, turns()
    behind = look_for_garbage()
    behind.came()
    visitor = object()
    mailbox = Mailbox(lambda callback: in_turn.put(visitor, document.add_next_tick_callback, callback))
    shell = Shell(Desk(worker(), mailbox.put), pn.state.location.search or "")
    ticking = pn.state.add_periodic_callback(shell.tick, period=500, start=False)

    def loaded() -> None:
        shell.loaded()
        mailbox.open()
        shell.ticking = ticking
        shell.tick()

    def close(context: Any) -> None:
        if ticking.running:
            ticking.stop()
        shell.close()
        in_turn.forget(visitor)
        behind.left()

    pn.state.onload(loaded)
    when_left(document, _loops[0].call_later, shell.desk.cancel)
    pn.state.on_session_destroyed(close)
    template = Frame((STATIC / "index.html").read_text(encoding="utf-8"), design=Design)
    template.add_panel("body", shell.body)
    template.add_panel("bridge", shell.bridge)
    css = "".join((STATIC / f"{name}.css").read_text(encoding="utf-8") for name in ("tokens", "shell"))
    for name, value in {
        "css": css,
        "server": (STATIC / "server.js").read_text(encoding="utf-8"),
        "pages": {slug: title for slug, (title, _) in PAGES.items()},
        "page": shell.bridge.page,
        "device": device_words(),
    }.items():
        template.add_variable(name, value)
    template.servable(title="Transformer Workbench")


def warm() -> None:
    """Import the pages, load the pretrained encoder and swap every method in once, so that no visitor waits for it."""
    _import_everything()
    from workbench.dashboard.inspect import work as inspecting
    from workbench.dashboard.measure import work as measuring
    from workbench.dashboard.measure.page import MeasureState
    from workbench.dashboard.train import racers
    from workbench.dashboard.train import work as racing
    from workbench.dashboard.train.page import TrainState

    sweep = MeasureState(device())
    for family in measuring.families():
        sweep.turn_to(family)
        sweep.fields(running=False, refused="")  # asks every implementation whether it can run here
        measuring.estimate(sweep.request, device())  # PyTorch imports a part of itself for it
    for task in filter(lambda task: not racers.task_why_not(task), racers.TASKS):
        race = TrainState()
        race.turn_to(task)
        race.card("a")  # reads the task's data, and asks every mixer whether it can learn it
    _draw_first_screens()
    desk = Desk(worker(), lambda callback: None)
    desk.run("mixers", racing.try_mixers(device()), lambda value: None, lane="long")
    desk.run("warm", inspecting.warm(device()), lambda value: None, lane="long")


def _import_everything() -> None:
    import workbench_kernels

    for slug in PAGES:
        importlib.import_module(PAGES[slug][1].split(":")[0])
    for kernel in pkgutil.walk_packages(workbench_kernels.__path__, "workbench_kernels."):
        with contextlib.suppress(ImportError):  # without Triton: whoever wants the kernel is told so
            importlib.import_module(kernel.name)


def _draw_first_screens() -> None:
    """Draw what every page shows at first, and compute it: visitors get the same figures and results."""
    due: deque[Callable[[], None]] = deque()
    shell = Shell(Desk(worker(), due.append))
    for slug in PAGES:
        shell.go(f"?page={slug}")
        shell.loaded()
        while due:
            due.popleft()()
