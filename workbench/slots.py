"""Where in a model a method can stand: its slot, a small value.

A slot says what goes in and what comes out, so it selects the checks that a method must pass and the places where the
dashboard offers it. ``toggle`` is the one place where a slot becomes one of the dashboard's five switches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from workbench.controls import Signature
    from workbench.method import Method

Toggle = Literal["attention", "activation", "hierarchy", "doubly_stochastic", "caching"]


@dataclass(frozen=True)
class Attention:
    """Takes the place of ``torch.nn.functional.scaled_dot_product_attention``: query (batch, heads, queries, head_dim),
    key and value (batch, kv_heads, keys, head_dim) give (batch, heads, queries, head_dim). Further tensors follow the
    value. The output is linear in the value, so there is a map.

    ``family`` says how it is related to softmax attention: "softmax" (the same function), "sparse", "low-rank",
    "linear", "hierarchical", "doubly stochastic", "recurrent" ... ``offered=False`` is for what a paper's methods are
    only compared with: models take it by name, no switch of the dashboard offers it.
    """

    family: str = "softmax"
    offered: bool = True


@dataclass(frozen=True)
class Block:
    """A residual block that a vision transformer can be built of, in place of mixing and feed-forward part.

    name, title, phrase  by which a model chooses it, and what people are told: "a gated unit; tokens do not meet"
    method               whose knobs and implementations the block takes
    make(width, hidden, *, tokens, feed_forward, implementation, **knobs) -> nn.Module for x (batch, tokens, width);
                         ``feed_forward`` is the activation of a feed-forward part, or None for none. Its property
                         ``token_map`` is the matrix (tokens, tokens) that mixes the tokens, or None if nothing does
    closing_norm         whether the classifier behind the last block wants its input normalised
    """

    name: str
    title: str
    phrase: str
    method: Method
    make: Callable[..., torch.nn.Module]
    closing_norm: bool = True


@dataclass(frozen=True)
class Mixer:
    """Mixes tokens without query, key and value: x (batch, tokens, width) gives the same shape.

    ``blocks`` are what a model is built of to use it.
    """

    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Activation:
    """Between the two matrices of a feed-forward block: x (..., branches * hidden) gives (..., hidden).

    ``branches`` is how many up-projections it consumes: 2 for gated ones, gate first. ``polynomial``: its further
    inputs are ``weight`` (order,), ascending, and ``bias`` (1,), the coefficients of a polynomial; ``order`` is a knob
    of its example. They can be turned one by one, and fitted to another activation.
    """

    branches: int = 1
    polynomial: bool = False


@dataclass(frozen=True)
class FeedForward:
    """Takes the place of a whole feed-forward block: x (..., width) gives the same shape."""


@dataclass(frozen=True)
class Caching:
    """Decides which steps of a sampler are computed: features of all steps (batch, steps, ...) give those seen.

    ``strategy`` is how a sampler does it, a class as ``workbench.models.caching`` describes it.
    """

    strategy: type | None = None


@dataclass(frozen=True)
class Optimiser:
    """One step of training: parameter, gradient and the tensors that are kept between steps go in; the new parameter
    and a tree of the new tensors come out, (parameter, kept)."""


@dataclass(frozen=True)
class Compression:
    """Makes a trained layer smaller: its weight goes in, what is kept instead of it comes out."""


Slot = Attention | Mixer | Activation | FeedForward | Caching | Optimiser | Compression


def toggle(slot: Slot | None) -> Toggle | None:
    """The dashboard's switch that offers what stands in ``slot``; None: no switch does."""
    match slot:
        case Attention(offered=False):
            return None
        case Attention(family="hierarchical"):
            return "hierarchy"
        case Attention(family="doubly stochastic"):
            return "doubly_stochastic"
        case Attention():
            return "attention"
        case Activation():
            return "activation"
        case Caching():
            return "caching"
    return None


# The words of torch.nn.functional.scaled_dot_product_attention beyond query, key and value, with the value that changes
# nothing. The first three may be given by place. Heads are grouped wherever their numbers differ, so enable_gqa says
# nothing new.
SDPA = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": None}


def from_sdpa(
    signature: Signature, inputs: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call in the words of PyTorch's attention, as a method of the slot ``Attention`` takes it.

    What the method knows itself is handed on; of the rest, values that change nothing are dropped. Raises
    ``ValueError`` for a mask, a dropout or a causal rule that the method cannot honour, ``TypeError`` for one that is
    given twice.
    """
    options = dict(options)
    if len(signature.inputs) == 3:  # a method with further tensors has places of its own behind the value
        for name, value in zip(("attn_mask", "dropout_p", "is_causal"), inputs[3:], strict=False):
            if name in options:
                raise TypeError(f"{signature.name} was given {name} twice: by place and by name.")
            options[name] = value
        inputs = (*inputs[:3], *inputs[6:])
    for name, neutral in SDPA.items():
        if name in options and name not in signature.checks:
            value = options.pop(name)
            if name != "enable_gqa" and not (value is neutral or (neutral is not None and value == neutral)):
                raise ValueError(f"{signature.name} cannot honour {name}, which is none of its options: leave it out.")
    return inputs, options
