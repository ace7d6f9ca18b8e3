"""What ran, what a trait exempts, and what cannot run here: tables of checks and methods."""

from collections import defaultdict
from collections.abc import Iterable

from workbench.conformance.checks import Outcome

MARKS = {"ran": "+", "exempt": "-", "cannot run here": "/", "failed": "X"}
LEGEND = "+ ran   - nothing asked of this method   / cannot run here   X failed"


def line_of(outcome: Outcome) -> str:
    """One outcome as a line: mark, check, CPU seconds, and why."""
    return f"{MARKS[outcome.result]}  {outcome.check:42} {outcome.cpu_seconds:6.2f} s  {outcome.sentence}".rstrip()


def matrix(outcomes: Iterable[Outcome]) -> list[str]:
    """Checks downwards, methods across, one mark each; below, every reason with the methods that it stands for."""
    outcomes = list(outcomes)
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    marks, reasons = defaultdict(dict), defaultdict(list)
    for outcome in outcomes:
        known = marks[outcome.check].get(outcome.method, "")
        marks[outcome.check][outcome.method] = max(known, MARKS[outcome.result], key="-/+X".find)
        if outcome.sentence:
            reasons[outcome.result, outcome.check, outcome.sentence].append(outcome.method)
    width = max(map(len, marks))
    lines = [f"{' ' * width}  {''.join(str(number // 10 or ' ') for number in range(1, len(methods) + 1))}"]
    lines += [f"{' ' * width}  {''.join(str(number % 10) for number in range(1, len(methods) + 1))}"]
    lines += [f"{check:{width}}  {''.join(row.get(method, ' ') for method in methods)}" for check, row in marks.items()]
    lines += [LEGEND, ", ".join(f"{number} {method}" for number, method in enumerate(methods, start=1)), ""]
    for (result, check, sentence), whose in reasons.items():
        lines.append(f"{MARKS[result]} {check}: {sentence} [{', '.join(dict.fromkeys(whose))}]")
    return lines


def summary(outcomes: Iterable[Outcome]) -> list[str]:
    """The matrix, and the CPU seconds of every check and every method."""
    outcomes = list(outcomes)
    seconds = {"check": defaultdict(float), "method": defaultdict(float)}
    for outcome in outcomes:
        seconds["check"][outcome.check] += outcome.cpu_seconds
        seconds["method"][outcome.method] += outcome.cpu_seconds
    total = sum(seconds["check"].values())
    lines = [*matrix(outcomes), "", f"CPU seconds: {total:.1f}, {total / len(seconds['method']):.2f} a method"]
    for what, found in seconds.items():
        ranked = sorted(found.items(), key=lambda item: -item[1])
        lines.append(f"by {what}: " + ", ".join(f"{name} {value:.1f}" for name, value in ranked))
    return lines
