"""The lesson on hierarchical self-attention: what the text says is so."""

import math

import pytest
import torch

import needs
from workbench import measure
from workbench.attention import hierarchical_self_attention as paper
from workbench.attention.hierarchical_self_attention import Tree
from workbench_widgets.lessons import hierarchical_self_attention as lesson
from workbench_widgets.lessons.hierarchical_self_attention import questions, steps


def test_the_prediction_about_time_takes_whichever_is_faster_here():
    asked = questions.quicker("cpu", tokens=32)
    assert asked.answer in asked.choices


# --- pictures --------------------------------------------------------------------------------------------------------


def test_the_walk_goes_up_and_comes_down():
    tokens, tree, query, key = steps.example()
    walk = steps.walk(query, key, tree, tokens, [1, 5])
    frames = walk.walks["the row of “cat”"]
    families = len(list(tree.families()))
    assert len(frames) == 1 + families + 3 + 1
    assert "Up. the root" in walk.go(families) and "Down. Of the 1.00" in walk.go(families + 1)
    assert walk.still.count('class="wb-said"') == 6
    last = walk.go(len(frames) - 1)
    map, softmax = lesson.both_maps(query[None, None], key[None, None], tree)
    assert all(f">{number:.3f}<" in last for number in map[1].tolist())
    assert (map[1] - softmax[1]).abs().max() > 0.01, "the picture should show a difference"
    assert "Down" in walk.go(families + 1, "the row of “.”")


def test_a_tree_is_drawn_over_its_words():
    tree = Tree.from_nested([[[0, 1], 2], [3, 4], 5])
    assert steps.heights(tree)[0] == 3
    assert sorted(steps.groups(tree)) == [(0, 2, 1), (0, 3, 2), (3, 5, 1)]
    drawn = steps.tree_picture(tree, list("abcdef"))
    assert "4 families" in drawn and drawn.count("<rect") == len(tree.parent)
    with pytest.raises(ValueError, match="6 leaves, and 2 words"):
        steps.tree_picture(tree, ["a", "b"])


def test_maps_of_a_sentence():
    tokens, tree, softmax, hierarchical = lesson.sentence()
    assert tree.tokens == len(tokens) == len(softmax)
    labels = lesson.ties(tree)
    assert (lesson.tied(hierarchical, labels)[labels] - hierarchical).abs().max() < 1e-5
    first, second = lesson.two_maps(tokens, tree, softmax, hierarchical)
    assert f"{len(tokens) ** 2} free" in first.title.text and "nats from softmax" in second.title.text
    inputs = lesson.grouped_tokens(16)
    figure = lesson.map_with_gap(lesson.Example(inputs, {"block": 4, "levels": 2}))
    assert figure.title.text.startswith("80 of 256 weights are free")


# --- the theorem -----------------------------------------------------------------------------------------------------


def test_the_minimiser_knows_nothing_of_the_recursion_and_finds_its_map():
    assert lesson.optimality_error() < 1e-10
    query, key = lesson.eleven_tokens()
    map, softmax = lesson.both_maps(query, key, lesson.ELEVEN)
    found = lesson.minimised(softmax, lesson.ELEVEN)
    assert (found.sum(-1) - 1).abs().max() < 1e-12
    gap = float(paper.kl_gap(query, key, tree=lesson.ELEVEN)[0, 0])
    assert lesson.divergence(found, softmax) == pytest.approx(gap, abs=1e-12)
    labels = lesson.ties(lesson.ELEVEN)
    assert len(labels.unique()) == lesson.constraints(labels).shape[1]
    assert torch.equal(lesson.constraints(labels).sum(0).long(), labels.flatten().bincount())


def test_no_random_map_is_closer():
    figure = lesson.around_the_optimum(50)
    random, best = (renderer.data_source.data["y"] for renderer in figure.renderers)
    assert min(random) > best[0]


def test_the_gap_follows_the_groups_of_the_tokens():
    gaps = lesson.gap_frame().pivot_table(index="block", columns="tokens", values="nats_from_softmax")
    assert (gaps.loc[[1, 64]] < 1e-9).all(axis=None)
    alike = gaps["spread 0.1 in groups of 8"]
    assert alike[16] > 10 * alike[8] > 0
    assert (gaps.loc[2:8, "spread 1 in groups of 8"] > 10 * alike.loc[2:8]).all()
    unrelated = gaps["spread 1 in groups of 8"]
    assert unrelated[4] > unrelated[2], "finer is not always closer"


def test_the_numbers_by_hand():
    table = lesson.by_hand()
    numbers = "1.313262 1.701413 1.507337 0.624182 0.375818 0.758257 0.241743 0.167868 0.456314 0.379128"
    assert all(number in table for number in numbers.split())


def test_the_numbers_in_the_text():
    assert "4,294,967,296" in lesson.size_table([65536])
    assert lesson.free_weights(Tree.uniform(8, 4)) == 2 * 16 + 4
    assert lesson.free_weights_of(4096, 16, 2) == 4096 * 16 + 256**2
    assert len(list(Tree.uniform(4096, 16).families())) == 257
    assert lesson.counted(4096, 16, 2) == 4 * 64 * lesson.free_weights_of(4096, 16, 2)
    ratio = lesson.counted(2**17, 64, 2) / lesson.counted(2**14, 32, 2)
    assert math.log(ratio, 8) == pytest.approx(4 / 3), "the text says so of these lengths"
    frame = lesson.flops_frame([1024, 4096]).pivot_table(index="size", columns="tree", values="FLOPs")
    assert math.log2(frame.loc[4096, "softmax attention"] / frame.loc[1024, "softmax attention"]) == pytest.approx(4)


# --- claims ----------------------------------------------------------------------------------------------------------


def test_exact_claims_hold():
    measured = {"optimality": lesson.optimality_error(), "flat_is_softmax": lesson.flat_error()}
    measured["cost_exponent"] = lesson.cost_exponent()
    assert all(claim.holds(measured[claim.name]) for claim in paper.PAPER.claims if claim.name in measured)


def test_times_name_what_ran_and_give_the_claims():
    frame = lesson.times([32, 64], device="cpu", dtype="float32", heads=2, budget_s=0.02)
    assert set(frame["what"]) == {"hierarchical, two levels", "softmax, fast"}
    assert lesson.timed(frame)["faster_than_softmax"] > 0
    rows = [
        {"size": size, "what": what, "status": "ok", "median_ms": ms}
        for size, ours, theirs in ((64, 1.0, 9.0), (4096, 2.0, 3.0), (8192, 2.0, 8.0))
        for what, ms in (("hierarchical, two levels", ours), ("softmax, fast", theirs), ("softmax, other", 10.0))
    ]
    assert lesson.timed(measure.frame(rows)) == {"faster_than_softmax": 1.5}, "the least gain from 4096 tokens on"


def test_the_growth_of_time_is_judged_on_both_sides():
    frame = lesson.growth([32, 256], device="cpu", dtype="float32", budget_s=0.02)
    assert list(frame["block"]) == [4, 8] and all(math.isfinite(value) for value in lesson.grown(frame).values())
    assert len(lesson.growth_figure(frame, "here").renderers) >= 3
    (claim,) = (claim for claim in paper.PAPER.claims if claim.name == "time_exponent")
    sizes = [2**20, 2**23, 2**26]
    for power, holds in ((1.0, False), (4 / 3, True), (1.5, False), (2.0, False), (0.0, False)):
        rows = [{"size": size, "status": "ok", "median_ms": 1e-6 * size**power} for size in sizes]
        found = lesson.grown(measure.frame(rows))["time_exponent"]
        assert found == pytest.approx(power, abs=1e-9) and claim.holds(found) == holds
    assert lesson.grown(measure.frame([{"size": 32, "status": "ok", "median_ms": 1.0}])) == {}


def test_a_race_leaves_laps_and_the_claim_on_it():
    race = lesson.run_race(seeds=1, steps=2, lap=1, device="cpu", batch=4)
    assert len(race.table) == 4 and set(lesson.learned(race)) == {"trained_from_scratch"}


def test_layers_without_the_encoder(monkeypatch):
    monkeypatch.setattr(lesson.pretrained, "why_not", lambda: ["not here"])
    assert lesson.swapped_layers() == {} == lesson.later_layers({})
    tokens, tree, softmax, hierarchical = lesson.sentence()
    assert tokens[0] == "[CLS]" and tree.tokens == len(tokens)
    assert torch.allclose(hierarchical.sum(-1), softmax.sum(-1))


@needs.encoder
def test_layers_of_the_encoder():
    lost = lesson.swapped_layers()
    (claim,) = (claim for claim in paper.PAPER.claims if claim.name == "later_layers_are_safer")
    found = lesson.later_layers(lost)[claim.name]
    assert not claim.holds(found), "the text says that later layers are not the safer ones here"
    assert claim.holds(1.5), "it would hold if early layers cost more"
    assert 0.1 > lost["all layers"] > max(lost[f"layer {number}"] for number in range(1, 7))
    _, tree, softmax, hierarchical = lesson.hardest_head()
    before = softmax.argmax(-1)[2:-1] == torch.arange(1, len(softmax) - 2)
    assert before.all(), "the text says that this head looks at the token before"
    assert lesson.divergence(hierarchical, softmax) > 1


@pytest.mark.gpu
def test_the_claims_of_a_gpu():
    frame = lesson.times([1024, 4096, 16384], device="cuda", dtype="bfloat16", heads=16, budget_s=0.2)
    measured = lesson.timed(frame)
    held = {claim.name: claim.holds(measured[claim.name]) for claim in paper.PAPER.claims if claim.name in measured}
    assert all(held.values()), measured


def test_what_was_recorded_can_be_drawn():
    rows = measure.recorded("hierarchical_self_attention").query("status == 'ok' and direction == 'forward'")
    assert {"hierarchical_attention", "flash_attention_2"} <= set(rows["method"])
    crossing = lesson.crossings(measure.recorded("hierarchical_self_attention"))["median_ms"]
    assert "from about 640 tokens on" in paper.PAPER.take_when and crossing == pytest.approx(640, rel=0.2)
