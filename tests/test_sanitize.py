"""What ``python -m tests.sanitize`` would run exists, and it says why where it cannot run."""

import subprocess
import sys

import pytest
import torch

from tests import sanitize


def test_every_case_is_a_test():
    pytest.importorskip("triton", reason="Triton is not installed: it comes for Linux only.")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *sanitize.nodes()]
    found = subprocess.run(command, cwd=sanitize.ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    for node in sanitize.nodes():
        assert node in found.stdout, f"{node} names no test"


@pytest.mark.skipif(torch.cuda.is_available(), reason="There is a CUDA device: `make sanitize` runs.")
def test_without_a_gpu_it_says_so(capsys):
    assert sanitize.main([]) == 2
    assert "there is no CUDA device here" in capsys.readouterr().err
