"""A visitor without a browser: a desk whose event loop is turned by hand."""

import queue
import time
from typing import ClassVar

from workbench.dashboard.shell import figures
from workbench.dashboard.shell.jobs import Desk, Worker

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
