"""``workbench serve``, ``lab`` and ``run``: what hands over to another program."""

import ast
import contextlib
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench import catalog

PACKAGE = Path(catalog.__file__).parent
NOTEBOOKS = PACKAGE.parent / "notebooks"

# PyTorch's threads wait for each other by spinning. Where others want the processor too (a browser, another kernel),
# the one that is waited for gets no turn, and a call of 1 ms takes 40; threads that sleep lose some microseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A notebook's kernel starts in the notebook's folder, where a relative path would no longer lead to the packages.
if relative := os.environ.get("PYTHONPATH"):
    os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, relative.split(os.pathsep)))


def serve(port: int, show: bool) -> int:
    """The dashboard, until it is interrupted or told to end."""
    if not 1 <= port <= 65535:
        raise ValueError(f"--port = {port} is not allowed: choose a whole number from 1 to 65535.")
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup has it ignored
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # the one that Bokeh ends at
    command = ["panel", "serve", str(PACKAGE / "dashboard"), "--address", "localhost", "--port", str(port)]
    return _module(*command, *(["--show"] if show else []))


def lab() -> int:
    """JupyterLab on the notebooks, until it is interrupted."""
    if not NOTEBOOKS.is_dir():
        raise FileNotFoundError(f"The notebooks are part of a checkout, and there is no {NOTEBOOKS}.")
    return _module("jupyter", "lab", str(NOTEBOOKS))


def run(notebook: str, parameters: Sequence[tuple[str, str]], output: str | None = None) -> int:
    """Execute a notebook. Raises ``ValueError`` for a parameter that it does not have: papermill would only warn."""
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from papermill.inspection import inspect_notebook

    path = _notebook(notebook)
    known = inspect_notebook(str(path))
    values = {name: _value(text) for name, text in parameters}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{path.name} has no parameter {', '.join(unknown)}: it has {', '.join(known) or 'none'}.")
    try:
        papermill.execute_notebook(str(path), output, parameters=values, kernel_name="python3", cwd=path.parent)
    except PapermillExecutionError as error:
        raise RuntimeError(f"{path.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}") from None
    return 0


def _notebook(name: str) -> Path:
    path = Path(name)
    if path.exists():
        return path
    if name in catalog.slugs():
        path = NOTEBOOKS / catalog.slugs()[name] / f"{name}.ipynb"
    if not path.exists():
        raise FileNotFoundError(f"There is no notebook {path}: name a file or one of {', '.join(catalog.slugs())}.")
    return path


def _value(text: str) -> Any:
    """A number or True, where the text is one, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _module(*command: str) -> int:
    """``python -m command`` in this very process: one of its own would stay behind when this one is told to end."""
    sys.argv = list(command)
    with contextlib.suppress(KeyboardInterrupt):
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    return 0
