"""Derivatives: first ones right however they are asked for; others right, or refused in a sentence."""

import functools
import re
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.autograd import forward_ad

from workbench.conformance.cases import EVERY, differentiable, floating, small, with_inputs
from workbench.conformance.checks import Context, DoesNotApply, check
from workbench.conformance.closeness import accepted, assert_close, leaves, named_tensors
from workbench.paper import Example, Method

CLOSE = 1e-6  # of float64 results that are reached by two ways of differentiating
REFUSAL = r"implementation|reference|not implemented|not support|unsupported|no gradient|differentia"


def needs_gradients(method: Method) -> None:
    if not differentiable(method):
        raise DoesNotApply("It says that it has no gradient, which gradients_of_the_reference checks.")


def wide_range(method: Method, context: Context, size: int = 3) -> Example:
    """A small float64 example, narrow, for derivatives that are computed column by column."""
    if "float64" not in method.traits.dtypes:
        raise DoesNotApply("It takes no float64, and differences in less are no measure of a derivative.")
    return small(method, size, wide=4, dtype="float64", device=context.device)


@check(devices=("cpu",))
def gradients_of_the_reference(method: Method, context: Context) -> None:
    """``reference`` is differentiable by autograd, and right: its float64 gradients are those of finite differences. A
    method without gradients says ``Traits(gradients=0)``, and raises in every implementation when asked for one.
    """
    if not differentiable(method):
        return raises_when_asked(method, context)
    example = wide_range(method, context)
    order = list(floating(example))

    def results(*tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = {**example.inputs, **dict(zip(order, tensors, strict=True))}
        output = named_tensors(method.reference(*inputs.values(), **accepted(method.reference, example.options)))
        return tuple(each for each in output.values() if each.requires_grad)

    inputs = [tensor.detach().requires_grad_() for tensor in floating(example).values()]
    assert results(*inputs), "no result has a gradient: a method without one says so with Traits(gradients=0)"
    assert torch.autograd.gradcheck(results, inputs)


def raises_when_asked(method: Method, context: Context) -> None:
    example = small(method, 5, device=context.device)
    floating(example)
    for implementation in EVERY:
        inputs = leaves(example)
        wanted = [tensor for tensor in inputs.values() if tensor.requires_grad]
        try:
            output = named_tensors(method(*inputs.values(), implementation=implementation, **example.options))
            found = [each.sum() for each in output.values() if each.is_floating_point()]
            torch.autograd.grad(sum(found), wanted)
        except (RuntimeError, ValueError):
            continue
        raise AssertionError(f"{method.name} says that it has no gradient, and its {implementation!r} gives one")


@check(devices=("cpu",))
def gradients_by_function(method: Method, context: Context) -> None:
    """``torch.func.grad`` and ``torch.func.vjp`` give the gradients that ``backward()`` gives, in every implementation.
    An ``autograd.Function`` needs a ``setup_context`` for that.
    """
    needs_gradients(method)
    example = wide_range(method, context, size=6)
    for implementation in EVERY:
        if implementation != "auto" and not context.runs(method, implementation, example):
            continue
        order = list(floating(example))
        expected = one_gradient(method, implementation, example)

        def total(*tensors: Tensor, implementation: str = implementation, order: list[str] = order) -> Tensor:
            inputs = {**example.inputs, **dict(zip(order, tensors, strict=True))}
            return weighted(method(*inputs.values(), implementation=implementation, **example.options))

        found = torch.func.grad(total, argnums=tuple(range(len(order))))(*floating(example).values())
        _, back = torch.func.vjp(total, *floating(example).values())
        for way, gradients in (("grad", found), ("vjp", back(torch.ones((), dtype=torch.float64)))):
            for name, gradient in zip(order, gradients, strict=True):
                label = f"{method.name}.{implementation}: torch.func.{way} of {name}"
                assert_close(gradient, expected[name], tolerance=1e-10, scale=size_of(expected), name=label)


@check(devices=("cpu",))
def forward_mode(method: Method, context: Context) -> None:
    """``torch.func.jvp`` and dual numbers are right, or refused in one sentence that says what to take instead; never a
    tangent of zeros. Called without naming an implementation, a method is right: it takes one that can.
    """
    needs_gradients(method)
    example = wide_range(method, context, size=6)
    directions = drawn_like(floating(example))
    expected = differences(method, example, directions)
    for implementation in EVERY:
        for way in (tangents_by_function, tangents_of_duals):
            with context.case(f"{implementation}, {way.__name__}"):
                found = right_or_refused(
                    functools.partial(way, method, implementation, example, directions),
                    may_refuse=implementation == "fast",
                )
                for name, tangent in (found or {}).items():
                    scale = size_of(expected)
                    assert_close(tangent, expected[name], tolerance=CLOSE, scale=scale, name=f"tangent of {name}")


@check(devices=("cpu",))
def second_derivatives(method: Method, context: Context) -> None:
    """A gradient of the gradient is right, or refused in one sentence; never a wrong number, with or without a warning.
    ``reference`` is always right, so is all that claims ``Traits(gradients=2)``.
    """
    needs_gradients(method)
    example = wide_range(method, context, size=5)
    directions = drawn_like(floating(example))
    expected = curvature_by_differences(method, example, directions)
    for implementation in EVERY:
        twice = implementation == "reference" or method.traits.gradients > 1
        with context.case(implementation):
            found = right_or_refused(
                functools.partial(curvature, method, implementation, example, directions), may_refuse=not twice
            )
            for name, column in (found or {}).items():
                label = f"second derivative along {name}"
                assert_close(column, expected[name], tolerance=CLOSE, scale=size_of(expected), name=label)


# --- ways of differentiating ----------------------------------------------------------------------------------------


def right_or_refused(way: Callable[[], dict[str, Tensor]], may_refuse: bool) -> dict[str, Tensor] | None:
    """What ``way`` gives; None where it raises a sentence that says what is missing, and may."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning excuses nothing
        try:
            return way()
        except (RuntimeError, NotImplementedError) as error:
            if may_refuse and re.search(REFUSAL, str(error)):
                return None
            raise AssertionError(f"neither right nor refused in a sentence: {error}") from error


def weighted(result: object) -> Tensor:
    """One float64 number of a result: everything differentiable in it, with weights that are no two alike."""
    total = torch.zeros((), dtype=torch.float64)
    for each in named_tensors(result).values():
        if each.is_floating_point():
            weights = torch.linspace(0.5, 1.5, each.numel(), dtype=torch.float64).view(each.shape)
            total = total + (torch.sin(3 * weights) * each).sum()
    return total


def one_gradient(
    method: Method, implementation: str, example: Example, create_graph: bool = False
) -> dict[str, Tensor]:
    inputs = leaves(example)
    return gradient_at(method, implementation, example, inputs, create_graph)


def gradient_at(
    method: Method, implementation: str, example: Example, inputs: Mapping[str, Tensor], create_graph: bool
) -> dict[str, Tensor]:
    wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    total = weighted(method(*inputs.values(), implementation=implementation, **example.options))
    found = torch.autograd.grad(total, list(wanted.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


def drawn_like(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(each.shape, generator=generator, dtype=each.dtype) for name, each in inputs.items()}


def size_of(results: Mapping[str, Tensor]) -> float:
    return max((each.detach().abs().max().item() for each in results.values() if each.numel()), default=1.0) or 1.0


def moved(example: Example, directions: Mapping[str, Tensor], step: float) -> Example:
    return with_inputs(example, {name: example.inputs[name] + step * along for name, along in directions.items()})


def central(function: Callable[[float], dict[str, Tensor]], step: float = 3e-5) -> dict[str, Tensor]:
    """The derivative at 0 by differences of fourth order. The step is so small that no kink is likely to lie within."""
    values = {offset: function(offset * step) for offset in (-2, -1, 1, 2)}
    return {
        name: (8 * (values[1][name] - values[-1][name]) - (values[2][name] - values[-2][name])) / (12 * step)
        for name in values[1]
    }


def differences(method: Method, example: Example, directions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def results(step: float) -> dict[str, Tensor]:
        here = moved(example, directions, step)
        options = accepted(method.reference, here.options)
        output = named_tensors(method.reference(*here.inputs.values(), **options))
        return {name: each for name, each in output.items() if each.is_floating_point()}

    return central(results)


def curvature_by_differences(method: Method, example: Example, directions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return central(lambda step: one_gradient(method, "reference", moved(example, directions, step)))


def tangents_by_function(method, implementation, example, directions) -> dict[str, Tensor]:
    order = list(directions)

    def results(*tensors: Tensor) -> list[Tensor]:
        inputs = {**example.inputs, **dict(zip(order, tensors, strict=True))}
        output = named_tensors(method(*inputs.values(), implementation=implementation, **example.options))
        return {name: each for name, each in output.items() if each.is_floating_point()}

    return torch.func.jvp(results, tuple(example.inputs[name] for name in order), tuple(directions.values()))[1]


def tangents_of_duals(method, implementation, example, directions) -> dict[str, Tensor]:
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(example.inputs[name], along) for name, along in directions.items()}
        inputs = with_inputs(example, duals).inputs
        output = named_tensors(method(*inputs.values(), implementation=implementation, **example.options))
        parts = {name: forward_ad.unpack_dual(each) for name, each in output.items() if each.is_floating_point()}
    return {
        name: torch.zeros_like(part.primal) if part.tangent is None else part.tangent for name, part in parts.items()
    }


def curvature(method, implementation, example, directions) -> dict[str, Tensor]:
    """The gradient of (gradient . directions). What has lost its graph is a constant, as it is in a sum of losses."""
    inputs = leaves(example)
    first = gradient_at(method, implementation, example, inputs, create_graph=True)
    wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    total = sum((first[name] * along).sum() for name, along in directions.items())
    total = total + sum(0 * tensor.sum() for tensor in wanted.values())
    found = torch.autograd.grad(total, list(wanted.values()), materialize_grads=True)
    return dict(zip(wanted, found, strict=True))
