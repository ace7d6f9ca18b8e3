"""What every attention of this chapter takes: its tensors, their scale, who may see whom, an example and the cost."""

import functools
import numbers
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.controls import Range
from workbench.paper import Cost, Example

Query = Float[Tensor, "batch heads queries head_dim"]
KeyOrValue = Float[Tensor, "batch kv_heads keys head_dim"]
Output = Float[Tensor, "batch heads queries head_dim"]
Rows = Float[Tensor, "batch heads queries"]
Scale = float | Float[Tensor, "#batch #heads 1 1"] | None  # None: 1/sqrt(head_dim)

Causal = Annotated[bool, "A query sees only keys up to its own position, counted from the end."]
Window = Annotated[int | None, Range(0, 1_000_000), "How many keys a query sees on this side; None: all of them."]


# --- the arguments of a call -----------------------------------------------------------------------------------------


def attention(
    function: Callable[..., Tensor] | None = None,
    *,
    refuse: Callable[..., None] | None = None,
    folds_scale: bool = True,
) -> Callable[..., Tensor]:
    """Makes of ``function(query, key, value, *, scale, ...)`` an attention that takes what PyTorch's own takes.

    A caller leaves ``scale`` out, or gives a number or a tensor that broadcasts to (batch, heads, 1, 1) and may require
    a gradient; ``function`` gets a positive number, and a query into which everything else is folded. Under autocast
    query, key and value are cast as PyTorch casts them for its attention, and ``function`` runs without autocast. Where
    there is no batch, head or query the output is empty, with gradients of zero.

    ``refuse(query, key, scale=..., **options)`` raises ``ValueError`` for what this attention in particular cannot
    take; what none can is refused before. Without ``folds_scale`` the function gets a tensor as it is given.
    """
    if function is None:
        return functools.partial(attention, refuse=refuse, folds_scale=folds_scale)

    @functools.wraps(function)
    def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: Scale = None, **options: object) -> Tensor:
        device = query.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            query, key, value = _as_autocast(device, query, key, value)
            with torch.autocast(device, enabled=False):
                return attend(query, key, value, scale=scale, **options)
        check(query, key, value, scale)
        if refuse is not None:
            refuse(query, key, scale=scale, **options)
        if scale is None:
            scale = _usual_scale(query)
        elif folds_scale or not isinstance(scale, Tensor):
            query, scale = fold(query, scale)
        if query.numel() == 0:
            return fold(query, scale)[0] + 0 * (key.sum() + value.sum())
        return function(query, key, value, scale=scale, **options)

    return attend


def check(query: Tensor, key: Tensor, value: Tensor, scale: Scale = None) -> None:
    """Raise ``ValueError`` unless the three and their scale fit together."""
    shape, other = query.shape, key.shape
    fits = len(shape) == len(other) == 4 and other == value.shape and shape[0] == other[0] and shape[3] == other[3]
    if not fits or (shape[1] % other[1] if other[1] else shape[1]) or (other[2] == 0 and query.numel()):
        _refuse_shapes(query, key, value)
    if not query.dtype == key.dtype == value.dtype or not query.is_floating_point():
        raise ValueError(f"One floating-point dtype is needed, not {query.dtype}, {key.dtype}, {value.dtype}.")
    if not query.device == key.device == value.device:
        raise ValueError(f"One device is needed, not {query.device}, {key.device}, {value.device}.")
    if isinstance(scale, Tensor):
        wanted = (*shape[:2], 1, 1)
        broadcasts = scale.ndim <= 4 and all(
            mine in (1, size) for mine, size in zip(reversed(scale.shape), reversed(wanted), strict=False)
        )
        if not broadcasts or scale.is_complex() or scale.dtype == torch.bool:
            raise ValueError(
                f"A tensor as scale holds real numbers and broadcasts to (batch, heads, 1, 1) = {wanted}, not "
                f"{str(scale.dtype)[6:]} {tuple(scale.shape)}."
            )
    elif scale is not None and (not isinstance(scale, numbers.Real | torch.SymFloat) or isinstance(scale, bool)):
        raise ValueError(f"scale = {scale!r} is not allowed: choose a number, a tensor, or None for 1/sqrt(head_dim).")


def _refuse_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"Attention takes tensors (batch, heads, tokens, head_dim), not {shapes}.")
    if key.shape != value.shape or query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(f"key and value must agree, and share batch and head_dim with query: {shapes}.")
    if key.shape[2] == 0 and query.numel():
        raise ValueError(f"Attention needs at least one key to spend a query's weight on: {shapes}.")
    raise ValueError(f"The key/value heads ({key.shape[1]}) must divide the query heads ({query.shape[1]}): {shapes}.")


def fold(query: Tensor, scale: Scale) -> tuple[Tensor, float]:
    """A query and a positive scale that give the same scores. Its dtype stays, and a tensor's gradient flows."""
    if scale is None:
        return query, _usual_scale(query)
    if isinstance(scale, Tensor):
        return (query * scale).to(query.dtype), 1.0
    scale = float(scale)
    if scale > 0:
        return query, scale
    return (-query, -scale) if scale < 0 else (query * scale, 1.0)


def prepare(query: Tensor, key: Tensor, value: Tensor, scale: Scale) -> tuple[Tensor, Tensor, Tensor, float]:
    """Checked inputs with the scale folded and key/value heads repeated for the query heads that share them."""
    check(query, key, value, scale)
    query, scale = fold(query, scale)
    return query, *repeat_heads(query, key, value), scale


def repeat_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """key and value (batch, heads, keys, head_dim): each head repeated for the query heads that share it."""
    heads, kv_heads = query.shape[1], key.shape[1]
    if heads == kv_heads:
        return key, value
    return key.repeat_interleave(heads // kv_heads, dim=1), value.repeat_interleave(heads // kv_heads, dim=1)


def scores_of(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """scale Q K^T (batch, heads, queries, keys). In float32 for float16, which ends at 65504 where scores may not."""
    if query.dtype == torch.float16:
        query, key = query.float(), key.float()
    return scale * query @ key.mT


def _usual_scale(query: Tensor) -> float:
    return (query.shape[-1] or 1) ** -0.5


def _as_autocast(device: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast makes of the inputs of PyTorch's attention: float64 and whole numbers stay as they are."""
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors)


# --- who sees whom ---------------------------------------------------------------------------------------------------


def allowed(
    queries: int,
    keys: int,
    *,
    is_causal: bool = False,
    window_left: int | None = None,
    window_right: int | None = None,
    rows: slice = slice(None),
    columns: slice = slice(None),
    device: str | torch.device = "cpu",
) -> Tensor:
    """The boolean mask (rows, columns) of allowed pairs, or the part of it that two slices cut out.

    The last query is aligned with the last key (bottom-right), as in flash-attn from version 2.1 on. PyTorch's
    ``is_causal=True`` aligns the first query with the first key; the two agree when ``queries == keys``.
    """
    row = torch.arange(queries, device=device)[rows, None] + (keys - queries)
    column = torch.arange(keys, device=device)[None, columns]
    right = 0 if is_causal else window_right
    mask = torch.ones(row.shape[0], column.shape[1], dtype=torch.bool, device=device)
    if right is not None:
        mask &= column <= row + right
    if window_left is not None:
        mask &= column >= row - window_left
    return mask


# --- an example, and what a call costs -------------------------------------------------------------------------------


def example(
    tokens: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Annotated[int, Range(1, 64, log=True), "Sequences in a batch."] = 1,
    heads: Annotated[int, Range(1, 128, log=True), "Query heads."] = 4,
    kv_heads: Annotated[int | None, Range(1, 128, log=True), "Key/value heads; None: as many as query heads."] = None,
    head_dim: Annotated[int, Range(1, 256, log=True), "Width of a head."] = 64,
) -> Example:
    """Standard-normal query, key, value of ``tokens`` tokens. Raises ``ValueError`` unless kv_heads divides heads."""
    kv_heads = heads if kv_heads is None else kv_heads
    if heads % kv_heads:
        raise ValueError(f"kv_heads = {kv_heads} must divide heads = {heads}.")
    generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)

    def normal(count: int) -> Tensor:
        shape = (batch, count, tokens, head_dim)
        return torch.randn(shape, generator=generator, device=device, dtype=getattr(torch, dtype))

    return Example({"query": normal(heads), "key": normal(kv_heads), "value": normal(kv_heads)})


def cost(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Cost:
    """The paper's own accounting (Sec. 4.1): 4 N M d FLOPs a head forward, 2.5 times that backward, halved if causal.

    A window counts the pairs that it keeps. Least bytes: query, key, value read, output and logsumexp written once.
    """
    batch, heads, queries, width = query.shape
    keys = key.shape[-2]
    pairs = queries * keys / (2 if options.get("is_causal") else 1)
    left, right = options.get("window_left"), options.get("window_right")
    if left is not None or (right is not None and not options.get("is_causal")):
        row = np.arange(queries) + keys - queries
        right = 0 if options.get("is_causal") else right
        last = np.full(queries, keys - 1) if right is None else np.clip(row + right, -1, keys - 1)
        first = np.zeros(queries) if left is None else np.clip(row - left, 0, keys)
        pairs = float(np.clip(last - first + 1, 0, None).sum())
    flops = 4 * batch * heads * pairs * width
    tensors = 2 * query.numel() + key.numel() + value.numel()
    rows = 4 * batch * heads * queries
    moved = tensors * query.element_size() + rows
    gradients = (2 * query.numel() + 2 * (query.numel() + key.numel() + value.numel())) * query.element_size() + rows
    return Cost(flops, moved, 2.5 * flops, gradients)
