"""A few visitors at once; ``tests.load.sessions`` does it with fifty."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import psutil

from load import sessions


def test_several_visitors_click_while_others_run_jobs(server, record_property):
    """Every click of everybody is heard. How long that took is told; the run with fifty holds it to a second."""
    process = next(child.pid for child in psutil.Process().children() if "panel" in child.cmdline())
    # In a thread of its own: where a browser walk came before, this one has an event loop already.
    with ThreadPoolExecutor(1) as thread:
        visits = sessions.run(server, process, quiet=6, busy=2, seconds=8, think_s=1.0)
        load = thread.submit(asyncio.run, visits).result()
    print(sessions.table(load))
    assert load.lost == [] and len(load.visitors) == 8
    assert {page for page, _ in load.waits} == {visitor.page for visitor in load.visitors}
    waits = sorted(wait for waits in load.waits.values() for wait in waits)
    record_property("click to answer, median and longest (s)", [round(waits[len(waits) // 2], 2), round(waits[-1], 2)])
