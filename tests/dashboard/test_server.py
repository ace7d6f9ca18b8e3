"""The server around the pages: what it answers before there is a page, and how it ends."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import psutil
import pytest

from dashboard.conftest import ROOT, wait_for


@pytest.mark.parametrize("search", ["", "?page=measure", "?page=inspect&text=a%20b%26c+d"])
def test_a_link_to_the_server_alone_keeps_what_it_asks_for(server, search):
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    try:
        connection.request("GET", "/" + search)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Location"]) == (302, "./dashboard" + search)
    finally:
        connection.close()


def test_such_a_link_opens_its_view(visit, server):
    page = visit()
    page.goto(server.removesuffix("/dashboard") + "/?page=measure")
    page.get_by_role("button", name="Run").wait_for()
    assert urlsplit(page.url).path == "/dashboard" and "page=measure" in page.url


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
    with log.open("w") as written:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=written, stderr=subprocess.STDOUT)
    everyone = [psutil.Process(process.pid)]
    try:
        wait_for(f"http://localhost:{port}/dashboard", process, log)
        everyone += everyone[0].children(recursive=True)
        process.send_signal(getattr(signal, name))
        assert process.wait(30) == 0, log.read_text()
        assert psutil.wait_procs(everyone, timeout=5)[1] == []
        assert "Traceback" not in log.read_text()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("localhost", port))
    finally:
        for each in filter(psutil.Process.is_running, everyone):
            each.kill()
