"""Collective operations, as each rank runs them: a ring in which everybody sends to the next and hears the previous.

These are the algorithms, written with the messages of ``workbench.models.ranks`` and nothing else. For a tensor of S
bytes on n ranks a rank sends (n - 1) / n S for a reduce-scatter, and as much again for the all-gather that makes an
all-reduce of it: 2 (n - 1) / n S, which hardly depends on n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from workbench.models.ranks import Rank


def describe(tensor: Tensor) -> str:
    """Shape and dtype in words. Raises ``ValueError`` for what is no tensor."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"Ranks send tensors, not {type(tensor).__name__}.")
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


async def reduce_chunks(rank: Rank, chunks: Sequence[Tensor]) -> Tensor:
    """Chunk number ``rank.index``, summed over all ranks. A sum travels around the ring and grows at every rank."""
    travelling = chunks[rank.previous]
    for step in range(1, rank.size):
        chunk = (rank.index - step - 1) % rank.size
        arrived = await rank.ring_exchange(travelling, what=f"sum {(chunk + 1) % rank.size}")
        travelling = arrived + chunks[chunk]
    return travelling if rank.size > 1 else chunks[0].clone()


async def gather_chunks(rank: Rank, own: Tensor) -> list[Tensor]:
    """The chunks of all ranks, in their order. Everybody hands on what arrived last."""
    chunks = {rank.index: own}
    for step in range(rank.size - 1):
        chunk = (rank.index - step) % rank.size
        chunks[(chunk - 1) % rank.size] = await rank.ring_exchange(chunks[chunk], what=f"chunk {chunk}")
    return [chunks[index] for index in range(rank.size)]


async def all_reduce(rank: Rank, tensor: Tensor) -> Tensor:
    """A reduce-scatter and an all-gather of chunks, as even as they can be."""
    own = await reduce_chunks(rank, tensor.flatten().tensor_split(rank.size))
    return torch.cat(await gather_chunks(rank, own)).reshape(tensor.shape)


async def all_gather(rank: Rank, tensor: Tensor) -> list[Tensor]:
    return await gather_chunks(rank, tensor)


async def reduce_scatter(rank: Rank, tensor: Tensor) -> Tensor:
    return await reduce_chunks(rank, tensor.chunk(rank.size))


async def all_to_all(rank: Rank, tensors: Sequence[Tensor]) -> list[Tensor]:
    """In round r everybody sends to the rank r places further, and hears the one r places back."""
    arrived = {rank.index: tensors[rank.index]}
    for distance in range(1, rank.size):
        to, source = (rank.index + distance) % rank.size, (rank.index - distance) % rank.size
        arrived[source] = await rank.exchange(tensors[to], to=to, source=source, what=f"part {to}")
    return [arrived[index] for index in range(rank.size)]


async def broadcast(rank: Rank, tensor: Tensor | None, source: int) -> Tensor:
    """From neighbour to neighbour, each hands on what came."""
    found = tensor if rank.index == source else await rank.recv(source=rank.previous)
    if rank.next != source:
        await rank.send(found, to=rank.next, what="copy")
    return found
