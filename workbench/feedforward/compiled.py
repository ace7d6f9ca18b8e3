"""``torch.compile`` of a method's equations: the baseline that every hand-written kernel of this chapter must beat."""

import functools
import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from workbench.paper import Baseline


def why_not_compiled(x: Tensor, *inputs: Tensor, **options: object) -> list[str]:
    """Why ``torch.compile`` cannot turn the equations into machine code for these inputs, in sentences."""
    if x.is_cuda:
        from workbench_kernels.tiles import why_not

        return why_not()
    if not x.is_cpu:
        return [f"torch.compile is measured on CPU and CUDA, not on {x.device.type}."]
    compilers = [os.environ.get("CXX", "g++"), "clang++", "cl"]
    if not any(map(shutil.which, compilers)):
        return [f"torch.compile needs a C++ compiler on a CPU, and none of {', '.join(compilers)} is here."]
    return []


def compiled(function: Callable[..., Tensor]) -> Baseline:
    """``torch.compile`` of the equations, anew for every shape: a sweep must not time a graph for unknown sizes."""

    @functools.cache
    def compiled_for(
        shape: torch.Size, dtype: torch.dtype, device: torch.device, needs_grad: bool
    ) -> Callable[..., Tensor]:
        def call(*inputs: Tensor, **options: object) -> Tensor:
            return function(*inputs, **options)

        # PyTorch stops compiling a function after 8 shapes; a code object of its own gives each shape its own count.
        call.__code__ = call.__code__.replace()
        return torch.compile(call, fullgraph=True, dynamic=False)

    def run(x: Tensor, *inputs: Tensor, **options: object) -> Tensor:
        return compiled_for(x.shape, x.dtype, x.device, x.requires_grad)(x, *inputs, **options)

    return Baseline(run, why_not_compiled, "torch.compile")


def compiled_on_cuda(function: Callable[..., Tensor]) -> Baseline:
    """As ``compiled``, for whole blocks: on a CPU, compiling one takes longer than it could save."""

    def why_not(x: Tensor, *inputs: Tensor, **options: object) -> list[str]:
        if not x.is_cuda:
            return ["torch.compile of a whole block is measured on CUDA only: on a CPU it takes half a minute a shape."]
        return why_not_compiled(x, *inputs, **options)

    return Baseline(compiled(function).function, why_not, "torch.compile")
