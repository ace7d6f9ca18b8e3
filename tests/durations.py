"""How long the tests take, by paper: CPU seconds, which other programs on the machine hardly change.

``pytest --times FILE`` adds a line for every test to a file, with whatever it told by ``record_property`` (how long a
click took); ``python tests/durations.py FILE`` prints what is in it as a table, and how long the suite would take with
all the papers that there will be. Nothing is judged here.
"""

import contextlib
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

PAPERS, CORES = 51, 2  # what the suite is planned for


# --- written by pytest -----------------------------------------------------------------------------------------------


def pytest_addoption(parser):
    parser.addoption("--times", metavar="FILE", help="add a line for every test with the CPU seconds that it took")


def pytest_configure(config):
    file = config.getoption("--times")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(Path(config.rootpath, file)))
    if file:
        config.pluginmanager.register(_Clock())


class _Clock:
    """In the process that runs a test: what it and the programs that it has started have worked.

    Looked at before a test, after it and after what it leaves is put away: a browser's processes live no longer, and
    what they have worked is told to nobody.
    """

    def __init__(self):
        self.me = psutil.Process()
        self.seen = self._look()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        self._spent()
        item.worked = 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item):
        item.worked += self._spent()
        try:
            return (yield)
        finally:
            item.user_properties.append(("cpu_s", round(item.worked + self._spent(), 3)))

    def _look(self):
        """CPU seconds: its own, those of its children that have ended, and {child: its own} and {any other: its own}
        of the programs that run."""
        direct = {child.pid for child in self.me.children()}
        running = {}
        for process in self.me.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                running[process.pid] = sum(process.cpu_times()[:2])
        times = self.me.cpu_times()
        return times.user + times.system, times.children_user + times.children_system, running, direct

    def _spent(self):
        (own_before, ended_before, before, direct), self.seen = self.seen, self._look()
        own, ended, after, _ = self.seen
        known = sum(before[pid] for pid in direct - set(after) if pid in before)  # told earlier, while they ran
        running = sum(spent - before.get(pid, 0.0) for pid, spent in after.items())
        return max(0.0, own - own_before + ended - ended_before - known + running)


class _Writer:
    def __init__(self, file):
        self.file, self.wall = file, defaultdict(float)
        file.parent.mkdir(parents=True, exist_ok=True)

    def pytest_runtest_logreport(self, report):
        self.wall[report.nodeid] += report.duration
        told = dict(report.user_properties)
        if report.when == "teardown" and "cpu_s" in told:
            row = {"test": report.nodeid, "wall_s": round(self.wall[report.nodeid], 3), **told}
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")


# --- read back -------------------------------------------------------------------------------------------------------


def kind_of(test, slugs, methods, of_slots=()):
    """(what a test is about, which part of its work it is): a paper's slug or "", and "lesson" or a folder.

    ``methods`` are the papers by the names of their methods: tests that go over the catalog have them in their ids.
    ``of_slots`` are checks of one method a slot, however many papers there are.
    """
    path, _, name = test.partition("::")
    parts = path.removeprefix("tests/").removesuffix(".py").split("/")
    words = re.split(r"[\[\]]", name)[1].split("-") if "[" in name else []
    if parts[0] == "conformance" and not {*words}.isdisjoint(of_slots):
        return "", "conformance, once a slot"
    slug = next((word for word in (*parts, *words) if word in slugs), None)
    slug = slug or next((methods[word] for word in words if word in methods), "")
    if slug and parts[-1] in ("test_notebooks", "test_lessons", "test_lesson"):
        return slug, "lesson"
    return slug, "all else" if slug else parts[0]


def table(rows, slugs, methods, of_slots=()):
    """Lines: CPU seconds of every paper's lesson and of all else about it, of the rest by folder, and a projection."""
    papers, rest = defaultdict(lambda: defaultdict(float)), defaultdict(float)
    for row in rows:
        slug, part = kind_of(row["test"], slugs, methods, of_slots)
        (papers[slug] if slug else rest)[part] += row["cpu_s"]
    wide = max(map(len, (*papers, *rest, "kernels, for a paper")))
    lines = [f"{'CPU seconds':{wide}}  lesson  all else"]
    for slug, parts in sorted(papers.items(), key=lambda paper: -sum(paper[1].values())):
        lines.append(f"{slug:{wide}}  {parts['lesson']:6.1f}  {parts['all else']:8.1f}")
    kernels = rest.pop("kernels", 0.0) / max(1, len(papers))
    lines.append(f"{'kernels, for a paper':{wide}}  {'':6}  {kernels:8.1f}")
    lines += [f"{folder:{wide}}  {'':6}  {spent:8.1f}" for folder, spent in sorted(rest.items(), key=lambda r: -r[1])]
    if papers:
        lesson = sum(parts["lesson"] for parts in papers.values()) / len(papers)
        other = sum(parts["all else"] for parts in papers.values()) / len(papers) + kernels
        once = sum(rest.values())
        whole = once + PAPERS * (lesson + other)
        lines += [
            "",
            f"A paper costs {lesson:.0f} CPU seconds for its lesson and {other:.0f} for all else; "
            f"what is there once costs {once:.0f}.",
            f"With {PAPERS} papers that is {whole:.0f} CPU seconds: {whole / 60 / CORES:.0f} minutes on {CORES} cores.",
        ]
    told = [(name, value) for row in rows for name, value in row.items() if name not in ("test", "wall_s", "cpu_s")]
    return [*lines, *(f"{name}: {value}" for name, value in told)]


def main(file):
    from workbench import catalog
    from workbench.conformance import CHECKS

    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    methods = {method.name: paper.slug for paper in catalog.papers() for method in paper.methods}
    costly = {check.name for check in CHECKS.values() if check.costly}
    print("\n".join(table(rows, set(catalog.slugs()), methods, costly)))


if __name__ == "__main__":
    main(*sys.argv[1:])
