"""The table of how long tests take, by paper: what belongs where, and that pytest writes it down."""

import json

import durations

pytest_plugins = ["pytester"]

SLUGS, METHODS = {"polycom", "adan"}, {"poly_norm": "polycom"}


def test_what_a_test_is_about():
    for test, kind in {
        "tests/test_notebooks.py::test_notebook[polycom]": ("polycom", "lesson"),
        "tests/feedforward/polycom/test_lesson.py::test_it[3]": ("polycom", "lesson"),
        "tests/feedforward/polycom/test_paper.py::test_golden": ("polycom", "all else"),
        "tests/conformance/test_values.py::test_it[poly_norm-float32]": ("polycom", "all else"),
        "tests/conformance/test_values.py::test_it[compiles-poly_norm]": ("", "conformance, once a slot"),
        "tests/dashboard/test_papers_page.py::test_page[adan]": ("adan", "all else"),
        "tests/kernels/test_sinkhorn.py::test_it[2]": ("", "kernels"),
        "tests/test_cli.py::test_help": ("", "test_cli"),
    }.items():
        assert durations.kind_of(test, SLUGS, METHODS, {"compiles"}) == kind


def test_the_table_and_its_projection():
    rows = [
        {"test": "tests/test_notebooks.py::test_notebook[polycom]", "cpu_s": 10.0},
        {"test": "tests/feedforward/polycom/test_paper.py::test_golden", "cpu_s": 4.0},
        {"test": "tests/test_notebooks.py::test_notebook[adan]", "cpu_s": 20.0},
        {"test": "tests/kernels/test_rows.py::test_it", "cpu_s": 6.0},
        {"test": "tests/dashboard/test_server.py::test_it", "cpu_s": 7.0, "knob to map (ms)": [90, 80]},
    ]
    lines = durations.table(rows, SLUGS, METHODS)
    assert [line.split() for line in lines[:5]] == [
        ["CPU", "seconds", "lesson", "all", "else"],
        ["adan", "20.0", "0.0"],
        ["polycom", "10.0", "4.0"],
        ["kernels,", "for", "a", "paper", "3.0"],
        ["dashboard", "7.0"],
    ]
    assert lines[-3] == ("A paper costs 15 CPU seconds for its lesson and 5 for all else; what is there once costs 7.")
    assert "1027 CPU seconds: 9 minutes on 2 cores" in lines[-2]
    assert lines[-1] == "knob to map (ms): [90, 80]"


def test_pytest_writes_a_line_for_every_test(pytester, request):
    pytester.makeconftest("from durations import pytest_addoption, pytest_configure")
    pytester.makepyfile("def test_one(record_property): record_property('seen', 3)\n\ndef test_two(): pass")
    pytester.syspathinsert(request.path.parent)
    pytester.runpytest_inprocess("--times", "out/times", "-p", "no:cacheprovider").assert_outcomes(passed=2)
    rows = [json.loads(line) for line in (pytester.path / "out/times").read_text().splitlines()]
    assert [row["test"].split("::")[1] for row in rows] == ["test_one", "test_two"]
    assert all(row["cpu_s"] >= 0 and row["wall_s"] >= 0 for row in rows) and rows[0]["seen"] == 3
