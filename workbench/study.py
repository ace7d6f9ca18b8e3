"""A ``Study``: a whole run of a paper - a race of optimisers, a search, a simulator's sweep, a training curve.

Its loop is one readable generator that yields a row as soon as it has one. Command line, notebook and dashboard run it
alike, show the rows while they come, and may stop reading at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench import controls
from workbench.by_name import ByName

Size = Literal["ci", "laptop", "gpu"]
SIZES: tuple[Size, ...] = ("ci", "laptop", "gpu")


@dataclass(frozen=True, kw_only=True)
class Axes:
    """How a study's rows are drawn: columns of numbers ``x`` and ``y``, a line for each value of the columns ``by``.
    Where several rows of a line share a place, as those of several seeds do, their median and spread are drawn.

    ``log_x`` and ``log_y`` ask for a logarithmic axis; ``points`` for marks that no line connects.
    """

    x: str
    y: str
    by: tuple[str, ...] = ()
    log_x: bool = False
    log_y: bool = False
    points: bool = False


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Study(ByName):
    """A whole run of a paper.

    name, title  for the command line, and for people
    question     what the run answers, in one sentence
    run(*, device, seed, <knobs>) -> rows as they come, each a mapping with all ``columns``. The same seed gives the
                 same rows on the same machine, but for columns whose unit is one of time. It is closed when nobody
                 reads on, so what it holds is freed by leaving the generator
    columns      the unit of every column, by name, in the order of a table: "ms", "bytes", "%" ...; "" for names, plain
                 numbers and counts
    axes         how the rows are drawn
    sizes        the knobs that differ from their defaults at the sizes "ci" (seconds), "laptop" (a minute) and "gpu"
                 (the paper's own size, as near as one GPU comes)
    length(<knobs>) -> how many rows a run has, for its progress; None: not known beforehand
    needs_cuda   it measures what only a GPU has
    """

    name: str
    title: str
    question: str
    run: Callable[..., Iterator[Mapping[str, Any]]]
    columns: Mapping[str, str]
    axes: Axes
    sizes: Mapping[Size, Mapping[str, Any]] = field(default_factory=dict)
    length: Callable[..., int] | None = None
    needs_cuda: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "defined_in", self.run.__module__)
        if taken := sorted(set(self.knobs) & {"size", "device", "seed", "output", "record"}):
            raise ValueError(f"{self.name} has a knob {taken[0]!r}, which every study is asked for already.")
        for name in (self.axes.x, self.axes.y, *self.axes.by):
            if name not in self.columns:
                raise ValueError(f"{self.name} draws a column {name!r}: it has {', '.join(self.columns)}.")
        for size in self.sizes:
            self.settings(size)

    def belong_to(self, module: str) -> None:
        """Called by the ``Paper`` that the study is of: the module where it stands."""
        if self.module is None:
            object.__setattr__(self, "module", module)
            object.__setattr__(self, "path", f"PAPER.study:{self.name}")

    def __repr__(self) -> str:
        return f"{self.name}: {self.title} ({', '.join(self.knobs) or 'no knobs'})"

    @property
    def knobs(self) -> Mapping[str, controls.Knob]:
        return controls.knobs(self.run)

    def settings(self, size: Size = "laptop", knobs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Every knob's value at ``size``, with those of ``knobs`` instead.

        Raises ``ValueError`` for an unknown size or a value out of bounds, ``TypeError`` for an unknown knob.
        """
        if size not in SIZES:
            raise ValueError(f"size = {size!r} is not allowed: choose one of {', '.join(map(repr, SIZES))}.")
        defaults = {name: knob.default for name, knob in self.knobs.items()}
        chosen = {**self.sizes.get(size, {}), **(knobs or {})}
        if unknown := sorted(set(chosen) - set(defaults)):
            raise TypeError(f"{self.name} has no knob {unknown[0]!r}: it has {', '.join(defaults) or 'none'}.")
        return {**defaults, **controls.signature(self.run, self.name).validate(chosen)}

    def total(self, settings: Mapping[str, Any]) -> int | None:
        """How many rows a run with these settings has; None when that is not known beforehand."""
        return None if self.length is None else self.length(**settings)

    def why_not(self, device: str) -> list[str]:
        """Why it cannot run on ``device``, in sentences; an empty list means that it runs."""
        return [f"{self.title} needs a GPU."] if self.needs_cuda and device != "cuda" else []

    def rows(
        self, size: Size = "laptop", *, device: str = "cpu", seed: int = 0, **knobs: Any
    ) -> Iterator[dict[str, Any]]:
        """Run it: the rows as they come, each with the study's columns in order.

        Errors as ``settings``, and ``ValueError`` where it cannot run, all before the first row. Raises ``ValueError``
        for a row whose columns are not those that the study names.
        """
        settings = self.settings(size, knobs)
        if reasons := self.why_not(device):
            raise ValueError(" ".join(reasons))
        return self._rows(self.run(device=device, seed=seed, **settings))

    def _rows(self, run: Iterator[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        try:
            for row in run:
                if set(row) != set(self.columns):
                    wrong = ", ".join(sorted(set(row) ^ set(self.columns)))
                    raise ValueError(f"{self.name} gave a row whose columns are not its own: {wrong}.")
                yield {name: row[name] for name in self.columns}
        finally:
            run.close()

    def heading(self, column: str) -> str:
        """A column's name with its unit, as a table or an axis shows it."""
        words, unit = column.replace("_", " "), self.columns[column]
        return f"{words} ({unit})" if unit else words
