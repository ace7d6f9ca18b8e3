"""Algorithm 1, watched: what happens in every block, how much work that is, and how full it keeps a GPU."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.attention.flash_attention_2.blocks import block_kinds, mask_of, slices
from workbench.attention.flash_attention_2.reference import finish, online_softmax_step


@dataclass
class Operations:
    """How often each kind of work was done. A multiply-add counts 2 FLOPs; everything else counts once a number."""

    matmul_flops: int = 0
    exponentials: int = 0
    rescale_multiplications: int = 0
    divisions: int = 0
    mask_evaluations: int = 0
    blocks_visited: int = 0
    blocks_skipped: int = 0


@dataclass(frozen=True)
class Step:
    """One block of the walk: the state *after* it. A skipped block has no state."""

    row_block: int
    column_block: int
    kind: Literal["skipped", "masked", "full"]
    rows: slice
    columns: slice
    maximum: Tensor | None = None
    normaliser: Tensor | None = None
    rescale: Tensor | None = None
    accumulator: Tensor | None = None


@dataclass(frozen=True)
class Trace:
    """A whole walk: the result, every step in order, and the operations counted."""

    output: Tensor
    logsumexp: Tensor
    steps: list[Step]
    operations: Operations


def trace(
    query: Float[Tensor, "queries head_dim"],
    key: Float[Tensor, "keys head_dim"],
    value: Float[Tensor, "keys head_dim"],
    *,
    is_causal: bool = False,
    scale: float | None = None,
    window_left: int | None = None,
    window_right: int | None = None,
    block_rows: int | None = None,
    block_columns: int | None = None,
    update: Literal["v1", "v2"] = "v2",
) -> Trace:
    """Algorithm 1 on one head, with every block recorded.

    ``update="v2"`` keeps the accumulator un-normalised and divides once at the end; ``"v1"`` (the first FlashAttention)
    keeps it normalised after every block: a division of the whole (B_r, d) tile each time. Same output.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    visible = {"is_causal": is_causal, "window_left": window_left, "window_right": window_right}
    blocks = {"block_rows": block_rows, "block_columns": block_columns}
    kinds = block_kinds(len(query), len(key), **visible, **blocks)
    counted, steps, outputs, logsumexps = Operations(), [], [], []

    for i, rows in enumerate(slices(len(query), block_rows)):
        query_i = query[rows] * scale
        height, width = query_i.shape
        maximum, normaliser = query_i.new_full((height,), -torch.inf), query_i.new_zeros(height)
        accumulator, logsumexp_i = torch.zeros_like(query_i), maximum
        for j, columns in enumerate(slices(len(key), block_columns)):
            kind = ("skipped", "masked", "full")[kinds[i, j]]
            if kind == "skipped":
                counted.blocks_skipped += 1
                steps.append(Step(i, j, kind, rows, columns))
                continue
            scores = query_i @ key[columns].mT
            counted.blocks_visited += 1
            counted.matmul_flops += 4 * scores.numel() * width
            counted.exponentials += scores.numel() + height
            if kind == "masked":
                scores = scores.masked_fill(~mask_of(query, key, visible, rows, columns), -torch.inf)
                counted.mask_evaluations += scores.numel()
            if update == "v1":  # undo the last division; with the rescale below this is one multiplication a number
                accumulator = accumulator * normaliser[:, None]
            maximum, normaliser, accumulator, rescale = online_softmax_step(
                scores, value[columns], maximum, normaliser, accumulator
            )
            counted.rescale_multiplications += height * width
            if update == "v1":
                accumulator, logsumexp_i = finish(maximum, normaliser, accumulator)
                counted.divisions += height * width
            steps.append(Step(i, j, kind, rows, columns, maximum, normaliser, rescale, accumulator))
        if update == "v2":
            accumulator, logsumexp_i = finish(maximum, normaliser, accumulator)
            counted.divisions += height * width
        outputs.append(accumulator)
        logsumexps.append(logsumexp_i)
    return Trace(torch.cat(outputs), torch.cat(logsumexps), steps, counted)


def wave_efficiency(blocks: int, slots: int) -> float:
    """How full a GPU with ``slots`` places for thread blocks is kept by ``blocks`` of them, 0 to 1 (Sec. 3.2)."""
    return blocks / (math.ceil(blocks / slots) * slots)
