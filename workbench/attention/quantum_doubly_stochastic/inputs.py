"""What the methods of this paper take: their checks, an example of full rank, cost and memory."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from workbench.attention.inputs import Scale, cost, example
from workbench.attention.quantum_doubly_stochastic.scaling import bytes_at_a_time
from workbench.controls import Range
from workbench.paper import Cost, Example, kernel_or_cpu

HalfSteps = Annotated[int, Range(1, 101), "Half-steps, rows first: odd counts end with rows. 1 is softmax."]
Seed = Annotated[int, Range(0, 1_000_000), "Which random numbers."]
Spread = Annotated[Literal["deviation", "variance"], "What the scores are divided by, if it is less than sqrt(d)."]


NOT_CAUSAL = (
    "A causal doubly stochastic map can only be the identity: the first query sees one key and spends all on it, which "
    "fills that key's column, and so on. Use is_causal=False."
)


def refuse_unless_square(query: Tensor, key: Tensor, *, is_causal: bool = False, **options: object) -> None:
    """Raise ``ValueError`` where no doubly stochastic map exists."""
    if is_causal:
        raise ValueError(NOT_CAUSAL)
    if query.shape[-2] != key.shape[-2]:
        raise ValueError(
            f"A doubly stochastic map is square: as many queries as keys are needed, not {query.shape[-2]} and "
            f"{key.shape[-2]}."
        )


def refuse_causal(
    query: Tensor, key: Tensor, *, is_causal: bool = False, scale: Scale = None, **options: object
) -> None:
    """Raise ``ValueError`` for a causal NormSoftmax, and for one with a scale of 0 or less."""
    if is_causal:
        raise ValueError("NormSoftmax divides by the spread of all scores, future ones included: is_causal=False only.")
    if not (scale is None or isinstance(scale, Tensor) or scale > 0):
        raise ValueError(f"NormSoftmax takes a positive scale, not {scale}.")


def why_not_sinkhorn(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
    """Why the fused kernel cannot run on these inputs, in sentences."""
    from workbench_kernels.sinkhorn import attention as sinkhorn

    return kernel_or_cpu(query, sinkhorn.why_not, query.dtype, query.shape[-1])


def sinkhorn_workspace(implementation: str, query: Tensor, key: Tensor, value: Tensor, **options: object) -> int:
    """Bytes held at the forward's peak beside inputs and output; an upper bound for every implementation we ship."""
    batch, heads, tokens, width = query.shape
    iterations = options.get("iterations", 5)
    size = 8 if query.dtype == torch.float64 else 4
    statistics = size * batch * heads * tokens * (iterations + 2)
    repeated = 2 * query.numel() * query.element_size() if heads != key.shape[1] else 0
    if implementation != "fast":
        return 5 * batch * heads * tokens**2 * query.element_size() + repeated
    if query.is_cpu or query.is_meta:
        return statistics + repeated + bytes_at_a_time(batch, heads, tokens, size) + 4 * size * tokens * width
    parts = 12 * query.numel() if query.dtype == torch.float32 else 0
    return statistics + repeated + parts


def qr_example(
    tokens: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Annotated[int, Range(1, 64, log=True), "Sequences in a batch."] = 1,
    heads: Annotated[int, Range(1, 128, log=True), "Query heads."] = 4,
    kv_heads: Annotated[int | None, Range(1, 128, log=True), "Key/value heads; None: as many as query heads."] = None,
    head_dim: Annotated[int | None, Range(1, 256, log=True), "Width of a head; None: twice the tokens."] = None,
) -> Example:
    """Standard-normal query, key, value. A head narrower than the tokens gets noise as large as the scores: with less,
    the scores would have no full rank in float32, and rounding would decide the result."""
    shape = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim or 2 * tokens}
    inputs = example(tokens, device=device, dtype=dtype, seed=seed, **shape).inputs
    return Example(inputs, {"jitter": 1.0} if shape["head_dim"] < tokens else {})


def qr_cost(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Cost:
    """Two products and, between them, Householder's QR with U written out: 8/3 T^3 FLOPs a head."""
    products = cost(query, key, value)
    batch, heads, tokens, _ = query.shape
    decomposition = 8 / 3 * batch * heads * tokens**3
    return Cost(
        products.flops + decomposition, products.bytes, products.backward_flops + decomposition, products.backward_bytes
    )


def qr_workspace(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Bytes held at the peak beside inputs and output: scores, their copy for LAPACK, U and R; an upper bound."""
    batch, heads, tokens, _ = query.shape
    size = 8 if query.dtype == torch.float64 else 4
    return 5 * size * batch * heads * tokens**2 + 6 * query.numel() * query.element_size()


def rounding(query: Tensor, key: Tensor) -> Tensor:
    """How far scores of equal queries and keys may lie apart (..., 1, 1): four roundings of sums of head_dim products,
    in the precision that sums are made in."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    longest = [torch.linalg.vector_norm(x.detach().to(dtype), dim=-1).amax(-1)[..., None, None] for x in (query, key)]
    return 4 * torch.finfo(dtype).eps * query.shape[-1] ** 0.5 * longest[0] * longest[1]


def norm_softmax_workspace(implementation: str, query: Tensor, key: Tensor, value: Tensor, **options: object) -> int:
    """Bytes held at the forward's peak beside inputs and output; an upper bound for both implementations."""
    batch, heads, tokens, width = query.shape
    repeated = 2 * query.numel() * query.element_size() if heads != key.shape[1] else 0
    if implementation == "reference":
        return 4 * batch * heads * tokens**2 * query.element_size() + repeated
    size = 8 if query.dtype == torch.float64 else 4
    return size * (3 * query.numel() + 4 * batch * heads * (width**2 + tokens)) + repeated
