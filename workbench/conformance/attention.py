"""What mixes tokens: its map, what a causal call may see, and the signature that it shares with PyTorch's attention."""

import inspect
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from workbench.conformance.arguments import refused
from workbench.conformance.cases import EVERY, OWN, call, small, switched, with_inputs, with_options
from workbench.conformance.checks import Context, DoesNotApply, check
from workbench.conformance.closeness import accepted, assert_close, named_tensors
from workbench.paper import Example, Method, Unavailable


def needs_a_map(method: Method) -> None:
    if not method.shows_map:
        raise DoesNotApply("It attends to nothing.")


@check
def the_map_times_value_is_the_output(method: Method, context: Context) -> None:
    """``attention_map`` is (batch, heads, queries, keys), and the map times the values is the output, in every
    implementation, with every knob turned, and where several query heads share a key/value head.
    """
    needs_a_map(method)
    plain = method.example(11, heads=4, kv_heads=2, head_dim=4, batch=2, device=context.device)
    for implementation in OWN:
        for changed in switched(method):
            example = with_options(plain, **changed)
            if not context.runs(method, implementation, example):
                continue
            with context.case(f"{implementation}, {changed}"):
                query, key, value = plain.inputs.values()
                weights = method.attention_map(query, key, implementation=implementation, **example.options)
                assert weights.shape == (2, 4, 11, 11), f"the map is {tuple(weights.shape)}"
                output = call(method, implementation, example)
                value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
                assert_close(
                    weights.double() @ value.double(), output, tolerance=1e-5, name=f"{method.name}: map @ value"
                )


@check
def only_attention_has_a_map(method: Method, context: Context) -> None:
    """A method that mixes no tokens raises ``TypeError`` when asked for its map."""
    if method.shows_map:
        raise DoesNotApply("It has a map.")
    square = torch.ones(1, 1, 2, 2, device=context.device)
    refused(lambda: method.attention_map(square, square), TypeError, "no attention map", "attention_map")


@check
def causal_means_causal(method: Method, context: Context) -> None:
    """With ``is_causal=True`` no output depends on a later query, key or value, and the map has nothing above its
    diagonal: with every knob turned, in every implementation. Counted from the end, where there are more keys than
    queries. A method that cannot be causal refuses with a ``ValueError``.
    """
    if "is_causal" not in inspect.signature(method.reference).parameters:
        raise DoesNotApply("It knows no causal call.")
    plain = causal_example(method, context.device)
    try:
        method(*plain.inputs.values(), implementation="reference", **plain.options)
    except ValueError as reason:
        for implementation in EVERY:
            refused(
                lambda implementation=implementation: method(
                    *plain.inputs.values(), implementation=implementation, **plain.options
                ),
                (ValueError, Unavailable) if implementation == "fast" else ValueError,
                r"\w+ \w+ \w+",
                f"{implementation} with is_causal=True",
            )
        raise DoesNotApply(f"It refuses causal calls. {reason}") from None
    for implementation in OWN:
        for changed in switched(method):
            if "is_causal" in changed:
                continue
            example = with_options(plain, **changed)
            if refuses(method, example) or not context.runs(method, implementation, example):
                continue
            with context.case(f"{implementation}, {changed}"):
                nothing_from_later(method, implementation, example)
                if method.shows_map:
                    query, key, *_ = example.inputs.values()
                    weights = method.attention_map(query, key, implementation=implementation, **example.options)
                    above = weights.triu(1 + key.shape[-2] - query.shape[-2])
                    assert not above.abs().gt(1e-12).any(), "the map has something above its diagonal"


def causal_example(method: Method, device: str) -> Example:
    shape = {"heads": 2, "head_dim": 4} if method.shows_map else {}
    return with_options(small(method, 12, dtype="float64", device=device, **shape), is_causal=True)


def refuses(method: Method, example: Example) -> bool:
    """Whether the reference refuses this call: options that do not go together."""
    try:
        method(*example.inputs.values(), implementation="reference", **example.options)
    except ValueError:
        return True
    return False


def nothing_from_later(method: Method, implementation: str, example: Example) -> None:
    """Change all tokens from one position on: the results before it stay."""
    tokens = next(iter(example.inputs.values())).shape[-2]
    before = named_tensors(call(method, implementation, example))
    for start in range(1, tokens):
        later = {}
        for name, tensor in example.inputs.items():
            if tensor.ndim > 1 and tensor.shape[-2] == tokens and tensor.is_floating_point():
                later[name] = torch.cat([tensor[..., :start, :], 3 - 2 * tensor[..., start:, :].flip(-2)], dim=-2)
        after = named_tensors(call(method, implementation, with_inputs(example, later)))
        for name, expected in before.items():
            if expected.ndim > 1 and expected.shape[-2] == tokens:
                same = (after[name] - expected)[..., :start, :].abs().amax()
                assert same <= 1e-12 * expected.abs().max(), (
                    f"{name} before token {start} depends on tokens from {start} on: it changes by {same:.1e}"
                )


@check
def takes_what_pytorchs_attention_takes(method: Method, context: Context) -> None:
    """``attn_mask=None``, ``dropout_p=0.0`` and ``enable_gqa`` either way are taken, also by position in the order of
    ``torch.nn.functional.scaled_dot_product_attention``. A mask or a dropout that cannot be honoured is refused by
    name.
    """
    needs_a_map(method)
    example = method.example(7, heads=2, head_dim=4, device=context.device)
    inputs, options = tuple(example.inputs.values()), example.options
    plain = method(*inputs, **options)
    neutral = {"attn_mask": None, "dropout_p": 0.0}
    ways: dict[str, Callable[[], Tensor]] = {
        f"{name} = {value}": lambda name=name, value=value: method(*inputs, **options, **{name: value})
        for name, value in [*neutral.items(), ("enable_gqa", True), ("enable_gqa", False)]
    }
    ways["by position"] = lambda: method(*inputs, None, 0.0, False, **options)
    for label, way in ways.items():
        with context.case(label):
            assert torch.equal(way(), plain), f"{label} changes the result"
    mask = torch.ones(7, 7, dtype=torch.bool, device=context.device)
    if "attn_mask" not in inspect.signature(method.reference).parameters:
        for implementation in EVERY:
            for name, value in (("attn_mask", mask), ("dropout_p", 0.5)):
                refused(
                    lambda implementation=implementation, name=name, value=value: method(
                        *inputs, implementation=implementation, **options, **{name: value}
                    ),
                    (ValueError, TypeError),
                    name,
                    f"{name} = {value}",
                )


@check
def scale_may_be_learned(method: Method, context: Context) -> None:
    """``scale`` may be a numpy number or a tensor without axes, and the result is that of the plain number; a tensor
    that requires a gradient gets the same one in every implementation.
    """
    needs_a_map(method)
    if "scale" not in inspect.signature(method.reference).parameters:
        raise DoesNotApply("It has no scale.")
    example = method.example(7, heads=2, head_dim=4, dtype="float64", device=context.device)
    upstream = torch.randn(example.inputs["query"].shape, dtype=torch.float64).to(context.device)
    found = {}
    for implementation in EVERY:
        if implementation != "auto" and not context.runs(method, implementation, example):
            continue
        with context.case(implementation):
            plain = call(method, implementation, example, scale=0.3)
            for kind in (torch.tensor(0.3, dtype=torch.float64, device=context.device), np.float64(0.3)):
                output = call(method, implementation, example, scale=kind)
                assert_close(output, plain, tolerance=1e-12, name=f"output with a scale of type {type(kind).__name__}")
            learned = torch.tensor(0.3, dtype=torch.float64, device=context.device, requires_grad=True)
            output = call(method, implementation, example, scale=learned)
            (found[implementation],) = torch.autograd.grad(output, learned, upstream, materialize_grads=True)

    def at(scale: float) -> float:
        options = accepted(method.reference, {**example.options, "scale": scale})
        return (method.reference(*example.inputs.values(), **options) * upstream).sum().item()

    expected = torch.tensor((at(0.3 + 1e-5) - at(0.3 - 1e-5)) / 2e-5, dtype=torch.float64)
    for implementation, gradient in found.items():
        scale = max(1.0, expected.abs().item())
        assert_close(gradient.cpu(), expected, tolerance=1e-6, scale=scale, name=f"{implementation}: gradient of scale")
