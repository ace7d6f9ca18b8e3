"""A visitor without a browser: a desk whose event loop is turned by hand."""

import queue
import time
from typing import ClassVar

from workbench.dashboard.shell.jobs import Desk, Worker


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
        end = time.monotonic() + 20
        while any(visitor.desk.worker.busy for visitor in cls.seen) and time.monotonic() < end:
            time.sleep(0.02)
        cls.seen.clear()

    def until(self, condition, timeout=60.0):
        """Run callbacks as they come, until the condition holds."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, "nothing came"
            try:
                self.callbacks.get(timeout=0.02)()
            except queue.Empty:
                continue

    def rest(self, seconds=0.05):
        """Run what has come so far, and what comes within some time."""
        time.sleep(seconds)
        while not self.callbacks.empty():
            self.callbacks.get()()
