"""A server of its own for a load, on two cores."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
CORES = 2


def resident(process):
    """MiB of memory of the server."""
    return psutil.Process(process).memory_info().rss / 2**20


def start_server():
    """The dashboard on two cores: its process and address, once it answers."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    paths = [str(ROOT / name) for name in (".", "kernels", "widgets")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "panel", "serve", "workbench/dashboard"]
    command += ["--address", "localhost", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:CORES])
    address = f"http://localhost:{port}/dashboard"
    end = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=60).close()
            return process, address
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.3)
