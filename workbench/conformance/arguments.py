"""Asked for something: what is allowed is taken in every form, what is not is refused in a sentence."""

import inspect
import re
import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from workbench.conformance.cases import EVERY, OWN, call, floating, small, with_inputs
from workbench.conformance.checks import Context, DoesNotApply, check
from workbench.conformance.closeness import named_tensors
from workbench.controls import Knob
from workbench.paper import Example, Method, Unavailable


def refused(
    call: Callable[[], Any], kind: type[Exception] | tuple[type[Exception], ...], pattern: str, what: str
) -> str:
    """The message with which ``call`` raises; fails unless it raises ``kind``, its message matching ``pattern``."""
    try:
        call()
    except kind as error:
        message = str(error)
        assert re.search(pattern, message, re.DOTALL), f"{what} is refused with {message!r}, which does not say why"
        return message
    raise AssertionError(f"{what} is taken, and should be refused")


@check
def knobs_are_validated(method: Method, context: Context) -> None:
    """A knob out of its bounds, of another type, NaN, or None where it is not optional raises ``ValueError`` that names
    the knob, the value and what is allowed. It follows from the annotation: ``Annotated[int, Range(1, 50), "..."]``.
    """
    if not method.knobs:
        raise DoesNotApply("It has no knobs.")
    example = small(method, 3, device=context.device)
    for name, knob in method.knobs.items():
        bad = ["nonsense", object(), torch.nan, torch.ones(2)]
        if knob.range is not None:
            bad += [knob.range.low - 1, knob.range.high + 1, torch.inf]
        if not knob.optional:
            bad.append(None)
        for value in bad:
            message = refused(
                lambda name=name, value=value: call(method, "auto", example, **{name: value}),
                ValueError,
                f"{name} = .*choose",
                f"{name} = {value!r}",
            )
            assert reprlib.repr(value) in message, f"{message!r} does not show the value {value!r}"


@check
def numbers_may_be_of_any_kind(method: Method, context: Context) -> None:
    """A knob takes what its number may come as: a numpy scalar, a tensor without axes. The result is the same to the
    last bit. A tensor that requires a gradient is refused by the knob's name, since no gradient would come back.
    """
    if not method.knobs:
        raise DoesNotApply("It has no knobs.")
    example = small(method, 9, device=context.device)
    for name, knob in method.knobs.items():
        value = plain_value(knob)
        if value is None:
            continue
        for given in in_other_kinds(value):
            with context.case(f"{name} = {given!r}"):
                for implementation in OWN:
                    if context.runs(method, implementation, example):
                        found = named_tensors(call(method, implementation, example, **{name: given}))
                        expected = named_tensors(call(method, implementation, example, **{name: value}))
                        for key in expected:
                            assert torch.equal(found[key], expected[key]), f"{key} differs from that of {value!r}"
        if knob.kind == "float":
            learned = torch.tensor(float(value), requires_grad=True)
            refused(
                lambda name=name, learned=learned: call(method, "auto", example, **{name: learned}),
                (ValueError, TypeError),
                name,
                f"{name} as a tensor that requires a gradient",
            )


def plain_value(knob: Knob) -> Any:
    """A value that the knob allows: its default, or the lower bound where that is None."""
    if knob.default is not None:
        return knob.default
    return None if knob.range is None else (int if knob.kind == "int" else float)(knob.range.low)


def in_other_kinds(value: Any) -> list:
    """The same number as numpy and PyTorch hand it out."""
    if isinstance(value, bool):
        return [np.bool_(value), torch.tensor(value)]
    if isinstance(value, int):
        return [np.int64(value), np.int32(value), torch.tensor(value)]
    return [np.float64(value), torch.tensor(value, dtype=torch.float64)] if isinstance(value, float) else []


@check
def an_unknown_option_is_refused(method: Method, context: Context) -> None:
    """An option that the method does not know raises ``TypeError`` that says so and lists the knobs."""
    example = small(method, 3, device=context.device)
    refused(lambda: call(method, "auto", example, colour="red"), TypeError, "no option 'colour'", "colour='red'")


@check
def an_unknown_implementation_is_refused(method: Method, context: Context) -> None:
    """An implementation that does not exist raises ``ValueError`` that lists those that do."""
    example = small(method, 3, device=context.device)
    refused(lambda: call(method, "quick", example), ValueError, "no implementation 'quick'.*reference", "quick")


@check
def an_implementation_runs_or_says_why_not(method: Method, context: Context) -> None:
    """``why_not`` gives sentences, each ending with a full stop; where it gives some, a call by name raises
    ``Unavailable`` with all of them. The reference always runs.
    """
    example = small(method, 5, device=context.device)
    for implementation in method.implementations:
        sentences = method.why_not(implementation, *example.inputs.values(), **example.options)
        assert isinstance(sentences, list), f"why_not({implementation!r}) gives {sentences!r}, no list"
        for sentence in sentences:
            assert sentence.endswith(".") and len(sentence.split()) > 3, f"{sentence!r} is no sentence"
        if sentences:
            message = refused(
                lambda implementation=implementation: call(method, implementation, example),
                Unavailable,
                "",
                implementation,
            )
            assert all(sentence in message for sentence in sentences), f"{message!r} leaves out a reason of {sentences}"
    assert not method.why_not("reference", *example.inputs.values(), **example.options), "the reference does not run"


@check
def wrong_inputs_are_refused(method: Method, context: Context) -> None:
    """Inputs that do not fit raise ``ValueError`` with a sentence, in every implementation alike: whole numbers where
    floating-point ones belong, and what stands beside the example as ``misfits(example) -> {what is wrong: inputs}``:
    an axis too few, lengths that differ. What has a map is given what attention cannot take. A kernel that is asked for
    by name may say instead that it is not available for them.
    """
    example = small(method, 5, device=context.device)
    wrong = wrong_for_attention(example) if method.shows_map else {}
    wrong |= method.misfits(example) if method.misfits else {}
    if any(tensor.is_floating_point() for tensor in example.inputs.values()):
        numbers = with_inputs(example, {name: tensor.long() for name, tensor in floating(example).items()})
        wrong["whole numbers"] = tuple(numbers.inputs.values())
    if not wrong:
        raise DoesNotApply("It names no misfits.")
    for what, inputs in wrong.items():
        for implementation in EVERY:
            if implementation == "fast" and method.why_not("fast", *example.inputs.values(), **example.options):
                continue
            refused(
                lambda implementation=implementation, inputs=inputs: method(
                    *inputs, implementation=implementation, **example.options
                ),
                (ValueError, Unavailable) if implementation == "fast" else ValueError,
                r"\w+ \w+ \w+",
                f"{method.name}.{implementation}: {what}",
            )


def wrong_for_attention(example: Example) -> dict[str, tuple[Any, ...]]:
    """What no attention can take, by what is wrong with it."""
    query, key, value, *more = example.inputs.values()
    return {
        "three axes": (query[0], key[0], value[0], *more),
        "another head_dim": (query[..., :-1], key, value, *more),
        "fewer values than keys": (query, key, value[:, :, :-1], *more),
        "another batch": (query, key.expand(3, -1, -1, -1), value.expand(3, -1, -1, -1), *more),
        "no tokens to attend to": (query, key[:, :, :0], value[:, :, :0], *more),
        "two dtypes": (query, key.double(), value, *more),
    }


@check
def other_dtypes_are_refused(method: Method, context: Context) -> None:
    """A dtype that the method does not name in ``Traits(dtypes=...)`` raises a sentence, in every implementation."""
    others = [name for name in ("float64", "float32", "bfloat16", "float16") if name not in method.traits.dtypes]
    if not others:
        raise DoesNotApply("It takes every dtype.")
    floating(small(method, 5, device=context.device))
    for dtype in others:
        example = small(method, 5, dtype=dtype, device=context.device)
        for implementation in EVERY:
            refused(
                lambda implementation=implementation, example=example: call(method, implementation, example),
                (ValueError, TypeError, Unavailable),
                r"\w+ \w+ \w+",
                f"{method.name}.{implementation} in {dtype}",
            )


@check
def implementations_take_the_same(method: Method, context: Context) -> None:
    """``fast`` has the parameters of ``reference``: the same names and the same defaults, in the same order."""
    own, other = (list(inspect.signature(function).parameters.values()) for function in (method.reference, method.fast))
    takes_any = any(each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in other)
    if not takes_any:
        assert [each.name for each in own] == [each.name for each in other], "fast and reference differ in parameters"
        for each, another in zip(own, other, strict=True):
            same = each.default is another.default or each.default == another.default
            assert same, f"{each.name} is {each.default!r} by default in the reference, {another.default!r} in fast"
