"""What a call costs the host: the rows, what is kept of them, and how the command line shows them."""

import json
import math
import time
from dataclasses import replace

import pytest

from toy import METHOD, PAPER, crash
from workbench import catalog, measure
from workbench.cli import bench, main
from workbench.measure import host
from workbench.measure.timing import HOST_BLOCK, time_host
from workbench.paper import Traits


@pytest.fixture
def toy(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "RECORDED", tmp_path)
    monkeypatch.setattr(catalog, "methods", lambda: {"toy": METHOD})
    monkeypatch.setattr(catalog, "paper", lambda slug: PAPER)
    monkeypatch.setattr(catalog, "papers", lambda: iter([PAPER]))
    monkeypatch.setattr(measure, "pick_device", lambda name: "cpu")


def test_the_host_is_watched_in_blocks_and_the_device_not_waited_for():
    calls = []
    timing = time_host(lambda: calls.append(time.sleep(1e-4)), "cpu", budget_s=0.01)
    assert timing.repeats % HOST_BLOCK == 0 and timing.repeats >= 3 * HOST_BLOCK
    assert len(calls) == timing.repeats + 3
    assert 0.1 <= timing.low_ms <= timing.median_ms <= timing.high_ms


def test_it_can_be_stopped():
    with pytest.raises(measure.Cancelled):
        time_host(int, "cpu", cancelled=lambda: True)


def test_a_row_has_the_call_the_call_with_gradients_and_the_backward_pass():
    *torchs, row = measure.host_times("cpu", methods=[METHOD], budget_s=1e-3)
    assert [each["name"] for each in torchs] == ["torch gelu", "torch attention"]
    assert row["name"] == "toy" and row["status"] == "ok" and row["dtype"] == "float32"
    for each in (*torchs, row):
        assert all(each[name] > 0 for name in host.TIMES)


def test_without_a_gradient_there_is_no_time_for_one():
    method = replace(METHOD, traits=Traits(gradients=0))
    *_, row = measure.host_times("cpu", methods=[method], budget_s=1e-3)
    assert row["call_us"] > 0 and not {"with_gradients_us", "backward_us"} & set(row)


def test_what_is_wrong_gets_no_time():
    wrong = replace(METHOD, name="wrong", fast=lambda x, **options: x)
    *_, row = measure.host_times("cpu", methods=[wrong], budget_s=1e-3)
    assert row["status"] == "wrong" and "Differs from the reference" in row["reason"] and "call_us" not in row
    (line,) = [line for line in bench.host_lines([row], {"device": "x"}) if line.startswith("wrong: ")]
    assert line.endswith("allowed.")


def test_where_fast_cannot_run_the_call_is_the_references():
    method = replace(METHOD, fast=crash, why_not_fast=lambda *inputs, **options: ["There is no kernel."])
    *_, row = measure.host_times("cpu", methods=[method], budget_s=1e-3)
    assert row["status"] == "ok" and row["call_us"] > 0


def test_a_method_gets_no_more_than_it_can_take():
    sizes = []

    def example(size, **settings):
        sizes.append(size)
        return METHOD.example(size, **settings)

    *_, row = measure.host_times("cpu", methods=[replace(METHOD, example=example, largest=8)], budget_s=1e-3)
    assert row["status"] == "ok" and sizes == [8]


def test_it_is_printed_recorded_and_found_again(toy, capsys, tmp_path):
    assert measure.recorded_host() == []
    assert main(["bench", "toy", "--host"]) == 0 and not list(tmp_path.iterdir())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("microseconds of the host for one call, ")
    assert printed[2].split() == ["dtype", "call", "with", "gradients", "backward"]
    assert [line.split()[0] for line in printed[3:6]] == ["torch", "torch", "toy"]
    assert main(["bench", "--host", "--record"]) == 0
    capsys.readouterr()
    content = json.loads((tmp_path / "host" / "cpu.json").read_text())
    assert set(content) == {"provenance", "rows"}
    (table,) = measure.recorded_host()
    assert tuple(table) == host.COLUMNS and len(table) == 3
    assert table.attrs["provenance"]["torch"] == content["provenance"]["torch"]
    assert not any(math.isnan(value) for value in table.loc[2, list(host.TIMES)])


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--host", "--record", "toy"], "name no paper"), (["--host", "--live", "toy"], "Choose one")],
)
def test_what_does_not_go_together_is_said(toy, capsys, words, message):
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err
