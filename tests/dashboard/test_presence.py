"""A page that was closed or loaded anew: what its session computes ends long before the session does."""

import asyncio
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import panel
import pytest
from tornado.ioloop import IOLoop

from dashboard.visitor import PATIENCE_S
from load.client import Visitor
from workbench.dashboard.shell.jobs import Desk, Progress
from workbench.dashboard.shell.presence import when_left
from workbench.dashboard.shell.worker import Worker


class House:
    """A server whose page starts a job without an end."""

    def __init__(self):
        self.worker, self.jobs, self.destroyed, self.steps = Worker(), [], [], []
        started = queue.Queue()
        self.thread = threading.Thread(target=self._serve, args=(started,))
        self.thread.start()
        self.server = started.get()
        self.address = f"http://localhost:{self.server.port}/dashboard"

    def _serve(self, started):
        asyncio.set_event_loop(asyncio.new_event_loop())
        page = {"dashboard": self._page}
        server = panel.serve(page, address="localhost", show=False, start=False, verbose=False)
        started.put(server)
        server.io_loop.start()
        server.io_loop.close()

    def _page(self):
        document = panel.state.curdoc
        desk = Desk(self.worker, document.add_next_tick_callback)
        when_left(document, IOLoop.current().call_later, desk.cancel)
        panel.state.on_session_destroyed(lambda context: self.destroyed.append(context.id))
        number = len(self.jobs)

        def training(cancelled):
            while True:
                self.steps.append(number)
                time.sleep(0.001)
                yield Progress(0, 1)

        self.jobs.append(desk.run("train", training, lambda value: None, lane="long"))
        return panel.pane.Str("here")

    def close(self):
        for job in self.jobs:
            self.worker.cancel(job)
        self.server.io_loop.add_callback(lambda: (self.server.stop(), self.server.io_loop.stop()))
        self.thread.join()
        self.worker.stop(PATIENCE_S)


@pytest.fixture
def house():
    made = House()
    yield made
    made.close()


async def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "nothing came"
        await asyncio.sleep(0.02)


def test_a_page_that_is_closed_takes_its_job_with_it_and_nobody_elses(house):
    async def visits():
        stays, goes = Visitor("train"), Visitor("train")
        await stays.open(house.address, "")
        await goes.open(house.address, "")
        mine, orphan = house.jobs
        await until(lambda: {0, 1} <= set(house.steps))
        await goes.close()
        await until(lambda: orphan.over)
        assert orphan.state == "cancelled" and house.destroyed == []  # the session is still there, for half a minute
        house.steps.clear()
        await until(lambda: len(house.steps) > 10)
        assert set(house.steps[1:]) == {0} and not mine.over
        await stays.close()
        await until(lambda: mine.over)

    with ThreadPoolExecutor(1) as thread:  # in this one an event loop runs already, once a browser was started
        thread.submit(asyncio.run, visits()).result()
