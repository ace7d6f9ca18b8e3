"""PolyReLU and PolyNorm as methods, and how an activation becomes one."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from workbench.feedforward.compiled import compiled
from workbench.feedforward.polycom import fast, reference
from workbench.feedforward.polycom.inputs import (
    poly_norm_cost,
    poly_relu_cost,
    polynomial_example,
    polynomial_misfits,
    why_not_fast,
    workspace,
)
from workbench.paper import Activation, Baseline, Method

PLAIN, POLYNOMIAL = Activation(), Activation(polynomial=True)


def checkpointed(function: Callable[..., Tensor]) -> Baseline:
    """What the official code does against the memory of its eager formula: keep x, and compute everything again."""

    def run(*inputs: Tensor, **options: object) -> Tensor:
        return checkpoint(function, *inputs, use_reentrant=False, **options)

    return Baseline(run)


def activation(
    name: str,
    title: str,
    idea: str,
    *,
    reference: Callable[..., Tensor],
    eager: Callable[..., Tensor] | None = None,
    slot: Activation = PLAIN,
    recomputed: bool = False,
    **settings: object,
) -> Method:
    """What the methods of this module share. ``eager`` is PyTorch's own one or two calls, where there are some;
    ``recomputed``: the official code computes the formula again in the backward pass, so that is a baseline."""
    baselines = {"eager": Baseline(eager)} if eager else {}
    if recomputed:
        baselines["checkpointed"] = checkpointed(reference)
    return Method(
        name=name,
        title=title,
        idea=idea,
        slot=slot,
        reference=in_own_dtype(reference),
        tolerance={"float64": 1e-12, "float32": 1e-5},
        baselines={**baselines, "torch_compile": compiled(reference)},
        **settings,
    )


def in_own_dtype(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` without autocast, which on CUDA takes powers and roots in float32 and would leave them so: what goes
    in decides what comes out, as for PyTorch's own activations."""

    @functools.wraps(function)
    def run(x: Tensor, *coefficients: Tensor, **options: object) -> Tensor:
        device = x.device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            return function(x, *coefficients, **options)
        with torch.autocast(device, enabled=False):
            return function(x, *coefficients, **options)

    return run


poly_relu = activation(
    "poly_relu",
    "PolyReLU",
    "A learned polynomial of ReLU; contains ReLU and ReLU² exactly.",
    reference=reference.poly_relu,
    fast=fast.poly_relu,
    why_not_fast=why_not_fast,
    example=polynomial_example,
    misfits=polynomial_misfits,
    cost=poly_relu_cost,
    workspace=workspace(reference=4, pieces=4),
    slot=POLYNOMIAL,
    recomputed=True,
)

poly_norm = activation(
    "poly_norm",
    "PolyNorm",
    "A learned mixture of x, x² and x³, each normalised over the row, so that it stays bounded.",
    reference=reference.poly_norm,
    fast=fast.poly_norm,
    why_not_fast=why_not_fast,
    example=polynomial_example,
    misfits=polynomial_misfits,
    cost=poly_norm_cost,
    workspace=workspace(reference=4, pieces=5),
    slot=POLYNOMIAL,
    recomputed=True,
)
