"""Many visitors at once: what do their clicks wait for?

``PYTHONPATH=.:kernels:widgets python -m tests.load.sessions`` starts a server on two cores, opens 50 sessions, lets 10
of them run jobs without a pause, lets all of them click for a minute, and prints a table. It fails when a click waited
more than a second until the page showed that it was heard, when a session was lost, or when memory kept growing.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import defaultdict

from .client import Visitor
from .server import resident, start_server

LONGEST_S = 1.0
BUTTONS = ("run",)
# Controls that would change what the page is about, or that need another one to be set first.
LEFT_ALONE = ("example", "what", "task", "text", "others")

# Page, the link it is opened with, and how large a part of the sessions it has.
QUIET = [("inspect", "", 4), ("generate", "", 3), ("train", "", 3), ("measure", "", 2), ("papers", "", 2)]
BUSY = [
    ("train", "", 3),
    ("generate", "", 3),
    ("measure", "run=softmax_attention:fast,flash_attention_2:fast&from=64&to=1024", 2),
    ("inspect", "", 2),
]


def share_out(kinds, count):
    """``count`` pages out of kinds, in proportion."""
    return [kind[:2] for kind in kinds for _ in range(kind[2])] * count


class Load:
    """The sessions, and what they noticed."""

    def __init__(self, address, process, seed=0):
        self.address, self.process = address, process
        self.random = random.Random(seed)
        self.visitors = []
        self.waits = defaultdict(list)  # (page, busy or not) -> seconds
        self.opening = []
        self.jobs = defaultdict(int)
        self.lost = []
        self.memory = []

    async def open(self, quiet, busy, at_once=4):
        gate = asyncio.Semaphore(at_once)

        async def one(page, link, works):
            async with gate:
                visitor = Visitor(page)
                visitor.works = works
                self.opening.append(await visitor.open(self.address, f"?page={page}&{link}".rstrip("&")))
                self.visitors.append(visitor)

        pages = [(*each, False) for each in share_out(QUIET, quiet)[:quiet]]
        pages += [(*each, True) for each in share_out(BUSY, busy)[:busy]]
        await asyncio.gather(*(one(*each) for each in pages))

    async def first_pictures(self, most_s=30.0):
        """Wait until what the pages compute by themselves when they are opened is there."""
        end = time.monotonic() + most_s
        await asyncio.sleep(1)
        while any(visitor.busy for visitor in self.visitors) and time.monotonic() < end:
            await asyncio.sleep(0.2)

    async def click_about(self, seconds, think_s):
        """Everybody clicks, with pauses to think; those that work keep a job running besides."""
        end = time.monotonic() + seconds
        watch = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._person(visitor, end, think_s) for visitor in self.visitors))
        watch.cancel()

    async def _person(self, visitor, end, think_s):
        await asyncio.sleep(self.random.uniform(0, think_s))
        try:
            while time.monotonic() < end:
                if visitor.works and not visitor.busy:
                    await self._work(visitor)
                kind = (visitor.page, "running a job" if visitor.works else "looking around")
                self.waits[kind].append(await self._click(visitor))
                await asyncio.sleep(self.random.uniform(0.5, 1.5) * think_s)
        except (ConnectionError, TimeoutError) as error:
            self.lost.append(f"{visitor.page}: {error}")

    async def _work(self, visitor):
        button = next((place for place in visitor.fields if place[1] in BUTTONS), None)
        if button is not None and not visitor.fields[button]["why"]:
            wait = await visitor.press(*button)
            self.waits[visitor.page, "running a job"].append(wait)
        self.jobs[visitor.page] += 1

    async def _click(self, visitor):
        """One click of the kind that its page has."""
        if visitor.page == "papers":
            slug = self.random.choice(["polycom", "flash_attention_2"])
            there = "?page=papers&slug=" + slug
            return await visitor.go("?page=papers" if visitor.search == there else there)
        choices = [
            (*place, value)
            for place, field in visitor.fields.items()
            if place[1] not in LEFT_ALONE
            for value in _other_values(field)
        ]
        return await visitor.turn(*self.random.choice(choices))

    async def _watch(self):
        while True:
            self.memory.append(resident(self.process))
            await asyncio.sleep(1)

    async def last_click(self):
        """Every session is still there: each answers once more."""
        for visitor in self.visitors:
            try:
                await self._click(visitor)
            except (ConnectionError, TimeoutError) as error:
                self.lost.append(f"{visitor.page}, at the end: {error}")

    async def leave(self):
        for visitor in self.visitors:
            await visitor.close()


def _other_values(field):
    """What a control could be set to instead, as the browser would send it."""
    if field["kind"] == "slider" and len(field["stops"]) > 1:
        near = (field["value"] - 1, field["value"] + 1)
        return [each for each in near if 0 <= each < len(field["stops"])]
    if field["kind"] == "choice":
        values = [option["value"] for option in field["options"] if not option["why"]]
        return [value for value in values if value != field["value"]]
    if field["kind"] == "flag":
        return [not field["value"]]
    return []


async def run(address, process, *, quiet, busy, seconds, think_s=3.0, seed=0):
    """The whole load; returns the ``Load`` with what was noticed. ``process`` is the server's process id."""
    load = Load(address, process, seed)
    load.before = resident(process)
    await load.open(quiet, busy)
    load.opened = resident(process)
    await load.first_pictures()
    await load.click_about(seconds, think_s)
    await load.last_click()
    load.end = resident(process)
    await load.leave()
    return load


def table(load):
    """What was noticed, as text."""
    heads = f"{'page':10} {'visitors that are':16} {'clicks':>6} {'median':>8} {'95 %':>8} {'longest':>8}"
    lines = [f"{heads}  over {LONGEST_S:g} s"]
    for (page, what), waits in sorted(load.waits.items()):
        lines.append(_row(page, what, waits))
    lines.append(_row("all", "", [wait for waits in load.waits.values() for wait in waits]))
    opening = sorted(load.opening)
    lines += [
        "",
        f"{len(load.visitors)} sessions opened, each in {opening[0]:.2f} to {opening[-1]:.2f} s "
        f"(median {statistics.median(opening):.2f} s, four at a time)",
        "jobs begun by those that work: " + ", ".join(f"{page} {count}" for page, count in sorted(load.jobs.items())),
        f"lost: {'; '.join(load.lost) or 'none'}",
        f"memory of the server: {load.before:.0f} MiB before, {load.opened:.0f} with all sessions open, "
        f"{max(load.memory, default=0):.0f} at most while they clicked, {load.end:.0f} at the end",
    ]
    return "\n".join(lines)


def _row(page, what, waits):
    waits = sorted(waits)
    over = sum(wait > LONGEST_S for wait in waits)
    near = waits[min(len(waits) - 1, int(0.95 * len(waits)))]
    numbers = " ".join(f"{1000 * wait:5.0f} ms" for wait in (statistics.median(waits), near, waits[-1]))
    return f"{page:10} {what:16} {len(waits):>6} {numbers}  {over}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--running", type=int, default=10, help="how many of them run jobs")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--think", type=float, default=8.0, help="mean seconds between two clicks of one visitor")
    given = parser.parse_args()
    process, address = start_server()
    try:
        time.sleep(20)  # what the server fetches at its start is there
        load = asyncio.run(
            run(address, process.pid, quiet=given.sessions - given.running, busy=given.running,
                seconds=given.seconds, think_s=given.think)
        )  # fmt: skip
        print(table(load))
        time.sleep(45)  # sessions that nobody holds any more are dropped
        print(f"{resident(process.pid):.0f} MiB after all have gone")
    finally:
        process.terminate()
        process.wait(20)
    waits = [wait for waits in load.waits.values() for wait in waits]
    return int(bool(load.lost) or max(waits) > LONGEST_S)


if __name__ == "__main__":
    sys.exit(main())
