"""TaylorSeer's methods: two ways to cache, and the two sums that a sampler makes at its steps."""

from collections.abc import Callable

from workbench.generation.taylorseer import fast, reference
from workbench.generation.taylorseer.inputs import (
    modules_cost,
    modules_example,
    modules_misfits,
    modules_workspace,
    reuse_cost,
    reuse_workspace,
    stack_cost,
    stack_example,
    stack_misfits,
    stack_workspace,
    trajectory_cost,
    trajectory_example,
    trajectory_misfits,
    trajectory_workspace,
)
from workbench.generation.taylorseer.strategies import ModuleCache, ReuseCache
from workbench.generation.trajectories import method
from workbench.paper import Caching, Method, Traits


def _caching(name: str, title: str, idea: str, strategy: type, cost: Callable, workspace: Callable) -> Method:
    return method(
        name,
        title,
        idea,
        slot=Caching(strategy),
        traits=Traits(reads_all=False),
        reference=getattr(reference, name),
        fast=getattr(fast, name),
        example=trajectory_example,
        misfits=trajectory_misfits,
        cost=cost,
        workspace=workspace,
    )


feature_reuse = _caching(
    "feature_reuse",
    "Feature reuse (FORA)",
    "The modules are computed every N-th step; in between their last outputs are used again.",
    ReuseCache,
    reuse_cost,
    reuse_workspace,
)

taylorseer = _caching(
    "taylorseer",
    "TaylorSeer",
    "The modules are computed every N-th step; in between their outputs are forecast from finite differences.",
    ModuleCache,
    trajectory_cost,
    trajectory_workspace,
)

forecast_modules = method(
    "forecast_modules",
    "Forecast of all modules",
    "One step of a network whose modules are all forecast: one sum over the whole cache.",
    slot=None,
    reference=reference.forecast_modules,
    fast=fast.forecast_modules,
    why_not_fast=fast.why_not,
    example=modules_example,
    misfits=modules_misfits,
    cost=modules_cost,
    workspace=modules_workspace,
)

refresh_derivatives = method(
    "refresh_derivatives",
    "Refresh of the differences",
    "A new feature comes in; every difference is formed anew from the one before.",
    slot=None,
    reference=reference.refresh_derivatives,
    fast=fast.refresh_derivatives,
    why_not_fast=fast.why_not,
    example=stack_example,
    misfits=stack_misfits,
    cost=stack_cost,
    workspace=stack_workspace,
)
