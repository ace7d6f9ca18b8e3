"""Under ``torch.compile``."""

import contextlib
import shutil
import sys
from unittest import mock

import torch
import torch._inductor.config

from workbench.conformance.cases import differentiable, floating, small, with_inputs
from workbench.conformance.checks import CannotRunHere, Context, check
from workbench.conformance.closeness import assert_close, named_tensors
from workbench.paper import Method


def compiled_equals_eager(method: Method, backend: str, device: str) -> None:
    example = small(method, 9, device=device)
    order = list(floating(example)) if differentiable(method) else []

    def results(function) -> dict[str, torch.Tensor]:
        inputs = {name: example.inputs[name].clone().requires_grad_() for name in order}
        output = named_tensors(function(*with_inputs(example, inputs).inputs.values()))
        found = {name: each.detach() for name, each in output.items()}
        if order:
            total = sum(each.square().sum() for each in output.values() if each.requires_grad)
            gradients = torch.autograd.grad(total, list(inputs.values()), materialize_grads=True)
            found |= {f"gradient of {name}": each for name, each in zip(inputs, gradients, strict=True)}
        return found

    def eager(*inputs):
        return method(*inputs, **example.options)

    torch._dynamo.reset()
    compiled = torch.compile(eager, fullgraph=True, backend=backend)
    caches = torch._inductor.config.patch(force_disable_caches=True)  # they may hold what a method was before
    with caches if backend == "inductor" else contextlib.nullcontext():
        found = results(compiled)
    expected = results(eager)
    assert list(found) == list(expected)
    for name in expected:
        assert_close(found[name], expected[name], tolerance=1e-5, name=f"{method.name}: {name}")


@check(devices=("cpu",))
def compiles_into_one_graph(method: Method, context: Context) -> None:
    """A call can be traced whole (``torch.compile(fullgraph=True)``), forward and backward, and gives what the eager
    call gives: the choice of the implementation and the checks of inputs and knobs are such as Dynamo can follow.
    """
    compiled_equals_eager(method, "aot_eager", context.device)


@check(devices=("cpu",))
def a_kernel_can_be_asked_inside_of_a_graph(method: Method, context: Context) -> None:
    """What decides between ``fast`` and ``reference`` on a GPU is traced as well; here the kernel is asked on a CPU."""
    home = sys.modules[method.why_not_fast.__module__]
    example = small(method, 9)

    def asked(*inputs):
        return inputs[0] + len(method.why_not("fast", *inputs, **example.options))

    def kernel(x, why_not, *arguments):
        return why_not(*arguments)

    there = hasattr(home, "kernel_or_cpu")
    with mock.patch.object(home, "kernel_or_cpu", kernel) if there else mock.patch.dict({}):
        torch._dynamo.reset()
        inputs = list(example.inputs.values())
        compiled = torch.compile(asked, fullgraph=True, backend="eager")
        assert torch.equal(compiled(*inputs), asked(*inputs))


@check(costly=True)
def compiles_to_machine_code(method: Method, context: Context) -> None:
    """The same through Inductor, PyTorch's compiler: C++ on a CPU, Triton on a GPU."""
    if context.device == "cpu" and not shutil.which("g++") and not shutil.which("clang++"):
        raise CannotRunHere("torch.compile needs a C++ compiler on a CPU, and none is here.")
    compiled_equals_eager(method, "inductor", context.device)
