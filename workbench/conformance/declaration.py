"""What a method declares about itself."""

import torch

from workbench.conformance.cases import small
from workbench.conformance.checks import Context, check
from workbench.conformance.closeness import accepted
from workbench.paper import Method


@check(devices=("cpu",))
def an_example_is_repeatable(method: Method, context: Context) -> None:
    """``example(size, device=, dtype=, seed=)`` gives the same numbers for the same seed and others for another; its
    inputs stand in the order of the reference's parameters; and it takes the dtypes that the method takes.
    """
    first, second, other = (small(method, 5, seed=seed).inputs for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first), "the same seed gives other numbers"
    assert not all(torch.equal(first[name], other[name]) for name in first), "another seed gives the same numbers"
    assert set(accepted(method.reference, first)) == set(first), "inputs are named as parameters of the reference"
    for dtype in method.traits.dtypes:
        found = {
            str(tensor.dtype)[6:]
            for tensor in small(method, 5, dtype=dtype).inputs.values()
            if tensor.is_floating_point()
        }
        assert dtype in found or not found, f"an example in {dtype} holds {found}"


@check(devices=("cpu",))
def it_is_complete(method: Method, context: Context) -> None:
    """A method has a title, an idea that is a sentence, a ``tolerance`` for float64 and float32 (of those that it
    takes), docstrings on both functions, and an ``ordinary`` that is one of its implementations.
    """
    wanted = {"float64", "float32"} & set(method.traits.dtypes)
    assert wanted <= set(method.tolerance), (
        f"a tolerance is stated for {sorted(method.tolerance)}, wanted {sorted(wanted)}"
    )
    assert method.title, "it has no title"
    assert method.idea.endswith("."), f"the idea is no sentence: {method.idea!r}"
    assert method.ordinary in method.implementations, f"ordinary = {method.ordinary!r} is no implementation"
    assert method.reference.__doc__ and method.fast.__doc__, "reference or fast has no docstring"
