"""States that go in and come out as values."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from workbench.conformance.cases import OWN, axes_of, call, small, with_inputs
from workbench.conformance.checks import Context, DoesNotApply, check
from workbench.conformance.closeness import assert_close, named_tensors
from workbench.paper import Example, Method

TOKENS = 12
CUTS = ((5,), (1, 2, 11), tuple(range(1, TOKENS)))


@check
def pieces_equal_the_whole(method: Method, context: Context) -> None:
    """A method that takes ``state=`` returns ``(output, state)``: fed piece by piece, each piece with the state that
    the one before left, it gives what it gives for all tokens at once, and ends in the same state. Pieces may be
    single tokens. The tokens lie along the axis that grows with the example's size; a state that went in is not
    changed.
    """
    if not method.takes_state:
        raise DoesNotApply("It has no state.")
    example = small(method, TOKENS, dtype="float64", device=context.device)
    axes = axes_of(method, size=TOKENS)
    for implementation in OWN:
        if not context.runs(method, implementation, example):
            continue
        whole, last = returned(method, implementation, example)
        along = axis_of_tokens(method, implementation, example, whole)
        for cuts in CUTS:
            with context.case(f"{implementation}, cut at {', '.join(map(str, cuts))}"):
                state, outputs = example.options.get("state"), []
                for start, stop in zip((0, *cuts), (*cuts, TOKENS), strict=True):
                    kept = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, state)
                    output, after = returned(method, implementation, piece(example, axes, start, stop), state=state)
                    same(named_tensors(state), named_tensors(kept), 0.0, "the state that went in")
                    outputs.append(output)
                    state = after
                joined = {name: torch.cat([each[name] for each in outputs], dim=along[name]) for name in along}
                same(joined, {name: whole[name] for name in along}, 1e-9, "the output")
                same(named_tensors(state), named_tensors(last), 1e-9, "the last state")


def returned(method: Method, implementation: str, example: Example, **options) -> tuple[dict[str, Tensor], object]:
    result = call(method, implementation, example, **options)
    assert isinstance(result, tuple) and len(result) == 2, "a method that takes a state returns (output, state)"
    return named_tensors(result[0]), result[1]


def piece(example: Example, axes: dict[str, list[int]], start: int, stop: int) -> Example:
    inputs = {}
    for name, tensor in example.inputs.items():
        for axis in axes.get(name, []):
            tensor = tensor.narrow(axis, start, stop - start)
        inputs[name] = tensor
    return with_inputs(example, inputs)


def axis_of_tokens(method: Method, implementation: str, example: Example, whole: dict[str, Tensor]) -> dict[str, int]:
    """By output, the axis along which pieces are joined: the one that is shorter for a piece."""
    axes = axes_of(method, size=TOKENS)
    part, _ = returned(method, implementation, piece(example, axes, 0, 5), state=example.options.get("state"))
    return {
        name: axis
        for name, each in part.items()
        for axis, (length, full) in enumerate(zip(each.shape, whole[name].shape, strict=True))
        if length != full
    }


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, what: str) -> None:
    assert list(found) == list(expected), f"{what} is another tree"
    for name, tensor in expected.items():
        assert_close(found[name], tensor, tolerance=tolerance, name=f"{what}, {name}")
