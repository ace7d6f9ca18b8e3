"""What every method of the catalog must do, whatever paper it comes from. A new paper is tested here by existing."""

import functools
import inspect
import math
import reprlib
import shutil
import sys
from itertools import chain

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from comparison import accepted, assert_close, check, run
from workbench.catalog import methods
from workbench.measure import peak_bytes
from workbench.paper import Example, Method, Unavailable

pytestmark = [pytest.mark.usefixtures("poisoned_memory"), pytest.mark.timeout(120)]

METHODS = methods()
MAPPED = {name: method for name, method in METHODS.items() if method.shows_map}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = ["float64", "float32", "bfloat16", "float16"]

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_map = pytest.mark.parametrize("method", MAPPED.values(), ids=MAPPED)
every_device = pytest.mark.parametrize("device", DEVICES)


def small(method: Method, size: int, wide: int = 20, **settings) -> Example:
    """An example with its wide dimensions (a default over 16) cut to 20: no power of two, more than one vector."""
    shape = {
        name: wide
        for name, knob in method.shape_knobs.items()
        if knob.kind == "int" and knob.default and knob.default > 16
    }
    return method.example(within(method, size), **{**shape, **settings})


def within(method: Method, size: int) -> int:
    """The size, or the largest that the method can take."""
    return min(size, method.largest or size)


def call(method: Method, implementation: str, example: Example, **options):
    return method(*example.inputs.values(), implementation=implementation, **{**example.options, **options})


def values_to_try(knob) -> list:
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


def reasons(method: Method, implementation: str, example: Example, **options) -> list[str]:
    return method.why_not(implementation, *example.inputs.values(), **{**example.options, **options})


def skip_unless_it_runs(method: Method, implementation: str, example: Example) -> None:
    if sentences := reasons(method, implementation, example):
        pytest.skip(" ".join(sentences))


# --- right results ---------------------------------------------------------------------------------------------------


@every_device
@every_method
@pytest.mark.parametrize("size", [1, 7, 33, 130])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fast_equals_reference(method, dtype, size, device):
    example = small(method, size, dtype=dtype, device=device)
    skip_unless_it_runs(method, "fast", example)
    check(method, example)


@every_device
@every_method
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fast_equals_reference_for_every_shape(method, dtype, device):
    """One shape knob after the other, at its smallest, twice that, and odd: a batch of one, one head, width 1 ..."""
    for name, knob in method.shape_knobs.items():
        for value in values_to_try(knob):
            try:
                example = small(method, 9, dtype=dtype, device=device, **{name: value})
            except ValueError:  # this value does not go with the other knobs' defaults
                continue
            if not reasons(method, "fast", example):
                check(method, example)


@every_device
@every_method
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fast_equals_reference_for_every_option(method, dtype, device):
    for name, knob in method.knobs.items():
        for value in values_to_try(knob):
            example = small(method, 19, dtype=dtype, device=device)
            example = Example(example.inputs, {**example.options, name: value})
            if not reasons(method, "fast", example):
                check(method, example)


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers with gaps between them, as a slice of something larger has."""
    return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1)[..., 0]


def swapped(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers laid out as a projection leaves them: the two outer axes of the matrix in memory order."""
    return tensor.transpose(-3, -2).contiguous().transpose(-3, -2) if tensor.ndim > 2 else tensor.mT.contiguous().mT


@every_device
@every_method
@pytest.mark.parametrize("layout", [strided, swapped], ids=lambda layout: layout.__name__)
def test_fast_takes_inputs_that_are_not_contiguous(method, layout, device):
    example = small(method, 17, device=device)
    skip_unless_it_runs(method, "fast", example)
    inputs = {name: layout(tensor) if tensor.ndim > 1 else tensor for name, tensor in example.inputs.items()}
    assert not all(tensor.is_contiguous() for tensor in inputs.values())
    check(method, Example(inputs, example.options))


BASELINES = {f"{method.name}-{name}": (method, name) for method in METHODS.values() for name in method.baselines}


@every_device
@pytest.mark.parametrize(("method", "baseline"), BASELINES.values(), ids=BASELINES)
def test_a_baseline_computes_the_same_function(method, baseline, device):
    dtype = "float32" if device == "cpu" else "bfloat16"
    example = small(method, 33, dtype=dtype, device=device)
    skip_unless_it_runs(method, baseline, example)
    check(method, example, implementation=baseline)


@every_method
def test_gradients_of_the_reference(method):
    example = small(method, 3, wide=4, dtype="float64")
    inputs = [tensor.detach().requires_grad_() for tensor in example.inputs.values()]
    assert torch.autograd.gradcheck(functools.partial(method.reference, **example.options), inputs)


@every_device
@every_method
@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_no_input_is_changed(method, implementation, device):
    example = small(method, 9, device=device)
    skip_unless_it_runs(method, implementation, example)
    before = {name: tensor.clone() for name, tensor in example.inputs.items()}
    run(method, implementation, example, torch.float32)
    for name, tensor in example.inputs.items():
        assert torch.equal(tensor, before[name]), f"{method.name} changed its {name}"


@every_device
@every_method
def test_nan_stays_where_it_is(method, device):
    """A NaN in one batch element or row neither hangs nor spoils another, and is not lost."""
    example = small(method, 6, device=device, **({"batch": 2} if "batch" in method.shape_knobs else {}))
    first = next(iter(example.inputs.values()))
    first[0] = torch.nan
    for implementation in ("reference", "fast"):
        if not reasons(method, implementation, example):
            output = call(method, implementation, example)
            assert output[1:].isfinite().all()
            assert output[0].isnan().any()


# --- asked wrongly ---------------------------------------------------------------------------------------------------


@every_method
def test_knobs_are_validated(method):
    example = small(method, 3)
    for name, knob in method.knobs.items():
        bad = ["nonsense", object(), torch.nan]
        if knob.range is not None:
            bad += [knob.range.low - 1, knob.range.high + 1, torch.inf]
        if not knob.optional:
            bad.append(None)
        for value in bad:
            with pytest.raises(ValueError, match=f"{name} = .*choose") as caught:
                call(method, "auto", example, **{name: value})
            assert reprlib.repr(value) in str(caught.value)


@every_method
def test_an_unknown_option_is_refused(method):
    with pytest.raises(TypeError, match="no option 'colour'"):
        call(method, "auto", small(method, 3), colour="red")


@every_method
def test_an_unknown_implementation_is_refused(method):
    with pytest.raises(ValueError, match="no implementation 'quick'.*reference"):
        call(method, "quick", small(method, 3))


@every_method
def test_an_implementation_runs_or_says_why_not(method):
    example = small(method, 5)
    for implementation in method.implementations:
        sentences = reasons(method, implementation, example)
        assert isinstance(sentences, list)
        assert all(sentence.endswith(".") and len(sentence.split()) > 3 for sentence in sentences)
        if sentences:
            with pytest.raises(Unavailable) as caught:
                call(method, implementation, example)
            assert all(sentence in str(caught.value) for sentence in sentences)
    assert not reasons(method, "reference", example)


@every_map
@pytest.mark.parametrize("implementation", ["auto", "reference", "fast"])
def test_attention_refuses_inputs_that_do_not_fit(method, implementation):
    query, key, value = method.example(5, heads=2, head_dim=4).inputs.values()
    wrong = {
        "three axes": (query[0], key[0], value[0]),
        "another head_dim": (query[..., :3], key, value),
        "fewer values than keys": (query, key, value[:, :, :-1]),
        "another batch": (query, key.expand(3, -1, -1, -1), value.expand(3, -1, -1, -1)),
        "no tokens": (query, key[:, :, :0], value[:, :, :0]),
        "two dtypes": (query, key.double(), value),
        "whole numbers": (query.long(), key.long(), value.long()),
    }
    for what, inputs in wrong.items():
        with pytest.raises(ValueError, match=r"\w+ \w+"):
            method(*inputs, implementation=implementation)
            pytest.fail(f"{method.name} took {what}")


# --- used in a model -------------------------------------------------------------------------------------------------


def compiled_equals_eager(method: Method, backend: str, device: str = "cpu") -> None:
    example = small(method, 9, device=device)

    def results(function):
        inputs = [tensor.clone().requires_grad_() for tensor in example.inputs.values()]
        output = function(*inputs)
        return [output, *torch.autograd.grad(output.square().sum(), inputs)]

    def eager(*inputs):
        return method(*inputs, **example.options)

    torch._dynamo.reset()
    compiled = torch.compile(eager, fullgraph=True, backend=backend)
    for result, expected in zip(results(compiled), results(eager), strict=True):
        assert_close(result, expected, tolerance=1e-5, name=method.name)


@every_method
def test_compiles_into_one_graph(method):
    compiled_equals_eager(method, "aot_eager")


@every_method
def test_a_kernel_can_be_asked_inside_of_a_compiled_graph(method, monkeypatch):
    """What decides between ``fast`` and ``reference`` on a GPU is traced as well; here the kernel is asked on a CPU."""
    home = sys.modules[method.why_not_fast.__module__]
    if hasattr(home, "kernel_or_cpu"):
        monkeypatch.setattr(home, "kernel_or_cpu", lambda x, why_not, *arguments: why_not(*arguments))
    example = small(method, 9)

    def asked(*inputs):
        return inputs[0] + len(method.why_not("fast", *inputs, **example.options))

    torch._dynamo.reset()
    inputs = list(example.inputs.values())
    compiled = torch.compile(asked, fullgraph=True, backend="eager")
    assert torch.equal(compiled(*inputs), asked(*inputs))


@pytest.mark.parametrize("toggle", sorted({method.toggle for method in METHODS.values() if method.toggle}))
def test_compiles_to_machine_code(toggle):
    if not shutil.which("g++") and not shutil.which("clang++"):
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and none is here.")
    compiled_equals_eager(next(reversed(methods(toggle).values())), "inductor")


@pytest.mark.gpu
@every_method
def test_compiles_to_a_kernel(method):
    compiled_equals_eager(method, "inductor", device="cuda")


WEIGHTED = {name: method for name, method in METHODS.items() if method.layer}


@pytest.mark.parametrize("method", WEIGHTED.values(), ids=WEIGHTED)
def test_the_layer_holds_weights_only(method):
    layer = method.layer(20)
    x = torch.randn(3, 20 * method.branches)
    assert list(layer.parameters())
    assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}
    output = layer(x)
    assert output.shape == (3, 20)
    if "implementation" in inspect.signature(method.layer).parameters:
        other = method.layer(20, implementation="reference")
        other.load_state_dict(layer.state_dict())
        assert_close(output, other(x), tolerance=1e-5)


# --- shown and counted -----------------------------------------------------------------------------------------------


@every_device
@every_map
@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_the_map_times_value_is_the_output(method, implementation, device):
    plain = method.example(11, heads=4, kv_heads=2, head_dim=4, batch=2, device=device)
    skip_unless_it_runs(method, implementation, plain)
    switches = [{}] + [{name: value} for name, knob in method.knobs.items() for value in values_to_try(knob)]
    for changed in switches:
        options = {**plain.options, **changed}
        query, key, value = plain.inputs.values()
        weights = method.attention_map(query, key, implementation=implementation, **options)
        assert weights.shape == (2, 4, 11, 11)
        output = call(method, implementation, plain, **options)
        value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        assert_close(weights.double() @ value.double(), output, tolerance=1e-5, name=f"{method.name} with {options}")


@every_method
def test_only_attention_has_a_map(method):
    if not method.shows_map:
        with pytest.raises(TypeError, match="no attention map"):
            method.attention_map(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))


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


@every_method
def test_counted_flops(method):
    """``cost`` agrees with PyTorch's operator count, for methods whose work PyTorch counts (matrix products)."""
    example = method.example(within(method, 48))
    with FlopCounterMode(display=False, custom_mapping=ALSO_COUNTED) as counter:
        method.function(method.ordinary)(*example.inputs.values(), **example.options)
    counted = counter.get_total_flops()
    cost = method.cost(*example.inputs.values(), **example.options)
    assert cost.flops > 0 and cost.backward_flops > 0
    if counted:
        assert cost.flops == pytest.approx(counted, rel=0.02)


@every_method
def test_least_bytes(method):
    """Every input is read once and every output written once; statistics that are kept add a few per cent."""
    example = method.example(within(method, 48))
    output = call(method, "reference", example)
    floor = sum(tensor.nbytes for tensor in chain(example.inputs.values(), [output]))
    cost = method.cost(*example.inputs.values(), **example.options)
    assert floor <= cost.bytes <= 1.1 * floor
    assert cost.backward_bytes >= floor
    meta = method.example(within(method, 48), device="meta")
    assert method.cost(*meta.inputs.values(), **meta.options) == cost


@every_device
@every_method
@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_workspace_bounds_the_peak(method, implementation, device):
    """The estimate that guards a run is never too low, and not so high that it would refuse what fits."""
    example = method.example(within(method, 1000), device=device)
    skip_unless_it_runs(method, implementation, example)
    call(method, implementation, example)  # what is made once and kept (handles, caches) is no workspace
    measured = peak_bytes(lambda: call(method, implementation, example), device)
    measured -= call(method, implementation, example).nbytes
    estimate = method.workspace(implementation, *example.inputs.values(), **example.options)
    small_change = 2**20 * (1 + torch.get_num_threads())  # what a kernel keeps per thread, whatever the size
    assert measured <= estimate + small_change
    assert estimate <= 3 * measured + small_change


@every_method
def test_an_example_is_repeatable(method):
    first, second, other = (small(method, 5, seed=seed).inputs for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert set(accepted(method.reference, first)) == set(first)


# --- the catalog and the tools of this file --------------------------------------------------------------------------


@every_method
def test_complete(method):
    assert {"float64", "float32"} <= set(method.tolerance)
    assert method.title and method.idea.endswith(".")
    assert method.ordinary in method.implementations
    assert method.reference.__doc__ and method.fast.__doc__
    assert dict(method.knobs) == dict(METHODS[method.name].knobs)


def test_poison_reaches_custom_operators():
    """The fixture must poison what an operator allocates, behind ``torch.library`` and in a backward pass, too."""

    @torch.library.custom_op("workbench_tests::forgetful", mutates_args=())
    def forgetful(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    def backward(context, gradient):
        return torch.empty_like(gradient)

    forgetful.register_autograd(backward)
    x = torch.ones(64, requires_grad=True)
    output = forgetful(x)
    assert output.isnan().all()
    assert torch.autograd.grad(output, x, torch.ones(64))[0].isnan().all()
    for forgotten in (torch.empty(3), torch.empty_strided((2, 2), (2, 1)), x.new_empty(5)):
        assert forgotten.isnan().all()
