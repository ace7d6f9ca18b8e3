"""How much memory a call takes, and how much there is."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def memory_limit(device: str) -> int:
    """The bytes that we allow ourselves: four fifths of what is free on a GPU, half of what is available to a CPU."""
    if device == "cuda":
        held_but_unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(0.8 * (torch.cuda.mem_get_info()[0] + held_but_unused))
    return psutil.virtual_memory().available // 2


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """The most bytes of tensors that lived at one moment of ``call()``, beside what lived before.

    The result of the call counts. On a CPU every operator's outputs are followed until they die: exact for tensors that
    operators make, blind to what one operator allocates and frees inside itself.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _LiveBytes() as watched:
        call()
    return watched.peak


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dictionaries, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def in_words(count: float) -> str:
    """A number of bytes for people: ``"1.5 GiB"``."""
    power = 0
    while count >= 1000 and power < 4:
        count /= 1024
        power += 1
    return f"{count:.3g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages from the operator that makes them to the moment when the last tensor lets go."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[weakref.ref, int] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        before = {tensor.untyped_storage() for tensor in tensors((arguments, keywords))}
        result = function(*arguments, **keywords)
        for tensor in tensors(result):
            storage = tensor.untyped_storage()
            key = weakref.ref(storage, self._died)
            if key in self._sizes or storage not in before:
                # An operator may also grow a storage that is counted already (out=, resize_): add the difference.
                self.live += storage.nbytes() - self._sizes.get(key, 0)
                self._sizes[key] = storage.nbytes()
        self.peak = max(self.peak, self.live)
        return result

    def _died(self, key: weakref.ref) -> None:
        self.live -= self._sizes.pop(key, 0)
