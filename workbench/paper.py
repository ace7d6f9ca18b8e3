"""The vocabulary of the house: a ``Paper`` has ``Method``\\ s, studies, claims and recordings.

Everything that a paper's folder needs to describe itself is imported from here: a method's parts come from
``workbench.method``, the places where it can stand from ``workbench.slots``, whole runs from ``workbench.study``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from workbench.by_name import ByName
from workbench.method import (
    Baseline,
    Cost,
    Count,
    Example,
    Method,
    Traits,
    Unavailable,
    kernel_or_cpu,
    runs_anywhere,
    standard_normal,
)
from workbench.slots import (
    Activation,
    Attention,
    Block,
    Caching,
    Compression,
    FeedForward,
    Mixer,
    Optimiser,
    Slot,
    Toggle,
)
from workbench.study import Axes, Study

if TYPE_CHECKING:
    import torch

__all__ = [
    "Activation",
    "Attention",
    "Axes",
    "Baseline",
    "Block",
    "Caching",
    "Claim",
    "Compression",
    "Cost",
    "Count",
    "Example",
    "FeedForward",
    "Method",
    "Mixer",
    "Optimiser",
    "Paper",
    "Recording",
    "SamplingRun",
    "Scale",
    "Slot",
    "Study",
    "Toggle",
    "Traits",
    "Unavailable",
    "View",
    "kernel_or_cpu",
    "runs_anywhere",
    "standard_normal",
]

Scale = Literal["cpu", "gpu"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper reports, and how the workbench settles it.

    name       the key under which a notebook hands in its number
    statement  the claim in one sentence; ``where`` it stands in the paper
    reported   the paper's number, as text with its unit
    unit       of the number measured here
    how        how it is measured here
    low, high  the interval in which the number must lie; None leaves that side open
    must_hold  the scales at which a number outside the interval is a failure; elsewhere it is only shown
    caveat     what cannot be shown at this scale, and why
    """

    name: str
    statement: str
    where: str
    reported: str
    unit: str
    how: str
    low: float | None = None
    high: float | None = None
    must_hold: tuple[Scale, ...] = ()
    caveat: str = ""

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in the claim's interval (a NaN never does)."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high) and value == value


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A sweep that is made on a real GPU and kept under ``workbench/recorded``: the figures a paper is shown with.

    group            what a reader calls it, such as "attention, causal"
    methods          names of methods, the paper's or what they are compared with; every implementation of each is
                     measured, or only ``implementations``
    sizes            of ``example``
    shape, options   knobs of ``example`` and of the methods
    replayed         times are those of CUDA graphs, without the host's time for launching
    """

    group: str
    methods: tuple[str, ...]
    sizes: tuple[int, ...]
    shape: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    implementations: tuple[str, ...] = ()
    dtype: str = "bfloat16"
    directions: tuple[Literal["forward", "backward"], ...] = ("forward", "backward")
    replayed: bool = False


@dataclass(frozen=True, kw_only=True)
class SamplingRun:
    """A whole sampling run of a diffusion transformer that is recorded, side by side with those of other papers.

    caching, options   a method of the toggle "caching" and its knobs; "none" computes every step
    steps              of the sampler
    full               set the option ``threshold`` so that about so many steps are full: where the network's weights
                       mean nothing, a threshold does not either
    """

    caching: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 50
    full: int | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """Something to see in the dashboard: a link on the page that it is a view of, one click from its first screen.

    page      "inspect", "train" or "generate"
    title     what the link says
    settings  what differs from the page's first screen, by the names and in the words of its links
    first     it is the page's first screen: ``settings`` then say what side B is
    """

    page: Literal["inspect", "train", "generate"]
    title: str
    settings: Mapping[str, str] = field(default_factory=dict)
    first: bool = False


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Paper(ByName):
    """One paper of the workbench. ``slug`` names its folder, notebook, tests, golden arrays and dashboard page.

    methods     its functions; a method that several papers use has one owner
    layers      by method name, ``layer(<shape knobs>, **options) -> nn.Module``: the method with its weights. It takes
                the shape knobs of the method's example that it has use for, by name, beside options of its own, and
                holds those of the example's inputs that are weights as parameters of the same names; it is called with
                the rest of them
    studies     its whole runs
    views       what is worth seeing of it in the dashboard
    take_when   when to take it, in sentences. The figures are read from what was recorded (``measure.crossovers``)
    leave_when  when to take something else, and what
    """

    slug: str
    title: str
    authors: str
    arxiv: str
    year: int
    chapter: str
    idea: str
    methods: tuple[Method, ...]
    layers: Mapping[str, Callable[..., torch.nn.Module]] = field(default_factory=dict)
    studies: tuple[Study, ...] = ()
    claims: tuple[Claim, ...] = ()
    recordings: tuple[Recording, ...] = ()
    sampling: tuple[SamplingRun, ...] = ()
    views: tuple[View, ...] = ()
    take_when: str = ""
    leave_when: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "module", f"workbench.{self.chapter}.{self.slug}")
        object.__setattr__(self, "path", "PAPER")
        if unknown := set(self.layers) - {method.name for method in self.methods}:
            raise ValueError(f"{self.slug} has layers for {', '.join(sorted(unknown))}, which are none of its methods.")
        for method in self.methods:
            method.belong_to(self.module, self.layers.get(method.name))
        for study in self.studies:
            study.belong_to(self.module)

    def __repr__(self) -> str:
        return f"{self.slug}: {self.title} ({self.authors.partition(',')[0]}, {self.year})"

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"

    @property
    def notebook(self) -> str:
        return f"notebooks/{self.chapter}/{self.slug}.ipynb"

    @property
    def citation(self) -> str:
        """The paper as an entry of BibTeX."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": self.authors.replace(", ", " and "),
            "year": self.year,
            "eprint": self.arxiv,
            "archivePrefix": "arXiv",
            "url": self.url,
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
        return "\n".join([f"@article{{{self.slug}{self.year},", *lines, "}"])

    def method(self, name: str) -> Method:
        """One of the paper's methods by name. Raises ``KeyError`` with the names there are."""
        return self._named("method", self.methods, name)

    def study(self, name: str) -> Study:
        """One of the paper's studies by name. Raises ``KeyError`` with the names there are."""
        return self._named("study", self.studies, name)

    def _named(self, word: str, things: tuple[Any, ...], name: str) -> Any:
        for thing in things:
            if thing.name == name:
                return thing
        raise KeyError(f"{self.slug} has no {word} {name!r}: it has {', '.join(t.name for t in things) or 'none'}.")
