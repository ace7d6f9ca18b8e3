"""The questions and exercises of the lesson on TaylorSeer, with answers, solutions and typical mistakes.

A test runs every solution and every mistake. If you are here to learn: solve them first.
"""

import torch

from workbench.generation import taylorseer as paper
from workbench_widgets.answers import close, number, numbers, same
from workbench_widgets.exercise import exercise
from workbench_widgets.lessons import digits as bench
from workbench_widgets.lessons import taylorseer as lesson
from workbench_widgets.page import table_html
from workbench_widgets.predict import Prediction, predict

# --- predict, then run -----------------------------------------------------------------------------------------------


def parabola() -> Prediction:
    """Order 2 is not exact for a parabola."""
    frame = lesson.parabola_errors()
    exact = frame["order 2"].abs().max() < 1e-9
    rows = [(f"{age}", *(f"{value:.4g}" for value in frame.loc[age])) for age in frame.index]
    why = (
        "The first divided difference is the slope <i>half an interval ago</i>, not now. For a s² and an interval N "
        "the forecast is off by −a N x, whatever the order. Other weights of the same differences would hit it "
        "(exercise 5); the paper's, which are Taylor's, do not."
    )
    return predict(
        "A feature moves along the parabola s². The cache knows three full steps, 4 apart. Does a forecast with two "
        "derivatives hit it?",
        ["yes: a parabola has two derivatives", "no, it is off by −4 x at age x", "no, and it is worse than reuse"],
        "yes: a parabola has two derivatives" if exact else "no, it is off by −4 x at age x",
        {"no, it is off by −4 x at age x": why},
        evidence=table_html(("age x", *frame.columns), rows, "forecast − truth, a = 1, N = 4"),
    )


def newton_far_away() -> Prediction:
    """Exactness is not what counts."""
    few = bench.digits(10)
    near = {
        (weights, interval): few.decibels("taylorseer", interval=interval, order=4, weights=weights)
        for weights in ("taylor", "newton")
        for interval in (3, 10)
    }
    rows = [(f"N = {interval}", f"{near['taylor', interval]:.1f}", f"{near['newton', interval]:.1f}")
            for interval in (3, 10)]  # fmt: skip
    gain = near["newton", 10] - near["taylor", 10]
    return predict(
        "So give TaylorSeer weights that are exact for polynomials (Newton's), with order 4. At N = 10, are the digits "
        "nearer to the uncached ones?",
        ["nearer", "about the same", "further away"],
        "about the same" if abs(gain) < 0.5 else "nearer" if gain > 0 else "further away",
        {
            "further away": "Newton's weights trust the high differences fully, and far from the last full step those "
            "are mostly noise, multiplied by large numbers. The factorials of Taylor's damp them: a wrong forecast "
            "that stays tame beats an exact one that does not.",
            "about the same": "Here exactness neither helps nor harms: what Newton's weights gain where the path is a "
            "polynomial they lose where high differences are noise.",
            "nearer": "Here the paths are smooth enough, even over ten steps, for the high differences to be trusted.",
        },
        evidence=table_html(("order 4", "Taylor's weights (dB)", "Newton's (dB)"), rows, "More is nearer."),
    )


def same_label() -> Prediction:
    """Accuracy is blind."""
    few = bench.digits(50)
    reused = few.judge(few.draw("feature_reuse", interval=10, first_full=2))
    plain = few.judge(few.uncached)
    blind = reused.accuracy >= plain.accuracy - 0.02
    judge = (
        "Nearness to what the uncached sampler draws from the same noise tells more; so does, at many samples, the "
        "Fréchet distance."
    )
    rows = [
        ("uncached", f"{plain.accuracy:.0%}", "equal"),
        ("reuse, N = 10", f"{reused.accuracy:.0%}", f"{reused.psnr_db:.1f} dB"),
    ]
    return predict(
        "Reuse every module's output for 10 steps: 6 network calls instead of 50. Which part of the digits does a "
        "classifier still take for what was asked for (uncached: nearly all)?",
        ["about half", "about 80 %", "as many as uncached"],
        "as many as uncached" if blind else "about 80 %" if reused.accuracy > 0.65 else "about half",
        {
            "as many as uncached": "A blunt network draws blunt, typical digits, and those are easy to recognise. So "
            "accuracy cannot tell a good cache from a bad one. " + judge,
            "about 80 %": "Here some digits are lost to the classifier, most are not: accuracy notices, but it does "
            "not say how far the others are off. " + judge,
            "about half": "Here the classifier notices that this cache is bad. A better one it would not tell from no "
            "cache at all. " + judge,
        },
        evidence=table_html(("", "recognised", "nearness"), rows),
    )


PREDICTIONS = (parabola, newton_far_away, same_label)


# --- exercises -------------------------------------------------------------------------------------------------------


@exercise(
    hint=(
        "Which steps are full before the interval begins to count?",
        "The first two steps are full; of the other 48 every 5th is.",
    ),
    solution=11,
    mistakes={"steps / N": 10, "forgets the start": 9, "one too many": 12},
    right="2 + ⌊48 / 5⌋ = 11, so 4.55 times fewer network calls.",
)
def network_calls(answer):
    """50 steps, N = 5, first two full: how many network calls?"""
    close(answer, paper.full_count(50, 5), 0, "count: steps 0 and 1, then 6, 11, 16 and so on up to 49.")


@exercise(
    hint=(
        "How many modules have 28 blocks, how many tensors does each keep, and how large is one, with guidance?",
        "2 L modules, m + 1 tensors each, and with guidance the batch counts twice.",
    ),
    solution=2 * 28 * 4 * 2 * 256 * 1152 * 2 / 2**20,
    mistakes={
        "one tensor for each derivative, but not the value": 2 * 28 * 3 * 2 * 256 * 1152 * 2 / 2**20,
        "blocks instead of modules": 28 * 4 * 2 * 256 * 1152 * 2 / 2**20,
        "without guidance": 2 * 28 * 4 * 256 * 1152 * 2 / 2**20,
    },
    right="252 MiB, for one image, all the time. Confidence-gated Taylor begins here.",
)
def cache_size(answer):
    """The cache of DiT-XL/2 in MiB: order 3, one image with guidance, bfloat16."""
    expected = 2 * 28 * 4 * 2 * 256 * 1152 * 2 / 2**20
    close(answer, expected, 0.01, "56 modules × 4 tensors × (2 · 256 · 1152) numbers × 2 bytes, in units of 2²⁰ bytes.")


def solved_forecast(values, steps, now, order):
    """The forecast at step ``now`` from features ``values`` computed at ``steps`` (both lists, oldest first)."""
    stack = []
    for place, value in enumerate(values):
        gap = steps[place] - steps[place - 1] if place else 1
        new = [value]
        for old in stack[:order]:
            new.append((new[-1] - old) / gap)
        stack = new
    forecast, weight = 0.0, 1.0
    for power, entry in enumerate(stack):
        forecast = forecast + weight * entry
        weight = weight * (now - steps[-1]) / (power + 1)
    return forecast


def _without_factorials(values, steps, now, order):
    stack = []
    for place, value in enumerate(values):
        stack = paper.refreshed(stack, value, steps[place] - steps[place - 1] if place else 1, order)
    return sum((now - steps[-1]) ** power * entry for power, entry in enumerate(stack))


def _gap_of_one(values, steps, now, order):
    stack = []
    for value in values:
        stack = paper.refreshed(stack, value, 1, order)
    return sum(w * entry for w, entry in zip(paper.taylor_weights(now - steps[-1], len(stack)), stack, strict=True))


@exercise(
    hint=(
        "Go through the features from the oldest to the newest. What does a new one do to the differences kept so far?",
        "Keep a list: new = [F]; then new[i + 1] = (new[i] − old[i]) / gap for as many i as old has, up to the order.",
    ),
    solution=solved_forecast,
    mistakes={
        "forgets the factorials": _without_factorials,
        "divides by 1 instead of the gap": _gap_of_one,
        "reuses": lambda values, steps, now, order: values[-1],
    },
    right="Fifteen lines, and that is the whole method.",
)
def forecast(function):
    """The algorithm, for one module."""
    generator = torch.Generator().manual_seed(0)
    for order, steps, now in ((0, [0, 1, 5], 7), (1, [0, 1, 5, 9], 11), (3, [0, 1, 5, 9, 13], 16), (3, [0, 2, 3], 3)):
        values = torch.randn(len(steps), 3, generator=generator, dtype=torch.float64)
        cache = paper.DerivativeCache(order)
        for step, value in zip(steps, values, strict=True):
            cache.refresh(step, value)
        same(
            function(list(values), steps, now, order),
            cache.forecast(now),
            "Check the gap that divides, and x^i / i!.",
            what=f"the forecast of order {order} for step {now} from the steps {steps}",
        )


@exercise(
    hint=(
        "A forecast of order 1 is exact on a line. What must a curve do so that its last slope misleads?",
        "Let it jump and then stand still: the slope measured across the jump is carried on for a whole interval.",
    ),
    solution=lambda step: float((step - 1) % 8 >= 4),
    mistakes={
        "a straight line": lambda step: 2.0 * step,
        "a slow wave": lambda step: float(torch.tensor(step / 20.0).cos()),
        "a constant": lambda step: 1.0,
        "a constant but for rounding": lambda step: 1.0 + 4e-16 * ((step - 1) % 8 >= 4),
    },
    right="A feature that jumps: the slope measured across a jump is carried on where nothing moves any more. The "
    "modules of a sampler do not do that, which is why TaylorSeer works at all.",
)
def reuse_wins(function):
    """A feature, as a function of the step 0 to 39, for which reuse beats order 1 (N = 4)."""
    features = torch.tensor([number(function(step)) for step in range(40)], dtype=torch.float64)[None, :, None, None]
    off = [float((paper.taylorseer(features, interval=4, order=order) - features).abs().mean()) for order in (0, 1)]
    assert off[1] > 1e-6 * features.abs().max(), "nothing moves: both are right but for rounding."
    assert off[0] < off[1], f"reuse is off by {off[0]:.3g} on average and order 1 by {off[1]:.3g}: it does not win."


def solved_weights(x, interval):
    """Newton's: D⁽¹⁾ is the slope half an interval ago, and x interval / 2 more of D⁽²⁾ makes up for that."""
    return 1, x, x * (x + interval) / 2


@exercise(
    hint=(
        "Try s² with full steps at −2 N, −N and 0. What are D⁽¹⁾ and D⁽²⁾ there, and what is the curve at x?",
        "For s²: D⁽⁰⁾ = 0, D⁽¹⁾ = −N and D⁽²⁾ = 2, and it must give x². A constant fixes w₀, a line w₁.",
    ),
    solution=solved_weights,
    mistakes={
        "Taylor's": lambda x, interval: (1, x, x**2 / 2),
        "without the one half": lambda x, interval: (1, x, x * (x + interval)),
        "half an interval in the wrong direction": lambda x, interval: (1, x, x * (x - interval) / 2),
        "exact for the interval 4 alone": lambda x, interval: (1, x, x * (x + 4) / 2),
    },
    right="These are Newton's weights for backward differences. Section 4 says what becomes of them far away.",
)
def exact_weights(function):
    """Weights (w0, w1, w2) of the divided differences that are exact for every parabola, at age x."""
    generator = torch.Generator().manual_seed(0)
    for x, interval in ((1.0, 4), (3.0, 4), (2.0, 7), (6.0, 10)):
        found = numbers(function(x, interval), (3,))
        for a, b, c in torch.randn(3, 3, generator=generator, dtype=torch.float64).tolist():
            cache = paper.DerivativeCache(2)
            for step in (-2 * interval, -interval, 0):
                cache.refresh(step, torch.tensor(a * step**2 + b * step + c, dtype=torch.float64))
            forecast = sum(w * float(entry) for w, entry in zip(found, cache.stack, strict=True))
            truth = a * x**2 + b * x + c
            assert abs(forecast - truth) < 1e-6 * (1 + abs(a) * interval**2), (
                f"for N = {interval}, x = {x:g} and {a:.2f} s² + {b:.2f} s + {c:.2f} they give {forecast:.4g}, the "
                f"curve is {truth:.4g} there."
            )


EXERCISES = (network_calls, cache_size, forecast, reuse_wins, exact_weights)
