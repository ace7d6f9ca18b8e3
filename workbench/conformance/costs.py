"""What a method says it costs, held against what it does."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from workbench.conformance.cases import OWN, call, differentiable, within
from workbench.conformance.checks import Context, check
from workbench.conformance.closeness import accepted, named_tensors
from workbench.measure import peak_bytes
from workbench.paper import Example, Method

COUNTED_SIZE = 48
MEASURED_SIZE = 512


def qr_flops(shape, *_, **options) -> float:
    """Householder's QR of square matrices, the orthogonal factor written out."""
    *batch, tokens, _ = shape
    return 8 / 3 * math.prod(batch) * tokens**3


def product_flops(left, right, *_, **options) -> int:
    """A multiply-add counts 2, of complex numbers 8."""
    return (8 if left.dtype.is_complex else 2) * left.numel() * right.shape[-1]


product_flops._get_raw = True  # the counter hands over tensors then, not only their shapes
ALSO_COUNTED = {
    torch.ops.aten.linalg_qr: qr_flops,
    torch.ops.aten.mm: product_flops,
    torch.ops.aten.bmm: product_flops,
}
NO_WORK = {
    getattr(torch.ops.aten, name)
    for name in ("empty", "empty_like", "new_empty", "_unsafe_view", "lift_fresh", "scalar_tensor", "arange", "eye")
}


@check(devices=("cpu",))
def flops_agree_with_an_operator_count(method: Method, context: Context) -> None:
    """``cost(...).flops`` is within 2 % of PyTorch's operator count where the work is matrix products (a multiply-add
    counts 2); ``product_flops`` says how many those are where they are not all. Other work is held against the numbers
    that elementwise operations make: the floor is no more than two FLOPs for each of them, and no less than a tenth of
    one.
    """
    example = method.example(within(method, COUNTED_SIZE))
    counted, made = operations(method.function(method.ordinary), example)
    most = max(made, operations(method.fast, example)[1])
    cost = method.cost(*example.inputs.values(), **example.options)
    assert cost.flops > 0, "a call costs nothing"
    assert cost.backward_flops > 0 or not differentiable(method), "a backward pass costs nothing"
    said = cost.flops if cost.product_flops is None and counted else cost.product_flops or 0
    assert abs(said - counted) <= 0.02 * counted, f"cost says {said:g} FLOPs of products, PyTorch counts {counted:g}"
    rest = cost.flops - said
    figures = f"cost says {rest:g} elementwise FLOPs, and {made:g} numbers are made"
    assert rest <= 2 * most, figures
    assert counted or rest >= 0.1 * made, figures


def operations(function: Callable, example: Example) -> tuple[int, int]:
    """The FLOPs of products in a call, as PyTorch counts them, and how many numbers other operations make."""
    products = FlopCounterMode(display=False, custom_mapping=ALSO_COUNTED)
    with products, NumbersMade() as numbers:
        function(*example.inputs.values(), **accepted(function, example.options))
    return products.get_total_flops(), numbers.made


class NumbersMade(TorchDispatchMode):
    """Counts the numbers that operations make or reduce. Views and products count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        if operation.is_view or operation.overloadpacket in NO_WORK or operation.overloadpacket in ALSO_COUNTED:
            return result
        tensors = [leaf for leaf in tree_leaves((arguments, result)) if isinstance(leaf, Tensor)]
        self.made += max((tensor.numel() for tensor in tensors), default=0)
        return result


@check(devices=("cpu",))
def least_bytes(method: Method, context: Context) -> None:
    """``cost(...).bytes`` is the floor: every input read once, every result written once; statistics that are kept may
    add a tenth. ``cost`` needs shapes only, and so works on tensors of the device "meta". A method that does not read
    all of its inputs (a lookup in tables) says so, ``Traits(reads_all=False)``, and then claims less.
    """
    example = method.example(within(method, COUNTED_SIZE))
    output = named_tensors(call(method, "reference", example))
    floor = sum(tensor.nbytes for tensor in (*example.inputs.values(), *output.values()))
    cost = method.cost(*example.inputs.values(), **example.options)
    if method.traits.reads_all:
        assert floor <= cost.bytes <= 1.1 * floor, f"cost says {cost.bytes:g} bytes, inputs and results have {floor:g}"
        assert cost.backward_bytes >= floor or not differentiable(method), (
            "a backward pass moves less than a forward one"
        )
    else:
        assert 0 < cost.bytes < floor, (
            f"it says that it does not read all, and {cost.bytes:g} bytes are no less than all"
        )
    meta = method.example(within(method, COUNTED_SIZE), device="meta")
    assert method.cost(*meta.inputs.values(), **meta.options) == cost, "on meta tensors the cost is another"


@check
def workspace_bounds_the_peak(method: Method, context: Context) -> None:
    """``workspace(implementation, ...)``, by which a run is refused before it exhausts the memory, is never less than
    what a forward call without gradients holds at its peak beside inputs and results, and not more than three times
    that, but for a MiB a thread.
    """
    example = method.example(within(method, MEASURED_SIZE), device=context.device)
    for implementation in OWN:
        if not context.runs(method, implementation, example):
            continue
        with torch.no_grad():
            output = call(method, implementation, example)  # what is made once and kept is no workspace
            measured = peak_bytes(
                lambda implementation=implementation: call(method, implementation, example), context.device
            )
        measured -= sum(tensor.nbytes for tensor in named_tensors(output).values())
        estimate = method.workspace(implementation, *example.inputs.values(), **example.options)
        small_change = 2**20 * (1 + torch.get_num_threads())  # what a kernel keeps per thread, whatever the size
        figures = f"{method.name}.{implementation} holds {measured} bytes, and says {estimate}"
        assert measured <= estimate + small_change, f"{figures}: too few"
        assert estimate <= 3 * measured + small_change, f"{figures}: so many would refuse what fits"
