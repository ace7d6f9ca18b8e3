"""Who may see whom in one attention call of Hugging Face's ``transformers``: what is asked for, and how it is read.

That library lets an attention function name the masks that it wants (``AttentionMaskInterface``). Ours know padding,
causality and windows, so ``wanted_mask`` asks for as little as says which it is, and ``read_mask`` takes it, or a mask
that a model made itself, apart again. What is none of the three is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Visible:
    """Which keys the queries of a call see.

    keys    so many of the first keys count: what follows are empty slots of a cache
    real    (batch, keys), True where there is a token and no padding; None: everywhere
    causal  the queries are the last of the keys, and each sees up to itself
    left, right   how many keys a query sees on either side of itself; None: all of them
    """

    keys: int
    real: Tensor | None = None
    causal: bool = False
    left: int | None = None
    right: int | None = None


def wanted_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **others: Any,
) -> Tensor | None:
    """The mask that ``read_mask`` is to get, in the signature of ``transformers``' ``AttentionMaskInterface``.

    None          nothing is hidden but what ``is_causal`` hides
    (b, keys)     causal: True at tokens, False at padding; as wide as there are keys, without a cache's empty slots
    (b, 1, 1, k)  every query sees the keys that are True
    (b, 1, q, k)  any other pattern, written out
    """
    from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

    if kv_offset or mask_function not in (bidirectional_mask_function, causal_mask_function):
        settings = {"q_offset": q_offset, "kv_offset": kv_offset, "device": device, **others}
        settings |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return sdpa_mask(
            batch_size, q_length, kv_length, mask_function=mask_function, attention_mask=attention_mask, **settings
        )
    causal = mask_function is causal_mask_function
    count = min(kv_length, int(q_offset) + q_length) if causal else kv_length
    real = torch.ones(batch_size, count, dtype=torch.bool, device=device)
    if attention_mask is not None:
        given = attention_mask[:, :count].bool()
        real = torch.nn.functional.pad(given, (0, count - given.shape[1]))
    if real.all() and count == kv_length and (not causal or q_length in (1, kv_length)):
        return None
    return real if causal else real[:, None, None]


def read_mask(mask: Tensor | None, queries: int, keys: int, is_causal: bool) -> Visible:
    """What ``mask`` says. Without one, ``is_causal`` means what it means to that library: with several queries and more
    keys, the queries are the first ones, and the keys behind them empty.

    A mask that is written out, (batch, heads or 1, queries or 1, keys), may be Boolean or be added to the scores.
    Raises ``ValueError`` where it is no padding, causal mask or window, the same for all heads. O(batch queries keys).
    """
    if mask is None:
        return Visible(queries if is_causal and 1 < queries < keys else keys, causal=is_causal)
    if mask.ndim == 2:
        return Visible(mask.shape[1], _unless_all(mask.bool()), causal=True)
    seen = _pairs(mask, keys)
    real = seen.any(1)
    if seen.shape[1] == 1 < queries or (seen == real[:, None]).all() and not (queries == 1 and is_causal):
        return Visible(keys, _unless_all(real))
    return _band(seen, real, queries, keys)


def _pairs(mask: Tensor, keys: int) -> Tensor:
    """The mask (batch, queries or 1, keys) as Boolean numbers, True where a query sees a key."""
    if mask.ndim != 4 or mask.shape[-1] != keys:
        raise ValueError(f"A mask (batch, heads, queries, keys) is needed for {keys} keys, not {tuple(mask.shape)}.")
    if mask.dtype != torch.bool:
        if not ((mask == 0) | (mask <= torch.finfo(mask.dtype).min / 2)).all():
            raise ValueError("The workbench's attention takes masks that hide keys; this one adds to the scores.")
        mask = mask == 0
    if not (mask == mask[:, :1]).all():
        raise ValueError("The workbench's attention takes one mask for all heads; this model has one for each.")
    return mask[:, 0]


def _band(seen: Tensor, real: Tensor, queries: int, keys: int) -> Visible:
    """The causal mask or the window that ``seen`` is, of those keys that are ``real``: all pairs of a band."""
    row = torch.arange(queries, device=seen.device)[:, None]
    distance = torch.arange(keys, device=seen.device) - row
    pairs = distance.expand_as(seen)[seen]
    if len(pairs) == 0:
        return Visible(keys, real)
    first, last = int(pairs.min()), int(pairs.max())
    if not torch.equal(seen, (first <= distance) & (distance <= last) & real[:, None]):
        raise ValueError(
            "The workbench's attention knows padding, causal masks and windows; this model asks for another mask."
        )
    causal = 0 <= last <= keys - queries
    own = last if causal else keys - queries  # how far the first query's own key is from the first key
    without_left = torch.equal(seen, (distance <= last) & real[:, None])
    without_right = causal or torch.equal(seen, (first <= distance) & real[:, None])
    count = own + queries
    return Visible(
        count,
        _unless_all(real[:, :count]),
        causal,
        left=None if without_left else own - first,
        right=None if without_right else last - own,
    )


def _unless_all(real: Tensor) -> Tensor | None:
    return None if real.all() else real
