"""A performance model as a method: whole numbers in, a dictionary of figures out, nothing to differentiate.

FuseMax (Nayak et al., arXiv 2406.10491): time, traffic, energy and use of a spatial accelerator that runs attention in
one pass, in the closed form of the paper's artifact, for head width 64. A trial of the vocabulary: integer inputs that
have one axis only, a tree as the result, no floating type but float64.
"""

from typing import Annotated

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.controls import Range
from workbench.paper import Cost, Example, Method, Traits

Batch = Annotated[int, Range(1, 1024), "Sequences at a time."]
Heads = Annotated[int, Range(1, 128), "Heads."]

SIDE = 256  # of the array of processing elements
WIDTH = 64  # of a head: E = F
HERTZ = 940e6
BYTES_PER_SECOND = 400 * 2**30
BUFFER = 16 * 2**20
TILES = (BUFFER - 4 * SIDE * WIDTH) // (2 * SIDE * (2 * WIDTH + 2))  # of queries that the buffer holds beside K and V
CYCLES_1D = max(8, 8) + 1 + WIDTH
PJ_MAC, PJ_ADD, PJ_MAX, PJ_DIVIDE, PJ_DRAM_BYTE = 17.1645, 8.3395, 0.028, 36.25, 249.6 / 8


def reference(tokens: Int[Tensor, " workloads"], *, batch: Batch = 64, heads: Heads = 12) -> dict[str, Tensor]:
    """One workload after the other. tokens (workloads,), multiples of 256: as many queries as keys.

    Returns seconds, bytes of traffic, joules and the share of the array in use, each (workloads,) in float64.
    """
    _check(tokens)
    rows = [_model(int(count), batch * heads) for count in tokens.tolist()]
    figures = torch.tensor(rows, dtype=torch.float64, device=tokens.device).reshape(-1, 4)
    return dict(zip(("latency", "traffic", "energy", "utilisation"), figures.T.contiguous(), strict=True))


def _model(tokens: int, sequences: int) -> tuple[float, float, float, float]:
    blocks = tokens // SIDE
    resident = next(count for count in range(min(TILES, blocks), 0, -1) if blocks % count == 0)
    work = sequences * tokens**2
    unit = work / SIDE**2 / HERTZ
    last = WIDTH * SIDE / tokens
    cycles = max(WIDTH + 1, 1 + WIDTH + last) + CYCLES_1D
    traffic = 4 * sequences * tokens * WIDTH * (1 + blocks / resident)
    latency = max(cycles * unit, traffic / BYTES_PER_SECOND)
    on_array = (2 * WIDTH + 6) * PJ_MAC + 2 * PJ_ADD + PJ_MAX
    beside = (PJ_MAX + (7 + WIDTH) * PJ_MAC + (2 + WIDTH) * PJ_ADD) / SIDE
    energy = work * (on_array + beside) + sequences * WIDTH * tokens * PJ_DIVIDE + traffic * PJ_DRAM_BYTE
    return latency, traffic, 1e-12 * energy, (2 * WIDTH + 9) * unit / latency


def fast(tokens: Int[Tensor, " workloads"], *, batch: Batch = 64, heads: Heads = 12) -> dict[str, Tensor]:
    """All workloads at once."""
    _check(tokens)
    sequences, blocks = batch * heads, tokens // SIDE
    counts = torch.arange(1, TILES + 1, device=tokens.device)
    fits = (blocks[:, None] % counts == 0) & (counts <= blocks[:, None])
    resident = (fits * counts).amax(1)
    length = tokens.double()
    work = sequences * length**2
    unit = work / SIDE**2 / HERTZ
    cycles = (1 + WIDTH + WIDTH * SIDE / length) + CYCLES_1D
    traffic = 4 * sequences * length * WIDTH * (1 + blocks / resident.double())
    latency = torch.maximum(cycles * unit, traffic / BYTES_PER_SECOND)
    on_array = (2 * WIDTH + 6) * PJ_MAC + 2 * PJ_ADD + PJ_MAX
    beside = (PJ_MAX + (7 + WIDTH) * PJ_MAC + (2 + WIDTH) * PJ_ADD) / SIDE
    energy = work * (on_array + beside) + sequences * WIDTH * length * PJ_DIVIDE + traffic * PJ_DRAM_BYTE
    figures = (latency, traffic, 1e-12 * energy, (2 * WIDTH + 9) * unit / latency)
    return dict(zip(("latency", "traffic", "energy", "utilisation"), figures, strict=True))


def _check(tokens: Tensor) -> None:
    if tokens.ndim != 1 or tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens are whole numbers (workloads,), not {tokens.dtype} of shape {tuple(tokens.shape)}.")


def example(size: int, *, device: str = "cpu", dtype: str = "float64", seed: int = 0) -> Example:
    """So many workloads of 1K to 1M tokens."""
    generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)
    return Example({"tokens": 1024 * torch.randint(1, 1025, (size,), generator=generator, device=device)})


def cost(tokens: Tensor, **options: object) -> Cost:
    """40 operations a workload; a number is read and four are written."""
    return Cost(40 * tokens.numel(), tokens.nbytes + 32 * tokens.numel())


METHOD = Method(
    name="fusemax_model",
    title="FuseMax' closed form",
    idea="What attention in one pass costs on an accelerator, without simulating it.",
    slot=None,
    traits=Traits(gradients=0, dtypes=("float64",)),
    reference=reference,
    fast=fast,
    example=example,
    cost=cost,
    workspace=lambda implementation, tokens, **options: (
        (14 * TILES * len(tokens) if implementation == "fast" else 0) + 64 * len(tokens)
    ),
    tolerance={"float64": 1e-12},
)
