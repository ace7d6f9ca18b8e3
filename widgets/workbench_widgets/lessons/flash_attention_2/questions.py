"""The questions and exercises of the lesson on FlashAttention-2, with answers, solutions and typical mistakes.

A test runs every solution and every mistake. If you are here to learn: solve them first.
"""

import math

import torch

from workbench import measure
from workbench.attention import flash_attention_2 as paper
from workbench.writing import vector
from workbench_widgets.answers import close, parts, same
from workbench_widgets.exercise import exercise
from workbench_widgets.lessons import flash_attention_2 as lesson
from workbench_widgets.lessons.flash_attention_2 import counting
from workbench_widgets.predict import Prediction, predict

# --- predict, then run -----------------------------------------------------------------------------------------------


def arithmetic() -> Prediction:
    """Does blockwise attention calculate less?"""
    blocks = (16, 64, 128, 256)
    counted = counting.count_all(blocks)
    first, *others = counted.values()
    ratios = [each.total / first.total for each in others]
    rest = [each.outside / first.outside for each in others]
    less, same, more = "less than half as much: that is why it is fast", "as much, to within 5 %", "about twice as much"
    small, large = min(zip(rest, blocks, strict=True)), max(zip(rest, blocks, strict=True))
    return predict(
        "Count <i>everything</i> that one head of 1024 tokens and width 64 calculates: products, exponentials, maxima, "
        "sums, corrections, divisions. How much arithmetic does FlashAttention-2 do, compared with the direct formula "
        "(multiply, softmax, multiply)?",
        [less, same, more],
        less if max(ratios) < 0.5 else same if max(abs(ratio - 1) for ratio in ratios) < 0.05 else more,
        "The matrix products are the same to the last FLOP, and they are nearly all of it. In the rest there is give "
        "and take: each block corrects Õ, d / B<sub>c</sub> multiplications a score, and the divisions go from one a "
        "score to one a number of the output. So the rest depends on the size of the blocks: "
        f"{large[0]:.1f} times that of the direct formula with {large[1]} keys a block, {small[0]:.2f} times with "
        f"{small[1]}. What makes FlashAttention quick is not a smaller sum of operations; section 6 says what is.",
        evidence=counting.arithmetic_table(counted),
    )


def new_update() -> Prediction:
    """What is the new update worth by itself?"""
    counted = counting.count_updates()
    times = counted["v1"].divisions // counted["v2"].divisions
    total = {name: counting.weighted(each) for name, each in counted.items()}
    saved = 1 - total["v2"] / total["v1"]
    little, third, nearly_all = "about 5 %", "about a third", "about 94 %"
    return predict(
        f"Version 1 divides the output after every block, version 2 once: at 1024 tokens in blocks of 64, {times} "
        "times fewer divisions. On an A100 an operation outside the matrix units costs as much as 16 inside. How "
        "much of the whole work does the new update save?",
        [little, third, nearly_all],
        little if 0.03 < saved < 0.08 else third if saved < 0.6 else nearly_all,
        f"{saved:.1%}. Exponentials and corrections remain; divisions were a small part. (Maxima and sums, the same in "
        "both, are not even counted; they would make the part smaller.) By this count the update alone does not make "
        "version 2 twice as fast: the order of the loops and the sharing of the work must do it.",
        evidence=counting.operations_table(counted),
    )


def occupancy() -> Prediction:
    """Who keeps the GPU busy?"""
    full = lesson.occupied(heads=1, tokens=16384)
    little, half, everything = "less than 1 %", "about half", "all of it: 16,384 tokens are plenty"
    return predict(
        "One sequence of 16,384 tokens, one head, a GPU with 132 multiprocessors. Version 1 gives each head to one "
        "program. How much of the GPU works?",
        [everything, half, little],
        little if full < 0.01 else half if full < 0.9 else everything,
        "One head is one program, and a program runs on one multiprocessor; the other 131 wait. Version 2 turns the "
        "loops around: the outer one runs over blocks of <i>queries</i>, which need nothing of each other, so each "
        "becomes a program of its own. Long sequences with few heads gain most.",
        evidence=lesson.occupancy_table(),
    )


def blocks_alone(device: str, tokens: int = 512) -> Prediction:
    """Are blocks enough?"""
    example = paper.flash_attention_2.example(tokens, device=device)
    names = {"reference": "Algorithm 1 in PyTorch", "softmax_attention": "the direct formula"}
    times = {name: measure.measure(paper.flash_attention_2, name, example, budget_s=0.1)["median_ms"] for name in names}
    return predict(
        f"Here, at {tokens} tokens and 4 heads: which is faster, Algorithm 1 written in PyTorch (the reference, 64 "
        "blocks one after the other) or the direct formula?",
        list(names.values()),
        names[min(times, key=times.get)],
        {
            names["softmax_attention"]: "In PyTorch each line of each block is a call of its own that writes its "
            "result to memory: the traffic that we wanted to avoid, in small pieces. The algorithm pays once its inner "
            "loop is <i>one</i> kernel, whose block of scores lives in registers.",
            names["reference"]: "Unexpectedly: each line of each block is a call of its own that writes its result to "
            "memory. On this machine that still costs less than the whole matrix of scores, whose blocks fit into the "
            "cache one by one. As <i>one</i> kernel, whose block of scores lives in registers, it saves the calls too.",
        },
        evidence="<p>" + ", ".join(f"{names[name]}: {ms:.2f} ms" for name, ms in times.items()) + ".</p>",
    )


PREDICTIONS = (arithmetic, new_update, occupancy)


# --- exercises -------------------------------------------------------------------------------------------------------


@exercise(
    hint=(
        "What does a block do to the sum that contains an older one, if it brings no larger score?",
        "a = exp(m_old − m_new) after the second block, and after the third the maximum is what it was.",
    ),
    solution=math.exp(-3),
    mistakes={
        "the inverse, as printed in the paper": math.exp(3),
        "from the first block's maximum to the third's": math.exp(-2),
        "the difference": -3.0,
        "no correction": 1.0,
    },
    right="e⁻³ ≈ 0.0498, and then 1: after the third block the maximum is still −1. The largest score so far counts.",
)
def rescale_factor(answer):
    """The largest scores of three blocks are −4, −1 and −2: what has the first block's sum been multiplied by?"""
    assert not math.isclose(answer, math.exp(3), rel_tol=0.02), (
        "that is the inverse, as the paper prints it. The old sum is too large: it was measured from a smaller maximum."
    )
    assert not math.isclose(answer, math.exp(-2), rel_tol=0.02), (
        "the third block's largest score is −2, but what is m after it: the largest of the block, or of all so far?"
    )
    close(answer, math.exp(-3), 0.02, "a = exp(m_old − m_new) for the second and for the third block, multiplied.")


def solved_step(scores, value, maximum, normaliser, accumulator):
    """One block of the online softmax: scores (rows, columns), value (columns, d), the rest as in Algorithm 1."""
    new_maximum = torch.maximum(maximum, scores.amax(-1))
    weights = torch.exp(scores - new_maximum[:, None])
    rescale = torch.exp(maximum - new_maximum)
    normaliser = rescale * normaliser + weights.sum(-1)
    accumulator = rescale[:, None] * accumulator + weights @ value
    return new_maximum, normaliser, accumulator


def _forgets_to_rescale(scores, value, maximum, normaliser, accumulator):
    new_maximum, normaliser, _ = solved_step(scores, value, maximum, normaliser, accumulator)
    return new_maximum, normaliser, accumulator + torch.exp(scores - new_maximum[:, None]) @ value


def _forgets_the_old_maximum(scores, value, maximum, normaliser, accumulator):
    return solved_step(scores, value, maximum.new_full(maximum.shape, -torch.inf), normaliser, accumulator)


def _forgets_the_normaliser(scores, value, maximum, normaliser, accumulator):
    new_maximum, _, accumulator = solved_step(scores, value, maximum, normaliser, accumulator)
    return new_maximum, normaliser + torch.exp(scores - new_maximum[:, None]).sum(-1), accumulator


def _never_subtracts(scores, value, maximum, normaliser, accumulator):
    weights = torch.exp(scores)
    return maximum, normaliser + weights.sum(-1), accumulator + weights @ value


@exercise(
    hint=(
        "What was summed so far was measured from an older maximum. What has to happen to it first?",
        "Five lines: the new maximum, the weights, the factor a, then ℓ and Õ, both corrected by a.",
    ),
    solution=solved_step,
    mistakes={
        "does not rescale the accumulator": _forgets_to_rescale,
        "forgets the old maximum": _forgets_the_old_maximum,
        "never subtracts the maximum": _never_subtracts,
        "rescales the accumulator alone": _forgets_the_normaliser,
    },
    right="It agrees with softmax over all keys at once, block by block, and stays finite for scores of 10 000.",
)
def online_step(step):
    """Write one step of the online softmax."""
    generator = torch.Generator().manual_seed(0)
    for rows, block, width, shift in ((4, 4, 5, 0.0), (1, 3, 2, 0.0), (4, 4, 5, 1e4)):
        scores = 3 * torch.randn(rows, 3 * block, generator=generator, dtype=torch.float64) + shift
        value = torch.randn(3 * block, width, generator=generator, dtype=torch.float64)
        largest, total = scores.new_full((rows,), -torch.inf), scores.new_zeros(rows)
        summed = value.new_zeros(rows, width)
        for start in range(0, 3 * block, block):
            now, seen = slice(start, start + block), slice(0, start + block)
            got = step(scores[:, now], value[now], largest, total, summed)
            maximum, normaliser, accumulator = parts(got, "m", "ℓ", "Õ")
            where = f"after the keys {start} to {start + block - 1} "
            largest = scores[:, seen].amax(-1)
            same(maximum, largest, "It is the largest score so far.", what=where + "m")
            weights = (scores[:, seen] - largest[:, None]).exp()
            total, summed = weights.sum(-1), weights @ value[seen]
            same(normaliser, total, "It is the sum of exp(S − m) over all keys so far.", what=where + "ℓ")
            same(accumulator, summed, "It is the sum of exp(S − m) V over all keys so far.", what=where + "Õ")


def solved_merge(output_1, logsumexp_1, output_2, logsumexp_2):
    """Attention over all keys from attention over two halves of them: outputs (rows, d), logsumexps (rows,)."""
    logsumexp = torch.logaddexp(logsumexp_1, logsumexp_2)
    share_1 = torch.exp(logsumexp_1 - logsumexp)[:, None]
    share_2 = torch.exp(logsumexp_2 - logsumexp)[:, None]
    return share_1 * output_1 + share_2 * output_2, logsumexp


@exercise(
    hint=(
        "Each output is a mean over its half of the keys. How heavy is either half?",
        "exp(L₁) and exp(L₂) are the two normalisers; the share of half 1 is exp(L₁ − log(exp(L₁) + exp(L₂))).",
    ),
    solution=solved_merge,
    mistakes={
        "the mean of the two": lambda o1, l1, o2, l2: ((o1 + o2) / 2, torch.logaddexp(l1, l2)),
        "adds the logarithms": lambda o1, l1, o2, l2: (solved_merge(o1, l1, o2, l2)[0], l1 + l2),
        "overflows": lambda o1, l1, o2, l2: (
            (l1.exp()[:, None] * o1 + l2.exp()[:, None] * o2) / (l1.exp() + l2.exp())[:, None],
            torch.log(l1.exp() + l2.exp()),
        ),
    },
    right="With it the keys themselves can be shared out: over warps, over programs, over machines.",
)
def merge(function):
    """Two programs attended to one half of the keys each. Put their results together."""
    generator = torch.Generator().manual_seed(1)
    for rows, width, shift in ((6, 3, 0.0), (1, 2, 0.0), (6, 3, 2000.0)):
        scores = torch.randn(rows, 10, generator=generator, dtype=torch.float64) + shift
        value = torch.randn(10, width, generator=generator, dtype=torch.float64)
        halves = [(scores[:, part].softmax(-1) @ value[part], scores[:, part].logsumexp(-1))
                  for part in (slice(0, 4), slice(4, 10))]  # fmt: skip
        output, logsumexp = parts(function(*halves[0], *halves[1]), "output", "logsumexp")
        where = f"with scores around {shift:.0f} "
        same(logsumexp, scores.logsumexp(-1), "Sum exp(L), then log.", what=where + "the logsumexp")
        same(output, scores.softmax(-1) @ value, "Weigh each half by its share.", what=where + "the output")


def solved_entropy(blocks):
    """-sum p log p of every row's softmax, (rows,), from blocks of scores (rows, columns) that come one by one."""
    maximum = normaliser = total = None
    for scores in blocks:
        if maximum is None:
            maximum = torch.full_like(scores[:, 0], -torch.inf)
            normaliser = total = torch.zeros_like(maximum)
        larger = torch.maximum(maximum, scores.amax(-1))
        weights, rescale = torch.exp(scores - larger[:, None]), torch.exp(maximum - larger)
        normaliser = rescale * normaliser + weights.sum(-1)
        total = rescale * total + (weights * scores).sum(-1)  # of the scores themselves, so that one factor moves it
        maximum = larger
    return maximum + normaliser.log() - total / normaliser


def _keeps_the_blocks(blocks):
    scores = torch.cat(list(blocks), dim=-1)
    return -(scores.softmax(-1) * scores.log_softmax(-1)).sum(-1)


def _copies_the_blocks(blocks):
    return _keeps_the_blocks([block.clone() for block in blocks])


def _entropy_of_every_block(blocks):
    return torch.stack([-(each.softmax(-1) * each.log_softmax(-1)).sum(-1) for each in blocks]).mean(0)


def _never_moves(blocks):
    normaliser = total = 0
    for scores in blocks:
        normaliser, total = normaliser + scores.exp().sum(-1), total + (scores.exp() * scores).sum(-1)
    return normaliser.log() - total / normaliser


def _moves_one_sum(blocks):
    maximum, normaliser, total = torch.tensor(-torch.inf), 0, 0
    for scores in blocks:
        larger = torch.maximum(maximum, scores.amax(-1))
        weights = torch.exp(scores - larger[:, None])
        normaliser = torch.exp(maximum - larger) * normaliser + weights.sum(-1)
        total, maximum = total + (weights * scores).sum(-1), larger
    return maximum + normaliser.log() - total / normaliser


@exercise(
    hint=(
        "With p = e^(s − L), what is log p? Then H is L minus a mean of scores, and a mean is a quotient of two sums.",
        "H = L − Σ e^(s − m) s / ℓ. Keep three numbers a row: m, ℓ and the sum above, which one factor moves as it "
        "moves ℓ.",
    ),
    solution=solved_entropy,
    mistakes={
        "keeps the blocks": _keeps_the_blocks,
        "keeps copies of the blocks": _copies_the_blocks,
        "the mean of the blocks' entropies": _entropy_of_every_block,
        "never subtracts the maximum": _never_moves,
        "moves ℓ alone": _moves_one_sum,
    },
    right="One more sum, moved by the same factor: whatever is a sum over keys of weights times something can ride "
    "along. So a kernel can report how sharp its attention is without ever having the map.",
)
def one_pass_entropy(function):
    """The entropy of every row of attention, from blocks of scores of which only one exists at a time."""
    generator = torch.Generator().manual_seed(2)
    for keys, width, shift in ((12, 4, 0.0), (15, 5, 0.0), (12, 3, 2000.0)):
        scores = 3 * torch.randn(6, keys, generator=generator, dtype=torch.float64) + shift
        got = function(_one_at_a_time(scores, width))
        assert torch.as_tensor(got).isfinite().all(), (
            f"with scores around {shift:.0f} it gives inf or NaN. Is the maximum subtracted before exp? A block is "
            "overwritten as soon as you ask for the next one: is one of them kept?"
        )
        same(
            got,
            -(scores.softmax(-1) * scores.log_softmax(-1)).sum(-1),
            "H = −Σ p log p over all keys of the row, with p = e^(s − L).",
            what=f"for {keys} keys in blocks of {width} the row of entropies",
        )
    scores = torch.randn(6, 512, generator=generator, dtype=torch.float64)
    held = measure.peak_bytes(lambda: function(_one_at_a_time(scores, 4)), "cpu")
    assert held < scores.nbytes / 2, (
        f"it holds up to {held:,} bytes for {scores.nbytes:,} bytes of scores that come in blocks of {6 * 4 * 8}: are "
        "blocks kept? A few numbers a row are enough."
    )


def _one_at_a_time(scores, width):
    """Blocks of ``width`` columns in one and the same place, which holds NaN in the end: a register file."""
    place = torch.empty(len(scores), width, dtype=scores.dtype)
    for start in range(0, scores.shape[1], width):
        yield place.copy_(scores[:, start : start + width])
    place.fill_(torch.nan)


@exercise(
    hint=(
        "The printed factor is the inverse of the right one. For which number does that not matter?",
        "It is right as long as it is 1: as long as the second block does not bring a larger score.",
    ),
    solution=(5.0, 1.0, 2.0, 3.0),
    mistakes={
        "the maximum grows in the second block": (1.0, 2.0, 3.0, 4.0),
        "not four different scores": (1.0, 1.0, 1.0, 1.0),
        "different by rounding alone": (1.0, 1.0 + 1e-12, 1.0 + 2e-12, 1.0 + 3e-12),
        "too few": (1.0, 2.0),
    },
    right="The largest score comes first, so m never changes, a = 1, and its inverse is 1 too. A test with such input "
    "would not have noticed the misprint.",
)
def misprint(answer):
    """Four different scores, in two blocks of two, for which the printed formula happens to be right."""
    scores = torch.tensor(answer, dtype=torch.float64)
    assert scores.sort().values.diff().min() > 0.01, "the four scores must differ, by more than 0.01."
    value = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0], [0.5, 3.0]], dtype=torch.float64)
    printed, right = lesson.printed_formula(scores, value, 2), scores.softmax(0) @ value
    assert torch.allclose(printed, right), (
        f"the printed formula gives {vector(printed)}, attention is {vector(right)}. Where did the "
        "maximum change?"
    )


EXERCISES = (rescale_factor, online_step, merge, one_pass_entropy, misprint)
