"""Hierarchical self-attention (arXiv 2509.15448) over the balanced tree, forward and backward, for Triton.

``hierarchical_attention`` is the function. It knows autograd and ``torch.compile`` through ``torch.library``.

What each launch does. Up, one launch a level: a program takes whole families, and in one read of their rows it attends
inside them and makes their means and energies, which are the rows of the level above. Down, one launch: every block of
leaves adds what its ancestors gathered elsewhere. Backward, one launch a level up (means of the gradient), and one a
level down. What is kept between the two: inputs, output, 4 bytes a token, and the nodes above the leaves.
"""

import math

import torch
from torch import Tensor

from workbench_kernels.attention.flash_attention import flash_attention
from workbench_kernels.attention.heads import why_not
from workbench_kernels.hierarchical.levels import hierarchical_levels, level_sizes
from workbench_kernels.operators import operator
from workbench_kernels.tiles import next_power_of_2

try:
    import triton
except ImportError:  # macOS and Windows have no Triton; `why_not` says so
    triton = None

if triton is not None:
    from workbench_kernels.hierarchical import backward as hierarchical_backward
    from workbench_kernels.hierarchical import backward_long as hierarchical_backward_long
    from workbench_kernels.hierarchical import forward as hierarchical_forward

LOG2_E = math.log2(math.e)
FEWEST_KEYS = 16  # with fewer, PyTorch's CPU kernel drops a NaN from the maximum and answers it with zeros


def hierarchical_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    block: int,
    levels: int,
    is_causal: bool = False,
    self_attend: bool = True,
) -> Tensor:
    """The output (batch, heads, tokens, head_dim) of attention over the balanced tree.

    query, key, value (batch, heads, tokens, head_dim) of one shape; any strides, any number of tokens. Families have
    ``block`` children, the root as many as are left after ``levels`` - 1 groupings; the last family of a level may be
    smaller. Without ``self_attend`` no token sees itself; then there must be two, and no causal mask. CUDA: float16,
    bfloat16 or float32, head_dim up to 256. CPU: batched matrix products, float64 too. Deterministic.

    A family of c children costs 4 c^2 d FLOPs a head. Least traffic: inputs once, output three times (written where a
    leaf's own family is attended to, read and written when its ancestors are known). Raises ``ValueError`` for what
    ``why_not`` names.
    """
    settings = (scale, block, levels, is_causal, self_attend)
    is_softmax = len(level_sizes(query.shape[2], block, levels)) == 1 and self_attend  # a flat tree
    if not query.is_cuda:
        if is_softmax and query.shape[2] >= FEWEST_KEYS:
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(query, key, value, is_causal=is_causal, scale=scale)
        return hierarchical_levels(query, key, value, *settings)
    if is_softmax and scale > 0:
        return flash_attention(query, key, value, scale=scale, is_causal=is_causal)[0]
    if reasons := why_not(query.dtype, query.shape[-1]):
        raise ValueError(" ".join(reasons))
    return _forward_operator(query, key, value, *settings)[0]


# --- the operators ---------------------------------------------------------------------------------------------------


def _forward(
    query: Tensor, key: Tensor, value: Tensor, scale: float, block: int, levels: int, is_causal: bool, self_attend: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output, and for the backward pass: the leaves' logsumexp; of the nodes above them the means of query, key and
    value, what they gather from their siblings, and (3, ...) energy, share kept, logsumexp. Logarithms in base 2."""
    query, key, value = map(_side_by_side, (query, key, value))
    output, logsumexp, means, gathered, statistics = _results(query, block, levels)
    places = _places(query, block, levels)
    for level, place in enumerate(places):
        own = slice(place["own"], place["own"] + place["nodes"])
        rows = (query, key, value) if level == 0 else (means[0][:, :, own], means[1][:, :, own], means[2][:, :, own])
        to = (output, logsumexp) if level == 0 else (gathered, statistics[2])
        flags = {"LEAF": level == 0, "ROOT": level == len(places) - 1, "CAUSAL": is_causal, "SELF": self_attend}
        numbers = (*place.values(), *query.shape[1:2], query.shape[0] * query.shape[1])
        strides = [stride for tensor in rows for stride in tensor.stride()[:3]]
        kernel, programs, tiles = _forward_launch(query, place, flags["ROOT"])
        kernel[(programs * numbers[-1],)](
            *rows, *to, means, statistics, scale * LOG2_E, *numbers, *strides, **flags, **tiles
        )
    if len(places) > 1:
        families, size = places[0]["families"], places[0]["size"]
        tiles = _whole_rows(query, size)
        programs = -(-families // tiles["FAMILIES"]) * -(-size // tiles["ROWS"])
        hierarchical_forward.combine_kernel[(programs * query.shape[0] * query.shape[1],)](
            output, gathered, statistics[1], query.shape[2], size, families, places[0]["total"],
            LEVELS=len(places) - 1, **tiles,
        )  # fmt: skip
    return output, logsumexp, means, gathered, statistics


_forward_operator = operator("hierarchical_attention", cuda=_forward, cpu=_forward)


@torch.library.register_fake("workbench::hierarchical_attention")
def _(query, key, value, scale, block, levels, is_causal, self_attend):
    return _results(query, block, levels)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    means: Tensor,
    gathered: Tensor,
    statistics: Tensor,
    scale: float,
    block: int,
    levels: int,
    is_causal: bool,
    self_attend: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad, query, key, value = map(_side_by_side, (grad, query, key, value))
    heads, matrices = query.shape[1], query.shape[0] * query.shape[1]
    gradients = [torch.empty(query.shape, dtype=query.dtype, device=query.device) for _ in range(3)]
    row_dot, arrived = torch.empty_like(logsumexp), torch.empty_like(gathered)
    worth, slopes = torch.empty_like(statistics[:2]).unbind()
    densities = gathered.new_empty(3, *gathered.shape)
    places = _places(query, block, levels)

    for level, place in enumerate(places[: max(1, len(places) - 1)]):
        tiles = _whole_rows(query, place["size"])
        hierarchical_backward.mean_kernel[(-(-place["families"] // tiles["FAMILIES"]) * matrices,)](
            grad, output, row_dot, arrived, worth, *place.values(), heads, *grad.stride()[:3],
            LEAF=level == 0, ROOT=len(places) == 1, **tiles,
        )  # fmt: skip
    for level in reversed(range(len(places))):
        place, own = places[level], slice(places[level]["own"], places[level]["own"] + places[level]["nodes"])
        if level == 0:
            rows, of_rows, to = (query, key, value, grad), (row_dot, logsumexp), gradients
        else:
            rows = [mean[:, :, own] for mean in means] + [arrived[:, :, own]]
            of_rows, to = (worth, statistics[2]), densities
        flags = {"LEAF": level == 0, "ROOT": level == len(places) - 1, "CAUSAL": is_causal, "SELF": self_attend}
        strides = [stride for tensor in rows for stride in tensor.stride()[:3]]
        kernel, programs, tiles = _backward_launch(query, place)
        kernel[(programs * matrices,)](
            *rows, *of_rows, gathered, statistics, slopes, densities, *to, scale, *place.values(), heads, matrices,
            *strides, LEVELS=len(places) - 1 - level, **flags, **tiles,
        )  # fmt: skip
    return tuple(gradients)


_backward_operator = operator("hierarchical_attention_backward", cuda=_backward, cpu=_backward)


@torch.library.register_fake("workbench::hierarchical_attention_backward")
def _(grad, query, key, value, *_):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))


def _save(ctx, inputs, output):
    query, key, value, *ctx.settings = inputs
    ctx.save_for_backward(query, key, value, *output)
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx, grad, *_):
    return *_backward_operator(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


torch.library.register_autograd("workbench::hierarchical_attention", _differentiate, setup_context=_save)


# --- host side -------------------------------------------------------------------------------------------------------


def _side_by_side(rows: Tensor) -> Tensor:
    """Rows whose numbers are neighbours in memory; copied only where they are not."""
    return rows if rows.stride(-1) == 1 or rows.shape[-1] == 1 else rows.contiguous()


def _results(query: Tensor, block: int, levels: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Room for what ``_forward`` returns."""
    batch, heads, tokens, width = query.shape
    above = sum(level_sizes(tokens, block, levels)[1:])
    numbers = {"dtype": torch.float32, "device": query.device}
    return (
        torch.empty_like(query, memory_format=torch.contiguous_format),
        torch.empty(batch, heads, tokens, **numbers),
        query.new_empty(3, batch, heads, above, width),
        torch.empty(batch, heads, above, width, **numbers),
        torch.empty(3, batch, heads, above, **numbers),
    )


def _places(query: Tensor, block: int, levels: int) -> list[dict[str, int]]:
    """Where each level stands, from the leaves up; in the order in which the kernels take these numbers."""
    tokens = query.shape[2]
    sizes = level_sizes(tokens, block, levels)
    places, own = [], 0
    for level, nodes in enumerate(sizes):
        parent = own + nodes if level else 0
        root = level == len(sizes) - 1
        places.append(
            {
                "nodes": nodes,
                "size": nodes if root else block,
                "families": 1 if root else sizes[level + 1],
                "span": block**level,
                "leaves": tokens,
                "own": own,
                "parent": parent,
                "total": sum(sizes[1:]),
            }
        )
        own = parent
    return places


def _common(query: Tensor) -> dict:
    """What all kernels are told about rows and their arithmetic; float32 is split into three tf32 products."""
    width = query.shape[-1]
    return {"WIDTH": width, "BLOCK_D": max(16, next_power_of_2(width))}


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


def _choice(table: dict, kernel: str, query: Tensor):
    return table[kernel][query.element_size()][max(64, _common(query)["BLOCK_D"])]


def _packed(kernel: str, size: int, most: int) -> dict[str, int]:
    """How many families of ``size`` children share a program, and the rows of each: few children come together."""
    rows = next_power_of_2(size)
    together = max(1, min(PACKED[kernel], most) // rows)
    return {"FAMILIES": together, "SIZE": max(rows, 16 // together)}


def _warps(rows: int, query: Tensor) -> int:
    numbers = rows * max(64, _common(query)["BLOCK_D"]) * query.element_size() // 2
    return max(1, min(8, numbers // 1024))


def _forward_launch(query: Tensor, place: dict[str, int], root: bool):
    """(kernel, programs a matrix, settings) of one level on the way up."""
    precision = {"PRECISION": "tf32x3" if query.dtype == torch.float32 else "tf32"}
    most = _choice(_MOST, "forward", query)
    if place["size"] <= most:
        tiles = _packed("forward", place["size"], most)
        settings = {"num_warps": _warps(tiles["FAMILIES"] * tiles["SIZE"], query), "num_stages": 1}
        programs = -(-place["families"] // tiles["FAMILIES"])
        return hierarchical_forward.family_kernel, programs, {**tiles, **settings, **_common(query), **precision}
    rows, columns = _choice(_TILES, "forward", query)
    settings = {"BLOCK_M": rows, "BLOCK_N": columns, "num_warps": _warps(rows // 2, query), "num_stages": 2}
    programs = -(-place["nodes"] // rows) if root else place["families"]
    return hierarchical_forward.long_family_kernel, programs, {**settings, **_common(query), **precision}


def _backward_launch(query: Tensor, place: dict[str, int]):
    """(kernel, programs a matrix, settings) of one level on the way down."""
    precision = {"PRECISION": "tf32x3" if query.dtype == torch.float32 else "tf32"}
    most = _choice(_MOST, "backward", query)
    if place["size"] <= most:
        tiles = _packed("backward", place["size"], most)
        settings = {"num_warps": _warps(tiles["FAMILIES"] * tiles["SIZE"], query), "num_stages": 1}
        programs = -(-place["families"] // tiles["FAMILIES"])
        return hierarchical_backward.backward_kernel, programs, {**tiles, **settings, **_common(query), **precision}
    block = _choice(_TILES, "backward", query)
    settings = {"BLOCK": block, "num_warps": _warps(block, query), "num_stages": 1}
    programs = place["families"] * -(-place["size"] // block)
    return hierarchical_backward_long.long_backward_kernel, programs, {**settings, **_common(query), **precision}


def _whole_rows(query: Tensor, size: int) -> dict[str, int]:
    """Families, and rows of each, for the kernels that only stream."""
    common = _common(query)
    rows = max(1, STREAMED // common["BLOCK_D"])
    each = min(rows, next_power_of_2(size))
    return {"FAMILIES": rows // each, "ROWS": each, **common, "num_warps": 4}
