"""As close as it must be: the one rule by which a test here calls two results equal.

Both are held against the truth, which is float64 arithmetic on the *same rounded inputs*. In float64 and float32 the
error may be what the method states as its ``tolerance``. In lower precision nothing is stated by hand: the error may be
twice that of ordinary PyTorch in that precision, plus one rounding unit of the output, which is what storing costs.
"""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor

from workbench.paper import Example, Method


def assert_close(
    output: Tensor,
    truth: Tensor,
    *,
    ordinary: Tensor | None = None,
    tolerance: float = 0.0,
    scale: float | None = None,
    name: str = "output",
) -> None:
    """Fail, naming the worst element, unless ``output`` is as close to ``truth`` as it must be.

    The largest error of an element, relative to ``scale`` (the largest element of the truth), may be ``tolerance``;
    with ``ordinary`` (the same result by ordinary PyTorch, same dtype) it may be twice the error of that, plus one
    rounding unit of the output's dtype. Infinities and NaN must stand where the truth has them.
    """
    assert output.shape == truth.shape, f"{name}: shape {tuple(output.shape)}, expected {tuple(truth.shape)}"
    if not output.numel():
        return
    scale = scale or _largest(truth) or 1.0
    error = _error(output, truth)
    if ordinary is None:
        allowed, rule = tolerance, f"tolerance {tolerance:.1e}"
    else:
        of_ordinary = _error(ordinary, truth).nan_to_num(0.0).max().item() / scale
        unit = torch.finfo(output.dtype).eps
        allowed = 2 * of_ordinary + unit + tolerance
        rule = (
            f"2 x the error of ordinary PyTorch ({of_ordinary:.1e}) + one unit of {str(output.dtype)[6:]} ({unit:.1e})"
        )
    wrong = ~(error <= allowed * scale)  # a NaN is wrong, too
    if not wrong.any():
        return
    worst = error.nan_to_num(torch.inf).flatten().argmax()
    where = tuple(int(i) for i in torch.unravel_index(worst, error.shape)) if error.ndim else ()
    raise AssertionError(
        f"{name}: {int(wrong.sum())} of {wrong.numel()} elements are off. Worst at {where}: "
        f"{output.detach()[where].item():.9g}, the truth is {truth.detach()[where].item():.9g}. "
        f"Relative error {error[where].item() / scale:.2e}, allowed {allowed:.2e} = {rule}."
    )


def check(
    method: Method,
    example: Example,
    *,
    implementation: str = "fast",
    gradients: bool = True,
) -> None:
    """Fail unless ``implementation`` gives the values, and the gradients of every input, of ``method.reference``."""
    (sample,) = {tensor.dtype for tensor in example.inputs.values() if tensor.is_floating_point()}
    dtype = str(sample)[6:]
    label = f"{method.name}.{implementation} ({dtype})"
    truth = run(method, "reference", example, torch.float64, gradients)
    result = run(method, implementation, example, sample, gradients)
    ordinary: Mapping[str, Tensor | None] = dict.fromkeys(truth)
    tolerance = 0.0
    if dtype in method.tolerance:
        tolerance = method.tolerance[dtype]
    else:
        ordinary = run(method, method.ordinary, example, sample, gradients)
    largest = max(map(_largest, truth.values()))
    for name, expected in truth.items():
        # A result that is zero but for rounding (the query's gradient, when there is one key) has no scale of its own.
        scale = None if _largest(expected) > 1e-12 * largest else largest
        assert result[name].dtype == sample, f"{label}: {name} is {result[name].dtype}"
        assert_close(
            result[name], expected, ordinary=ordinary[name], tolerance=tolerance, scale=scale, name=f"{label}: {name}"
        )


def run(
    method: Method,
    implementation: str,
    example: Example,
    dtype: torch.dtype,
    gradients: bool = True,
) -> dict[str, Tensor]:
    """The output and, by input name, the gradients, computed in ``dtype`` from the example's inputs.

    The gradient that comes in from above is standard normal, rounded to the example's own dtype, so that the runs in
    different precision see the same numbers. An input keeps its strides.
    """
    inputs = {name: _leaf(tensor, dtype, gradients) for name, tensor in example.inputs.items()}
    options = accepted(method.function(implementation), example.options)
    output = method.function(implementation)(*inputs.values(), **options)
    results = {"output": output.detach()}
    if gradients:
        own = next(tensor.dtype for tensor in example.inputs.values() if tensor.is_floating_point())
        generator = torch.Generator().manual_seed(1)
        upstream = torch.randn(output.shape, generator=generator).to(own).to(output.device, dtype)
        wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
        found = torch.autograd.grad(output, list(wanted.values()), upstream)
        results |= {f"gradient of {name}": gradient for name, gradient in zip(wanted, found, strict=True)}
    return results


def accepted(function, options: Mapping) -> dict:
    """Those of ``options`` that ``function`` takes: a baseline need not know every knob."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(options)
    return {name: value for name, value in options.items() if name in parameters}


def _leaf(tensor: Tensor, dtype: torch.dtype, gradients: bool) -> Tensor:
    return tensor.detach().to(dtype).requires_grad_(gradients) if tensor.is_floating_point() else tensor


def _error(output: Tensor, truth: Tensor) -> Tensor:
    output, truth = output.detach().double().to(truth.device), truth.detach().double()
    same = (output == truth) | (output.isnan() & truth.isnan())  # infinities; NaN where the truth is NaN
    return torch.where(same, 0.0, (output - truth).abs())


def _largest(truth: Tensor) -> float:
    return truth.detach().double().nan_to_num(0.0, 0.0, 0.0).abs().max().item() if truth.numel() else 0.0
