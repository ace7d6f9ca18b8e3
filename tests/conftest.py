"""What every test gets: a quiet, repeatable machine.

Without a CUDA device Triton kernels run in Triton's interpreter; that has to be chosen before Triton is imported,
which is why it happens here and not in a fixture.
"""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from durations import pytest_addoption, pytest_configure  # noqa: F401 (hooks of pytest)

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# What torch.compile made in other runs, with other settings or for another processor, is none of these tests' business.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="workbench-inductor-")
atexit.register(shutil.rmtree, os.environ["TORCHINDUCTOR_CACHE_DIR"], ignore_errors=True)

# Tests run side by side: what one of them starts (a lesson's kernel, a server) keeps to its core as well.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="No CUDA device on this machine."))


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers in every test, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory():
    """Uninitialised memory is NaN while the test runs."""
    from workbench.conformance import poisoned_memory

    with poisoned_memory():
        yield
