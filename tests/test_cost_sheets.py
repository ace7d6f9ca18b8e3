"""Machines and cost sheets: floors reckoned from what methods say they cost."""

import pytest

from doubles.costs import CHIP, LINES
from toy import PAPER
from workbench import measure
from workbench.measure.records import RECORDED, load_rows


def test_the_floor_is_the_longest_of_three_times():
    sheet = measure.cost_sheet(LINES, CHIP, size=1).set_index("line")
    assert sheet["compute_ms"].tolist() == [2000, 3, 0]
    assert sheet["memory_ms"].tolist() == [1000, 3000, 100]
    assert sheet["link_ms"].tolist() == [0, 0, 1000]
    assert sheet["floor_ms"].tolist() == [2000, 3000, 1000]
    assert sheet["bound"].tolist() == ["compute", "memory", "link"]
    assert sheet["intensity"].tolist() == [2000, 1, 0] and CHIP.corner("bfloat16") == 1000


def test_another_dtype_and_the_backward_pass():
    slow = measure.cost_sheet(LINES, CHIP, size=1, dtype="float32")
    assert slow["compute_ms"].tolist() == [20000, 30, 0]
    both = measure.cost_sheet(LINES, CHIP, size=1, passes="training")
    assert both["compute_ms"].tolist() == [6000, 9, 0] and both["memory_ms"].tolist() == [4000, 12000, 400]


def test_a_line_asks_the_method_for_its_cost():
    method = PAPER.methods[0]
    made = measure.cost_sheet([measure.line(method), measure.line(method, times=2, name="twice")], CHIP, size=8)
    example = method.example(8, device="meta", dtype="bfloat16")
    cost = method.cost(*example.inputs.values(), **example.options)
    assert made["flops"].tolist() == [cost.flops, 2 * cost.flops]
    assert made["bytes"].tolist() == [cost.bytes, 2 * cost.bytes]
    assert made["line"].tolist() == [method.title, "twice"]
    assert made["held"][0] == measure.estimate_bytes(method, "fast", example)


def test_what_a_machine_cannot_do_is_refused():
    with pytest.raises(ValueError, match="a chip has no rate for int8: it has bfloat16, float32"):
        measure.cost_sheet(LINES, CHIP, size=1, dtype="int8")
    with pytest.raises(ValueError, match="a name of its own: product, product"):
        measure.cost_sheet([LINES[0], LINES[0]], CHIP, size=1)
    lonely = measure.Machine("alone", CHIP.flops_per_s, 1e9, 1e9, None, "made up")
    with pytest.raises(ValueError, match="all-reduce sends 100,000,000 bytes, and alone has no link"):
        measure.cost_sheet(LINES, lonely, size=1)
    with pytest.raises(ValueError, match="has no knob colour"):
        measure.line(PAPER.methods[0], colour=1)
    with pytest.raises(ValueError, match="has no implementation 'slow'"):
        measure.line(PAPER.methods[0], implementation="slow")


def test_a_measured_machine_gives_the_floors_that_were_recorded_on_it():
    """To within what the ceilings of one run differ from those of another: a few per cent; and never more."""
    seen = 0
    for path in RECORDED.glob("*.json"):
        content = load_rows(path)
        machine = measure.known_machines()[f"{content['provenance']['device']}, measured"]
        for row in content["rows"]:
            if row.get("floor_ms") and row["dtype"] in machine.flops_per_s:
                compute, moved = row["flops"] / machine.rate(row["dtype"]), row["bytes"] / machine.bytes_per_s
                floor = 1e3 * max(compute, moved)
                assert 0.95 * row["floor_ms"] <= floor <= row["floor_ms"] * (1 + 1e-9)
                seen += 1
    assert seen > 100


def test_machines_say_where_their_figures_come_from():
    known = measure.known_machines()
    assert all("data sheet" in each.source or "paper" in each.source for each in known.values())
    for name, machine in known.items():
        sheet = known[name.replace("measured", "data sheet")]
        assert machine.bytes_per_s <= sheet.bytes_per_s
        assert all(rate <= sheet.flops_per_s[dtype] for dtype, rate in machine.flops_per_s.items())


def test_this_machine_is_measured(monkeypatch):
    ceilings = measure.Ceilings("cpu", "float32", 3e10, 2e11)
    monkeypatch.setattr("workbench.measure.machines.ceilings", lambda device, dtype: ceilings)
    found = measure.this_machine("cpu", "float32")
    assert (found.bytes_per_s, found.rate("float32")) == (3e10, 2e11) and found.memory_bytes > 2**28
