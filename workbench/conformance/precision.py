"""Low and mixed precision: what a training loop with autocast hands to a method."""

import torch
from torch import Tensor

from workbench.conformance.cases import OWN, call, differentiable, floating, small, with_inputs
from workbench.conformance.checks import Context, DoesNotApply, check
from workbench.conformance.closeness import (
    assert_close,
    gradients_of,
    largest,
    leaves,
    named_tensors,
    run,
)
from workbench.paper import Example, Method


@check
def autocast(method: Method, context: Context) -> None:
    """Under ``torch.autocast`` to bfloat16 a method takes float32 inputs and any mixture of float32 and bfloat16, as
    PyTorch's own functions do: the result is as close to the truth as ordinary PyTorch in bfloat16 is, every
    implementation returns the same dtype, and a gradient has the dtype of its input. Attention takes every mixture, as
    PyTorch's does; another method may refuse one with a ``ValueError``, in every implementation.
    """
    if not {"float32", "bfloat16"} <= set(method.traits.dtypes):
        raise DoesNotApply("It takes no mixture of float32 and bfloat16.")
    example = small(method, 17, device=context.device)
    gradients = differentiable(method)
    truth = run(method, "reference", example, torch.float64, gradients)
    ordinary = run(method, method.ordinary, example, torch.bfloat16, gradients)
    for label, mixed in mixtures(example).items():
        dtypes = {}
        for implementation in OWN:
            if not context.runs(method, implementation, mixed):
                continue
            with context.case(f"{implementation}, {label}"):
                try:
                    found = under_autocast(method, implementation, mixed, context.device, gradients)
                except ValueError:
                    if method.shows_map or mixed is example:
                        raise
                    dtypes[implementation] = "refused"
                    continue
                dtypes[implementation] = {name: found[name].dtype for name in found}
                for name, result in found.items():
                    near = (truth[name], ordinary[name].to(result.dtype))
                    assert result.isfinite().all() or not near[0].isfinite().all(), f"{name} is not finite"
                    in_bfloat16(result, *near, scale=max(map(largest, truth.values())), name=name)
        different = {str(each) for each in dtypes.values()}
        assert len(different) <= 1, f"with {label} the implementations differ in dtype: {dtypes}"


def mixtures(example: Example) -> dict[str, Example]:
    """The inputs in float32, and with the first, the last, or all but the first of them in bfloat16."""
    names = list(floating(example))
    chosen = {f"{names[0]} in bfloat16": names[:1]}
    if len(names) > 1:
        chosen |= {f"{names[-1]} in bfloat16": names[-1:], f"only {names[0]} in float32": names[1:]}
    return {"all in float32": example} | {
        label: with_inputs(example, {name: example.inputs[name].bfloat16() for name in which})
        for label, which in chosen.items()
    }


def under_autocast(
    method: Method, implementation: str, example: Example, device: str, gradients: bool
) -> dict[str, Tensor]:
    inputs = leaves(example, gradients=gradients)
    with torch.autocast(device, torch.bfloat16):
        output = named_tensors(call(method, implementation, with_inputs(example, inputs)))
    results = {name: tensor.detach() for name, tensor in output.items()}
    if gradients:
        wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
        for name, gradient in gradients_of(output, wanted, example).items():
            assert gradient.dtype == example.inputs[name].dtype, f"the gradient of {name} is {gradient.dtype}"
            results[f"gradient of {name}"] = gradient
    return results


def in_bfloat16(result: Tensor, truth: Tensor, ordinary: Tensor, *, scale: float, name: str) -> None:
    """As close as the rule allows for bfloat16, whatever wider dtype the result is kept in."""
    if not result.is_floating_point():
        return
    unit = torch.finfo(torch.bfloat16).eps
    scale = scale if largest(truth) <= 1e-12 * scale else largest(truth)
    assert_close(result, truth, ordinary=ordinary, tolerance=unit, scale=scale, name=name)


@check
def mixed_dtypes(method: Method, context: Context) -> None:
    """Without autocast a mixture of float32 and bfloat16 is taken by all implementations alike, with a result in one
    dtype, or refused by all with a ``ValueError``; it is never an error from inside.
    """
    if not {"float32", "bfloat16"} <= set(method.traits.dtypes):
        raise DoesNotApply("It takes no mixture of float32 and bfloat16.")
    example = small(method, 9, device=context.device)
    mixed = {label: each for label, each in mixtures(example).items() if len(floating(example)) > 1}
    mixed.pop("all in float32", None)
    if not mixed:
        raise DoesNotApply("It has a single floating-point input.")
    for label, changed in mixed.items():
        answers = {}
        for implementation in OWN:
            if not context.runs(method, implementation, changed):
                continue
            with context.case(f"{implementation}, {label}"):
                try:
                    output = named_tensors(call(method, implementation, changed))
                    answers[implementation] = str({name: each.dtype for name, each in output.items()})
                except ValueError:
                    answers[implementation] = "refused"
        assert len(set(answers.values())) <= 1, f"with {label} the implementations differ: {answers}"
