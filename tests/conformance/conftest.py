"""What the conformance suite tells at its end: a line a check, and a line a method, with the CPU seconds they took."""

from workbench.conformance.checks import Outcome
from workbench.conformance.table import summary


def pytest_terminal_summary(terminalreporter):
    outcomes = [
        Outcome(*value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "outcome"
    ]
    if outcomes:
        terminalreporter.section("conformance")
        for line in summary(outcomes):
            terminalreporter.write_line(line)
