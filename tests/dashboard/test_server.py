"""The server around the pages: what it answers before there is a page, and how it ends."""

import asyncio
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from urllib.parse import urlsplit

import panel
import psutil
import pytest

from dashboard.conftest import PATIENCE_S, ROOT
from dashboard.visitor import answered
from workbench.dashboard import app_hooks  # noqa: F401 (it makes the server's links our own)


@pytest.fixture(scope="module", params=["", "lab/x"])
def mounted(request):
    """A server with our hooks and a page that costs nothing, at the root of its host or below it; its address."""
    started = queue.Queue()

    def serve():
        asyncio.set_event_loop(asyncio.new_event_loop())
        page = {"dashboard": lambda: panel.pane.Str("here")}
        server = panel.serve(page, prefix=request.param, address="localhost", show=False, start=False, verbose=False)
        started.put(server)
        server.io_loop.start()
        server.io_loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    server = started.get()
    yield f"http://localhost:{server.port}{server.prefix}"
    server.io_loop.add_callback(lambda: (server.stop(), server.io_loop.stop()))
    thread.join()


@pytest.mark.parametrize("search", ["", "?page=measure", "?page=inspect&text=a%20b%26c+d"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_link_to_the_server_alone_keeps_what_it_asks_for(mounted, search, end):
    with urllib.request.urlopen(mounted + end + search) as answer:
        assert answer.status == 200 and answer.url == mounted + "/dashboard" + search


def test_such_a_link_opens_its_view(visit, server):
    page = visit()
    page.goto(server.removesuffix("/dashboard") + "/?page=measure")
    page.get_by_role("button", name="Run").wait_for()
    assert urlsplit(page.url).path == "/dashboard" and "page=measure" in page.url


@contextlib.contextmanager
def answered_as_usual(number):
    """What starts meanwhile inherits the system's own answer to that signal."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_the_command_ends_when_it_is_told_to_and_leaves_nothing_behind(name, tmp_path):
    if not hasattr(signal, name):
        pytest.skip(f"This system has no {name}.")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    paths = [str(ROOT / each) for each in (".", "kernels", "widgets")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "workbench", "serve", "--port", str(port)]
    log = tmp_path / "log"
    # A signal that is ignored here (SIGHUP, under nohup) would be ignored by the command as well.
    with log.open("w") as written, answered_as_usual(getattr(signal, name)):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=written, stderr=subprocess.STDOUT)
    everyone = [psutil.Process(process.pid)]
    try:
        assert answered(f"http://localhost:{port}/dashboard", lambda: process.poll() is None), log.read_text()
        everyone += everyone[0].children(recursive=True)
        process.send_signal(getattr(signal, name))
        assert process.wait(PATIENCE_S) == 0, log.read_text()
        assert psutil.wait_procs(everyone, timeout=PATIENCE_S)[1] == []
        assert "Traceback" not in log.read_text()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("localhost", port))
    finally:
        for each in filter(psutil.Process.is_running, everyone):
            each.kill()
