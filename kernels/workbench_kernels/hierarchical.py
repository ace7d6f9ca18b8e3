"""Hierarchical self-attention (arXiv 2509.15448) over the balanced tree, for Triton: two launches a level.

Going up, a program takes whole families: scores, softmax and the gathering of values of all their children, in one tile
on the chip, and the families' own means and energies for the level above, so every row is read once. A root with more
children than a tile is walked through in blocks, as flash attention does. Going down, every node adds what its parent
gathered elsewhere to its own share.
"""

import math

import torch
from torch import Tensor

from workbench_kernels.flash_attention import DTYPES, MAX_HEAD_DIM
from workbench_kernels.hierarchical_levels import backward_torch, forward_torch, level_sizes
from workbench_kernels.operators import operator

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `why_not` says so
    triton = None

LARGEST_FAMILY = 128  # children that a program holds together; a root may have more
LOG2_E = math.log2(math.e)


def why_not(dtype: torch.dtype, head_dim: int) -> list[str]:
    """Why the kernels cannot take such inputs, in sentences; empty: they can."""
    reasons = []
    if triton is None:
        reasons.append("Triton is not installed; it comes with PyTorch on Linux only.")
    if dtype not in DTYPES:
        reasons.append(f"The kernel takes float16, bfloat16 or float32, not {str(dtype).removeprefix('torch.')}.")
    if head_dim > MAX_HEAD_DIM:
        reasons.append(f"The kernel takes a head_dim up to {MAX_HEAD_DIM}, not {head_dim}.")
    return reasons


def hierarchical_attention(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, block: int, levels: int, is_causal: bool = False
) -> Tensor:
    """The output (batch, heads, tokens, head_dim) of attention over the balanced tree.

    query, key, value (batch, heads, tokens, head_dim) of one shape; any number of tokens; float16, bfloat16 or float32
    (on a CPU also float64); head_dim up to 256. Families have ``block`` children, the root as many as are left after
    ``levels`` - 1 groupings. Differentiable once: the backward pass keeps the inputs and climbs again, as batched
    matrix products. On CUDA families of more than 128 children (but for the root) are batched products forward too.

    4 N b d FLOPs a head on every level; least traffic of the kernels: inputs once, the output twice and a half.
    """
    return torch.ops.workbench.hierarchical_attention(query, key, value, scale, block, levels, is_causal)


# --- CUDA ------------------------------------------------------------------------------------------------------------


def forward_triton(
    query: Tensor, key: Tensor, value: Tensor, scale: float, block: int, levels: int, is_causal: bool
) -> Tensor:
    batch, heads, tokens, width = query.shape
    sizes = level_sizes(tokens, block, levels)
    largest = _largest_family(query)
    if len(sizes) > 1 and block > largest:
        return forward_torch(query, key, value, scale, block, levels, is_causal)
    if len(sizes) == 1:  # a flat tree is softmax attention
        return torch.ops.workbench.flash_attention(query, key, value, scale, -1, 0 if is_causal else -1, True)[0]
    rows = [x.reshape(batch * heads, tokens, width).contiguous() for x in (query, key, value)]
    climbed, inside, leaves = [], None, 1
    with torch.cuda.device_of(query):
        for nodes, families in zip(sizes, [*sizes[1:], 1], strict=True):
            children = block if families > 1 else nodes
            climb = _climb if children <= largest else _walk
            of_level = nodes, families, children, leaves, tokens, scale, is_causal
            gathered, kept, rows, inside = climb(rows, inside, *of_level)
            climbed.append((gathered, kept))
            leaves *= block
        above, above_kept = climbed.pop()
        while climbed:
            gathered, kept = climbed.pop()
            _descend(above, above_kept, gathered, kept, block)
            above, above_kept = gathered, kept
    return above.reshape(batch, heads, tokens, width)


def _climb(
    rows: list[Tensor], inside: Tensor | None, nodes: int, families: int, children: int, leaves: int, tokens: int,
    scale: float, is_causal: bool,
) -> tuple[Tensor, Tensor | None, list[Tensor], Tensor]:  # fmt: skip
    """One level: what every node gathers and the share it keeps; its families' means and energies. The leaves'
    share is gathered with the rest, since their values are at hand."""
    query, key, value = rows
    batch, _, width = query.shape
    is_leaf, is_root = inside is None, families == 1
    gathered = torch.empty_like(value)
    kept = None if is_leaf else torch.empty(batch, nodes, dtype=torch.float32, device=query.device)
    means = [query.new_empty(0 if is_root else batch, families, width) for _ in rows]
    energy = torch.empty(0 if is_root else batch, families, dtype=torch.float32, device=query.device)
    together = max(1, 64 // children)
    tile = max(16, triton.next_power_of_2(together * children))
    padded = max(16, triton.next_power_of_2(width))
    _climb_kernel[(triton.cdiv(families, together), batch)](
        query, key, value, inside, gathered, kept, *means, energy,
        scale * LOG2_E, nodes, families, children, leaves, tokens, width,
        TILE=tile, TOGETHER=together, GROUPS=max(16, triton.next_power_of_2(together)), BLOCK_D=padded,
        LEAF=is_leaf, ROOT=is_root, CAUSAL=is_causal, PRECISION=_precision(query),
        num_warps=8 if tile * padded > 8192 else 4,
    )  # fmt: skip
    return gathered, kept, means, energy


def _walk(
    rows: list[Tensor], inside: Tensor, nodes: int, families: int, children: int, leaves: int, tokens: int,
    scale: float, is_causal: bool,
) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:  # fmt: skip
    """As ``_climb``, for a root with more children than a tile."""
    query, key, value = rows
    batch, _, width = query.shape
    gathered = torch.empty_like(value)
    kept = torch.empty(batch, nodes, dtype=torch.float32, device=query.device)
    padded = max(16, triton.next_power_of_2(width))
    small = query.dtype == torch.float32 or padded > 128
    block_m, block_n = (64, 32) if small else (128, 64) if padded > 64 else (128, 128)
    _walk_kernel[(triton.cdiv(nodes, block_m), batch)](
        query, key, value, inside, gathered, kept, scale * LOG2_E, nodes, leaves, tokens, width,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_D=padded, CAUSAL=is_causal, PRECISION=_precision(query),
        num_warps=4 if small else 8, num_stages=1 if padded * query.element_size() > 512 else 3,
    )  # fmt: skip
    return gathered, kept, [], kept


def _descend(above: Tensor, above_kept: Tensor, gathered: Tensor, kept: Tensor | None, children: int) -> None:
    """gathered <- above + above_kept gathered, kept <- above_kept kept, in place; each node takes its parent's."""
    batch, nodes, width = gathered.shape
    padded = max(16, triton.next_power_of_2(width))
    rows = max(1, 8192 // padded)
    _descend_kernel[(triton.cdiv(nodes, rows), batch)](
        above, above_kept, gathered, kept, nodes, above.shape[1], children, width,
        ROWS=rows, BLOCK_D=padded, LEAF=kept is None, num_warps=8,
    )  # fmt: skip


def _largest_family(query: Tensor) -> int:
    """How many children fit on the chip together: fewer where heads are wide and numbers long."""
    row = triton.next_power_of_2(query.shape[-1]) * query.element_size()
    return min(LARGEST_FAMILY, 65536 // row)


def _precision(query: Tensor) -> str:
    """Float32 is split into three tf32 products, as in flash attention."""
    return "tf32x3" if query.dtype == torch.float32 else "tf32"


# --- the operators ---------------------------------------------------------------------------------------------------

_forward = operator("hierarchical_attention", cuda=forward_triton, cpu=forward_torch)
_backward = operator("hierarchical_attention_backward", cuda=backward_torch, cpu=backward_torch)


@torch.library.register_fake("workbench::hierarchical_attention")
def _(query, key, value, scale, block, levels, is_causal):
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@torch.library.register_fake("workbench::hierarchical_attention_backward")
def _(grad, query, key, value, scale, block, levels, is_causal):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None


torch.library.register_autograd("workbench::hierarchical_attention", _differentiate, setup_context=_keep)


# --- the kernels -----------------------------------------------------------------------------------------------------

if triton is not None:

    @triton.jit
    def _place(tensor, batch, row, there, nodes, width, BLOCK_D: tl.constexpr):
        column = tl.arange(0, BLOCK_D)[None, :]
        at = tensor + batch * nodes * width + row[:, None].to(tl.int64) * width + column
        return at, there[:, None] & (column < width)

    @triton.jit
    def _load(tensor, batch, row, there, nodes, width, BLOCK_D: tl.constexpr):
        at, mask = _place(tensor, batch, row, there, nodes, width, BLOCK_D)
        return tl.load(at, mask=mask, other=0.0)

    @triton.jit
    def _store(tensor, x, batch, row, there, nodes, width, BLOCK_D: tl.constexpr):
        at, mask = _place(tensor, batch, row, there, nodes, width, BLOCK_D)
        tl.store(at, x.to(tensor.dtype.element_ty), mask=mask)

    @triton.jit
    def _count(node, leaves, tokens):
        """Leaves below a node; the last one of a level may have fewer."""
        return tl.maximum(tl.minimum(leaves, tokens - node * leaves), 0)

    @triton.jit
    def _store_mean(
        mean, share, x, batch, first_family, families, width,
        TOGETHER: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """The families' means of rows x, weighted with share (GROUPS, rows)."""
        if TOGETHER == 1:
            parent = first_family + tl.arange(0, 1)
            total = tl.sum(tl.sum(share, 0)[:, None] * x.to(tl.float32), 0)[None, :]
            _store(mean, total, batch, parent, parent < families, families, width, BLOCK_D)
        else:
            group = tl.arange(0, GROUPS)
            total = tl.dot(share, x.to(tl.float32), input_precision="tf32x3")
            exists = (group < TOGETHER) & (first_family + group < families)
            _store(mean, total, batch, first_family + group, exists, families, width, BLOCK_D)

    @triton.jit
    def _climb_kernel(
        query, key, value, inside, gathered, kept, mean_query, mean_key, mean_value, energy,
        scale, nodes, families, children, leaves, tokens, width,
        TILE: tl.constexpr, TOGETHER: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr,
        LEAF: tl.constexpr, ROOT: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        batch = tl.program_id(1).to(tl.int64)
        first_family = tl.program_id(0) * TOGETHER
        place = tl.arange(0, TILE)
        family = place // children
        node = first_family * children + place
        there = (node < nodes) & (family < TOGETHER)
        q = _load(query, batch, node, there, nodes, width, BLOCK_D)
        k = _load(key, batch, node, there, nodes, width, BLOCK_D)
        v = _load(value, batch, node, there, nodes, width, BLOCK_D)
        count = _count(node, leaves, tokens).to(tl.float32)

        scores = tl.dot(q, k.T, input_precision=PRECISION) * scale
        diagonal = place[:, None] == place[None, :]
        if not LEAF:
            scores += tl.log2(tl.maximum(count, 1.0))[None, :]
            own = tl.load(inside + batch * nodes + node, mask=there, other=0.0)
            scores = tl.where(diagonal, own[:, None], scores)
        sees = (family[:, None] == family[None, :]) & there[None, :]
        if CAUSAL:
            sees = sees & (place[:, None] >= place[None, :])
        # A row that is not there sees itself, so that it is no NaN; it is not stored.
        scores = tl.where(sees | (diagonal & (there == 0)[:, None]), scores, -float("inf"))
        maximum = tl.max(scores, 1)
        weights = tl.exp2(scores - maximum[:, None])
        normaliser = tl.sum(weights, 1)
        partition = maximum + tl.log2(normaliser)
        weights = weights / normaliser[:, None]
        if not LEAF:
            tl.store(kept + batch * nodes + node, tl.sum(tl.where(diagonal, weights, 0.0), 1), mask=there)
            weights = tl.where(diagonal, 0.0, weights)
        output = tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        _store(gathered, output, batch, node, there, nodes, width, BLOCK_D)

        if not ROOT:
            group = tl.arange(0, GROUPS)
            parent = first_family + group
            member = (group[:, None] == family[None, :]) & there[None, :]
            total = tl.maximum(tl.sum(tl.where(member, count[None, :], 0.0), 1), 1.0)
            share = tl.where(member, count[None, :] / total[:, None], 0.0)
            exists = (group < TOGETHER) & (parent < families)
            tl.store(energy + batch * families + parent, tl.sum(tl.where(member, share * partition[None, :], 0.0), 1),
                     mask=exists)  # fmt: skip
            _store_mean(mean_query, share, q, batch, first_family, families, width, TOGETHER, GROUPS, BLOCK_D)
            _store_mean(mean_key, share, k, batch, first_family, families, width, TOGETHER, GROUPS, BLOCK_D)
            _store_mean(mean_value, share, v, batch, first_family, families, width, TOGETHER, GROUPS, BLOCK_D)

    @triton.jit
    def _walk_kernel(
        query, key, value, inside, gathered, kept, scale, nodes, leaves, tokens, width,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, CAUSAL: tl.constexpr,
        PRECISION: tl.constexpr,
    ):  # fmt: skip
        batch = tl.program_id(1).to(tl.int64)
        row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
        there = row < nodes
        q = _load(query, batch, row, there, nodes, width, BLOCK_D)
        own = tl.load(inside + batch * nodes + row, mask=there, other=0.0)
        maximum = own  # every row sees itself, so the diagonal is where the softmax starts
        normaliser = tl.full([BLOCK_M], 1.0, tl.float32)
        accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        last = nodes
        if CAUSAL:
            last = tl.minimum(nodes, (tl.program_id(0) + 1) * BLOCK_M)
        for start in range(0, last, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            inside_range = column < nodes
            k = _load(key, batch, column, inside_range, nodes, width, BLOCK_D)
            count = tl.maximum(_count(column, leaves, tokens).to(tl.float32), 1.0)
            scores = tl.dot(q, k.T, input_precision=PRECISION) * scale + tl.log2(count)[None, :]
            sees = inside_range[None, :] & (row[:, None] != column[None, :])
            if CAUSAL:
                sees = sees & (row[:, None] > column[None, :])
            scores = tl.where(sees, scores, -float("inf"))
            new_maximum = tl.maximum(maximum, tl.max(scores, 1))
            weights = tl.exp2(scores - new_maximum[:, None])
            rescale = tl.exp2(maximum - new_maximum)
            normaliser = normaliser * rescale + tl.sum(weights, 1)
            v = _load(value, batch, column, inside_range, nodes, width, BLOCK_D)
            accumulator = tl.dot(weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            maximum = new_maximum
        _store(gathered, (accumulator / normaliser[:, None]), batch, row, there, nodes, width, BLOCK_D)
        tl.store(kept + batch * nodes + row, tl.exp2(own - maximum) / normaliser, mask=there)

    @triton.jit
    def _descend_kernel(
        above, above_kept, gathered, kept, nodes, families, children, width,
        ROWS: tl.constexpr, BLOCK_D: tl.constexpr, LEAF: tl.constexpr,
    ):  # fmt: skip
        batch = tl.program_id(1).to(tl.int64)
        node = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        there = node < nodes
        parent = node // children
        share = tl.load(above_kept + batch * families + parent, mask=there, other=0.0)
        elsewhere = _load(above, batch, parent, there, families, width, BLOCK_D).to(tl.float32)
        here = _load(gathered, batch, node, there, nodes, width, BLOCK_D).to(tl.float32)
        _store(gathered, elsewhere + share[:, None] * here, batch, node, there, nodes, width, BLOCK_D)
        if not LEAF:
            at = kept + batch * nodes + node
            tl.store(at, share * tl.load(at, mask=there, other=0.0), mask=there)
