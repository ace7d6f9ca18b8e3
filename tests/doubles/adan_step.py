"""An optimiser's step as a method: one parameter, its gradient and four states go in, parameter and states come out.

Adan (Xie et al., arXiv 2208.06677) in the notation of its official code, without clipping. A trial of the vocabulary:
no gradient, two dtypes only, a result that is a tree, and bytes that a paper counts per parameter.
"""

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from workbench.controls import Range
from workbench.paper import Cost, Count, Example, Method, Optimiser, Traits, standard_normal

Beta = Annotated[float, Range(0.0, 0.9999), "How much of an average stays at a step."]
LearningRate = Annotated[float, Range(0.0, 1.0), "Step size."]
Decay = Annotated[float, Range(0.0, 1.0), "Weight decay, decoupled from the gradient."]
Step = Annotated[int, Range(1, 10**6), "Which step it is, from 1 on."]


class State(NamedTuple):
    """What is kept from one step to the next, each like the parameter: the averages of gradient, of difference and of
    square, and the gradient itself."""

    first: Tensor
    difference: Tensor
    second: Tensor
    previous: Tensor


def reference(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    difference: Tensor,
    second: Tensor,
    previous: Tensor,
    *,
    step: Step = 2,
    lr: LearningRate = 1e-3,
    beta1: Beta = 0.98,
    beta2: Beta = 0.92,
    beta3: Beta = 0.99,
    decay: Decay = 0.02,
) -> tuple[Tensor, State]:
    """One step, as the official code writes it: all tensors alike, any shape. ``ValueError`` where they are not."""
    _check(parameter, gradient, first, difference, second, previous)
    change = gradient - previous
    first = beta1 * first + (1 - beta1) * gradient
    difference = beta2 * difference + (1 - beta2) * change
    second = beta3 * second + (1 - beta3) * (gradient + beta2 * change) ** 2
    scale = second.sqrt() / (1 - beta3**step) ** 0.5 + 1e-8
    update = lr / (1 - beta1**step) * first / scale + lr * beta2 / (1 - beta2**step) * difference / scale
    return (parameter - update) / (1 + decay * lr), State(first, difference, second, gradient.clone())


def fast(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    difference: Tensor,
    second: Tensor,
    previous: Tensor,
    *,
    step: Step = 2,
    lr: LearningRate = 1e-3,
    beta1: Beta = 0.98,
    beta2: Beta = 0.92,
    beta3: Beta = 0.99,
    decay: Decay = 0.02,
) -> tuple[Tensor, State]:
    """The same with as few passes as PyTorch's fused operations allow."""
    _check(parameter, gradient, first, difference, second, previous)
    change = gradient - previous
    first = first.lerp(gradient, 1 - beta1)
    difference = difference.lerp(change, 1 - beta2)
    ahead = change.mul_(beta2).add_(gradient)
    second = (beta3 * second).addcmul_(ahead, ahead, value=1 - beta3)
    scale = second.sqrt().div_((1 - beta3**step) ** 0.5).add_(1e-8)
    update = torch.add(lr / (1 - beta1**step) * first, difference, alpha=lr * beta2 / (1 - beta2**step)).div_(scale)
    return torch.sub(parameter, update).div_(1 + decay * lr), State(first, difference, second, gradient.clone())


def _check(*tensors: Tensor) -> None:
    alike = {(each.shape, each.dtype, each.device) for each in tensors}
    if len(alike) > 1 or not tensors[0].is_floating_point():
        found = ", ".join(f"{str(each.dtype)[6:]} {tuple(each.shape)}" for each in tensors)
        raise ValueError(f"Adan's step takes floating tensors of one shape, dtype and device, not {found}.")


def example(
    size: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    width: Annotated[int, Range(1, 4096), "Columns of the parameter."] = 64,
) -> Example:
    """A matrix (size, width) in the middle of its training."""
    names = ("parameter", "gradient", "first", "difference", "second", "previous")
    tensors = standard_normal((len(names), size, width), device=device, dtype=dtype, seed=seed).unbind()
    inputs = {name: tensor.contiguous() for name, tensor in zip(names, tensors, strict=True)}
    return Example({**inputs, "second": inputs["second"].square()})


def cost(parameter: Tensor, *others: Tensor, **options: object) -> Cost:
    """22 operations a number; six tensors are read and five written: 44 bytes a number in float32, 16 of them kept."""
    kept = 4 * parameter.nbytes
    return Cost(22 * parameter.numel(), 11 * parameter.nbytes, counts={"kept": Count(kept, "bytes")})


METHOD = Method(
    name="adan_step",
    title="Adan's step",
    idea="Nesterov's momentum from the difference of successive gradients.",
    slot=Optimiser(),
    traits=Traits(gradients=0, dtypes=("float64", "float32")),
    reference=reference,
    fast=fast,
    example=example,
    cost=cost,
    workspace=lambda implementation, parameter, *others, **options: 3 * parameter.nbytes,
    tolerance={"float64": 1e-12, "float32": 1e-5},
)
