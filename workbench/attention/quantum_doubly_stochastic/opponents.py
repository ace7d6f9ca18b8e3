"""What doubly stochastic attention is measured against: compiled equations, and decompositions one by one."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from workbench.attention.inputs import Scale, attention, repeat_heads, scores_of
from workbench.attention.quantum_doubly_stochastic.inputs import refuse_unless_square
from workbench.attention.quantum_doubly_stochastic.operators import jittered
from workbench.paper import Baseline


@attention(refuse=refuse_unless_square)
def qr_one_by_one(
    query: Tensor, key: Tensor, value: Tensor, *, scale: Scale = None, jitter: float = 1e-7, seed: int = 0
) -> Tensor:
    """The equations with a loop over heads, one decomposition after the other. Arguments as ``reference``."""
    key, value = repeat_heads(query, key, value)
    scores = jittered(scores_of(query, key, scale), jitter, seed).flatten(0, 1)
    maps = torch.stack([torch.linalg.qr(matrix)[0].square() for matrix in scores])
    return maps.unflatten(0, query.shape[:2]).to(value.dtype) @ value


def compiled(function: Callable[..., Tensor], *, training: bool = False) -> Baseline:
    """``torch.compile`` of the equations, anew for every shape: a sweep must not time a graph for unknown sizes.

    ``training``: also where no gradient is wanted, the graph that is made for inputs that want one. It keeps what the
    backward pass would need, and is cut into other kernels, which can be quicker.
    """

    @functools.cache
    def compiled_for(*case: object) -> Callable[..., Tensor]:
        def call(*inputs: Tensor, **options: object) -> Tensor:
            return function(*inputs, **options)

        # PyTorch stops compiling a function after 8 shapes; a code object of its own gives each shape its own count.
        call.__code__ = call.__code__.replace()
        return torch.compile(call, fullgraph=True, dynamic=False)

    def run(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        case = (query.shape, key.shape, query.dtype, query.requires_grad, *sorted(options.items()))
        return compiled_for(*case)(query, key, value, **options)

    def run_training(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        if query.requires_grad and torch.is_grad_enabled():
            return run(query, key, value, **options)
        with torch.enable_grad():
            leaves = (tensor.detach().requires_grad_() for tensor in (query, key, value))
            return run(*leaves, **options).detach()

    def why_not(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
        return (
            [] if query.is_cuda else ["The compiled equations are measured on CUDA only: compiling for a CPU is slow."]
        )

    title = "torch.compile, with gradients" if training else "torch.compile"
    return Baseline(run_training if training else run, why_not, title)
