"""Small methods that are right: a function of rows, an attention and a running sum with state. The specimens are these,
each made wrong in one way."""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from workbench.controls import Range
from workbench.paper import Activation, Attention, Baseline, Cost, Example, Method, Mixer, standard_normal

Factor = Annotated[float, Range(0, 4), "What the result is multiplied with."]
Sign = Annotated[Literal["plus", "minus"], "The sign of the result."]
Batch = Annotated[int, Range(1, 64), "Sequences."]
Heads = Annotated[int, Range(1, 64), "Query heads."]
Width = Annotated[int, Range(1, 256), "Width of a row or head."]


def no_work(implementation: str, *inputs: Tensor, **options: object) -> int:
    return 5 * inputs[0].nbytes


# --- rows: factor * tanh(x) * weight ---------------------------------------------------------------------------------


def rows(x: Tensor, weight: Tensor, *, factor: Factor = 1.0, sign: Sign = "plus") -> Tensor:
    """factor * tanh(x) * weight; x (..., hidden), weight (hidden,)."""
    if not (x.is_floating_point() and weight.is_floating_point()):
        raise ValueError(f"rows takes floating-point numbers, not {x.dtype} and {weight.dtype}.")
    if x.shape[-1:] != weight.shape:
        raise ValueError(f"rows takes x (..., hidden) and weight (hidden,), not {x.shape} and {weight.shape}.")
    return x.tanh() * weight * (factor if sign == "plus" else -factor)


def rows_fast(x: Tensor, weight: Tensor, *, factor: Factor = 1.0, sign: Sign = "plus") -> Tensor:
    """The same."""
    return rows(x, weight, factor=factor, sign=sign)


def rows_example(
    size: int, *, device: str = "cpu", dtype: str = "float32", seed: int = 0, hidden: Width = 64
) -> Example:
    x = standard_normal((size, hidden), device=device, dtype=dtype, seed=seed)
    return Example({"x": x, "weight": standard_normal((hidden,), device=device, dtype=dtype, seed=seed + 1)})


def rows_cost(x: Tensor, weight: Tensor, **options: object) -> Cost:
    moved = 2 * x.nbytes + weight.nbytes
    return Cost(3 * x.numel(), moved, 6 * x.numel(), 2 * moved)


class RowsLayer(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return rows(x, self.weight)


ROWS = Method(
    name="rows",
    title="Rows",
    idea="A bounded function of every number.",
    slot=Activation(),
    reference=rows,
    fast=rows_fast,
    example=rows_example,
    cost=rows_cost,
    workspace=no_work,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    baselines={"again": Baseline(rows_fast)},
    misfits=lambda example: {"another width": (example.inputs["x"], example.inputs["weight"][1:])},
)
ROWS.belong_to(__name__, RowsLayer)


# --- attention -------------------------------------------------------------------------------------------------------


def softmax(
    query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """softmax(scale * Q K^T) V in the widest dtype of the inputs, float32 at least."""
    if query.ndim != 4 or key.shape != value.shape or key.shape[::3] != query.shape[::3] or key.shape[2] == 0:
        raise ValueError("softmax takes (batch, heads, tokens, head_dim), keys like values, at least one of them.")
    if not query.dtype == key.dtype == value.dtype or not query.is_floating_point():
        raise ValueError("softmax takes tensors of one floating-point dtype.")
    wide = torch.promote_types(query.dtype, torch.float32)
    group = query.shape[1] // max(key.shape[1], 1)
    q, k, v = query.to(wide), key.to(wide).repeat_interleave(group, 1), value.to(wide).repeat_interleave(group, 1)
    scores = q @ k.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(above.triu(1 + key.shape[-2] - query.shape[-2]), -torch.inf)
    return (scores.softmax(-1) @ v).to(query.dtype)


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """Softmax attention, of bfloat16 under autocast."""
    if torch.is_autocast_enabled("cpu"):
        narrow = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(narrow), key.to(narrow), value.to(narrow)
    with torch.autocast("cpu", enabled=False):
        return softmax(query, key, value, is_causal=is_causal, scale=scale)


def attention_fast(
    query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """The same."""
    return attention(query, key, value, is_causal=is_causal, scale=scale)


def attention_example(
    size: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Batch = 1,
    heads: Heads = 2,
    kv_heads: Annotated[int | None, Range(1, 64), "Key and value heads; None: as many as query heads."] = None,
    head_dim: Width = 32,
) -> Example:
    if heads % (kv_heads or heads):
        raise ValueError("kv_heads must divide heads.")
    counts = {"query": heads, "key": kv_heads or heads, "value": kv_heads or heads}
    return Example(
        {
            name: standard_normal((batch, count, size, head_dim), device=device, dtype=dtype, seed=3 * seed + number)
            for number, (name, count) in enumerate(counts.items())
        }
    )


def attention_cost(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Cost:
    flops = 4 * query.numel() * key.shape[-2]
    moved = 2 * query.nbytes + key.nbytes + value.nbytes
    return Cost(flops, moved, 2.5 * flops, 2 * moved)


def attention_workspace(implementation: str, query: Tensor, key: Tensor, value: Tensor, **options: object) -> int:
    return 3 * query[..., 0].numel() * key.shape[-2] * max(4, query.element_size())


ATTENTION = Method(
    name="attention",
    title="Attention",
    idea="Every query looks at every key.",
    slot=Attention(),
    reference=attention,
    fast=attention_fast,
    example=attention_example,
    cost=attention_cost,
    workspace=attention_workspace,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    misfits=lambda example: {"three axes": tuple(tensor[0] for tensor in example.inputs.values())},
)


# --- a running sum ---------------------------------------------------------------------------------------------------


def running(x: Tensor, *, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The sums of all tokens up to each; x (batch, tokens, width), state (batch, width)."""
    if not x.is_floating_point() or x.ndim != 3:
        raise ValueError(f"running takes floating-point x (batch, tokens, width), not {x.dtype} {tuple(x.shape)}.")
    start = x.new_zeros(len(x), x.shape[2]) if state is None else state
    sums = torch.cat([start[:, None], x], dim=1).cumsum(1)
    return sums[:, 1:].clone(), sums[:, -1].clone()


def running_fast(x: Tensor, *, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same."""
    return running(x, state=state)


def running_example(
    size: int, *, device: str = "cpu", dtype: str = "float32", seed: int = 0, batch: Batch = 1, width: Width = 32
) -> Example:
    return Example({"x": standard_normal((batch, size, width), device=device, dtype=dtype, seed=seed)})


def running_cost(x: Tensor, **options: object) -> Cost:
    moved = 2 * x.nbytes + x[:, 0].nbytes
    return Cost(x.numel(), moved, x.numel(), moved)


RUNNING = Method(
    name="running",
    title="Running sum",
    idea="What came before, summed.",
    slot=Mixer(),
    reference=running,
    fast=running_fast,
    example=running_example,
    cost=running_cost,
    workspace=no_work,
    tolerance={"float64": 1e-12, "float32": 1e-5},
)

SOUND = {method.name: method for method in (ROWS, ATTENTION, RUNNING)}
