"""What every attention of this chapter takes: its tensors, who may see whom, an example and the cost."""

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

Causal = Annotated[bool, "A query sees only keys up to its own position, counted from the end."]
Window = Annotated[int | None, Range(0, 1_000_000), "How many keys a query sees on this side; None: all of them."]


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


def check(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> float:
    """Raise ``ValueError`` unless the three fit together; the softmax scale."""
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"Attention takes tensors (batch, heads, tokens, head_dim), not {shapes}.")
    if key.shape != value.shape or query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(f"key and value must agree, and share batch and head_dim with query: {shapes}.")
    if 0 in query.shape or 0 in key.shape:
        raise ValueError(f"Attention needs at least one token and one head: {shapes}.")
    if query.shape[1] % key.shape[1]:
        raise ValueError(
            f"The key/value heads ({key.shape[1]}) must divide the query heads ({query.shape[1]}): {shapes}."
        )
    if not query.dtype == key.dtype == value.dtype or not query.is_floating_point():
        raise ValueError(f"One floating-point dtype is needed, not {query.dtype}, {key.dtype}, {value.dtype}.")
    if not query.device == key.device == value.device:
        raise ValueError(f"One device is needed, not {query.device}, {key.device}, {value.device}.")
    return query.shape[-1] ** -0.5 if scale is None else scale


def prepare(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> tuple[Tensor, Tensor, Tensor, float]:
    """Checked inputs with key/value heads repeated for the query heads that share them."""
    scale = check(query, key, value, scale)
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    return query, key, value, scale


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
