"""``workbench check``: the conformance suite on a method of one's own."""

import importlib
import sys
from pathlib import Path

from workbench import catalog
from workbench.paper import Method, Paper


def explain(only: str = "") -> int:
    """The contract: what every check asks, by topic."""
    from workbench.conformance import CHECKS

    topic = None
    for check in CHECKS.values():
        if only not in check.name:
            continue
        if check.topic != topic:
            topic = check.topic
            about = sys.modules[check.function.__module__].__doc__.strip()
            print(f"{topic}: {about}\n")
        print(f"  {check.name}\n    {check.contract.strip()}\n")
    return 0


def check_methods(name: str, only: str = "", device: str = "auto") -> int:
    """Run the checks whose names contain ``only``, print a line each; 1 where one fails."""
    from workbench import measure
    from workbench.conformance import CHECKS, conform
    from workbench.conformance.table import line_of

    checks = [check for check in CHECKS.values() if only in check.name]
    if not checks:
        raise ValueError(f"No check has {only!r} in its name: workbench check --explain lists them.")
    failed = 0
    for method in methods_of(name):
        print(method)
        for outcome in conform(method, measure.pick_device(device), checks):
            failed += outcome.result == "failed"
            print("  " + line_of(outcome), flush=True)
    print(f"{failed} failed." if failed else "All that ran is right.")
    return min(failed, 1)


def methods_of(name: str) -> list[Method]:
    """What ``name`` stands for: ``module:name`` (a method or a paper), a paper's slug, a method of the catalog.

    A module is looked for in the working directory, too. Raises ``ValueError`` for what is neither.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return list(catalog.paper(name).methods) if name in catalog.slugs() else [catalog.method(name)]
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found = getattr(importlib.import_module(module), attribute, None)
    if isinstance(found, Paper):
        return list(found.methods)
    if not isinstance(found, Method):
        raise ValueError(f"{attribute} in {module} is {type(found).__name__}, not a Method or a Paper.")
    return [found]
