"""Claims are judged, shown and written down."""

import json
import math

import pytest
import torch

from toy import PAPER
from workbench import catalog, claims


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Numbers of a test stay in the test, and the toy paper is in the catalog."""
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path))
    monkeypatch.setattr(claims, "RECORDED", tmp_path / "recorded")
    monkeypatch.setattr(catalog, "papers", lambda: iter([PAPER]))
    monkeypatch.setattr(catalog, "paper", lambda slug: PAPER)
    return tmp_path


def settle(measured, scale="ci", device="cpu", paper=PAPER):
    return claims.settle(paper, measured, scale=scale, device=device)


def test_the_papers_number_stands_beside_ours():
    settled = settle({"faster": torch.tensor(2.5), "exact": 1e-7})
    assert list(settled.frame.columns) == ["statement", "paper", "here", "recorded", "verdict", "caveat"]
    assert list(settled.frame["paper"]) == ["3 x on a GPU (Table 1)", "exact (Sec. 2)"]
    assert list(settled.frame["here"]) == ["2.5 x", "10⁻⁷ relative error"]
    assert list(settled.frame["verdict"]) == ["holds", "holds"]
    assert "It is faster." in str(settled) and "torch" in str(settled)


def test_what_was_recorded_on_a_gpu_stands_beside_it_with_its_machine(results):
    assert list(settle({"exact": 0}).frame["recorded"]) == ["–", "–"]
    (results / "recorded").mkdir()
    content = {"provenance": {"device": "NVIDIA H200", "cuda": "13.0"}, "scale": "gpu", "measured": {"faster": 3.5}}
    (results / "recorded" / "toy.gpu.json").write_text(json.dumps(content))
    settled = settle({"exact": 0})
    assert list(settled.frame["here"]) == ["–", "0 relative error"]
    assert list(settled.frame["recorded"]) == ["3.5 x", "–"]
    assert settled.machines.endswith("Recorded: NVIDIA H200.") and settled.machines in str(settled)


def test_what_need_not_hold_here_is_shown_in_words():
    settled = settle({"faster": 1.1, "exact": 1e-7})
    assert list(settled.frame["verdict"]) == ["does not hold here", "holds"]
    assert list(settle({"exact": 0}).frame["verdict"]) == ["not measured at this scale", "holds"]
    assert list(settle({"exact": 0}).frame["here"]) == ["–", "0 relative error"]


@pytest.mark.parametrize("value", [1.0, math.nan, math.inf])
def test_what_must_hold_and_does_not_fails_with_the_table(value):
    with pytest.raises(claims.ClaimFailed, match="toy: exact must hold at scale 'ci'") as caught:
        settle({"faster": 3, "exact": value})
    assert "It is faster." in str(caught.value) and "Verdict: fails" in str(caught.value)


def test_what_must_hold_and_is_missing_fails():
    with pytest.raises(claims.ClaimFailed, match="Verdict: missing"):
        settle({"faster": 3})


def test_the_scale_decides_what_must_hold():
    with pytest.raises(claims.ClaimFailed, match="faster must hold at scale 'gpu'"):
        settle({"faster": 1.1, "exact": 0}, scale="gpu")
    assert settle({"faster": 1.1, "exact": 0}, scale="laptop").frame["verdict"][0] == "does not hold here"


def test_bad_arguments_are_named():
    with pytest.raises(KeyError, match="toy has no claim quicker: it has faster, exact"):
        settle({"quicker": 1, "exact": 0})
    with pytest.raises(ValueError, match="scale = 'large'"):
        settle({"exact": 0}, scale="large")
    with pytest.raises(ValueError, match="no device 'tpu'"):
        settle({"exact": 0}, device="tpu")


def test_numbers_are_written_down_also_when_the_claim_fails(results):
    settle({"exact": 1e-7})
    path = results / "claims" / "toy.cpu.json"
    assert json.loads(path.read_text())["measured"] == {"exact": 1e-7}
    with pytest.raises(claims.ClaimFailed):
        settle({"exact": math.nan})
    written = json.loads(path.read_text())
    assert written["measured"] == {"exact": None}
    assert written["scale"] == "ci" and written["provenance"]["torch"] == torch.__version__


def test_the_table_has_every_claim():
    table = claims.table()
    assert list(table["claim"]) == ["faster", "exact"]
    assert set(table["verdict"]) == {"not measured yet"}
    assert tuple(table.columns) == claims.COLUMNS


def test_the_table_merges_what_was_recorded_with_what_was_measured_here(results):
    (results / "recorded").mkdir()
    content = {"provenance": {"device": "NVIDIA H200", "cuda": "13.0"}, "scale": "gpu", "measured": {"faster": 3.5}}
    (results / "recorded" / "toy.gpu.json").write_text(json.dumps(content))
    settle({"faster": 1.5, "exact": 0})
    table = claims.table("toy")
    assert list(table["claim"]) == ["faster", "faster", "exact"]
    assert list(table["measured"]) == ["3.5 x", "1.5 x", "0 relative error"]
    assert list(table["verdict"]) == ["holds", "does not hold here", "holds"]
    assert table["source"][0] == "recorded: NVIDIA H200" and table["source"][1].startswith("here: ")


def test_results_have_a_folder_of_their_own_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("WORKBENCH_RESULTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert claims.results_folder() == tmp_path / "cache" / "transformer-workbench"
