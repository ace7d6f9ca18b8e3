"""The catalog's mixers - whatever attends - in Hugging Face's ``transformers``, through its ``AttentionInterface``.

Each method has a name there (``interface_name``). The library hands over heads and a mask of the padding; what it gets
back is the method's output. ``transformers`` is imported when something is registered, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench import catalog
from workbench.attention.flash_attention_2 import softmax_attention
from workbench.paper import Method


def interface_name(method: str) -> str:
    """The name of a method in ``transformers``: "flash_attention_2" is "workbench_FLASH_ATTENTION_2" there.

    Upper case, because that library takes every name with a lower-case "flash" in it for a CUDA package to import.
    """
    return f"workbench_{method.upper()}"


def register_attention() -> None:
    """Register every mixer of the catalog with ``transformers``, under its ``interface_name``.

    ``AnyModel.from_pretrained(..., attn_implementation="workbench_FLASH_ATTENTION_2")`` then runs it. No method needs a
    mask: rows are cut to their own length. Padding must be on the right.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    for name, method in catalog.mixers().items():
        AttentionInterface.register(interface_name(name), adapter(method))
        AttentionMaskInterface.register(interface_name(name), padding_mask)


@dataclass
class Call:
    """What one forward call of a model tells its attention layers: how to run, and where to leave what they saw.

    ``layers`` are those that run the method: the others run softmax attention. None: all of them do.
    ``seen`` gets one (query, key) a layer, each (batch, heads, tokens, head_dim), when it is a list.
    """

    options: Mapping[str, Any]
    implementation: str = "auto"
    layers: frozenset[int] | None = None
    seen: list[tuple[Tensor, Tensor]] | None = None

    def at(self, layer: int | None, method: Method) -> tuple[Method, Mapping[str, Any], str]:
        """What a layer runs: ``method`` or softmax attention, its options and its implementation."""
        if self.layers is None or layer in self.layers:
            return method, self.options, self.implementation
        return softmax_attention, {}, "auto"


def padding_mask(*, mask_function: Callable, attention_mask: Tensor | None = None, **shape: Any) -> Tensor | None:
    """The mask that ``adapter`` wants from ``transformers``: (batch, keys), True at real tokens, or None if all are.

    Raises ``ValueError`` for padding on the left and for masks other than padding (packed or local sequences).
    """
    from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

    if mask_function not in (bidirectional_mask_function, causal_mask_function):
        raise ValueError("The workbench's attention knows padding and causal masks; this model asks for another.")
    if attention_mask is None or attention_mask.all():
        return None
    attention_mask = attention_mask.bool()
    if (attention_mask[:, 1:] & ~attention_mask[:, :-1]).any():
        raise ValueError("Padding must come after a row's tokens: set tokenizer.padding_side = 'right'.")
    return attention_mask


def adapter(method: Method) -> Callable[..., tuple[Tensor, None]]:
    """``method`` as an attention function of ``transformers``.

    It takes query, key, value (batch, heads, tokens, head_dim) and a mask from ``padding_mask``, and returns the output
    (batch, tokens, heads, head_dim), zeros at padding. Options travel in the keyword ``workbench``, a ``Call``, which a
    model hands through to its layers. Raises ``ValueError`` for dropout: our methods have none.
    """

    def attend(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        workbench: Call | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        if dropout:
            raise ValueError(f"{method.name} has no dropout, and {dropout} was asked for: call model.eval().")
        call = workbench or Call({})
        runs, options, implementation = call.at(getattr(module, "layer_idx", None), method)
        options = {"scale": scaling, **options}
        if getattr(module, "is_causal", False) if is_causal is None else is_causal:
            options["is_causal"] = True
        if call.seen is not None:
            call.seen.append((query, key))

        def run(*inputs: Tensor) -> Tensor:
            return runs(*inputs, implementation=implementation, **options)

        if attention_mask is None:
            output = run(query, key, value)
        elif query.shape[2] == key.shape[2] and attention_mask.ndim == 2:
            output = _by_length(run, query, key, value, lengths=attention_mask.sum(1))
        else:
            raise ValueError("Padding together with a cache, or a ready-made 4-D mask, is not supported: pad no row.")
        return output.transpose(1, 2).contiguous(), None

    return attend


def _by_length(run: Callable[..., Tensor], *inputs: Tensor, lengths: Tensor) -> Tensor:
    """``run`` on the rows of each length together, without their padding; zeros where the padding was."""
    output = torch.zeros_like(inputs[0])
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        output[rows, :, :length] = run(*(each[rows, :, :length] for each in inputs))
    return output
