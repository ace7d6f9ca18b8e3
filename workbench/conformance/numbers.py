"""Large numbers, tiny numbers, numbers that are all alike, at both ends of every knob."""

import functools

import torch
from torch import Tensor

from workbench.conformance.cases import affordable, axes_of, differentiable, ends, small, with_inputs
from workbench.conformance.checks import Context, DoesNotApply, check
from workbench.conformance.closeness import assert_close, dtype_of, largest, relative_error, run
from workbench.paper import Example, Method

FACTORS = (1e4, 30.0, 1e-4)
HOPELESS = 0.1  # an error, relative to the largest element, from which on no digit of a result means anything


@check
def large_and_tiny_numbers(method: Method, context: Context) -> None:
    """With data times 1e4, 30 and 1e-4, and data that are all 100, ``fast`` is as right in float32, bfloat16, float16
    as can be: within the tolerance, or twice the error of ``ordinary``, or twice what one rounding unit of the data
    makes of the true result. Where ordinary PyTorch overflows and the true result does not, it is no excuse; where no
    digit is known (scores so large that their rounding decides), the result must be finite. Or the call is refused: by
    ``why_not_fast``, or by a ``ValueError`` that the reference raises as well. Data are the inputs that grow with the
    size or the batch; weights stay as they are.
    """
    if not data(method, small(method, 5)):
        raise DoesNotApply("Its data are whole numbers.")
    for dtype in method.traits.dtypes:
        if dtype != "float64":
            example = affordable(method, 13, {}, dtype=dtype, device=context.device)
            assert example, "an example of size 2 is too long for a test: cut its wide dimensions"
            for factor in FACTORS:
                with context.case(f"{dtype}, data times {factor:g}"):
                    right_or_refused(method, scaled(method, example, factor), context)
            alike = {name: torch.full_like(tensor, 100) for name, tensor in data(method, example).items()}
            with context.case(f"{dtype}, all data 100"):
                right_or_refused(method, with_inputs(example, alike), context)


@check
def knobs_at_their_ends(method: Method, context: Context) -> None:
    """The same at both ends of every knob's range, and with every choice, in float32: what a knob allows either works
    there, however large the numbers, or is refused with a sentence.
    """
    for name, knob in method.knobs.items():
        for value in ends(knob):
            with context.case(f"{name} = {value}"):
                example = affordable(method, 13, {name: value}, wide=8, device=context.device)
                if example is None:
                    context.notes.append(f"With {name} = {value} a call of any size is too long for a test.")
                    continue
                for factor in (1.0, *(FACTORS if data(method, example) else ())):
                    with context.case(f"data times {factor:g}"):
                        right_or_refused(method, scaled(method, example, factor), context)


def data(method: Method, example: Example) -> dict[str, Tensor]:
    """The floating-point inputs that grow with the size or the batch."""
    growing = [axes_of(method, size=5), axes_of(method, batch=1) if "batch" in method.shape_knobs else {}]
    names = {name for found in growing for name, axes in found.items() if axes}
    return {name: tensor for name, tensor in example.inputs.items() if tensor.is_floating_point() and name in names}


def scaled(method: Method, example: Example, factor: float) -> Example:
    return with_inputs(example, {name: tensor * factor for name, tensor in data(method, example).items()})


def right_or_refused(method: Method, example: Example, context: Context) -> None:
    if not context.runs(method, "fast", example):
        return
    try:
        found = run(method, "fast", example, gradients=differentiable(method))
    except ValueError as refusal:
        try:
            run(method, "reference", example, gradients=False)
        except ValueError:
            return
        raise AssertionError(f"fast refuses what the reference takes: {refusal}") from refusal
    as_right_as_can_be(method, example, found)


def as_right_as_can_be(method: Method, example: Example, found: dict[str, Tensor]) -> None:
    """Fail unless the results are within the tolerance, or twice the error that others make of the truth as well:
    ordinary PyTorch, and whoever rounds the data once more."""
    gradients = differentiable(method)
    truth = run(method, "reference", example, torch.float64, gradients)
    others = functools.cache(lambda: results_of_others(method, example))
    results = [name for name in truth if not name.startswith("gradient of ")]
    size = max((largest(truth[name]) for name in results), default=1.0)
    terms = size * max(1.0, *map(largest, example.inputs.values()))
    stated = method.tolerance.get(str(dtype_of(example))[6:], 0.0)
    for name, expected in truth.items():
        result = found[name]
        if not result.is_floating_point():
            continue
        beyond = expected.abs() > torch.finfo(result.dtype).max
        expected = torch.where(beyond, expected.sign() * torch.inf, expected)
        own = scale = largest(expected) or 1.0
        if name not in results and method.shows_map:
            scale = max(scale, terms)  # a softmax's gradient is what is left of terms of this size
        tolerance = stated + torch.finfo(result.dtype).eps
        if finite_where(result, expected) and relative_error(result, expected, scale) <= tolerance:
            continue
        rounded, ordinary, wider = (each[name] for each in others())
        plain = ordinary if finite_where(ordinary, expected) else wider.to(result.dtype)
        excuse = relative_error(rounded, expected, scale)
        if finite_where(plain, expected):
            excuse = max(excuse, relative_error(plain, expected, scale))
        elif relative_error(rounded, expected, own) > HOPELESS:
            continue  # not known, and not defined in this precision: the gradient at a matrix that became singular
        if excuse > HOPELESS:
            assert finite_where(result, expected), f"{name} is not finite, and should be"
            if name in results:
                return  # gradients at a result of which no digit is known are no one's
            continue
        label = f"{method.name}: {name}"
        assert_close(result, expected, tolerance=tolerance + 2 * excuse, scale=scale, name=label)


def results_of_others(method: Method, example: Example) -> tuple[dict[str, Tensor], ...]:
    """Of rounded data the truth; by ordinary PyTorch, and by that in float32."""
    gradients = differentiable(method)
    return (
        run(method, "reference", rounded_once(method, example), torch.float64, gradients),
        run(method, method.ordinary, example, None, gradients),
        run(method, method.ordinary, example, torch.float32, gradients),
    )


def rounded_once(method: Method, example: Example) -> Example:
    """The data, in float64, each number off by up to one rounding unit of its dtype."""
    generator = torch.Generator().manual_seed(3)
    inputs = {}
    for name, tensor in data(method, example).items():
        off = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device) - 1
        inputs[name] = tensor.double() * (1 + torch.finfo(tensor.dtype).eps * off)
    return with_inputs(example, inputs)


def finite_where(result: Tensor, expected: Tensor) -> bool:
    return bool(result[expected.isfinite()].isfinite().all())
