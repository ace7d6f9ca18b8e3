"""Simulated ranks: what arrives, how many bytes each link carries, and that nothing hangs."""

import asyncio

import pytest
import torch

from workbench.models.ranks import Stuck, run

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
ITEM = 8  # bytes of a float64


def tensors(size, *shape):
    return [torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(r)) for r in range(size)]


async def each_collective(rank, x):
    return {
        "all-reduce": await rank.all_reduce(x),
        "all-gather": await rank.all_gather(x),
        "reduce-scatter": await rank.reduce_scatter(x),
        "all-to-all": await rank.all_to_all(list(x)),
        "broadcast": await rank.broadcast(x if rank.index == rank.size - 1 else None, source=rank.size - 1),
    }


@SIZES
def test_collectives_give_what_torch_gives_on_the_whole_tensor(size):
    mine = tensors(size, size, 3)
    whole = torch.stack(mine)
    results = run(each_collective, size, mine).results
    for index, found in enumerate(results):
        torch.testing.assert_close(found["all-reduce"], whole.sum(0), rtol=0, atol=1e-14)
        assert torch.equal(found["all-reduce"], results[0]["all-reduce"]), "every rank has the same bits"
        torch.testing.assert_close(found["reduce-scatter"], whole.sum(0)[index : index + 1], rtol=0, atol=1e-14)
        assert torch.equal(torch.stack(found["all-gather"]), whole)
        assert torch.equal(torch.stack(found["all-to-all"]), whole[:, index])
        assert torch.equal(found["broadcast"], mine[-1])


@SIZES
def test_the_bytes_are_those_of_the_ring_algorithms(size):
    made = run(each_collective, size, tensors(size, size, 3))
    whole = 3 * size * ITEM  # of one rank's tensor
    expected = {
        "all-reduce": 2 * (size - 1) * whole,  # of all ranks: 2 (n - 1) / n each
        "all-gather": size * (size - 1) * whole,
        "reduce-scatter": (size - 1) * whole,
        "all-to-all": (size - 1) * whole,
        "broadcast": (size - 1) * whole,
    }
    assert made.bytes_by_operation() == (expected if size > 1 else {})
    assert sum(made.bytes_by_link().values()) == sum(expected.values())
    assert sum(made.bytes_sent(rank) for rank in range(size)) == sum(expected.values())


def test_an_all_reduce_is_shared_out_evenly_over_links_and_takes_2_n_minus_1_steps():
    async def worker(rank, x):
        return await rank.all_reduce(x)

    made = run(worker, 4, [torch.arange(8) for _ in range(4)])
    assert made.bytes_by_link() == {(r, (r + 1) % 4): 2 * 3 * 8 * ITEM // 4 for r in range(4)}
    assert made.steps == 6 and made.bytes_by_link(until=3) == {(r, (r + 1) % 4): 3 * 8 * ITEM // 4 for r in range(4)}
    uneven = run(worker, 4, [torch.arange(7) for _ in range(4)])
    assert torch.equal(uneven.results[2], 4 * torch.arange(7))
    assert uneven.bytes_by_operation() == {"all-reduce": 2 * 3 * 7 * ITEM}, "chunks that differ add up to the same"


async def passed_on(rank, chunk):
    rank.hold(chunk=f"K{int(chunk)}")
    seen = [int(chunk)]
    for _ in range(rank.size - 1):
        chunk = await rank.ring_exchange(chunk, what=f"K{int(chunk)}")
        rank.hold(chunk=f"K{int(chunk)}")
        seen.append(int(chunk))
    return seen


@SIZES
def test_after_each_exchange_a_rank_has_the_chunk_of_one_rank_further_back(size):
    made = run(passed_on, size, [torch.tensor(r) for r in range(size)])
    assert made.results == tuple([(rank - i) % size for i in range(size)] for rank in range(size))
    assert made.steps == size - 1
    for step in range(size):
        for rank in range(size):
            assert made.held(rank, step) == {"chunk": f"K{(rank - step) % size}"}


def test_what_is_started_runs_beside_what_comes_after_it():
    """Two all-reduces under way at once take the steps of one; one after the other those of both."""

    async def together(rank, x):
        first, second = rank.all_reduce(x), rank.all_reduce(2 * x)
        return await second - await first

    async def in_turn(rank, x):
        return await rank.all_reduce(await rank.all_reduce(x))

    mine = tensors(3, 6)
    made = run(together, 3, mine)
    torch.testing.assert_close(made.results[1], sum(mine))
    assert (made.steps, run(in_turn, 3, mine).steps) == (4, 8)


def test_gradients_flow_through_what_is_sent():
    mine = [each.requires_grad_() for each in tensors(3, 6)]

    async def worker(rank, x):
        return (await rank.all_reduce(x)).square().sum()

    sum(run(worker, 3, mine).results).backward()
    expected = 3 * 2 * sum(mine).detach()
    for each in mine:
        torch.testing.assert_close(each.grad, expected)


def test_what_arrives_is_a_copy():
    async def worker(rank, x):
        arrived = await rank.ring_exchange(x)
        return arrived.zero_()

    mine = [torch.ones(2), torch.ones(2)]
    run(worker, 2, mine)
    assert all(torch.equal(each, torch.ones(2)) for each in mine)


# --- what cannot go on is refused ---


async def both_send_first(rank):
    await rank.send(torch.ones(2), to=rank.next)
    await rank.recv(source=rank.previous)


async def nobody_receives(rank):
    rank.send(torch.ones(2), to=rank.next)


async def one_stays_away(rank):
    if rank.index:
        await rank.all_reduce(torch.ones(2))


async def other_operations(rank):
    await (rank.all_reduce(torch.ones(2)) if rank.index else rank.all_gather(torch.ones(2)))


async def other_shapes(rank):
    await rank.all_reduce(torch.ones(2 + rank.index))


async def other_dtypes(rank):
    await rank.all_reduce(torch.ones(2, dtype=torch.float64 if rank.index else torch.float32))


async def unexpected_shape(rank):
    if rank.index == 0:
        await rank.send(torch.ones(2, 3), to=1)
    if rank.index == 1:
        await rank.recv(source=0, like=torch.ones(3))


async def no_tensor(rank):
    await rank.ring_exchange("K")


async def no_such_rank(rank):
    await rank.recv(source=7)


async def to_itself(rank):
    await rank.send(torch.ones(1), to=rank.index)


async def no_even_share(rank):
    await rank.reduce_scatter(torch.ones(4, 3))


async def too_few_parts(rank):
    await rank.all_to_all([torch.ones(1)])


async def waits_for_something_else(rank):
    await asyncio.sleep(0)


def no_program(rank):
    return torch.ones(1)


@pytest.mark.parametrize(
    "worker, error, words",
    [
        (both_send_first, Stuck, r"rank 1 waits to send \(2,\) float32 to rank 2; rank 2 waits to send"),
        (nobody_receives, Stuck, "only one side knows of.*: from rank 0 to rank 1"),
        (one_stays_away, Stuck, "rank 0 has come to its end; rank 1 waits to finish an all-reduce"),
        (other_operations, ValueError, "Rank 1 calls all-reduce .* where rank 0 calls all-gather"),
        (other_shapes, ValueError, r"all-reduce of \(3,\) float32 where rank 0 calls all-reduce of \(2,\) float32"),
        (other_dtypes, ValueError, r"all-reduce of \(2,\) float64 where rank 0 calls all-reduce of \(2,\) float32"),
        (unexpected_shape, ValueError, r"Rank 1 expects \(3,\) float32 from rank 0, which sends \(2, 3\) float32"),
        (no_tensor, ValueError, "Ranks send tensors, not str"),
        (no_such_rank, ValueError, "There is no rank 7: there are ranks 0 to 2"),
        (to_itself, ValueError, "Rank 0 cannot send to itself"),
        (no_even_share, ValueError, "cannot be shared out evenly among 3 ranks"),
        (too_few_parts, ValueError, "one tensor for each of 3 ranks, not 1"),
        (waits_for_something_else, TypeError, "can await what its rank starts, and nothing else"),
        (no_program, TypeError, "no_program is no async function"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_program_that_cannot_go_on_is_refused_with_a_sentence(worker, error, words):
    with pytest.raises(error, match=words):
        run(worker, 3)


def test_an_error_says_on_which_rank_it_was():
    async def worker(rank):
        await rank.all_reduce(torch.ones(1))
        assert rank.index != 1, "wrong"

    with pytest.raises(AssertionError, match="wrong") as caught:
        run(worker, 2)
    assert caught.value.__notes__[-1] == "This was on rank 1."


def test_every_rank_needs_its_input():
    with pytest.raises(ValueError, match="3 ranks need 3 of every input"):
        run(passed_on, 3, [torch.tensor(1)])
