"""A server and a browser for the tests that need them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dashboard.visitor import PATIENCE_S, Visitor, answered

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="session", autouse=True)
def visitors():
    yield
    Visitor.see_off()


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def serving(port, log):
    """The dashboard as a person starts it: its process, and its address."""
    paths = [str(ROOT / name) for name in (".", "kernels", "widgets")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [
        sys.executable,
        "-m",
        "panel",
        "serve",
        "workbench/dashboard",
        "--address",
        "localhost",
        "--port",
        str(port),
    ]
    with log.open("w") as written:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=written, stderr=subprocess.STDOUT)
    address = f"http://localhost:{port}/dashboard"
    try:
        assert answered(address, lambda: process.poll() is None), log.read_text()
        yield process, address
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of the dashboard that all walks share."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(free_port(), log) as (_, address):
        yield address
    text = log.read_text()
    assert "workbench/dashboard/" not in text.replace("serve workbench/dashboard", ""), text[-6000:]


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed.")
    if CHROMIUM is None:
        pytest.skip("No Chromium on this machine: the browser walks are skipped.")
    with playwright.sync_playwright() as running:
        made = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def visit(browser, server):
    """Opens the dashboard as a new visitor; every request to another host is stopped, and is a failure."""
    contexts, foreign, errors = [], [], []

    def open_page(search="", *, width=1280, theme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)

        def guard(route):
            if route.request.url.startswith(("http://localhost", "ws://localhost", "data:", "blob:")):
                return route.continue_()
            foreign.append(route.request.url)
            return route.abort()

        context.route("**/*", guard)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server + search, wait_until="commit")
        page.wait_for_selector("html[data-ready=yes]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert foreign == [], "The dashboard asked another host for something."
    assert errors == []
