"""Every notebook runs top to bottom at scale "ci"; its own assertions settle the claims."""

from pathlib import Path

import pytest

from workbench.cli.launch import run

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))
    run(str(path), [("scale", "ci"), ("device", "cpu")])


@pytest.mark.gpu
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_on_a_gpu(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))
    run(str(path), [("scale", "gpu"), ("device", "cuda")])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_unknown_parameter_is_an_error(path):
    with pytest.raises(ValueError, match="no parameter colour"):
        run(str(path), [("scale", "ci"), ("colour", "red")])
