"""The questions and exercises of the lesson on PolyCom, with answers, solutions and typical mistakes.

A test runs every solution and every mistake. If you are here to learn: solve them first.
"""

import math

import torch

from workbench.feedforward import polycom as paper
from workbench_widgets.answers import close, same, shaped
from workbench_widgets.exercise import exercise
from workbench_widgets.lessons import polycom as lesson
from workbench_widgets.page import table_html
from workbench_widgets.predict import Prediction, predict

# --- predict, then run -----------------------------------------------------------------------------------------------


def ten_times() -> Prediction:
    """Scale invariance."""
    row = lesson.a_row()
    outputs = [paper.poly_norm(factor * row, lesson.THIRDS, lesson.NO_BIAS) for factor in (1, 10, -1)]
    same = torch.allclose(outputs[0], outputs[1], atol=1e-4)
    rows = [(f"{factor} · x", *(f"{value:.4f}" for value in output[[0, 48, 95]])) for factor, output in
            zip((1, 10, "−1"), outputs, strict=True)]  # fmt: skip
    why = (
        "Each power is divided by its own size, and 10ᵖ cancels. So PolyNorm sees only the <i>shape</i> of a row, "
        "never its length. That keeps a polynomial tame, and it also throws information away. The sign survives: "
        "for −x the odd powers flip and the square does not."
    )
    return predict(
        "Multiply a row of pre-activations by 10. What does PolyNorm make of it?",
        ["10 times the output", "up to 1000 times: there is a cube in it", "the same output"],
        "the same output" if same else "10 times the output",
        {"the same output": why},
        evidence=table_html(("", "smallest entry", "a middle one", "largest entry"), rows),
    )


def one_outlier() -> Prediction:
    """A row is a unit."""
    plain, changed = (paper.poly_norm(row, lesson.THIRDS, lesson.NO_BIAS)[:-1] for row in
                      (lesson.a_row(), lesson.a_row(outlier=20)))  # fmt: skip
    shrunk = float(changed.std() / plain.std())
    why = (
        "PolyNorm is no function of one number: the whole row decides how each entry is mapped. One large entry "
        "takes most of each root mean square, of the cube's above all, and the rest of the row fades: the spread "
        f"of the others falls to {shrunk:.0%}."
    )
    return predict(
        "A row has 96 entries. Replace the largest by 20 and leave the others alone. What happens to the outputs of "
        "the <i>others</i>?",
        ["nothing: an activation works number by number", "they shrink", "they grow"],
        "they shrink" if shrunk < 1 else "they grow",
        {"they shrink": why},
    )


def pieces_for_a_square() -> Prediction:
    """What ReLU pays."""
    needed = math.ceil(math.sqrt(1 / (8 * 1e-6)))
    assert paper.piecewise_linear_error(needed) <= 1e-6 < paper.piecewise_linear_error(needed - 1)
    why = (
        f"{needed}: the error of n pieces is 1 / (8 n²), so each further digit costs a factor of √10. Depth is "
        "cheaper, a factor of 4 for each layer, but it too has to be paid. Two PolyReLU units hold x² exactly."
    )
    return predict(
        "A layer of ReLU units is a broken line. How many straight pieces does it need to follow x² on [0, 1] with "
        "an error of one millionth?",
        ["about 20", "about 350", "about 1,000,000"],
        "about 350" if 300 < needed < 400 else "about 20",
        {"about 350": why},
        evidence=lesson.square_prices(),
    )


def memory_kept() -> Prediction:
    """What autograd keeps."""
    kept = lesson.kept_for_backward()["PolyNorm, the formula"]
    why = (
        f"{kept:.1f}: for each power the power itself and its normalised form, for the coefficient's gradient. The "
        "official code checkpoints the activation for that reason and computes it twice. The input and three "
        "numbers a row would be enough, as section 6 shows."
    )
    return predict(
        "To differentiate PolyNorm written as its formula, autograd keeps tensors from the forward pass. How many, "
        "in units of the input?",
        ["1: the input is enough", "3: one for each power", "6"],
        "6" if round(kept) == 6 else "3: one for each power",
        {"6": why},
    )


PREDICTIONS = (ten_times, one_outlier, pieces_for_a_square, memory_kept)


# --- exercises -------------------------------------------------------------------------------------------------------


@exercise(
    hint=(
        "PolyReLU is a polynomial of ReLU(x). Which power of it is ReLU²?",
        "P(x) = a₀ + a₁ x₊ + a₂ x₊² + a₃ x₊³, and only the term with x₊² is left.",
    ),
    solution=(0, 0, 1, 0),
    mistakes={
        "ReLU": (0, 1, 0, 0),
        "the official code's order": (0, 1, 0),
        "all of them": (1, 1, 1, 1),
        "nearly": (0, 0, 1, 1e-17),
    },
    right="So a network of ReLU² is a PolyReLU network too, and training may move away from it.",
)
def as_relu_squared(answer):
    """Coefficients (a0, a1, a2, a3) with which PolyReLU is ReLU squared."""
    bias, *weight = (torch.tensor([float(number)], dtype=torch.float64) for number in answer)
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    got = paper.poly_relu(x, torch.cat(weight), bias)
    assert torch.equal(got, paper.relu_squared(x)), f"at x = 2 it gives {got[-1]:g}, ReLU² gives 4."
    assert answer == (0, 0, 1, 0), f"here that is lost in rounding, but {answer} are not the coefficients of ReLU²."


@exercise(
    hint=(
        "Count the matrices of width × hidden in either block.",
        "SwiGLU has three, a block without a gate has two: 3 · 5504 = 2 · hidden.",
    ),
    solution=8256,
    mistakes={"the same size": 5504, "twice": 11008, "two thirds": 3669},
    right="5504 · 3 / 2 = 8256, the size that the official launch script uses.",
)
def equal_hidden(answer):
    """SwiGLU with hidden size 5504: which hidden size gives PolyNorm as many parameters?"""
    assert answer != 5504, "with the same hidden size the block without a gate has a third fewer parameters."
    close(answer, paper.equal_parameter_hidden(5504, 2, 1), 0, "3 · 5504 · width must equal 2 · hidden · width.")


def solved_row_polynomial(x, weight, eps):
    """The coefficients c (rows, 3) with PolyNorm(x) = c₁ x + c₂ x² + c₃ x³, row by row."""
    scales = [torch.rsqrt((x**p).square().mean(-1) + eps) for p in (1, 2, 3)]
    return weight * torch.stack(scales, dim=-1)


def _without_root(x, weight, eps):
    return weight / torch.stack([(x**p).square().mean(-1) + eps for p in (1, 2, 3)], dim=-1)


def _l2(x, weight, eps):
    return weight / torch.stack([torch.linalg.vector_norm(x**p, dim=-1) + eps for p in (1, 2, 3)], dim=-1)


def _over_the_wrong_axis(x, weight, eps):
    scales = [torch.rsqrt((x**p).square().mean() + eps).expand(len(x)) for p in (1, 2, 3)]
    return weight * torch.stack(scales, dim=-1)


@exercise(
    hint=(
        "N_p(x) = x^p · r_p with one r_p for each row. What is left of PolyNorm once r₁, r₂, r₃ are known?",
        "c_p = weight_p · r_p, and r_p is one over the root of (the mean of x^(2p) over the row, plus eps).",
    ),
    solution=solved_row_polynomial,
    mistakes={
        "mean of squares without the root": _without_root,
        "the L2 norm of the paper's text": _l2,
        "one mean for all rows": _over_the_wrong_axis,
        "forgets the weight": lambda x, weight, eps: solved_row_polynomial(x, torch.ones(3, dtype=x.dtype), eps),
    },
    right="That is what the kernel does: one read for the sums, three numbers a row, one polynomial.",
)
def row_polynomial(function):
    """PolyNorm as one cubic for each row."""
    generator = torch.Generator().manual_seed(0)
    for rows, hidden, eps in ((5, 24, 1e-6), (1, 3, 1e-3), (4, 7, 1e-2)):
        x = 1.5 * torch.randn(rows, hidden, generator=generator, dtype=torch.float64)
        weight = torch.randn(3, generator=generator, dtype=torch.float64)
        coefficients = shaped(function(x, weight, eps), (rows, 3), what="the matrix of coefficients")
        cubic = sum(c[:, None] * x**p for p, c in enumerate(coefficients.T, start=1))
        same(
            cubic.to(coefficients.dtype),
            paper.poly_norm(x, weight, lesson.NO_BIAS, eps=eps),
            "c_p = weight_p · r_p, with r_p = (mean of x^(2p) over the row + eps)^(−1/2).",
            what=f"for {rows} rows of {hidden} numbers and eps = {eps:g}, the cubic beside PolyNorm",
        )


def solved_product(x, y, unit):
    """x · y from four units, unit(z) = max(z, 0)²."""
    square_of_sum = unit(x + y) + unit(-x - y)
    square_of_difference = unit(x - y) + unit(y - x)
    return (square_of_sum - square_of_difference) / 4


@exercise(
    hint=(
        "Which difference of two squares leaves x y alone? And how many units does one square take?",
        "(x + y)² − (x − y)² = 4 x y, and z² is two units: one for z > 0, one for z < 0.",
    ),
    solution=solved_product,
    mistakes={
        "only positive sides": lambda x, y, unit: (unit(x + y) - unit(x - y)) / 4,
        "without the quarter": lambda x, y, unit: 4 * solved_product(x, y, unit),
        "the product itself": lambda x, y, unit: x * y,
        "asks a unit and multiplies": lambda x, y, unit: 0 * unit(x) + x * y,
        "multiplies by a unit": lambda x, y, unit: unit(torch.ones(())) * x * y,
    },
    right="Four units, exact. So a gate, which multiplies two projections, is within reach of a block without one.",
)
def product(function):
    """A product out of PolyReLU units."""
    generator = torch.Generator().manual_seed(0)
    for size in (50, 40):
        x, y = torch.randn(2, size, generator=generator, dtype=torch.float64)
        made = [x, y, torch.ones_like(x)]

        def unit(z, made=made):
            made.append(torch.relu(z) ** 2)
            return made[-1].clone()

        got = function(x, y, unit)
        same(got, x * y, "It must be x y, number by number: which squares are needed, and does each count both signs?")
        assert len(made) <= 20, "four units are enough."
        columns = torch.stack([each.double().expand_as(x) for each in made], dim=1)
        left = (columns @ torch.linalg.lstsq(columns, (x * y)[:, None]).solution)[:, 0] - x * y
        assert left.norm() < 1e-9 * (x * y).norm(), (
            "no sum of what your units gave is x y, so you multiplied. The point is to multiply without multiplying."
        )


@exercise(
    hint=(
        "What in the formula of the scale does not grow with x?",
        "ε = 10⁻⁶ is added to the mean of x², x⁴ and x⁶. For which x are those not much larger than ε?",
    ),
    solution=(0.05, -0.02, 0.03, 0.04),
    mistakes={"an ordinary row": (1.0, -0.5, 0.3, 2.0), "zeros": (0.0, 0.0, 0.0, 0.0), "too few": (0.05,)},
    right="The mean of x⁶ is far below ε there, so the cubic term fades. Every implementation does that; "
    "it is why scale invariance is tested with ε = 0.",
)
def breaks_invariance(answer):
    """A row of four numbers, not all zero, for which PolyNorm(2x) differs from PolyNorm(x) by more than 1 %."""
    x = torch.tensor(answer, dtype=torch.float64)
    assert x.abs().max() > 0, "a row of zeros gives the bias whatever you multiply it by: that breaks nothing."
    once, twice = (paper.poly_norm(factor * x, lesson.THIRDS, lesson.NO_BIAS) for factor in (1, 2))
    difference = float((once - twice).norm() / twice.norm())
    assert difference > 0.01, f"PolyNorm(2x) and PolyNorm(x) differ by {difference:.1e}: the invariance holds here."


EXERCISES = (as_relu_squared, equal_hidden, row_polynomial, product, breaks_invariance)
