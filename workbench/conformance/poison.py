"""Uninitialised memory that is seen: what an implementation forgets to write is NaN."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch

ALLOCATE = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (torch.Tensor, "new_empty"),
    (torch.Tensor, "new_empty_strided"),
)


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Uninitialised memory is NaN: a kernel that forgets to write a tile fails at once, not one day in a thousand.

    PyTorch has ``torch.utils.deterministic.fill_uninitialized_memory`` for this, but it acts only together with
    deterministic algorithms, and those would choose other code paths than the ones that users run.
    """
    with contextlib.ExitStack() as stack:
        for owner, name in ALLOCATE:
            stack.enter_context(mock.patch.object(owner, name, _filled_with_nan(getattr(owner, name))))
        yield


def _filled_with_nan(allocate):
    def poisoned(*arguments, **options):
        tensor = allocate(*arguments, **options)
        traced = torch._C._len_torch_dispatch_stack() > 0  # no memory yet, and filling it would stand in the graph
        if tensor.is_floating_point() and not tensor.is_meta and not traced:
            tensor.detach().fill_(torch.nan)
        return tensor

    return poisoned
