"""A visitor without a browser: a desk whose event loop is turned by hand."""

import queue
import socket
import time
from collections.abc import Callable
from typing import ClassVar
from urllib.parse import urlsplit

from workbench.dashboard.shell import figures
from workbench.dashboard.shell.jobs import Desk
from workbench.dashboard.shell.worker import Worker

PATIENCE_S = 300.0  # a test that hangs ends at last; how long things take is not judged


class Visitor:
    seen: ClassVar[list] = []

    def __init__(self, worker: Worker):
        self.callbacks = queue.Queue()
        self.desk = Desk(worker, self.callbacks.put)
        self.seen.append(self)

    @classmethod
    def see_off(cls):
        """Every visitor goes, and no worker is left in the middle of a step: the interpreter may end."""
        for visitor in cls.seen:
            visitor.desk.close()
        end = time.monotonic() + PATIENCE_S
        while any(visitor.desk.worker.busy for visitor in cls.seen) and time.monotonic() < end:
            time.sleep(0.02)
        cls.seen.clear()

    def until(self, condition):
        """Run callbacks as they come, until the condition holds."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, "nothing came"
            try:
                self.callbacks.get(timeout=0.02)()
            except queue.Empty:
                continue

    def rest(self):
        """Run all that comes until nobody works any more: neither the worker nor the painter of figures."""
        self.until(lambda: not self.desk.worker.busy and self.callbacks.empty())
        figures.when_drawn(lambda: None).result()
        self.until(self.callbacks.empty)


def answered(address: str, alive: Callable[[], bool]) -> bool:
    """Wait until a server takes calls, without being its visitor; False when it ended before, or had all the patience
    there is."""
    end, where = time.monotonic() + PATIENCE_S, urlsplit(address)
    while alive() and time.monotonic() < end:
        try:
            with socket.create_connection((where.hostname, where.port)):
                return True
        except OSError:
            time.sleep(0.3)
    return False
