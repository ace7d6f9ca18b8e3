"""Every notebook runs top to bottom at scale "ci" in half a minute; its own assertions settle the claims."""

import time
from pathlib import Path

import papermill
import pytest
from papermill.inspection import inspect_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
LIMIT_S = 30


def execute(path: Path, tmp_path: Path, parameters: dict) -> None:
    """Run one notebook. Papermill only warns about a parameter that the notebook does not have; here it is an error."""
    known = inspect_notebook(path)
    if unknown := set(parameters) - set(known):
        raise ValueError(f"{path.name} has no parameter {', '.join(sorted(unknown))}: it has {', '.join(known)}.")
    papermill.execute_notebook(
        path, tmp_path / path.name, parameters=parameters, kernel_name="python3", cwd=path.parent, progress_bar=False
    )


@pytest.mark.timeout(6 * LIMIT_S)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))
    start = time.perf_counter()
    execute(path, tmp_path, {"scale": "ci", "device": "cpu"})
    seconds = time.perf_counter() - start
    assert seconds <= LIMIT_S, f"{path.name} took {seconds:.0f} s; a lesson may take {LIMIT_S} s at scale 'ci'"


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_on_a_gpu(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))
    execute(path, tmp_path, {"scale": "gpu", "device": "cuda"})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_unknown_parameter_is_an_error(path, tmp_path):
    with pytest.raises(ValueError, match="no parameter colour"):
        execute(path, tmp_path, {"scale": "ci", "colour": "red"})
