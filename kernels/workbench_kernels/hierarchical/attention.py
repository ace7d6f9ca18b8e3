"""Hierarchical self-attention (arXiv 2509.15448) over the balanced tree, forward and backward, for Triton.

``hierarchical_attention`` is the function.

What each launch does. Up, one launch a level: a program takes whole families, and in one read of their rows it attends
inside them and makes their means and energies, which are the rows of the level above. Down, one launch: every block of
leaves adds what its ancestors gathered elsewhere. Backward, one launch a level up (means of the gradient), and one a
level down. What is kept between the two: inputs, output, the nodes above the leaves, and 8 bytes a token where families
of leaves are longer than a tile.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench_kernels.attention.flash_attention import flash_attention
from workbench_kernels.attention.heads import why_not
from workbench_kernels.hierarchical.levels import hierarchical_levels, level_sizes
from workbench_kernels.launch import Bound, Operands
from workbench_kernels.operation import Operation
from workbench_kernels.tiles import next_power_of_2

try:
    import triton
except ImportError:  # macOS and Windows have no Triton; `why_not` says so
    triton = None

if triton is not None:
    from workbench_kernels.hierarchical.backward import backward_kernel, mean_kernel
    from workbench_kernels.hierarchical.backward_long import long_backward_kernel
    from workbench_kernels.hierarchical.forward import combine_kernel, family_kernel, long_family_kernel

FEWEST_KEYS = 16  # with fewer, PyTorch's CPU kernel drops a NaN from the maximum and answers it with zeros


def hierarchical_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    block: int,
    levels: int,
    self_attend: bool = True,
) -> Tensor:
    """The output (batch, heads, tokens, head_dim) of attention over the balanced tree.

    query, key, value (batch, heads, tokens, head_dim) of one shape; any strides, any number of tokens. Families have
    ``block`` children, the root as many as are left after ``levels`` - 1 groupings; the last family of a level may be
    smaller. Without ``self_attend`` no token sees itself; then there must be two. CUDA: float16, bfloat16 or float32,
    head_dim up to 256. CPU: batched matrix products, float64 too. Deterministic; differentiable once.

    A family of c children costs 4 c^2 d FLOPs a head. Least traffic: inputs once, output three times (written where a
    leaf's own family is attended to, read and written when its ancestors are known). Raises ``ValueError`` for what
    ``why_not`` names.
    """
    is_softmax = self_attend and (levels == 1 or not 1 < block < query.shape[2])  # a flat tree
    if not query.is_cuda:
        if is_softmax and query.shape[2] >= FEWEST_KEYS:
            return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
        return hierarchical_levels(query, key, value, scale, block, levels, self_attend)
    if is_softmax and scale > 0:
        return flash_attention(query, key, value, scale=scale)[0]
    if reasons := why_not(query.dtype, query.shape[-1]):
        raise ValueError(" ".join(reasons))
    return _attention(query, key, value, scale, block, levels, self_attend)[0]


# --- forward and backward --------------------------------------------------------------------------------------------


def forward_triton(
    query: Tensor, key: Tensor, value: Tensor, scale: float, block: int, levels: int, self_attend: bool
) -> tuple[Tensor, Tensor]:
    """The output, and what is known of the nodes above the leaves, as ``forward`` lays it out."""
    query, key, value = _side_by_side(query), _side_by_side(key), _side_by_side(value)
    shape, dtype, device = query.shape, query.dtype, query.device
    strides = (*query.stride()[:3], *key.stride()[:3], *value.stride()[:3])
    kept, up, down = _forward_launches(shape, dtype, block, levels, self_attend, scale, strides)
    output = torch.empty(shape, dtype=dtype, device=device)
    tree = torch.empty(kept, dtype=torch.float32, device=device)
    operands = Operands(query, key, value, output, tree)
    for launch in up:
        launch(operands)
    if down is not None:
        down(Operands(output, tree))
    return output, tree


def backward_triton(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    tree: Tensor,
    scale: float,
    block: int,
    levels: int,
    self_attend: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value."""
    grad, query, key, value = _side_by_side(grad), _side_by_side(query), _side_by_side(key), _side_by_side(value)
    shape, dtype, device = query.shape, query.dtype, query.device
    strides = (*query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *grad.stride()[:3])
    room, up, down = _backward_launches(shape, dtype, block, levels, self_attend, scale, strides)
    of_query = torch.empty(shape, dtype=dtype, device=device)
    of_key = torch.empty(shape, dtype=dtype, device=device)
    of_value = torch.empty(shape, dtype=dtype, device=device)
    work = torch.empty(room, dtype=torch.float32, device=device)
    if up:
        operands = Operands(grad, output, work)
        for launch in up:
            launch(operands)
    operands = Operands(query, key, value, grad, tree, work, of_query, of_key, of_value)
    for launch in down:
        launch(operands)
    return of_query, of_key, of_value


def _fake(
    query: Tensor, key: Tensor, value: Tensor, scale: float, block: int, levels: int, self_attend: bool
) -> tuple[Tensor, Tensor]:
    batch, heads, tokens, width = query.shape
    kept = batch * heads * _kept(level_sizes(tokens, block, levels), width, query.dtype, block)
    return query.new_empty(query.shape), query.new_empty(kept, dtype=torch.float32)


_attention = Operation(
    "hierarchical_attention",
    forward=forward_triton,
    backward=backward_triton,
    outputs=("output", "tree"),
    fake=_fake,
)


def _side_by_side(rows: Tensor) -> Tensor:
    """Rows whose numbers are neighbours in memory; copied only where they are not."""
    return rows if rows.stride(-1) == 1 or rows.shape[-1] == 1 else rows.contiguous()


# --- the launches of a tree ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One launch: the kernel, how many programs it takes for each matrix, and its constants."""

    kernel: Any
    programs: int
    settings: dict[str, Any]

    def bound(self, matrices: int, numbers: tuple) -> Bound:
        return Bound(self.kernel, (self.programs * matrices,), numbers, self.settings)


@dataclass(frozen=True)
class Plan:
    """All launches for a balanced tree in one dtype; ``kept`` and ``work`` count the float32 numbers that a matrix has
    in the forward kernels' ``tree`` and the backward kernels' ``work``."""

    kept: int
    work: int
    up: tuple[Step, ...]
    down: Step | None
    gradient_up: tuple[Step, ...]
    gradient_down: tuple[Step, ...]


@functools.lru_cache(maxsize=1024)
def _forward_launches(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    block: int,
    levels: int,
    self_attend: bool,
    scale: float,
    strides: tuple[int, ...],
) -> tuple[int, tuple[Bound, ...], Bound | None]:
    """How many numbers ``tree`` has, and the launches up and down, for query, key and value of one shape and these
    strides."""
    batch, heads, tokens, width = shape
    matrices = batch * heads
    plan = _plan(tokens, width, dtype, block, levels, self_attend)
    numbers = (scale, tokens, block, heads, matrices, *strides)
    up = tuple(step.bound(matrices, numbers) for step in plan.up)
    down = plan.down and plan.down.bound(matrices, (tokens, block, matrices))
    return matrices * plan.kept, up, down


@functools.lru_cache(maxsize=1024)
def _backward_launches(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    block: int,
    levels: int,
    self_attend: bool,
    scale: float,
    strides: tuple[int, ...],
) -> tuple[int, tuple[Bound, ...], tuple[Bound, ...]]:
    """How many numbers ``work`` has, and the launches up and down; ``strides`` are those of the gradient, too."""
    batch, heads, tokens, width = shape
    matrices = batch * heads
    plan = _plan(tokens, width, dtype, block, levels, self_attend)
    numbers = (tokens, block, heads, matrices)
    up = tuple(step.bound(matrices, (*numbers, *strides[9:])) for step in plan.gradient_up)
    down = tuple(step.bound(matrices, (scale, *numbers, *strides)) for step in plan.gradient_down)
    return matrices * plan.work, up, down


@functools.lru_cache(maxsize=1024)
def _plan(tokens: int, width: int, dtype: torch.dtype, block: int, levels: int, self_attend: bool) -> Plan:
    sizes = level_sizes(tokens, block, levels)
    depth, heads = len(sizes), _Heads(width, dtype)
    # (families, children) of every level
    shapes = [(families, block) for families in sizes[1:]] + [(1, sizes[-1])]
    each = [{"LEVEL": level, "LEVELS": depth} for level in range(depth)]
    up = tuple(heads.forward(*shape, at, self_attend) for shape, at in zip(shapes, each, strict=True))
    down = heads.streaming(combine_kernel, *shapes[0], {"LEVELS": depth}, in_turns=False) if depth > 1 else None
    is_long = shapes[0][1] > heads.most("backward")
    gradient_up = tuple(
        heads.streaming(mean_kernel, *shape, {**at, "KEEP": is_long}, in_turns=True)
        for shape, at in list(zip(shapes, each, strict=True))[: depth - 1 or is_long]
    )
    gradient_down = tuple(heads.backward(*shape, at, self_attend) for shape, at in zip(shapes, each, strict=True))
    above, of_leaves = sum(sizes[1:]), tokens if is_long else 0
    work = above * (4 * width + 2) + of_leaves
    return Plan(_kept(sizes, width, dtype, block), work, up, down, gradient_up, gradient_down[::-1])


def _kept(sizes: list[int], width: int, dtype: torch.dtype, block: int) -> int:
    family = sizes[0] if len(sizes) == 1 else block
    is_long = family > _Heads(width, dtype).most("backward")
    return sum(sizes[1:]) * (4 * width + 4) + (2 * sizes[0] if is_long else 0)


PACKED = {"forward": 64, "backward": 16}  # rows of a tile in which several small families come together
STREAMED = 4096  # numbers that a program of the kernels which only stream takes at a time

# Children of a family that one program holds, by padded head_dim; the kernels for longer families take tiles of that
# many rows and columns.
_MOST = {
    "forward": {2: {64: 128, 128: 128, 256: 64}, 4: {64: 64, 128: 32, 256: 16}},
    "backward": {2: {64: 128, 128: 64, 256: 32}, 4: {64: 32, 128: 16, 256: 16}},
}
_TILES = {  # (rows, columns), forward and, as many of both, backward
    "forward": {2: {64: (128, 64), 128: (128, 64), 256: (64, 32)}, 4: {64: (64, 32), 128: (32, 32), 256: (16, 16)}},
    "backward": {2: {64: 64, 128: 64, 256: 32}, 4: {64: 32, 128: 16, 256: 16}},
}


class _Heads:
    """How kernels are shaped for heads of one width and dtype."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        self.size, self.dtype = dtype.itemsize, dtype
        self.padded = max(16, next_power_of_2(width))
        self.common = {"WIDTH": width, "BLOCK_D": self.padded}
        # float32 is split into three tf32 products
        self.exact = {**self.common, "PRECISION": "tf32x3" if dtype == torch.float32 else "tf32"}

    def most(self, kernel: str) -> int:
        return _MOST[kernel][self.size][max(64, self.padded)]

    def forward(self, families: int, children: int, level: dict[str, int], self_attend: bool) -> Step:
        """One level on the way up."""
        most = self.most("forward")
        # A softmax is kept where the backward pass does not have the whole row.
        settings = {**level, "SELF": self_attend, "KEEP": children > self.most("backward"), **self.exact}
        if children <= most:
            tiles = _packed("forward", children, most)
            settings |= tiles | {"num_warps": self._warps(tiles["FAMILIES"] * tiles["SIZE"]), "num_stages": 1}
            return Step(family_kernel, -(-families // tiles["FAMILIES"]), settings)
        rows, columns = _TILES["forward"][self.size][max(64, self.padded)]
        settings |= {"BLOCK_M": rows, "BLOCK_N": columns, "num_warps": self._warps(rows // 2), "num_stages": 2}
        is_root = level["LEVEL"] == level["LEVELS"] - 1
        return Step(long_family_kernel, -(-children // rows) if is_root else families, settings)

    def backward(self, families: int, children: int, level: dict[str, int], self_attend: bool) -> Step:
        """One level on the way down."""
        most = self.most("backward")
        settings = {**level, "SELF": self_attend, **self.exact, "num_stages": 1}
        if children <= most:
            tiles = _packed("backward", children, most)
            settings |= tiles | {"num_warps": self._warps(tiles["FAMILIES"] * tiles["SIZE"])}
            return Step(backward_kernel, -(-families // tiles["FAMILIES"]), settings)
        block = _TILES["backward"][self.size][max(64, self.padded)]
        settings |= {"BLOCK": block, "num_warps": self._warps(block)}
        return Step(long_backward_kernel, families * -(-children // block), settings)

    def streaming(self, kernel: Any, families: int, children: int, level: dict[str, int], in_turns: bool) -> Step:
        """A kernel that only streams; a family is taken by one program, in turns, or by as many as it takes."""
        rows = max(1, STREAMED // self.padded)
        each = min(rows, next_power_of_2(children))
        settings = {**level, "FAMILIES": rows // each, "ROWS": each, **self.common, "num_warps": 4}
        return Step(kernel, -(-families // (rows // each)) * (1 if in_turns else -(-children // each)), settings)

    def _warps(self, rows: int) -> int:
        return max(1, min(8, rows * max(64, self.padded) * self.size // 2 // 1024))


def _packed(kernel: str, size: int, most: int) -> dict[str, int]:
    """How many families of ``size`` children share a program, and the rows of each: few children come together."""
    rows = next_power_of_2(size)
    together = max(1, min(PACKED[kernel], most) // rows)
    return {"FAMILIES": together, "SIZE": max(rows, 16 // together)}
