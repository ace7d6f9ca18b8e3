"""Every check of the conformance suite on every method of the catalog. A new paper is tested here by existing.

What a check asks is its docstring: ``workbench check --explain``. What ran, what a trait exempts and what cannot run
here is told in a table at the end of the run.
"""

import time

import pytest
import torch

from workbench.catalog import methods
from workbench.conformance import CHECKS, Check, poisoned_memory, run_check
from workbench.paper import Method

METHODS = methods()
OF_SLOT = {(method.toggle, type(method.slot)): method for method in METHODS.values() if method.slot}


def asked_of(check: Check, device: str) -> list[Method]:
    """A costly check is made for one method a slot on a CPU, and for all of them on a GPU."""
    return list(OF_SLOT.values() if check.costly and device == "cpu" else METHODS.values())


CASES = [
    pytest.param(
        check, method, device, id=f"{check.name}-{method.name}-{device}", marks=[pytest.mark.gpu] * (device == "cuda")
    )
    for device in ("cpu", "cuda")
    for check in CHECKS.values()
    if device in check.devices
    for method in asked_of(check, device)
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("check", "method", "device"), CASES)
def test_conformance(check, method, device, record_property):
    start = time.process_time()
    result, sentence = run_check(check, method, device)
    seconds = time.process_time() - start
    record_property("outcome", [check.name, method.name, device, result, sentence, seconds])
    if result == "cannot run here":
        pytest.skip(sentence)


def test_poison_reaches_custom_operators():
    """It must poison what an operator allocates, behind ``torch.library`` and in a backward pass, too."""

    @torch.library.custom_op("workbench_tests::forgetful", mutates_args=())
    def forgetful(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    def backward(context, gradient):
        return torch.empty_like(gradient)

    forgetful.register_autograd(backward)
    x = torch.ones(64, requires_grad=True)
    with poisoned_memory():
        output = forgetful(x)
        assert output.isnan().all()
        assert torch.autograd.grad(output, x, torch.ones(64))[0].isnan().all()
        for forgotten in (torch.empty(3), torch.empty_strided((2, 2), (2, 1)), x.new_empty(5)):
            assert forgotten.isnan().all()
