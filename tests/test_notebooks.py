"""Every notebook runs top to bottom at scale "ci" in half a minute; its own assertions settle the claims."""

import os
import time
from pathlib import Path

import pytest

from workbench.cli.launch import run

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
LIMIT_S = 30


@pytest.mark.timeout(6 * LIMIT_S)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))
    start, before = time.perf_counter(), os.times()
    run(str(path), [("scale", "ci"), ("device", "cpu")])
    # On a machine that is busy with something else the clock runs on; what the lesson itself took then counts.
    after = os.times()
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    seconds = min(time.perf_counter() - start, worked)
    assert seconds <= LIMIT_S, f"{path.name} took {seconds:.0f} s; a lesson may take {LIMIT_S} s at scale 'ci'"


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_on_a_gpu(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))
    run(str(path), [("scale", "gpu"), ("device", "cuda")])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_unknown_parameter_is_an_error(path):
    with pytest.raises(ValueError, match="no parameter colour"):
        run(str(path), [("scale", "ci"), ("colour", "red")])
