"""Simulated ranks on the page: what each holds, what is sent in a step, what the links have carried."""

import re

import pytest
import torch

from workbench import plots
from workbench.models.ranks import run
from workbench.plots.ranks import in_sentence
from workbench_widgets import rank_viewer


async def ring(rank, x):
    rank.hold(chunk=f"K{rank.index}")
    for step in range(rank.size - 1):
        x = await rank.ring_exchange(x, what=f"K{(rank.index - step) % rank.size}")
        rank.hold(chunk=f"K{(rank.index - step - 1) % rank.size}")
    return x


async def all_to_all(rank):
    return await rank.all_to_all(list(torch.ones(rank.size, 256)))


def made(size):
    return run(ring, size, [torch.ones(256) for _ in range(size)])


def words(picture):
    return re.findall(r">([^<>]+)</text>", picture)


def test_a_step_shows_what_is_sent_and_what_is_then_held():
    viewer = rank_viewer(made(4))
    assert viewer.step == 1 and "4 messages, 4 KiB · 4 KiB of 12 KiB are sent" in viewer.picture
    assert words(viewer.picture).count("K0 · 1 KiB") == 1 and "chunk: K3" in words(viewer.picture)
    viewer.step = 0
    assert "before anything is sent" in viewer.picture and "chunk: K0" in words(viewer.picture)
    viewer.step = 3
    assert "ring exchange" in viewer.picture and words(viewer.picture).count("3 KiB") == 4, "three steps over each link"


def test_the_still_is_the_first_and_the_last_step():
    viewer = rank_viewer(made(4))
    assert "Step 1 of 3" in viewer.still and "Step 3 of 3" in viewer.still and "Step 2 of 3" not in viewer.still


def test_arrows_are_as_many_as_messages():
    for size in (2, 5, 9, 16):
        assert plots.ranks_picture(made(size), 1).count("<polygon") == size
    assert "<polygon" not in plots.ranks_picture(made(1), 0) and "one rank alone" in plots.ranks_picture(made(1), 0)


def test_of_many_links_what_each_rank_sends_is_drawn():
    few, many = (plots.ranks_picture(run(all_to_all, size), 1) for size in (4, 5))
    assert "bytes over each link" in few and "bytes that each rank sends" in many


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="17 ranks are too many"):
        rank_viewer(made(17))
    with pytest.raises(ValueError, match="There is no step 4: the run has 3"):
        plots.ranks_picture(made(4), 4)


def test_a_step_in_a_sentence():
    assert in_sentence(made(2), 1) == "Step 1 of 1 · ring exchange: 2 messages, 2 KiB · 2 KiB of 2 KiB are sent."
