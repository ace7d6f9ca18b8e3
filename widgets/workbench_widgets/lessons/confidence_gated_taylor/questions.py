"""The questions and exercises of the lesson on confidence-gated Taylor, with answers, solutions and typical mistakes.

A test runs every solution and every mistake. If you are here to learn: solve them first.
"""

import math

import torch

from workbench.generation import confidence_gated_taylor as paper
from workbench.generation.taylorseer import DerivativeCache
from workbench_widgets.answers import close, number, numbers, truths
from workbench_widgets.exercise import exercise
from workbench_widgets.lessons import confidence_gated_taylor as lesson
from workbench_widgets.lessons import digits as bench
from workbench_widgets.page import table_html
from workbench_widgets.predict import Prediction, predict

# --- predict, then run -----------------------------------------------------------------------------------------------


def keep_up_to_date() -> Prediction:
    """Why the first block's differences are not refreshed on a trusted step."""
    first = lesson.blocks()[:, 0]
    official = int(paper.decide(first, threshold=0.03).full[0].sum())
    tempted = always_refreshed(first, 0.03)
    answer = "it hardly ever refuses" if tempted < official / 2 else "as often"
    why = (
        "Then the gate judges a forecast that is one step old, and that is always good. The last block's forecast, "
        "meanwhile, grows older and older, and nobody asks. A test must be as hard as what it stands for: same age, "
        "same kind of forecast."
    )
    return predict(
        "The first block is computed at every step, so its differences could be refreshed at every step, too; the "
        "paper does so only when the gate refuses. Refresh them always: how often does the gate refuse then?",
        ["more often", "as often", "it hardly ever refuses"],
        answer,
        {"it hardly ever refuses": why},
        evidence=table_html(
            ("threshold 0.03, 50 steps", "full steps"),
            [("refreshed when refused", official), ("refreshed at every step", tempted)],
        ),
    )


def always_refreshed(first: torch.Tensor, threshold: float) -> int:
    """Full steps of a gate whose first block is refreshed at every step."""
    cache, full = DerivativeCache(1), 0
    for step in range(first.shape[1]):
        refused = step <= 2 or not bool(paper.relative_l1(cache.forecast(step), first[:, step]) < threshold)
        full += refused or step == first.shape[1] - 1
        cache.refresh(step, first[:, step])
    return full


def smooth_run() -> Prediction:
    """On a smooth trajectory a gate gains nothing."""
    few = bench.digits(20)
    gate, beside = lesson.gate_sweep(few, (0.02, 0.04)), lesson.others(few, (3, 4), (), ("last block, fixed",))
    gain = lesson.advantage(gate, beside)
    even, better = "no: it is no better", "yes, by several dB"
    return predict(
        "Our digits, 50 steps. Compare the gate with the same forecast on a <i>fixed</i> schedule that has at least as "
        "many full steps. Are the gate's digits nearer to the uncached ones?",
        [better, "yes, a little", even],
        even if gain < 1 else better if gain > 2 else "yes, a little",
        {
            even: "The digits' trajectories are so smooth that every step is about as predictable as the next: an even "
            "grid is a good schedule already, and there is nothing to adapt to. That is not what the paper reports for "
            "FLUX and Wan Video; it is what we find here. Section 7 changes the conditions.",
            "yes, a little": "The steps are not quite as predictable as one another here, and the gate makes use of "
            "it. Section 7 makes them differ much more.",
            better: "Some steps are much harder to foresee than others here, and the gate spends its full steps on "
            "them. On other machines we found the trajectories so even that there was nothing to adapt to.",
        },
        evidence=f"<p>Gate minus fixed schedule, mean over two thresholds: <b>{gain:+.1f} dB</b>.</p>",
    )


def small_model() -> Prediction:
    """What the gate costs."""
    return predict(
        "A trusted step computes one block of the network and forecasts the rest. At 11 full steps of 50, how many "
        "times less work is that for a network of 6 blocks (without the gate: 50 / 11 = 4.5 times)?",
        ["4.5 times", "about 3 times", "about 1.5 times"],
        "about 3 times",
        "11 + 39 / 6 = 17.5 full steps' worth of work, so 2.9 times less. The gate's price is one L-th of the network "
        "at every trusted step: a sixth here, 3.6 % for DiT-XL/2 with its 28 blocks.",
        evidence=table_html(
            ("blocks", "work of a trusted step", "times less work, 11 of 50 full"),
            [(f"{depth}", f"{1 / depth:.1%}", f"{50 / (11 + 39 / depth):.2f}") for depth in (6, 12, 28, 57)],
        ),
    )


PREDICTIONS = (keep_up_to_date, smooth_run, small_model)


# --- exercises -------------------------------------------------------------------------------------------------------


@exercise(
    hint=(
        "An infinite threshold trusts every forecast. Which steps does nobody ask the gate about?",
        "Steps 0 to w are the warm-up, and the last step is always full.",
    ),
    solution=4,
    mistakes={"w steps": 3, "forgets the last": 2, "none": 0},
    right="Steps 0, 1, 2 and the last one: the gate cannot do with fewer.",
)
def fewest_full_steps(answer):
    """With w = 2 and an infinite threshold: how many steps are full?"""
    decided = paper.decide(torch.randn(1, 50, 2, 2), threshold=math.inf, warmup=2)
    close(answer, int(decided.full.sum()), 0, "count the steps up to w, step 0 included, and the last.")


@exercise(
    hint=(
        "How many tensors does a stack of order m hold, and how many stacks are kept in either case?",
        "Two stacks, of m₁ + 1 and m_L + 1 tensors; all modules: 2 L (m + 1).",
    ),
    solution=280 / 6,
    mistakes={"the last block alone": 140, "blocks, not modules": 140 / 6, "one stack": 70},
    right="47 times. For DiT-XL/2 that is 3.4 MiB a sample instead of 158.",
)
def memory_ratio(answer):
    """DiT-XL/2: the cache of all 56 modules at order 4 over that of a gate with m₁ = 3 and m_L = 1."""
    close(answer, 56 * 5 / (4 + 2), 0.01, "56 · 5 tensors over (3 + 1) + (1 + 1).")


def solved_gate(first, threshold, warmup, steps):
    """The list of full steps. ``first[s]`` is the first block's output at step s."""
    cache, full = DerivativeCache(1), []
    for step in range(steps):
        trusted = False
        if step > warmup:
            error = (cache.forecast(step) - first[step]).abs().mean() / first[step].abs().mean()
            trusted = bool(error < threshold)
        if not trusted:
            cache.refresh(step, first[step])
        if not trusted or step == steps - 1:
            full.append(step)
    return full


def _always(first, threshold, warmup, steps):
    cache, full = DerivativeCache(1), []
    for step in range(steps):
        trusted = step > warmup and bool(
            (cache.forecast(step) - first[step]).abs().mean() / first[step].abs().mean() < threshold
        )
        cache.refresh(step, first[step])
        if not trusted or step == steps - 1:
            full.append(step)
    return full


def _after_refresh(first, threshold, warmup, steps):
    cache, full = DerivativeCache(1), []
    for step in range(steps):
        cache.refresh(step, first[step])
        error = (cache.forecast(step) - first[step]).abs().mean() / first[step].abs().mean()
        if step <= warmup or error >= threshold or step == steps - 1:
            full.append(step)
    return full


def _mean_of_ratios(first, threshold, warmup, steps):
    cache, full = DerivativeCache(1), []
    for step in range(steps):
        if step <= warmup or ((cache.forecast(step) - first[step]) / first[step]).abs().mean() >= threshold:
            cache.refresh(step, first[step])
            full.append(step)
    return sorted({*full, steps - 1})


def _without_last(first, threshold, warmup, steps):
    return [step for step in solved_gate(first, threshold, warmup, steps) if step < steps - 1]


@exercise(
    hint=(
        "At every step: what may be compared before the step is computed, and when does the cache learn of it?",
        "Forecast first, then compare; refresh only when the forecast is refused. The last step is full, whatever the "
        "gate says.",
    ),
    solution=solved_gate,
    mistakes={
        "refreshes at every step": _always,
        "compares after the refresh": _after_refresh,
        "forgets the last step": _without_last,
        "the mean of ratios in place of a ratio of means": _mean_of_ratios,
    },
    right="The order of these lines is the paper: forecast, compare, and only then, and only if it must be, refresh.",
)
def gate(function):
    """The gate's decisions, order 1."""
    time = torch.arange(31).double()[:, None, None] / 6
    phase = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = torch.linspace(0, 6, 4).double() + torch.cos(time + phase)  # small numbers beside large ones
    for threshold, warmup, steps in ((0.02, 2, 30), (0.05, 2, 30), (0.2, 2, 30), (0.05, 4, 20)):
        decided = paper.decide(first[None, :steps], threshold=threshold, warmup=warmup).full[0]
        expected = tuple(decided.nonzero()[0].tolist())
        returned = function(first[:steps], threshold, warmup, steps)
        got = numbers(returned, (len(returned),))
        assert got == expected, (
            f"with threshold {threshold}, w = {warmup} and {steps} steps it computes {len(got)} steps, {got[:8]} ...; "
            f"the gate computes {len(expected)}, {expected[:8]} ... Is the cache refreshed only when the forecast was "
            "refused? Is the last step full? Is the error a ratio of two means?"
        )


def cached_full_steps(added: torch.Tensor, threshold: float) -> int:
    """Full steps of a first-block cache whose first block adds ``added`` (steps,) to tokens that stand still; counted
    in what ``first_block_cache`` returns: the marks on its last block's output come through at full steps alone."""
    steps = len(added)
    marks = torch.arange(steps, dtype=torch.float64) * 1e6
    still = torch.zeros(steps, dtype=torch.float64)
    trajectory = torch.stack([still, added, added + marks])[None, :, :, None, None]
    seen = paper.first_block_cache(trajectory, threshold=threshold)[0, :, 0, 0]
    return int(((seen - added - marks).abs() < 1).sum())


@exercise(
    hint=(
        "Either trusts what it can foresee. What does each of the two expect of the next step?",
        "The gate of order 1 trusts what moves on a straight line. The first-block cache trusts what does not move.",
    ),
    solution=lambda step: 10.0 + step,
    mistakes={
        "nothing moves": lambda step: 10.0,
        "it jumps to and fro": lambda step: 10.0 + 5 * (step % 2),
        "a fast wave": lambda step: 10.0 + 5 * math.cos(step),
        "straight, but slow beside its size": lambda step: 1000.0 + step,
    },
    right="A fast, straight trajectory: predictable, and always somewhere else.",
)
def fast_and_straight(function):
    """A first block's contribution, as a function of the step 0 to 39, that the gate trusts and a first-block cache
    does not: at most 6 full steps against at least 15."""
    added = torch.tensor([number(function(step)) for step in range(40)], dtype=torch.float64)
    gated = int(paper.decide(added[None, :, None, None], threshold=0.05).full.sum())
    assert gated <= 6, f"the gate (order 1, threshold 0.05) computes {gated} steps in full: it does not trust this."
    changed = cached_full_steps(added, 0.05)
    assert changed >= 15, (
        f"a first-block cache (threshold 0.05) computes only {changed} steps: the contribution hardly changes."
    )


@exercise(
    hint=(
        "Count blocks: what do 11 full steps of L blocks and 39 trusted steps of one block come to?",
        "11 L + 39 must be at most a quarter of 50 L.",
    ),
    solution=26,
    mistakes={"the gate forgotten": 6, "three times": 7, "one too few": 25, "DiT-XL/2": 28},
    right="11 · 26 + 39 = 325 = 50 · 26 / 4. The shipped network's six blocks get to 2.9; DiT-XL/2's 28 just do it.",
)
def deep_enough(answer):
    """The fewest blocks with which 11 full steps of 50, and one block at all others, are four times less work."""
    assert answer == round(answer), f"a number of blocks is whole, and {answer:g} is not."
    close(answer, 26, 0, "11 L + 39 ≤ 50 L / 4, and L is the smallest whole number for which that is so.")


def solved_verdicts(forecast, truth, threshold):
    """The batch's test, with the means taken over tokens and width alone."""
    errors = (forecast - truth).abs().mean((1, 2)) / truth.abs().mean((1, 2))
    return [bool(error < threshold) for error in errors]


@exercise(
    hint=(
        "Over which dimensions does the batch's test take its means? Which one must it leave?",
        "mean((1, 2)) of both absolute values, then one quotient a sample; trusted is what is below the threshold.",
    ),
    solution=solved_verdicts,
    mistakes={
        "one number for all": lambda forecast, truth, threshold: (
            [bool(paper.relative_l1(forecast, truth) < threshold)] * len(truth)
        ),
        "the mean of quotients": lambda forecast, truth, threshold: [
            bool(error < threshold) for error in ((forecast - truth) / truth).abs().mean((1, 2))
        ],
        "squares in place of absolute values": lambda forecast, truth, threshold: [
            bool(error < threshold)
            for error in (forecast - truth).square().mean((1, 2)).sqrt() / truth.square().mean((1, 2)).sqrt()
        ],
        "beside the forecast's size": lambda forecast, truth, threshold: [
            bool(error < threshold)
            for error in (forecast - truth).abs().mean((1, 2)) / forecast.abs().mean((1, 2))
        ],
        "not divided": lambda forecast, truth, threshold: [
            bool(error < threshold) for error in (forecast - truth).abs().mean((1, 2))
        ],
        "refused for trusted": lambda forecast, truth, threshold: [
            not verdict for verdict in solved_verdicts(forecast, truth, threshold)
        ],
    },
    right='That is <code>scope="sample"</code>: refused samples are computed in a smaller batch, the others wait.',
)
def each_for_itself(function):
    """Which samples a gate trusts that judges each by its own error."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([0.1, 1.0, 10.0, 1.0], dtype=torch.float64)[:, None, None]
    for threshold, off in ((0.05, (0.0499, 0.0501, 0.0499, 0.0501)), (0.5, (0.501, 0.499, 0.501, 0.499))):
        truth = sizes * torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
        noise = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
        scale = (truth.abs().mean((1, 2)) / noise.abs().mean((1, 2)))[:, None, None]
        forecast = truth + noise * scale * torch.tensor(off, dtype=torch.float64)[:, None, None]
        verdicts = truths(function(forecast, truth, threshold), 4)
        for sample, (verdict, error) in enumerate(zip(verdicts, off, strict=True)):
            assert verdict == (error < threshold), (
                f"sample {sample}'s forecast is off by {error:.2%} of its own size at a threshold of {threshold:.0%}, "
                f"and you {'trust' if verdict else 'refuse'} it."
            )


EXERCISES = (fewest_full_steps, memory_ratio, gate, fast_and_straight, deep_enough, each_for_itself)
