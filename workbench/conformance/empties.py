"""Nothing at all: batches, rows, heads and queries of which there are none."""

from workbench.conformance.arguments import refused
from workbench.conformance.cases import EVERY, axes_of, differentiable, several, with_inputs
from workbench.conformance.checks import Context, DoesNotApply, check
from workbench.conformance.closeness import gradients_of, leaves, named_tensors
from workbench.paper import Example, Method


def cut(example: Example, axes: dict[str, list[int]], length: int = 0) -> Example:
    """The same inputs with only the first ``length`` along the named axes."""
    inputs = {}
    for name, tensor in example.inputs.items():
        for axis in axes.get(name, []):
            tensor = tensor.narrow(axis, 0, length)
        inputs[name] = tensor
    return with_inputs(example, inputs)


def empty_is_empty(method: Method, example: Example, context: Context) -> None:
    """The result is empty, and the gradients are: of an input without numbers empty, of any other zeros."""
    for implementation in EVERY:
        if implementation != "auto" and not context.runs(method, implementation, example):
            continue
        with context.case(implementation):
            inputs = leaves(example, gradients=differentiable(method))
            output = named_tensors(method(*inputs.values(), implementation=implementation, **example.options))
            first = next(iter(output.values()))
            assert not first.numel(), f"of nothing comes {tuple(first.shape)}"
            if differentiable(method):
                wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
                for name, gradient in gradients_of(output, wanted, example).items():
                    assert gradient.shape == wanted[name].shape, f"the gradient of {name} is {tuple(gradient.shape)}"
                    assert not gradient.count_nonzero(), f"the gradient of {name} is not zero, and nothing came of it"


@check
def no_rows(method: Method, context: Context) -> None:
    """A batch of none, or no rows, gives an empty result of the right shape, with gradients (zeros for weights), as a
    linear layer does: the last batch of a loop, an expert without tokens. Rows are the first axis of the first input,
    and of every input that grows with it.
    """
    example = several(method, device=context.device)
    name = next(iter(example.inputs))
    if not method.traits.rows_apart:
        raise DoesNotApply("Its rows mix: what it makes of none is its own affair.")
    growing = axes_of(method, **({"batch": 2} if "batch" in method.shape_knobs else {"size": 6}))
    assert growing[name], f"{name} grows neither with the batch nor with the size"
    axis = growing[name][0]
    axes = {each: found[:1] for each, found in growing.items() if found}
    assert axis == 0, f"the rows of {name} lie along axis {axis}, not along the first"
    with context.case("no rows"):
        empty_is_empty(method, cut(example, axes), context)


@check
def no_queries(method: Method, context: Context) -> None:
    """Attention of no queries, or no heads, is empty, and the gradients of keys and values are zeros. A method that
    needs as many queries as keys refuses with a ``ValueError``, and so does every one when there are no keys: a softmax
    of nothing has no value.
    """
    if not method.shows_map:
        raise DoesNotApply("It attends to nothing.")
    example = method.example(5, heads=2, head_dim=4, device=context.device)
    query, key, value = list(example.inputs)[:3]
    with context.case("no heads"):
        empty_is_empty(method, cut(example, {query: [1], key: [1], value: [1]}), context)
    one = cut(example, {query: [-2]}, length=1)
    none = cut(example, {query: [-2]})
    try:
        method(*one.inputs.values(), implementation="reference", **one.options)
    except ValueError:
        fewer = False
    else:
        fewer = True
    if fewer:
        with context.case("no queries"):
            empty_is_empty(method, none, context)
    wrong = {"no keys": cut(example, {key: [-2], value: [-2]})} | ({} if fewer else {"no queries": none})
    for what, changed in wrong.items():
        for implementation in EVERY:
            refused(
                lambda implementation=implementation, changed=changed: method(
                    *changed.inputs.values(), implementation=implementation, **changed.options
                ),
                ValueError,
                r"\w+ \w+ \w+",
                f"{implementation}: {what}",
            )
