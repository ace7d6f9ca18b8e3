"""The vocabulary of the house: a ``Paper`` has ``Method``\\ s and ``Claim``\\ s; a method has implementations, an
``Example`` to run on and a ``Cost``.

A ``Method`` is also the public function: ``poly_norm(x, weight, bias)`` runs it, ``poly_norm.reference`` is the
paper's equations, ``poly_norm.fast`` the version that pays off. Nothing here imports torch until it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from workbench import controls

if TYPE_CHECKING:
    import torch

Toggle = Literal["attention", "activation", "hierarchy", "doubly_stochastic", "caching"]
Scale = Literal["cpu", "gpu"]


class Unavailable(RuntimeError):
    """An implementation that was asked for by name cannot run on these inputs; the message says why."""


@dataclass(frozen=True)
class Example:
    """What a method can be called with: ``method(**example.inputs, **example.options)``.

    ``inputs`` are tensors by parameter name, ``options`` everything else.
    """

    inputs: Mapping[str, torch.Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        return {**self.inputs, **self.options}


@dataclass(frozen=True)
class Cost:
    """The floor of one forward call: ``flops`` (a multiply-add counts 2) and ``bytes``, the least that must move to and
    from memory (every input read once, every output written once).

    ``backward_flops`` and ``backward_bytes`` are the same for the backward pass alone.
    """

    flops: float
    bytes: float
    backward_flops: float = 0.0
    backward_bytes: float = 0.0


def runs_anywhere(*inputs: Any, **options: Any) -> list[str]:
    """The ``why_not`` of an implementation that is plain PyTorch: no reason against it."""
    return []


def kernel_or_cpu(x: torch.Tensor, why_not: Callable[..., list[str]], *arguments: Any) -> list[str]:
    """The ``why_not`` of an implementation that is a kernel on CUDA and PyTorch on a CPU, for inputs that lie where x
    does. On CUDA the kernel's own ``why_not`` is asked, with ``arguments``.
    """
    if x.is_cpu or x.is_meta:
        return []
    if not x.is_cuda:
        return [f"There is a kernel for CUDA and a path for CPU, not for {x.device.type}."]
    return why_not(*arguments)


def standard_normal(shape: tuple[int, ...], *, device: str, dtype: str, seed: int) -> torch.Tensor:
    """Normal numbers of mean 0 and variance 1, the same for the same seed; on "meta" only their shape."""
    import torch

    generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device, dtype=getattr(torch, dtype))


@dataclass(frozen=True)
class Baseline:
    """What a user would otherwise call: same arguments as the method, and the reasons why it cannot run, if any."""

    function: Callable[..., Any]
    why_not: Callable[..., list[str]] = runs_anywhere


@dataclass(frozen=True, kw_only=True)
class Method:
    """One function of a paper, as equations and as something that runs fast.

    name        unique in the catalog; also the name by which models and the dashboard choose it
    title       for people; ``idea`` is one line
    toggle      which of the workbench's toggles it belongs to, or None
    reference   the equations; any device, any dtype, differentiable by autograd
    fast        the same function made to pay off; it is called only where ``why_not_fast`` names no reason
    why_not_fast(*inputs, **options) -> sentences; empty: ``fast`` runs
    baselines   what a user would otherwise take, by name, strongest last
    example(size, *, device, dtype, seed, <shape knobs>) -> Example
    cost(*inputs, **options) -> Cost; works on meta tensors
    workspace(implementation, *inputs, **options) -> bytes held at the forward's peak beside inputs and output
    tolerance   largest relative error of ``fast`` by dtype name (``"float64"``, ``"float32"``); in lower precision the
                budget is derived: twice the error of ``ordinary`` run in that precision
    ordinary    the implementation that stands for "ordinary PyTorch" in that rule
    shows_map   attention-like: ``attention_map`` works
    layer(hidden, **options) -> nn.Module that holds the method's weights, or None
    branches    how many up-projections an activation consumes (2 for gated ones)
    strategy    of the toggle "caching": how a sampler does it, a class as ``workbench.models.caching`` describes it
    largest     the largest size that ``example`` makes, where a method cannot go further; None: any
    """

    name: str
    title: str
    idea: str
    toggle: Toggle | None
    reference: Callable[..., Any]
    fast: Callable[..., Any]
    example: Callable[..., Example]
    cost: Callable[..., Cost]
    tolerance: Mapping[str, float]
    workspace: Callable[..., int]
    why_not_fast: Callable[..., list[str]] = runs_anywhere
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    ordinary: str = "reference"
    shows_map: bool = False
    layer: Callable[..., torch.nn.Module] | None = None
    branches: int = 1
    strategy: type | None = None
    largest: int | None = None

    @property
    def implementations(self) -> tuple[str, ...]:
        return ("reference", "fast", *self.baselines)

    @property
    def knobs(self) -> Mapping[str, controls.Knob]:
        """The method's knobs: those of ``reference``."""
        return controls.knobs(self.reference)

    @property
    def shape_knobs(self) -> Mapping[str, controls.Knob]:
        """The knobs of ``example``: batch, width and the like."""
        return controls.knobs(self.example)

    def function(self, implementation: str) -> Callable[..., Any]:
        """The callable behind a name out of ``implementations``. Raises ``ValueError`` for another name."""
        if implementation in self.baselines:
            return self.baselines[implementation].function
        if implementation in ("reference", "fast"):
            return getattr(self, implementation)
        raise ValueError(
            f"{self.name} has no implementation {implementation!r}: choose {', '.join(self.implementations)}."
        )

    def why_not(self, implementation: str, *inputs: Any, **options: Any) -> list[str]:
        """Why ``implementation`` cannot run on this call, in sentences; an empty list means that it runs."""
        if implementation in self.baselines:
            return self.baselines[implementation].why_not(*inputs, **options)
        return self.why_not_fast(*inputs, **options) if implementation == "fast" else []

    def __call__(self, *inputs: Any, implementation: str = "auto", **options: Any) -> Any:
        """Run the method.

        ``"auto"`` takes ``fast`` where it runs and ``reference`` elsewhere; a name runs that one or raises
        ``Unavailable``. Knobs out of bounds raise ``ValueError``, unknown options ``TypeError``.
        """
        import torch

        if not torch.compiler.is_compiling():
            controls.validate(self.reference, options)
        if implementation == "auto":
            implementation = "reference" if self.why_not("fast", *inputs, **options) else "fast"
        elif reasons := self.why_not(implementation, *inputs, **options):
            raise Unavailable(f"{self.name} cannot run its {implementation!r} implementation here: {' '.join(reasons)}")
        return self.function(implementation)(*inputs, **options)

    def attention_map(
        self, query: torch.Tensor, key: torch.Tensor, *, implementation: str = "auto", **options: Any
    ) -> torch.Tensor:
        """The map ``(batch, heads, queries, keys)`` with ``map @ value == output``, whatever the method forms inside.

        Unit vectors go in as values, ``head_dim`` of them a call, so the map comes out of the path that is asked for.
        Cost: ``keys / head_dim`` calls. Raises ``TypeError`` for a method that attends to nothing.
        """
        import torch

        if not self.shows_map:
            raise TypeError(f"{self.name} has no attention map: it mixes no tokens.")
        keys, width = key.shape[-2:]
        identity = torch.eye(keys, dtype=key.dtype, device=key.device)
        columns = [
            self(
                query,
                key,
                torch.nn.functional.pad(part, (0, width - part.shape[1])).expand_as(key),
                implementation=implementation,
                **options,
            )[..., : part.shape[1]]
            for part in identity.split(width, dim=1)
        ]
        return torch.cat(columns, dim=-1)


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
class Paper:
    """One paper of the workbench. ``slug`` names its module, notebook, tests, golden arrays and dashboard page."""

    slug: str
    title: str
    authors: str
    arxiv: str
    year: int
    chapter: str
    idea: str
    methods: tuple[Method, ...]
    claims: tuple[Claim, ...] = ()
    recordings: tuple[Recording, ...] = ()
    sampling: tuple[SamplingRun, ...] = ()

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"

    @property
    def notebook(self) -> str:
        return f"notebooks/{self.chapter}/{self.slug}.ipynb"

    def method(self, name: str) -> Method:
        """One of the paper's methods by name. Raises ``KeyError`` with the names there are."""
        for method in self.methods:
            if method.name == name:
                return method
        raise KeyError(f"{self.slug} has no method {name!r}: it has {', '.join(m.name for m in self.methods)}.")
