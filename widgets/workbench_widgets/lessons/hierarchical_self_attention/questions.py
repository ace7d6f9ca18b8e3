"""The questions and exercises of the lesson on hierarchical self-attention, with answers, solutions and mistakes.

A test runs every solution and every mistake. If you are here to learn: solve them first.
"""

import math

import torch

from workbench import measure
from workbench.attention import hierarchical_self_attention as paper
from workbench.attention.flash_attention_2 import flash_attention_2
from workbench.attention.hierarchical_self_attention import Tree, hierarchical_attention
from workbench_widgets.answers import close, parts, same
from workbench_widgets.exercise import exercise
from workbench_widgets.lessons import hierarchical_self_attention as lesson
from workbench_widgets.page import table_html
from workbench_widgets.predict import Prediction, predict

# --- predict, then run -----------------------------------------------------------------------------------------------


def average() -> Prediction:
    """Is the closest map also the one that softmax is closest to?"""
    best, softmax = lesson.both_maps(*lesson.eleven_tokens(), lesson.ELEVEN)
    labels = lesson.ties(lesson.ELEVEN)
    mean = lesson.tied(softmax, labels)[labels]
    averaged, ours = "softmax, averaged over every block", "hierarchical attention: nothing tied is closer"
    maps = {averaged: mean, ours: best}
    found = {name: (lesson.divergence(map, softmax), lesson.divergence(softmax, map)) for name, map in maps.items()}
    closer = min(found, key=lambda name: found[name][1])
    rows = [(name.partition(":")[0], *(f"{gap:.4f}" for gap in gaps)) for name, gaps in found.items()]
    return predict(
        "Another way to a tied map: calculate all N² weights of softmax and average them over every block. Turn the "
        "divergence around and ask how well the map stands in for softmax, in KL(softmax || map). Which of the two "
        "maps is closer now?",
        [averaged, ours, "they are the same map"],
        closer,
        {
            averaged: "The order inside the divergence decides. KL(softmax || map) says: never miss a key that softmax "
            "likes, and averaging the weights is the best answer to that. The theorem has the map first: never spend "
            "weight where softmax spends none. That averages <i>logarithms</i>, so a block with one strong key among "
            "weak ones gets little. And averaging weights takes all N² of them first.",
            ours: "Here the closest map in one order is the closer one in the other order, too.",
        },
        evidence=table_html(("nats, mean over rows", "KL(map || softmax)", "KL(softmax || map)"), rows),
    )


def both_ends() -> Prediction:
    """Where two levels are exact."""
    frame = lesson.gap_frame(64, spreads=(1.0,))
    exact = set(frame[frame["nats_from_softmax"] < 1e-9]["block"])
    rows = [(row.block, f"{row.nats_from_softmax:.3g}") for row in frame.itertuples()]
    answers = {frozenset({1}): "at 1", frozenset({64}): "at 64", frozenset({1, 64}): "at 1 and at 64"}
    return predict(
        "64 unrelated tokens, two levels, groups of 1, 2, 4, ... or 64. At which group size is the map exactly that of "
        "softmax?",
        ["at 1", "at 64", "at 1 and at 64", "at 8, the square root"],
        answers[frozenset(exact)],
        "Groups of one token tie nothing together, and a single group of 64 has no siblings: both trees are flat. In "
        "between, finer is not always closer: small groups have few untied weights inside, large ones pack much "
        "into one weight outside.",
        evidence=table_html(("group", "nats from softmax"), rows),
    )


def whose_rows() -> Prediction:
    """Whose attention does one query decide?"""
    generator, tree = torch.Generator().manual_seed(3), Tree.uniform(12, 4)
    query, key = (torch.randn(1, 1, 12, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    before = lesson.both_maps(query, key, tree)
    query[..., 0, :] += 1
    moved = [(new - old).abs().amax(-1) for new, old in zip(lesson.both_maps(query, key, tree), before, strict=True)]
    changed = {int(row) for row in (moved[0] > 1e-9).nonzero()}
    alone, group, everybody = "token 0’s alone, as in softmax", "those of tokens 0 to 3", "all twelve"
    answers = {frozenset({0}): alone, frozenset(range(4)): group, frozenset(range(12)): everybody}
    names = ("token 0", "tokens 1 to 3", "tokens 4 to 11")
    rows = [(name, *(f"{float(each[part].max()):.3f}" for each in moved[::-1]))
            for name, part in zip(names, (slice(0, 1), slice(1, 4), slice(4, 12)), strict=True)]  # fmt: skip
    return predict(
        "Twelve tokens in three groups of four. Token 0 gets another query; all keys and all other queries stay. "
        "Whose rows of the map change?",
        [alone, group, everybody],
        answers[frozenset(changed)],
        "Towards every other group the four have <i>one</i> set of weights, made of their mean query, and what they "
        "keep for themselves is one number, made of all their scores. So nobody in a group decides alone. The other "
        "groups do not notice: they see the four through their keys. It is also why the method cannot be made causal, "
        "as section 7 says.",
        evidence=table_html(("largest change of a weight", "softmax", "hierarchical"), rows),
    )


def cheapest_group(tokens: int = 4096) -> Prediction:
    """Which group size needs the fewest operations?"""
    flops = {block: lesson.free_weights_of(tokens, block, 2) for block in (4, 16, 64, 256)}
    rows = [(block, f"{number:,}") for block, number in flops.items()]
    return predict(
        f"{tokens:,} tokens in two levels. Which group size needs the fewest weights, and with them the fewest FLOPs?",
        [str(block) for block in flops],
        str(min(flops, key=flops.get)),
        "64, the square root, would make as many groups as a group has tokens. But there are many groups, each with "
        "g² weights, and only one root with (N / g)². The sum N g + (N / g)² is smallest at g = (2 N)<sup>1/3</sup> "
        "≈ 20.",
        evidence=table_html(("group", "weights"), rows),
    )


def quicker(device: str, tokens: int = 256) -> Prediction:
    """Do fewer operations take less time?"""
    example = flash_attention_2.example(tokens, device=device)
    methods = {"hierarchical attention": hierarchical_attention, "softmax attention": flash_attention_2}
    times = {
        name: measure.measure(method, "fast", example, budget_s=0.1)["median_ms"] for name, method in methods.items()
    }
    few, many = (method.cost(*example.inputs.values()).flops for method in methods.values())
    return predict(
        f"Here, at {tokens} tokens and 4 heads, hierarchical attention in groups of 16 needs {many / few:.0f} times "
        "fewer FLOPs than softmax attention. Which is faster?",
        list(methods),
        min(times, key=times.get),
        {
            "softmax attention": "Every level is a few operations of its own, and each costs the call before it "
            "calculates anything. Softmax attention is one operation. At a few hundred tokens that weighs as much as "
            "the arithmetic; section 6 looks for the length from which on the arithmetic decides.",
            "hierarchical attention": "Its levels are a few operations each, and each costs the call before it "
            "calculates anything, while softmax attention is one operation. Here the arithmetic that is saved already "
            "outweighs that; section 6 looks for the length at which it begins to.",
        },
        evidence="<p>" + ", ".join(f"{name}: {ms:.3g} ms" for name, ms in times.items()) + ".</p>",
    )


PREDICTIONS = (average, both_ends, whose_rows, cheapest_group)


# --- exercises -------------------------------------------------------------------------------------------------------


@exercise(
    hint=(
        "A family of c children has c² weights. Which families are there?",
        "64 groups have 16² weights each, and the root is a family of 64.",
    ),
    solution=64 * 16**2 + 64**2,
    mistakes={"all": 1024**2, "the groups alone": 64 * 16**2, "the root alone": 64**2, "16 groups": 16 * 64**2 + 16**2},
    right="64 · 256 + 64² = 20,480: a fiftieth of the 1,048,576 of softmax.",
)
def count_weights(answer):
    """1024 tokens in groups of 16, two levels: how many weights are calculated?"""
    assert answer != 64 * 16**2, "those are the weights inside the groups. The root is a family too: the groups' own."
    expected = lesson.free_weights_of(1024, 16, 2)
    close(answer, expected, 0, f"a family of c children has c² weights: {answer} is not their sum over 65 families.")


@exercise(
    hint=(
        "Every row has a partition function of its own. What comes first, the logarithm or the mean?",
        "Two numbers, log(e⁰ + e²) and log(e¹ + e¹); then their mean.",
    ),
    solution=(math.log(1 + math.e**2) + math.log(2 * math.e)) / 2,
    mistakes={
        "the logarithm of the mean": math.log((1 + math.e**2 + 2 * math.e) / 2),
        "the sum": math.log(1 + math.e**2) + math.log(2 * math.e),
        "the partition function of all scores": math.log(1 + math.e**2 + 2 * math.e),
        "the mean score": 1.0,
    },
    right="The mean of the rows' logarithms, so a geometric mean of their partition functions.",
)
def inside_logit(answer):
    """A group of two tokens with the scores (0, 2) and (1, 1) inside: what is −φ of the group?"""
    scores = torch.tensor([[0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    rows = scores.logsumexp(-1)
    assert not math.isclose(answer, float(rows.exp().mean().log()), rel_tol=2e-3), (
        "that is the logarithm of the mean. The logarithms come first, then their mean."
    )
    close(answer, float(rows.mean()), 1e-3, "take log(Σ e^score) of each row, then the mean of the two.")


def solved_family(scores, inside, count):
    """One family: scores (c, c) between children, inside (c,) their own −φ, count (c,) the leaves below each.

    Returns the weights (c, c) and the family's −φ.
    """
    logits = torch.where(torch.eye(len(inside), dtype=torch.bool), inside, scores + count.log())
    partition = logits.logsumexp(-1)
    return logits.softmax(-1), (count * partition).sum() / count.sum()


def _no_counts(scores, inside, count):
    return solved_family(scores, inside, torch.ones_like(count))


def _plain_mean(scores, inside, count):
    logits = torch.where(torch.eye(len(inside), dtype=torch.bool), inside, scores + count.log())
    return logits.softmax(-1), logits.logsumexp(-1).mean()


def _counts_itself(scores, inside, count):
    logits = torch.where(torch.eye(len(inside), dtype=torch.bool), inside, scores) + count.log()
    return logits.softmax(-1), (count * logits.logsumexp(-1)).sum() / count.sum()


def _no_energy(scores, inside, count):
    logits = scores + count.log()
    return logits.softmax(-1), (count * logits.logsumexp(-1)).sum() / count.sum()


@exercise(
    hint=(
        "A sibling stands for all its leaves, and a child for itself by its energy. Where do both go in the scores?",
        "Put log |C| on every column and −φ of the children on the diagonal. Softmax of the rows; a mean by leaves.",
    ),
    solution=solved_family,
    mistakes={
        "forgets how large the siblings are": _no_counts,
        "every child counts alike in the energy": _plain_mean,
        "adds log |C| to the diagonal": _counts_itself,
        "keeps the scores on the diagonal": _no_energy,
    },
    right="One line up and one line down, and the whole method is a loop of this over the tree.",
)
def one_family(function):
    """The step of one family: its weights and its energy."""
    generator = torch.Generator().manual_seed(2)
    for nested, leaves in (([[0, 1, 2], 3, [4, 5]], [3, 1, 2]), ([[0, 1], [2, 3, 4, 5]], [2, 4])):
        query, key = (torch.randn(1, 1, 6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
        tree = Tree.from_nested(nested)
        inside, weights = paper.upward(query, key, tree, 0.5)
        children = tree.children[0]
        scores = (paper.means(query, tree, children) @ paper.means(key, tree, children).mT)[0, 0] * 0.5
        count = torch.tensor(leaves, dtype=torch.float64)
        got = function(scores, torch.stack([inside[child][0, 0] for child in children]), count)
        found, energy = parts(got, "weights", "−φ")
        same(
            found,
            weights[0][0, 0],
            "The diagonal is −φ of the child, without log |C|: its energy counts its leaves already. A sibling C has "
            "|C| leaves, so its column gets log |C|.",
            what=f"for children with {leaves} leaves the matrix of weights",
        )
        same(
            energy,
            inside[0][0, 0],
            "A child with three leaves has three rows, and counts three times.",
            what="the weights are right, but −φ of the family",
        )


def solved_two_levels(query, key, value, block):
    """Two levels: query, key, value (N, d) with N a multiple of block; returns the output (N, d)."""
    scale = query.shape[1] ** -0.5
    q, k, v = (x.unflatten(0, (-1, block)) for x in (query, key, value))
    local = q @ k.mT * scale
    coarse = q.mean(1) @ k.mean(1).mT * scale + math.log(block)
    diagonal = torch.eye(len(coarse), dtype=torch.bool)
    shares = torch.where(diagonal, local.logsumexp(-1).mean(-1), coarse).softmax(-1)
    kept = shares.diagonal()[:, None, None]
    outside = shares.masked_fill(diagonal, 0) @ v.mean(1)
    return (kept * (local.softmax(-1) @ v) + outside[:, None]).flatten(0, 1)


def _local_only(query, key, value, block):
    q, k, v = (x.unflatten(0, (-1, block)) for x in (query, key, value))
    return ((q @ k.mT * query.shape[1] ** -0.5).softmax(-1) @ v).flatten(0, 1)


def _group_sees_its_mean(query, key, value, block):
    q, k, v = (x.unflatten(0, (-1, block)).mean(1) for x in (query, key, value))
    coarse = (q @ k.mT * query.shape[1] ** -0.5).softmax(-1) @ v
    return coarse.repeat_interleave(block, 0)


def _no_block_size(query, key, value, block):
    """As if a group had one leaf: the columns of siblings miss log |C|."""
    scale = query.shape[1] ** -0.5
    q, k, v = (x.unflatten(0, (-1, block)) for x in (query, key, value))
    local = q @ k.mT * scale
    diagonal = torch.eye(len(q), dtype=torch.bool)
    coarse = q.mean(1) @ k.mean(1).mT * scale
    shares = torch.where(diagonal, local.logsumexp(-1).mean(-1), coarse).softmax(-1)
    outside = shares.masked_fill(diagonal, 0) @ v.mean(1)
    return (shares.diagonal()[:, None, None] * (local.softmax(-1) @ v) + outside[:, None]).flatten(0, 1)


@exercise(
    hint=(
        "One softmax over the groups shares a unit out; local attention spends what a group keeps.",
        "Local scores (G, g, g) and their mean logsumexp; coarse scores (G, G) of means, + log g, that mean on the "
        "diagonal; softmax; the diagonal scales local attention, the rest multiplies mean values.",
    ),
    solution=solved_two_levels,
    mistakes={
        "local attention alone": _local_only,
        "means alone": _group_sees_its_mean,
        "forgets how large a group is": _no_block_size,
    },
    right="Ten lines of PyTorch, linear but for a small G × G softmax, and exactly the theorem's map.",
)
def two_levels(function):
    """Hierarchical attention in two levels, without a tree."""
    for tokens, block, head_dim in ((12, 1, 16), (12, 3, 16), (12, 4, 16), (10, 5, 8)):
        inputs = lesson.grouped_tokens(tokens, group=4, spread=0.7, head_dim=head_dim)
        same(
            function(*(x[0, 0] for x in inputs.values()), block),
            hierarchical_attention.reference(*inputs.values(), block=block)[0, 0],
            "Each group shares one unit between itself (the mean of its rows' logsumexp) and its siblings (score of "
            "the means + log g).",
            what=f"for {tokens} tokens in groups of {block} the output",
        )


EXACT = ((2.0, 0.0, 0.0, 0.0), (0.0, 2.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


@exercise(
    hint=(
        "Softmax must happen to be tied: what do the two rows of a pair have in common then?",
        "Equal scores for the other pair, and rows whose sums of e^score inside are equal, too.",
    ),
    solution=EXACT,
    mistakes={
        "tied scores, but rows with different sums": ((2.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), *EXACT[2:]),
        "scores outside that differ": ((2.0, 0.0, 1.0, 0.0), *EXACT[1:]),
        "nothing to see inside": ((0.0,) * 4,) * 4,
        "pairs that do not see each other": (
            (1.0, 0.0, -99.0, -99.0), (5.0, 3.0, -99.0, -99.0), (-99.0, -99.0, 1.0, 0.0), (-99.0, -99.0, 0.0, 4.0)
        ),
        "too few": ((1.0, 0.0), (0.0, 1.0)),
    },
    right="Equal scores outside are not enough: the rows' partition functions inside must be equal too, since the pair "
    "keeps one common share. The order of the weights inside is free.",
)
def no_gap(answer):
    """Scores of four tokens in two pairs, different inside the pairs, for which hierarchical attention is softmax."""
    scores = torch.tensor(answer, dtype=torch.float64)
    inside = [scores[:2, :2], scores[2:, 2:]]
    assert all(float(part.max() - part.min()) > 0.1 for part in inside), "inside both pairs the scores must differ."
    outside = scores.softmax(-1)[[0, 0, 1, 1, 2, 2, 3, 3], [2, 3, 2, 3, 0, 1, 0, 1]]
    assert outside.min() > 1e-3, "each token must spend at least a thousandth on each of the other pair."
    identity = torch.eye(4, dtype=torch.float64)[None, None]
    gap = float(paper.kl_gap(scores[None, None], identity, scale=1.0, block=2)[0, 0])
    assert gap < 1e-9, (
        f"the maps are {gap:.3g} nats apart. Look at the two rows of a pair in the softmax map: are their weights for "
        "the other pair all the same?"
    )


EXERCISES = (count_weights, inside_logit, one_family, two_levels, no_gap)
