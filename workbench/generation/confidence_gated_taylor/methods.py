"""CG-Taylor's methods: the gate, the two caches beside it, and the error that the gate asks for."""

from workbench.generation.confidence_gated_taylor import fast, reference
from workbench.generation.confidence_gated_taylor.inputs import (
    blocks_cost,
    blocks_example,
    blocks_misfits,
    blocks_workspace,
    cache_workspace,
    gate_cost,
    gate_example,
    gate_misfits,
    gate_workspace,
)
from workbench.generation.confidence_gated_taylor.strategies import FirstBlockCache, GatedCache, LastBlockCache
from workbench.generation.taylorseer import refresh_derivatives, taylorseer
from workbench.generation.trajectories import method
from workbench.paper import Caching, Traits

last_block_forecast = method(
    "last_block_forecast",
    "Last-block forecast",
    "The last block's output is computed every N-th step and forecast in between: one trajectory to keep.",
    slot=Caching(LastBlockCache),
    traits=Traits(reads_all=False),
    reference=reference.last_block_forecast,
    fast=fast.last_block_forecast,
    example=taylorseer.example,
    misfits=taylorseer.misfits,
    cost=taylorseer.cost,
    workspace=taylorseer.workspace,
)

first_block_cache = method(
    "first_block_cache",
    "First-block cache",
    "While the first block adds nearly what it added before, the other blocks' sum is used again.",
    slot=Caching(FirstBlockCache),
    traits=Traits(rows_apart=False),
    reference=reference.first_block_cache,
    fast=fast.first_block_cache,
    example=blocks_example(3),
    misfits=blocks_misfits,
    cost=blocks_cost,
    workspace=cache_workspace,
)

confidence_gated_taylor = method(
    "confidence_gated_taylor",
    "CG-Taylor",
    "The first block's forecast is checked at every step; where it is good, the last block's is used.",
    slot=Caching(GatedCache),
    traits=Traits(rows_apart=False),
    reference=reference.confidence_gated_taylor,
    fast=fast.confidence_gated_taylor,
    example=blocks_example(2),
    misfits=blocks_misfits,
    cost=blocks_cost,
    workspace=blocks_workspace,
)

gate_error = method(
    "gate_error",
    "The gate's error",
    "Forecast, compare and add up in one pass: two numbers a sample.",
    slot=None,
    reference=reference.gate_error,
    fast=fast.gate_error,
    why_not_fast=refresh_derivatives.why_not_fast,
    example=gate_example,
    misfits=gate_misfits,
    cost=gate_cost,
    workspace=gate_workspace,
)
