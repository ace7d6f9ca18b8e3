"""Right results: every implementation gives what the reference gives."""

import torch
from torch import Tensor

from workbench.conformance.cases import (
    OWN,
    affordable,
    call,
    differentiable,
    several,
    small,
    switched,
    values_to_try,
    with_inputs,
)
from workbench.conformance.checks import Context, DoesNotApply, check
from workbench.conformance.closeness import compare, named_tensors, run
from workbench.paper import Method

SIZES = (1, 7, 33, 130)


@check
def fast_equals_reference(method: Method, context: Context) -> None:
    """``fast`` returns what ``reference`` returns, and its gradients are the reference's, in every dtype that the
    method takes and at sizes of 1, 7, 33 and 130: one row, no power of two, more than one block.

    Truth is the reference in float64. In float64 and float32 the largest error, relative to the largest element, is at
    most the method's ``tolerance``; in bfloat16 and float16 at most twice that of ``ordinary`` in that dtype, plus one
    rounding unit. Memory that is not written is NaN. A result has the shape, the dtype and the tree of the reference's.
    """
    for dtype in method.traits.dtypes:
        for size in SIZES:
            example = small(method, size, dtype=dtype, device=context.device)
            with context.case(f"{dtype}, size {size}"):
                if context.runs(method, "fast", example):
                    compare(method, example, gradients=differentiable(method))


@check
def every_shape(method: Method, context: Context) -> None:
    """``fast`` equals ``reference`` for every shape of the example: one of its knobs after the other at its smallest,
    at twice that and at an odd number. A batch of one, a single head, a width of 1 are shapes like any other.
    """
    for dtype in low_and_high(method):
        for name, knob in method.shape_knobs.items():
            for value in values_to_try(knob):
                try:
                    example = small(method, 9, dtype=dtype, device=context.device, **{name: value})
                except ValueError:  # this value does not go with the other knobs' defaults
                    continue
                with context.case(f"{dtype}, {name} = {value}"):
                    if context.runs(method, "fast", example):
                        compare(method, example, gradients=differentiable(method))


@check
def every_option(method: Method, context: Context) -> None:
    """``fast`` equals ``reference`` with every knob turned on its own: numbers to their bounds and a little off them,
    flags both ways, every choice. What cannot be run with a value is said by ``why_not_fast``.
    """
    for dtype in low_and_high(method):
        for options in switched(method):
            with context.case(f"{dtype}, {options}"):
                example = affordable(method, 19, options, dtype=dtype, device=context.device)
                if options and example is None:
                    context.notes.append(f"With {options} a call of any size is too long for a test.")
                elif options and context.runs(method, "fast", example):
                    compare(method, example, gradients=differentiable(method))


def strided(tensor: Tensor) -> Tensor:
    """The same numbers with gaps between them, as a slice of something larger has."""
    gap = torch.nan if tensor.is_floating_point() else 0
    return torch.stack([tensor, torch.full_like(tensor, gap)], dim=-1)[..., 0]


def swapped(tensor: Tensor) -> Tensor:
    """The same numbers laid out as a projection leaves them: the two outer axes of the matrix in memory order."""
    return tensor.transpose(-3, -2).contiguous().transpose(-3, -2) if tensor.ndim > 2 else tensor.mT.contiguous().mT


@check
def inputs_may_lie_anyhow(method: Method, context: Context) -> None:
    """``fast`` takes inputs that are not contiguous: slices of something larger (with NaN in the gaps), and axes in
    another order in memory, as a projection leaves them. It reads by strides, or makes a copy.
    """
    example = small(method, 17, device=context.device)
    if not context.runs(method, "fast", example):
        return
    for layout in (strided, swapped):
        axes = 1 if layout is swapped else 0
        inputs = {name: layout(tensor) if tensor.ndim > axes else tensor for name, tensor in example.inputs.items()}
        with context.case(layout.__name__):
            compare(method, with_inputs(example, inputs), gradients=differentiable(method))


@check
def baselines_compute_the_same(method: Method, context: Context) -> None:
    """A baseline computes the method's own function, to the same tolerance, gradients included: else a race against it
    says nothing. One that cannot run here says why in its ``why_not``.
    """
    if not method.baselines:
        raise DoesNotApply("It has no baselines.")
    dtype = "float32" if context.device == "cpu" else "bfloat16"
    for baseline in method.baselines:
        example = small(method, 33, dtype=dtype, device=context.device)
        with context.case(baseline):
            if context.runs(method, baseline, example):
                compare(method, example, implementation=baseline, gradients=differentiable(method))


@check
def inputs_stay_as_they_are(method: Method, context: Context) -> None:
    """No implementation writes into an input, forward or backward: states and moments come out as new tensors."""
    for implementation in OWN:
        example = small(method, 9, device=context.device)
        if not context.runs(method, implementation, example):
            continue
        before = {name: tensor.clone() for name, tensor in example.inputs.items()}
        run(method, implementation, example, gradients=differentiable(method))
        for name, tensor in example.inputs.items():
            assert torch.equal(tensor, before[name]), f"{method.name}.{implementation} changed its {name}"


@check
def rows_stay_apart(method: Method, context: Context) -> None:
    """The first axis of the first input holds batch elements or rows that do not meet: a NaN in one (of whole numbers:
    another number) neither hangs nor spoils another, and is not lost. A method whose rows do meet says so,
    ``Traits(rows_apart=False)``; then they must.
    """
    example = several(method, device=context.device)
    name, first = next((each for each in example.inputs.items() if each[1].is_floating_point()), None) or next(
        iter(example.inputs.items())
    )
    assert len(first) > 1, f"an example of size 6 has a single row of {name}"
    changed = first.clone()
    changed[0] = torch.nan if first.is_floating_point() else first[1]
    for implementation in OWN:
        if not context.runs(method, implementation, example):
            continue
        label = f"{method.name}.{implementation}"
        before = named_tensors(call(method, implementation, example))
        after = named_tensors(call(method, implementation, with_inputs(example, {name: changed})))
        rows = [each for each in before if before[each].ndim and len(before[each]) == len(first)]
        clean = bool(rows) and all(alike(before[each][1:], after[each][1:]) for each in rows)
        if first.is_floating_point():
            assert not all(alike(before[each], after[each]) for each in before), f"{label} loses a NaN in {name}"
        if not method.traits.rows_apart:
            assert not clean, f"{label}: rows stay apart, and the method says that they mix"
            continue
        assert clean, f"{label}: what stands in row 0 of {name} changes other rows"
        if first.is_floating_point():
            assert any(after[each][0].isnan().any() for each in rows), f"{label} loses a NaN in row 0 of {name}"


def alike(before: Tensor, after: Tensor) -> bool:
    return torch.equal(before, after) or torch.allclose(before, after, rtol=1e-5, atol=1e-6, equal_nan=True)


@check
def a_call_is_repeatable(method: Method, context: Context) -> None:
    """The same call gives the same bits twice, gradients included: sums in a fixed order, random numbers from a seed
    that is an option. A method that cannot says so, ``Traits(repeatable=False)``; then two calls do differ.
    """
    for implementation in OWN:
        example = small(method, 33, device=context.device)
        if not context.runs(method, implementation, example):
            continue
        first, second = (run(method, implementation, example, gradients=differentiable(method)) for _ in range(2))
        same = {name: torch.equal(first[name].nan_to_num(), second[name].nan_to_num()) for name in first}
        if method.traits.repeatable:
            for name in same:
                assert same[name], f"{method.name}.{implementation}: {name} differs between two calls that are alike"
        elif implementation == "fast":
            assert not all(same.values()), f"{method.name} says that its calls are not repeatable, and they are"


def low_and_high(method: Method) -> list[str]:
    """One dtype in which sums are exact enough to see a slip, and one in which rounding is seen."""
    return [name for name in ("float32", "bfloat16") if name in method.traits.dtypes]
