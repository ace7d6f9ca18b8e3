"""Which blocks of queries and keys there are, and what happens to each."""

import math
from typing import Annotated

import numpy as np
from torch import Tensor

from workbench.attention.inputs import allowed
from workbench.controls import Range

Block = Annotated[int | None, Range(1, 4096), "Tokens in a block; changes the order of work, never the result."]

DEFAULT_BLOCK = 64


def block_kinds(
    queries: int,
    keys: int,
    *,
    is_causal: bool = False,
    window_left: int | None = None,
    window_right: int | None = None,
    block_rows: int | None = None,
    block_columns: int | None = None,
) -> np.ndarray:
    """What happens to each block, (row blocks, column blocks) of int8: 0 skipped, 1 masked inside, 2 full."""
    height, width = block_rows or DEFAULT_BLOCK, block_columns or DEFAULT_BLOCK
    first_row = np.arange(0, queries, height)[:, None] + (keys - queries)
    last_row = np.minimum(first_row + height, keys) - 1
    first_column = np.arange(0, keys, width)[None]
    last_column = np.minimum(first_column + width, keys) - 1
    right = 0 if is_causal else window_right
    right, left = (math.inf if side is None else side for side in (right, window_left))
    visited = (first_column <= last_row + right) & (last_column >= first_row - left)
    full = (last_column <= first_row + right) & (first_column >= last_row - left)
    return np.where(visited, np.where(full, 2, 1), 0).astype(np.int8)


def slices(length: int, size: int | None) -> list[slice]:
    """Blocks of ``size`` tokens, the last one perhaps shorter."""
    size = size or DEFAULT_BLOCK
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def mask_of(query: Tensor, key: Tensor, visible: dict, rows: slice, columns: slice) -> Tensor:
    """The boolean mask of one block: which of its queries see which of its keys."""
    return allowed(query.shape[-2], key.shape[-2], **visible, rows=rows, columns=columns, device=query.device)
