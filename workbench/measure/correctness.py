"""Is the result right? Asked before any time is taken."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from workbench.measure.memory import tensors
from workbench.measure.timing import Stop, stop_if
from workbench.paper import Example, Method

Direction = Literal["forward", "backward"]


def relative_error(output: Tensor, truth: Tensor) -> float:
    """``||output - truth|| / ||truth||`` in float64; against a truth of zeros, ``||output||``. NaN stays NaN."""
    output, truth = output.detach().double(), truth.detach().double()
    scale = torch.linalg.vector_norm(truth).item() or 1.0
    return torch.linalg.vector_norm(output - truth).item() / scale


class Check:
    """The reference's result on one example in float64, and how far from it an implementation may be.

    One check serves every implementation of the method on that example. Direction ``"backward"`` compares the gradients
    of all inputs, for one random gradient from above.
    """

    def __init__(self, method: Method, example: Example, direction: Direction = "forward"):
        self.method, self.example, self.direction = method, example, direction
        self.dtype = dtype_of(example)
        self._found: dict[str, float] = {}

    @functools.cached_property
    def truth(self) -> list[Tensor]:
        return self.results("reference", torch.float64)

    @functools.cached_property
    def derived_budget(self) -> float:
        """Twice the error of ordinary PyTorch in this dtype, and one rounding unit for storing the result."""
        return 2 * self._error_of(self.method.ordinary) + torch.finfo(self.dtype).eps

    def error(self, implementation: str, cancelled: Stop = None) -> tuple[float, float]:
        """(largest relative error, how large it may be). A stated tolerance gives way to the derived budget where
        ordinary PyTorch fails it as well: long sums lose digits in every implementation.

        ``cancelled()`` is asked between the calls that this takes; ``Cancelled`` is raised when it says yes."""
        self.truth  # noqa: B018
        stop_if(cancelled)
        error = self._error_of(implementation)
        stated = self.method.tolerance.get(str(self.dtype)[6:])
        if stated is not None and error <= stated:
            return error, stated
        stop_if(cancelled)
        return error, max(stated or 0.0, self.derived_budget)

    def _error_of(self, implementation: str) -> float:
        if implementation not in self._found:
            results = self.results(implementation, self.dtype)
            errors = [relative_error(result, truth) for result, truth in zip(results, self.truth, strict=True)]
            self._found[implementation] = max(errors, key=lambda error: (error != error, error))  # NaN is the largest
        return self._found[implementation]

    def results(self, implementation: str, dtype: torch.dtype) -> list[Tensor]:
        """What an implementation makes of the example in ``dtype``: outputs, or gradients."""
        backward = self.direction == "backward"
        example = leaves(self.example, dtype, gradients=backward)
        if backward:
            return list(backward_call(self.method, implementation, example, rounded_to=self.dtype)())
        with torch.no_grad():
            return tensors(forward(self.method, implementation, example))


def dtype_of(example: Example) -> torch.dtype:
    """The dtype of the example's floating-point inputs; float64 where all of them are whole numbers."""
    found = (tensor.dtype for tensor in example.inputs.values() if tensor.is_floating_point())
    return next(found, torch.float64)


def leaves(example: Example, dtype: torch.dtype, gradients: bool = False) -> Example:
    """The same inputs in ``dtype``, each a leaf of a new graph; tensors among the options (a state) in it, too."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype).requires_grad_(gradients) if tensor.is_floating_point() else tensor

    def kept(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().to(dtype) if floating else value

    return Example(
        {name: leaf(tensor) for name, tensor in example.inputs.items()}, tree_map(kept, dict(example.options))
    )


def forward(method: Method, implementation: str, example: Example) -> Any:
    return method.function(implementation)(*example.inputs.values(), **example.options)


def backward_call(
    method: Method, implementation: str, example: Example, rounded_to: torch.dtype
) -> Callable[[], tuple[Tensor, ...]]:
    """Run forward, and return the call that runs the backward pass, as often as it is called.

    The gradient from above is standard normal, the same numbers (rounded to ``rounded_to``) in every precision.
    """
    outputs = [each for each in tensors(forward(method, implementation, example)) if each.requires_grad]
    inputs = [tensor for tensor in example.inputs.values() if tensor.requires_grad]

    def from_above(seed: int, output: Tensor) -> Tensor:
        generator = torch.Generator(output.device).manual_seed(seed)
        gradient = torch.randn(output.shape, generator=generator, device=output.device)
        return gradient.to(rounded_to).to(output.dtype)

    gradients = [from_above(seed, output) for seed, output in enumerate(outputs)]
    return lambda: torch.autograd.grad(outputs, inputs, gradients, retain_graph=True)
