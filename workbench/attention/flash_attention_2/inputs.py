"""What a call keeps in memory; example inputs and cost are the chapter's."""

import torch
from torch import Tensor

from workbench.attention.flash_attention_2.blocks import DEFAULT_BLOCK
from workbench.attention.standard import ROWS_AT_A_TIME


def workspace(implementation: str, query: Tensor, key: Tensor, value: Tensor, **options: object) -> int:
    """Bytes held at the forward's peak beside inputs and output; an upper bound for every implementation we ship."""
    batch, heads, queries, width = query.shape
    keys, size = key.shape[-2], query.element_size()
    repeated = 2 * batch * heads * keys * width * size if heads != key.shape[1] else 0
    if implementation in ("softmax_attention", "direct"):
        size = 4 if query.dtype == torch.float16 else size
        return 3 * batch * heads * queries * keys * size + queries * keys + repeated
    if implementation == "reference":
        rows = min(queries, options.get("block_rows") or DEFAULT_BLOCK)
        columns = min(keys, options.get("block_columns") or DEFAULT_BLOCK)
        tile = batch * heads * (rows * (4 * columns + 6 * width + 8) + 2 * columns * width) * max(4, size)
        return tile + query.numel() * size + 2 * batch * heads * queries * size + repeated
    masked = any(options.get(name) is not None for name in ("window_left", "window_right")) or queries != keys
    if query.is_cpu or query.is_meta:
        return query.numel() * size + 2 * ROWS_AT_A_TIME * keys * size if masked else 4 * batch * heads * queries
    if implementation == "fast":
        from workbench_kernels.attention import flash_attention

        return 4 * batch * heads * queries + flash_attention.workspace(query, key)
    return queries * keys if masked and implementation == "sdpa" else 4 * batch * heads * queries
