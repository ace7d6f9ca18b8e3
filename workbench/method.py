"""A ``Method``: one function of a paper, as equations and as something that runs fast, and all that is said about it.

A ``Method`` is also the public function: ``poly_norm(x, weight, bias)`` runs it, ``poly_norm.reference`` is the
paper's equations, ``poly_norm.fast`` the version that pays off. Nothing here imports torch until it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from workbench import controls, slots
from workbench.by_name import ByName
from workbench.slots import Activation, Attention, Slot, Toggle
from workbench.writing import quantity

if TYPE_CHECKING:
    import torch


class Unavailable(RuntimeError):
    """An implementation that was asked for by name cannot run on these inputs; the message says why."""


@dataclass(frozen=True)
class Example:
    """What a method can be called with: ``method(**example.inputs, **example.options)``.

    ``inputs`` are tensors by parameter name, in the order of the signature: of floating point, whole numbers or truth
    values. ``options`` is everything else. Tensors have the layout that a model hands over: (batch, heads, tokens,
    head_dim) in one piece for attention, rows (..., width) for what works on rows.
    """

    inputs: Mapping[str, torch.Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        return {**self.inputs, **self.options}


@dataclass(frozen=True)
class Count:
    """A quantity that a paper counts beside FLOPs and bytes, with its unit: ``Count(4096, "bytes")``."""

    value: float
    unit: str

    def __str__(self) -> str:
        return quantity(self.value, self.unit)


@dataclass(frozen=True)
class Cost:
    """The floor of one forward call.

    flops               a multiply-add counts 2; an elementwise operation, an exponential or a division 1
    bytes               the least that must move to and from memory: every input read once, every output written once.
                        No method moves less, and statistics that are kept for the backward pass add a few per cent: it
                        lies between that floor and 1.1 times it (unless the method's trait ``reads_all`` says no)
    backward_flops      the same for the backward pass alone, which reads at least what the forward pass read or wrote;
    backward_bytes      both 0 where there is no gradient
    product_flops       how many of ``flops`` are those of matrix products and convolutions, which an operator counter
                        sees; None: all of them, or none at all
    counts              what else the paper counts, by name, each with its unit: bytes "sent" and "kept", "energy",
                        "parameters" ...

    Raises ``ValueError`` for figures below zero.
    """

    flops: float
    bytes: float
    backward_flops: float = 0.0
    backward_bytes: float = 0.0
    product_flops: float | None = None
    counts: Mapping[str, Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("flops", "bytes", "backward_flops", "backward_bytes"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)} is not allowed: choose a number from 0 on.")


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
    """What a user would otherwise call: same arguments as the method, and the reasons why it cannot run, if any.

    ``title`` is what people are told; empty: its name will do.
    """

    function: Callable[..., Any]
    why_not: Callable[..., list[str]] = runs_anywhere
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What is special about a method and cannot be read off it. The defaults are the strict case, and each trait is
    tested both ways: what claims to have no gradient raises when one is asked for.

    gradients   how often ``fast`` can be differentiated: 0 (nor can the reference: a call whose inputs require
                gradients is refused), 1 (a second derivative raises), 2
    rows_apart  what stands at one index of the first axis has no influence on the results at another
    dtypes      the floating-point types that inputs may have; others are refused
    reads_all   every number of every input is needed, so ``Cost.bytes`` counts them all
    repeatable  the same inputs give the same bits, forward and backward
    """

    gradients: Literal[0, 1, 2] = 1
    rows_apart: bool = True
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16", "float16")
    reads_all: bool = True
    repeatable: bool = True


STRICT = Traits()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Method(ByName):
    """One function of a paper, as equations and as something that runs fast.

    What an implementation must do, and the conformance suite holds it to:

    - **Inputs** come first in the signature, by place; everything else is a keyword. A keyword annotated as
      ``controls`` says is a *knob*, and every value within its bounds works - at both ends, with large and with tiny
      numbers. A keyword ``is_causal`` is a promise: no output depends on a later query, key or value. With a parameter
      ``state`` the method returns ``(output, state)``, takes the state where the piece before ended (None: from the
      start), and piece by piece equals all at once. Results may be trees (tuples, lists, dicts) of tensors.
    - **Layouts.** Any strides: a slice with gaps, axes swapped as a projection leaves them, an expanded axis. No input
      is changed, and none is returned. Empty batches and rows give empty results.
    - **Numbers.** A result has the inputs' dtype, autocast works as for PyTorch's own function, a NaN stays in its row.
    - **Errors.** Inputs that do not fit together raise ``ValueError`` with a sentence, from every implementation alike.

    name        unique in the catalog; also the name by which models and the dashboard choose it
    title       for people; ``idea`` is one line
    slot        where in a model it can stand (``workbench.slots``), or None
    traits      what is special about it
    reference   the equations; any device, any dtype, differentiable by autograd
    fast        the same function made to pay off; it is called only where ``why_not_fast`` names no reason
    why_not_fast(*inputs, **options) -> sentences; empty: ``fast`` runs. It is asked at every call, so it looks at
                devices, dtypes and shapes, never at numbers, and takes a microsecond
    baselines   what a user would otherwise take, by name, strongest last
    example(size, *, device, dtype, seed, <shape knobs>) -> Example; works on the device "meta"; the same seed gives the
                same numbers, whatever the dtype up to rounding. The size is that of the axis that a user makes longer:
                tokens, rows
    cost(*inputs, **options) -> Cost; works on meta tensors
    workspace(implementation, *inputs, **options) -> bytes held at the forward's peak beside inputs and output. An upper
                bound, and no more than three times what is measured
    tolerance   largest relative error of ``fast`` by dtype name (``"float64"``, ``"float32"``); in lower precision the
                budget is derived: twice the error of ``ordinary`` run in that precision
    ordinary    the implementation that stands for "ordinary PyTorch" in that rule
    shows_map   ``attention_map`` works: the first inputs are query, key and value, and the output is linear in the
                value. None: it does in the slot ``Attention``, and only there
    misfits     inputs that do not fit, as data: ``misfits(example) -> {what is wrong: inputs by place}``
    largest     the largest size that ``example`` makes, where a method cannot go further; None: any
    """

    name: str
    title: str
    idea: str
    slot: Slot | None
    reference: Callable[..., Any]
    fast: Callable[..., Any]
    example: Callable[..., Example]
    cost: Callable[..., Cost]
    tolerance: Mapping[str, float]
    workspace: Callable[..., int]
    traits: Traits = STRICT
    why_not_fast: Callable[..., list[str]] = runs_anywhere
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    ordinary: str = "reference"
    shows_map: bool | None = None
    misfits: Callable[[Example], Mapping[str, tuple[Any, ...]]] | None = None
    largest: int | None = None

    layer: ClassVar[Callable[..., torch.nn.Module] | None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "defined_in", self.reference.__module__)
        # Read once, so that a call looks things up and reflects on nothing.
        object.__setattr__(self, "signature", controls.signature(self.reference, self.name))
        if self.shows_map is None:
            object.__setattr__(self, "shows_map", isinstance(self.slot, Attention))

    def belong_to(self, module: str, layer: Callable[..., torch.nn.Module] | None) -> None:
        """Called by the ``Paper`` that the method is of: the module where it stands, and the layer that holds the
        method's weights, if any."""
        if self.module is None:
            object.__setattr__(self, "module", module)
            object.__setattr__(self, "path", f"PAPER.method:{self.name}")
            object.__setattr__(self, "layer", layer)

    def __repr__(self) -> str:
        return f"{self.name}: {self.title} ({', '.join(self.implementations)})"

    @property
    def branches(self) -> int:
        """How many up-projections it consumes: 2 for gated activations, 1 for everything else."""
        return self.slot.branches if isinstance(self.slot, Activation) else 1

    @property
    def toggle(self) -> Toggle | None:
        """Which of the dashboard's switches offers it."""
        return slots.toggle(self.slot)

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

    @property
    def takes_state(self) -> bool:
        """Whether a state goes in and comes out: a parameter ``state``, and results ``(output, state)``."""
        return "state" in self.signature.checks

    def title_of(self, implementation: str) -> str:
        """What people are told an implementation is called, whether or not there is one of that name."""
        known = self.baselines.get(implementation)
        return known.title if known is not None and known.title else implementation.replace("_", " ")

    def function(self, implementation: str) -> Callable[..., Any]:
        """The callable behind a name out of ``implementations``. Raises ``ValueError`` for another name."""
        if implementation in self.baselines:
            return self.baselines[implementation].function
        if implementation in ("reference", "fast"):
            return getattr(self, implementation)
        raise ValueError(
            f"{self.name} has no implementation {implementation!r}: choose {', '.join(self.implementations)}."
        )

    def excluded(self, inputs: Iterable[Any]) -> list[str]:
        """What the method's traits exclude about these inputs, in sentences: a dtype, a gradient."""
        import torch

        floating = [each for each in inputs if isinstance(each, torch.Tensor) and each.is_floating_point()]
        found = []
        for dtype in sorted({str(each.dtype).removeprefix("torch.") for each in floating}):
            if dtype not in self.traits.dtypes:
                found.append(f"{self.title} takes {', '.join(self.traits.dtypes)}, not {dtype}.")
        if not self.traits.gradients and torch.is_grad_enabled() and any(each.requires_grad for each in floating):
            found.append(f"{self.title} has no gradient: detach its inputs, or call it under torch.no_grad().")
        return found

    def why_not(self, implementation: str, *inputs: Any, **options: Any) -> list[str]:
        """Why ``implementation`` cannot run on this call, in sentences; an empty list means that it runs."""
        if self.traits is not STRICT and (excluded := self.excluded((*inputs, *options.values()))):
            return excluded
        if implementation == "fast":
            import torch

            reasons = self.why_not_fast(*inputs, **options)
            if torch.autograd.forward_ad._current_level >= 0 and any(map(_has_tangent, (*inputs, *options.values()))):
                return [*reasons, "Forward-mode derivatives come from the reference only."]
            return reasons
        if implementation in self.baselines:
            return self.baselines[implementation].why_not(*inputs, **options)
        return []

    def __call__(self, *inputs: Any, implementation: str = "auto", **options: Any) -> Any:
        """Run the method.

        ``"auto"`` takes ``fast`` where it runs and ``reference`` elsewhere; a name runs that one or raises
        ``Unavailable``. Knobs out of bounds raise ``ValueError``, unknown options and missing inputs ``TypeError``. In
        the slot ``Attention`` the words of PyTorch's ``scaled_dot_product_attention`` are taken, too, in its order.
        """
        signature = self.signature
        if len(inputs) not in signature.lengths or not signature.check(options):
            if isinstance(self.slot, Attention):
                inputs, options = slots.from_sdpa(signature, inputs, options)
            inputs, options = signature.bind(inputs, options)
        if self.traits is not STRICT and (excluded := self.excluded(inputs)):
            raise ValueError(f"{self.name} cannot take these inputs. {' '.join(excluded)}")
        if implementation == "auto":
            chosen = self.reference if self.why_not("fast", *inputs, **options) else self.fast
            return chosen(*inputs, **options)
        function = self.function(implementation)
        if reasons := self.why_not(implementation, *inputs, **options):
            raise Unavailable(f"{self.name} cannot run its {implementation!r} implementation here: {' '.join(reasons)}")
        return function(*inputs, **options)

    def attention_map(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        *more: torch.Tensor,
        implementation: str = "auto",
        **options: Any,
    ) -> torch.Tensor:
        """The map ``(batch, heads, queries, keys)`` with ``map @ value == output``, whatever the method forms inside.

        Unit vectors go in as values, ``head_dim`` of them a call, so the map comes out of the path that is asked for;
        ``more`` are the tensors that follow the value. Cost: ``keys / head_dim`` calls. Raises ``TypeError`` for a
        method that attends to nothing.
        """
        import torch

        if not self.shows_map:
            raise TypeError(f"{self.name} has no attention map: it mixes no tokens.")
        keys, width = key.shape[-2:]
        identity = torch.eye(keys, dtype=key.dtype, device=key.device)
        columns = []
        for part in identity.split(width, dim=1):
            value = torch.nn.functional.pad(part, (0, width - part.shape[1])).expand_as(key)
            result = self(query, key, value, *more, implementation=implementation, **options)
            output = result[0] if self.takes_state else result
            columns.append(output[..., : part.shape[1]])
        return torch.cat(columns, dim=-1)


def _has_tangent(value: Any) -> bool:
    """Whether a forward-mode derivative may travel with a tensor: what ``torch.func`` has wrapped can hide one."""
    import torch

    if not isinstance(value, torch.Tensor):
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(value)
    return wrapped or torch.autograd.forward_ad.unpack_dual(value).tangent is not None
