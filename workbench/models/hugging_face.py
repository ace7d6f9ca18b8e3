"""The catalog's mixers - whatever attends - in Hugging Face's ``transformers``, through its ``AttentionInterface``.

Each method has a name there (``interface_name``). The library hands over heads and a mask; what it gets back is the
method's output. Whatever else a model hands to its attention is honoured or refused by name, never dropped.
``transformers`` is imported when something is registered, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench import catalog
from workbench.models.attention_masks import Visible, read_mask, wanted_mask
from workbench.paper import Method

# What models hand through their layers and no attention without a cache of its own reads: positions are in query and
# key already, packed sequences show in the mask, and the rest is about the model's outputs.
NOT_FOR_ATTENTION = frozenset(
    ("position_ids", "cache_position", "num_items_in_batch", "use_cache", "return_dict", "sliding_window")
    + ("output_hidden_states", "output_router_logits", "deterministic", "logits_to_keep", "token_type_ids")
)


def interface_name(method: str) -> str:
    """The name of a method in ``transformers``: "softmax_attention" is "workbench_SOFTMAX_ATTENTION" there.

    Upper case, because that library takes every name with a lower-case "flash" in it for a CUDA package to import.
    """
    return f"workbench_{method.upper()}"


def register_attention() -> None:
    """Register every mixer of the catalog with ``transformers``, under its ``interface_name``.

    ``AnyModel.from_pretrained(..., attn_implementation="workbench_FLASH_ATTENTION_2")`` then runs it. No method needs a
    mask: each row of a batch is run without its padding, wherever that is. Caches work, static ones too.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    for name, method in catalog.mixers().items():
        AttentionInterface.register(interface_name(name), adapter(method))
        AttentionMaskInterface.register(interface_name(name), wanted_mask)


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
        return catalog.method("softmax_attention"), {}, "auto"


def adapter(method: Method) -> Callable[..., tuple[Tensor, None]]:
    """``method`` as an attention function of ``transformers``.

    It takes query (batch, heads, queries, head_dim), key and value (batch, kv_heads, keys, head_dim), value perhaps
    narrower, and a mask from ``wanted_mask`` or one that a model made; it returns the output (batch, queries, heads,
    head_dim), zeros at padding. Options travel in the keyword ``workbench``, a ``Call``, which a model hands through to
    its layers. Without ``is_causal`` the module's own counts, and without that a call is causal, as in that library.

    Raises ``ValueError`` for dropout, for masks that are more than padding, causality and windows, for windows where
    the method has none, and for every other keyword that is set and asks something of attention: a bias of the
    positions, a cap of the scores, attention sinks, chosen indices, a paged cache.
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
        call = workbench or Call({})
        runs, options, implementation = call.at(getattr(module, "layer_idx", None), method)
        _refuse_what_is_set(runs, dropout, others)
        is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        visible = read_mask(attention_mask, query.shape[2], key.shape[2], bool(is_causal))
        window = others.get("sliding_window")
        if attention_mask is None and window is not None and visible.keys > window:
            raise ValueError(f"sliding_window = {window} is set, and no mask says which keys it hides.")
        options = {"scale": scaling, **options, **_masking(runs, visible, options)}
        key, value = key[:, :, : visible.keys], value[:, :, : visible.keys]
        if call.seen is not None:
            call.seen.append((query, key))

        def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            """(batch, queries, heads, width of value)"""
            width = value.shape[-1]
            if width < key.shape[-1]:
                value = torch.nn.functional.pad(value, (0, key.shape[-1] - width))
            return runs(query, key, value, implementation=implementation, **options)[..., :width].transpose(1, 2)

        if visible.real is None:
            return run(query, key, value).contiguous(), None
        same_tokens = visible.causal or _attends_to_itself(module, query.shape[2], key.shape[2])
        return _without_padding(run, query, key, value, visible, same_tokens), None

    return attend


def _refuse_what_is_set(method: Method, dropout: float, others: Mapping[str, Any]) -> None:
    if dropout:
        raise ValueError(f"{method.name} has no dropout, and {dropout} was asked for: call model.eval().")
    asked = [name for name, value in others.items() if value is not None and value is not False]
    if asked := [name for name in asked if name not in NOT_FOR_ATTENTION]:
        raise ValueError(
            f"{method.name} cannot honour {', '.join(asked)}, which this model hands to its attention: "
            "choose attn_implementation='eager' for it."
        )


def _masking(method: Method, visible: Visible, options: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options that make it see what is ``visible``; of two windows the narrower one."""
    found: dict[str, Any] = {"is_causal": True} if visible.causal else {}
    for name, width in (("window_left", visible.left), ("window_right", visible.right)):
        if width is None:
            continue
        if name not in method.knobs:
            raise ValueError(f"{method.name} has no windows, and this model asks for one of {width} keys to a side.")
        given = options.get(name)
        found[name] = width if given is None else min(width, given)
    return found


def _attends_to_itself(module: torch.nn.Module, queries: int, keys: int) -> bool:
    """Whether the queries are the keys' own tokens, so that the padding of one is the padding of the other.

    The library does not say. In a model of one stack they are; where an encoder and a decoder meet, only the module can
    tell which of the two it is.
    """
    if queries != keys or getattr(module, "is_cross_attention", False) or "Cross" in type(module).__name__:
        return False
    config = getattr(module, "config", None)
    if not (getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", False)):
        return True
    return False in (getattr(module, "is_decoder", None), getattr(module, "is_cross_attention", None))


def _without_padding(
    run: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, visible: Visible, same_tokens: bool
) -> Tensor:
    """``run`` on the rows of each pattern of padding together, without it: (batch, queries, heads, width of value).

    Where queries and keys are the ``same_tokens``, the queries, being the last of the keys, are cut as they are, and
    the output is zero at padding; else all of them are asked.
    """
    queries, pieces = query.shape[2], []
    for pattern, rows in _alike(visible.real):
        kept = pattern.nonzero()[:, 0]
        asked = pattern[-queries:].nonzero()[:, 0] if same_tokens else torch.arange(queries, device=query.device)
        if not len(asked) or not len(kept):
            continue
        windowed = visible.left is not None or visible.right is not None
        if windowed and kept[-1] - kept[0] >= len(kept):
            raise ValueError("Padding between a row's tokens together with a window is not supported.")
        found = run(query[rows][:, :, asked], key[rows][:, :, kept], value[rows][:, :, kept])
        pieces.append((rows[:, None], asked, found))
    dtype = pieces[0][2].dtype if pieces else value.dtype
    output = value.new_zeros((query.shape[0], queries, query.shape[1], value.shape[-1]), dtype=dtype)
    for rows, asked, found in pieces:
        output[rows, asked] = found
    return output


def _alike(real: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The rows (keys,) that occur in ``real`` (batch, keys), each with the indices where it does."""
    patterns, which = real.unique(dim=0, return_inverse=True)
    return [(pattern, (which == index).nonzero()[:, 0]) for index, pattern in enumerate(patterns)]
