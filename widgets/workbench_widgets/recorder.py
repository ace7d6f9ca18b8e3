"""An algorithm's frames: taken by hand, or from a function of the package while it runs, line by line."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch

from workbench.plots.cells import Bars, Cells

MOST_FRAMES = 500

Value = Any
"""What a frame shows: numbers (a scalar, a row, a matrix), ``Cells``, ``Bars``, or a picture of one's own as SVG."""


@dataclass(frozen=True)
class Frame:
    """One moment of an algorithm.

    sentence  what happened, for people
    values    what is shown, by name, in order: numbers, ``plots.Cells``, ``plots.Bars``, or SVG
    line      a piece of the line of source that just ran, or its number in the file; "" for none
    """

    sentence: str
    values: Mapping[str, Value] = field(default_factory=dict)
    line: str | int = ""

    def shown(self) -> dict[str, Cells | Bars | str]:
        """The values, with numbers put into cells."""
        kept = (Cells, Bars, str)
        return {name: value if isinstance(value, kept) else Cells(value) for name, value in self.values.items()}


def record(
    function: Callable[..., Any],
    *arguments: Any,
    show: Sequence[str] | Callable[[Mapping[str, Any]], Mapping[str, Value]],
    say: Callable[[Mapping[str, Any]], str] | None = None,
    at: Sequence[str] = (),
    **options: Any,
) -> list[Frame]:
    """Run ``function(*arguments, **options)`` once and take a frame after each of its lines that hold a text of ``at``
    (default: after each line that changed what is shown).

    ``show`` names local variables, or makes the values of a frame from all of them; ``say`` makes the sentence
    (default: the names of the variables that changed). Only the function itself is watched, not what it calls.
    Raises ``ValueError`` when a text of ``at`` is in no line, when no frame was taken, and after 500 frames.
    """
    function = inspect.unwrap(function)
    statements = _statements(function)
    for text in at:
        if not any(text in code for _, code in statements.values()):
            raise ValueError(f"The source of {function.__qualname__} has no line with {text!r}.")
    recorder = _Recorder(function, statements, show, say, at)
    before = sys.gettrace()
    sys.settrace(recorder.enter)
    try:
        function(*arguments, **options)
    finally:
        sys.settrace(before)
    if not recorder.frames:
        raise ValueError(f"No frame was taken of {function.__qualname__}: the lines that were asked for did not run.")
    return recorder.frames


class _Recorder:
    """Told by Python before each line, it looks at what the statement before has done."""

    def __init__(self, function, statements, show, say, at) -> None:
        self.code, self.statements = function.__code__, statements
        self.show, self.say, self.at = show, say, at
        self.frames: list[Frame] = []
        self.running: int | None = None
        self.known: dict[str, Any] = {}

    def enter(self, frame: FrameType, event: str, argument: Any) -> Callable | None:
        return self.step if frame.f_code is self.code and event == "call" else None

    def step(self, frame: FrameType, event: str, argument: Any) -> Callable:
        now, _ = self.statements.get(frame.f_lineno, (frame.f_lineno, ""))
        if self.running is not None and (event == "return" or (event == "line" and now != self.running)):
            self._look(frame.f_locals)
        if event == "line":
            self.running = now
        return self.step

    def _look(self, seen: Mapping[str, Any]) -> None:
        now = {name: _kept(value) for name, value in seen.items()}
        changed = [name for name, value in now.items() if name not in self.known or not _same(value, self.known[name])]
        self.known = now
        if self.at:
            taken = any(each in self.statements[self.running][1] for each in self.at)
        else:
            taken = bool(set(changed) & (set(now) if callable(self.show) else set(self.show)))
        if not taken:
            return
        if len(self.frames) == MOST_FRAMES:
            raise ValueError(f"More than {MOST_FRAMES} frames: choose the lines with at=, or a smaller input.")
        values = self.show(now) if callable(self.show) else {name: now[name] for name in self.show if name in now}
        named = changed if callable(self.show) else [name for name in changed if name in self.show]
        sentence = self.say(now) if self.say else f"New: {', '.join(named)}." if named else "Nothing changes."
        self.frames.append(Frame(sentence, values, self.running))


def _statements(function: Callable) -> dict[int, tuple[int, str]]:
    """For every line of the file that belongs to the function: the first line of its statement, and the statement's
    text; of a loop or a condition the head alone."""
    lines, first = inspect.getsourcelines(function)
    found = {}
    for node in ast.walk(ast.parse(textwrap.dedent("".join(lines)))):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            after = max(node.lineno + 1, body[0].lineno) if body else node.end_lineno + 1
            text = "".join(lines[node.lineno - 1 : after - 1])
            found |= {first + line - 1: (first + node.lineno - 1, text) for line in range(node.lineno, after)}
    return found


def _kept(value: Any) -> Any:
    """A copy that the algorithm cannot change any more."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray | list | dict | set) else value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and bool(np.array_equal(a, b))
    if isinstance(a, torch.Tensor | np.ndarray) or isinstance(b, torch.Tensor | np.ndarray):
        return False
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return a is b
