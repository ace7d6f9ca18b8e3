"""As close as it must be: the one rule by which two results are called equal.

Both are held against the truth, which is float64 arithmetic on the *same rounded inputs*. In float64 and float32 the
error may be what the method states as its ``tolerance``. In lower precision nothing is stated by hand: the error may be
twice that of ordinary PyTorch in that precision, plus one rounding unit of the output, which is what storing costs.
"""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

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
    rounding unit of the output's dtype. Infinities and NaN must stand where the truth has them; where ordinary PyTorch
    overflows and the truth does not, it grants nothing. Whole numbers and flags must be the same.
    """
    assert output.shape == truth.shape, f"{name}: shape {tuple(output.shape)}, expected {tuple(truth.shape)}"
    if not output.numel():
        return
    scale = scale or largest(truth) or 1.0
    error = _error(output, truth)
    if ordinary is None or not output.is_floating_point():
        allowed, rule = tolerance, f"tolerance {tolerance:.1e}"
    else:
        of_ordinary = relative_error(ordinary, truth, scale)
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


def compare(
    method: Method,
    example: Example,
    *,
    implementation: str = "fast",
    gradients: bool = True,
) -> None:
    """Fail unless ``implementation`` gives the values, and the gradients of every input, of ``method.reference``."""
    dtype = dtype_of(example)
    label = f"{method.name}.{implementation} ({str(dtype)[6:]})"
    truth = run(method, "reference", example, torch.float64, gradients)
    result = run(method, implementation, example, None, gradients)
    tolerance = method.tolerance.get(str(dtype)[6:])
    ordinary = dict.fromkeys(truth) if tolerance else run(method, method.ordinary, example, None, gradients)
    like = run(method, "reference", example, None, False)
    assert list(result) == list(truth), f"{label} returns {list(result)}, the reference {list(truth)}"
    scale_of_all = max(map(largest, truth.values()), default=1.0)
    for name, expected in truth.items():
        found = result[name]
        if name in like:
            assert found.dtype == like[name].dtype, f"{label}: {name} is {found.dtype}, not {like[name].dtype}"
        # A result that is zero but for rounding (the query's gradient, when there is one key) has no scale of its own.
        scale = None if largest(expected) > 1e-12 * scale_of_all else scale_of_all
        assert_close(
            found, expected, ordinary=ordinary[name], tolerance=tolerance or 0.0, scale=scale, name=f"{label}: {name}"
        )


def run(
    method: Method,
    implementation: str,
    example: Example,
    dtype: torch.dtype | None = None,
    gradients: bool = True,
) -> dict[str, Tensor]:
    """The results and, by input name, the gradients, computed in ``dtype`` (None: as they are) from the inputs.

    A result that is a tree gives one entry a tensor, ``output[0]``, ``output['state']`` ... The gradients that come in
    from above are standard normal, rounded to the example's own dtype, so that the runs in different precision see the
    same numbers. An input keeps its strides. Raises ``AssertionError`` where gradients are asked for and nothing that
    is returned has one.
    """
    inputs = leaves(example, dtype, gradients)
    options = accepted(method.function(implementation), example.options)
    output = named_tensors(method.function(implementation)(*inputs.values(), **options))
    results = {name: tensor.detach() for name, tensor in output.items()}
    if gradients:
        wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
        results |= {f"gradient of {name}": found for name, found in gradients_of(output, wanted, example).items()}
    return results


def gradients_of(output: Mapping[str, Tensor], wanted: Mapping[str, Tensor], example: Example) -> dict[str, Tensor]:
    """By name, the gradients of every result with respect to the tensors in ``wanted``, zeros where there is none."""
    differentiable = [tensor for tensor in output.values() if tensor.requires_grad]
    assert differentiable, "no result has a gradient: a method without one says so with Traits(gradients=0)"
    own, above = dtype_of(example), []
    for seed, tensor in enumerate(differentiable, start=1):
        numbers = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
        above.append(numbers.to(own).to(tensor.device, tensor.dtype))
    found = torch.autograd.grad(differentiable, list(wanted.values()), above, materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


def named_tensors(result: object) -> dict[str, Tensor]:
    """The tensors of a result, be it one or a tree of them, by a name that says where they stand in it."""
    leaves, _ = tree_flatten_with_path(result)
    return {f"output{keystr(path)}": leaf for path, leaf in leaves if isinstance(leaf, Tensor)}


def leaves(example: Example, dtype: torch.dtype | None = None, gradients: bool = True) -> dict[str, Tensor]:
    """The example's inputs as leaves of a new graph, floating ones in ``dtype``; whole numbers as they are."""
    return {
        name: tensor.detach().to(dtype or tensor.dtype).requires_grad_(gradients)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in example.inputs.items()
    }


def dtype_of(example: Example) -> torch.dtype:
    """The dtype of the first floating-point input; float32 where all inputs are whole numbers."""
    return next((tensor.dtype for tensor in example.inputs.values() if tensor.is_floating_point()), torch.float32)


def accepted(function, options: Mapping) -> dict:
    """Those of ``options`` that ``function`` takes: a baseline need not know every knob."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(options)
    return {name: value for name, value in options.items() if name in parameters}


def largest(truth: Tensor) -> float:
    """The largest absolute value of what is finite in a tensor; 0 for an empty one."""
    return truth.detach().double().nan_to_num(0.0, 0.0, 0.0).abs().max().item() if truth.numel() else 0.0


def relative_error(output: Tensor, truth: Tensor, scale: float) -> float:
    """The largest error of an element, relative to ``scale``; what is not finite and should be counts as no error."""
    return _error(output, truth).nan_to_num(0.0, 0.0).max().item() / scale if truth.numel() else 0.0


def _error(output: Tensor, truth: Tensor) -> Tensor:
    output, truth = output.detach().double().to(truth.device), truth.detach().double()
    same = (output == truth) | (output.isnan() & truth.isnan())  # infinities; NaN where the truth has one
    return torch.where(same, 0.0, (output - truth).abs())
