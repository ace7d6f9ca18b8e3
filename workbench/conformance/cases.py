"""The calls that checks are made of: small examples, changed a little."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.conformance.checks import DoesNotApply
from workbench.controls import Knob
from workbench.paper import Example, Method

OWN = ("reference", "fast")
EVERY = ("auto", "reference", "fast")
AFFORDABLE = 5e6  # FLOPs of a call that is one of many


def small(method: Method, size: int, wide: int = 20, **settings: Any) -> Example:
    """An example with its wide dimensions (a default over 16) cut to 20: no power of two, more than one vector."""
    shape = {
        name: wide
        for name, knob in method.shape_knobs.items()
        if knob.kind == "int" and knob.default and knob.default > 16
    }
    return method.example(within(method, size), **{**shape, **settings})


def affordable(method: Method, size: int, options: Mapping[str, Any], **settings: Any) -> Example | None:
    """As ``small``, with options; at a smaller size where a call would take long with them, or None where at any."""
    for tried in (size, 5, 2):
        example = with_options(small(method, tried, **settings), **options)
        if method.cost(*example.inputs.values(), **example.options).flops <= AFFORDABLE:
            return example
    return None


def several(method: Method, **settings: Any) -> Example:
    """A small example that has more than one row, or batch element, along the first axis."""
    return small(method, 6, **({"batch": 2} if "batch" in method.shape_knobs else {}), **settings)


def differentiable(method: Method) -> bool:
    """Whether gradients are asked of it: what has none says so, and is held to that by a check of its own."""
    return method.traits.gradients > 0


def within(method: Method, size: int) -> int:
    """The size, or the largest that the method can take."""
    return min(size, method.largest or size)


def call(method: Method, implementation: str, example: Example, **options: Any) -> Any:
    return method(*example.inputs.values(), implementation=implementation, **{**example.options, **options})


def with_inputs(example: Example, inputs: Mapping[str, Tensor]) -> Example:
    return Example({**example.inputs, **inputs}, example.options)


def with_options(example: Example, **options: Any) -> Example:
    return Example(example.inputs, {**example.options, **options})


def floating(example: Example) -> dict[str, Tensor]:
    """The inputs that are floating-point numbers. Raises ``DoesNotApply`` where there are none."""
    found = {name: tensor for name, tensor in example.inputs.items() if tensor.is_floating_point()}
    if not found:
        raise DoesNotApply("All its inputs are whole numbers.")
    return found


def values_to_try(knob: Knob) -> list:
    """A few values of a knob that are no default: the bounds, and what lies between, while that stays small."""
    if knob.kind == "flag":
        tried = [True, False]
    elif knob.kind == "choice":
        tried = list(knob.choices)
    elif knob.kind == "int":
        low = int(knob.range.low)
        tried = sorted({int(min(value, knob.range.high)) for value in (low, 2 * low or 2, low + 4)})
    else:
        tried = [knob.range.low, knob.range.high]
    return [value for value in tried if value != knob.default]


def ends(knob: Knob) -> list:
    """Both ends of a knob's range, or all its choices, None among them where it is optional."""
    if knob.kind == "flag":
        found = [True, False]
    elif knob.kind == "choice":
        found = list(knob.choices)
    else:
        found = [(int if knob.kind == "int" else float)(end) for end in (knob.range.low, knob.range.high)]
    return [*found, *([None] if knob.optional else [])]


def switched(method: Method) -> Iterator[dict[str, Any]]:
    """No option, then every knob turned on its own."""
    yield {}
    for name, knob in method.knobs.items():
        for value in values_to_try(knob):
            yield {name: value}


def axes_of(method: Method, **knob: int) -> dict[str, list[int]]:
    """By input, the axes that grow when ``size``, or a knob of the example, does: where the rows, the batch ... lie."""
    ((name, value),) = knob.items()

    def shapes(value: int) -> dict[str, torch.Size]:
        example = (
            small(method, value, device="meta") if name == "size" else small(method, 5, device="meta", **{name: value})
        )
        return {name: tensor.shape for name, tensor in example.inputs.items()}

    before, after = shapes(value), shapes(value + 1)
    return {
        name: [axis for axis, (old, new) in enumerate(zip(shape, after[name], strict=True)) if old != new]
        for name, shape in before.items()
    }
