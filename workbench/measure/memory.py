"""How much memory a call takes, and how much there is."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import torch
from torch import Tensor
from torch._C._profiler import ProfilerConfig, ProfilerState, _ExperimentalConfig
from torch.utils._pytree import tree_leaves

from workbench.writing import quantity


def memory_limit(device: str) -> int:
    """The bytes that we allow ourselves: four fifths of what is free on a GPU, half of what is available to a CPU."""
    if device == "cuda":
        held_but_unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(0.8 * (torch.cuda.mem_get_info()[0] + held_but_unused))
    return psutil.virtual_memory().available // 2


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """The most bytes of tensors that lived at one moment of ``call()``, beside what lived before.

    The result of the call counts, and so does what an operator allocates and frees inside itself. CUDA: the allocator's
    peak statistics. CPU: every allocation and release that PyTorch's CPU allocator reports in this thread.
    """
    with _nothing_collected():
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        changes = _cpu_allocations(call)
    live = peak = 0
    for change in changes:
        live += change
        peak = max(peak, live)
    return peak


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """No old garbage is given back meanwhile, as if this call had freed it.

    Collecting it beforehand would do, too, but stops every thread: for a second in a server with many visitors.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _cpu_allocations(call: Callable[[], Any]) -> list[int]:
    """The sizes of what was allocated (positive) and released (negative) during the call, in order.

    The older of PyTorch's two profilers is asked: it is private to the thread and quiet. A ``TorchDispatchMode`` would
    see neither what happens inside an operator nor code made by ``torch.compile``, which it even switches off.
    """
    settings = ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
    torch._C._autograd._enable_profiler_legacy(settings)
    try:
        call()
    finally:
        threads = torch._C._autograd._disable_profiler_legacy()
    return [event.cpu_memory_usage() for events in threads for event in events if event.kind() == "memory_alloc"]


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dictionaries, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def in_words(count: float) -> str:
    """A number of bytes for people: ``"1.5 GiB"``."""
    power = 0
    while count >= 1000 and power < 4:
        count /= 1024
        power += 1
    return quantity(count, ("bytes", "KiB", "MiB", "GiB", "TiB")[power])


def saved_bytes(function: Callable[..., Tensor], *inputs: Tensor, **options: object) -> int:
    """Bytes that autograd keeps for the backward pass of ``function(*inputs, **options)``; shared ones count once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = function(*(tensor.detach().requires_grad_() for tensor in inputs), **options)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del output
    return total
