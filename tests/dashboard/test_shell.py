"""The frame around the pages, without a browser."""

import pytest

from dashboard.visitor import Visitor
from workbench.dashboard.shell import frame as shell_module
from workbench.dashboard.shell.frame import PAGES, Shell
from workbench.dashboard.shell.jobs import Progress
from workbench.dashboard.shell.worker import Worker


@pytest.fixture
def visitor():
    return Visitor(Worker())


def test_every_page_opens_from_its_link_and_writes_it(visitor):
    shell = Shell(visitor.desk)
    for slug in PAGES:
        shell.go(f"?page={slug}")
        assert shell.bridge.page == slug and shell.bridge.search == f"?page={slug}" and not shell.bridge.messages
        assert shell.page.slug == slug and shell.page.title == PAGES[slug][0]


def test_pages_are_kept_while_the_visitor_stays(visitor):
    shell = Shell(visitor.desk, "?page=papers")
    first = shell.page
    shell.go("?page=measure")
    shell.go("?page=papers&slug=polycom")
    assert shell.page is first and shell.bridge.search == "?page=papers&slug=polycom"


@pytest.mark.parametrize("link", ["?page=nothing", "?page=inspect&layer=77", "?page=papers&slug=nothing"])
def test_a_broken_link_gets_one_sentence_and_the_default(visitor, link):
    shell = Shell(visitor.desk, link)
    assert shell.page is not None and len(shell.bridge.messages) == 1 and "cannot be" in shell.bridge.messages[0]
    shell.receive({"kind": "heard", "text": shell.bridge.messages[0]})
    assert shell.bridge.messages == []


def test_a_page_that_fails_leaves_the_rest_alone(visitor, monkeypatch):
    monkeypatch.setitem(PAGES, "broken", ("Broken", "workbench.dashboard.nowhere:Page"))
    shell = Shell(visitor.desk, "?page=broken")
    assert "could not be shown" in shell.body[0].object
    shell.go("?page=papers")
    assert shell.page.slug == "papers"


def test_status_says_what_the_job_does_and_where_it_stands(visitor):
    shell = Shell(visitor.desk, "?page=papers")
    assert not shell.bridge.status["busy"]
    go_on = []

    def steps(cancelled):
        yield Progress(1, 4, "counting")
        while not go_on and not cancelled():
            yield Progress(2, 4, "counting")

    visitor.desk.run("x", steps, lambda value: None)
    visitor.until(lambda: visitor.desk.jobs["x"].progress and visitor.desk.jobs["x"].progress.done == 2)
    shell.tick()
    assert (
        shell.bridge.status["busy"] and shell.bridge.status["part"] == 0.5 and "counting" in shell.bridge.status["text"]
    )
    shell.receive({"kind": "cancel"})
    visitor.until(lambda: not visitor.desk.pending)
    shell.tick()
    assert not shell.bridge.status["busy"]


def test_unknown_messages_from_a_browser_are_ignored(visitor):
    shell = Shell(visitor.desk, "?page=papers")
    for message in ({}, {"kind": "nothing"}, {"kind": "go"}, {"kind": "go", "search": 3}):
        shell.receive(message)
    shell.bridge._handle_msg("text")
    assert shell.page is not None


def test_closing_lets_go(visitor):
    shell = Shell(visitor.desk)
    shell.close()
    assert visitor.desk.closed and not shell.pages and not visitor.desk.jobs


def test_device_is_said():
    assert shell_module.device() in ("cpu", "cuda") and shell_module.device_words()


def test_status_is_looked_at_only_while_there_is_a_job(visitor):
    class Ticking:
        running = False

        def start(self):
            self.running = True

        def stop(self):
            self.running = False

    shell = Shell(visitor.desk, "?page=papers")
    shell.ticking = Ticking()
    ended = []
    visitor.desk.run("x", lambda cancelled: (step for step in [1]), lambda value: None, ended.append)
    shell.tick()
    assert shell.ticking.running
    visitor.until(lambda: ended)
    shell.tick()
    assert not shell.ticking.running


def test_a_job_goes_on_when_the_event_loop_went_round_or_took_too_long(monkeypatch):
    class Loop:
        def __init__(self, answers):
            self.asked, self.answers = 0, answers

        def add_callback(self, callback):
            self.asked += 1
            if self.answers:
                callback()

    monkeypatch.setattr(shell_module, "GIVE_WAY_S", 0.01)
    for answers in (True, False):
        loop = Loop(answers)
        monkeypatch.setattr(shell_module, "_loops", [loop])
        shell_module.clicks_first()
        assert loop.asked == 1
    monkeypatch.setattr(shell_module, "_loops", [])
    shell_module.clicks_first()
