"""The questions and exercises of the lesson on the Activator, with answers, solutions and typical mistakes.

A test runs every solution and every mistake. If you are here to learn: solve them first.
"""

import torch

from workbench.feedforward import activator as paper
from workbench.models.vit import ViT
from workbench.tasks import images
from workbench_widgets.answers import close, same, shaped
from workbench_widgets.exercise import exercise
from workbench_widgets.lessons import activator as lesson
from workbench_widgets.page import table_html
from workbench_widgets.predict import Prediction, predict

# --- predict, then run -----------------------------------------------------------------------------------------------


def shuffled_patches() -> Prediction:
    """The permutation probe on models that have learned nothing yet."""
    pixels = images.load("digits").test[:1].double()
    rows, changed = [], {}
    for name in ("ViT", "Activator A", "Activator B"):
        torch.manual_seed(0)
        model = ViT(lesson.MODELS[name]).double()
        with torch.no_grad():
            if model.position is not None:
                model.position.normal_()
            before, after = model(pixels)[0], model(lesson.shuffled(pixels))[0]
        changed[name] = (after - before).abs().max().item()
        rows.append((name, *(f"{value:.4f}" for value in before[:2]), *(f"{value:.4f}" for value in after[:2]),
                     f"{changed[name]:.0e}"))  # fmt: skip
    same = max(changed["Activator A"], changed["Activator B"]) < 1e-12 < changed["ViT"]
    heads = ("", "logit 0", "logit 1", "shuffled: 0", "1", "largest change")
    why = (
        "Norm, gated unit and feed-forward block work on one patch at a time, and the mean over patches does not know "
        "an order. What is left is the rounding of a sum in another order. The network sees a <i>bag</i> of patches, "
        "whatever it learns. A ViT has a place vector for each patch, and its attention compares patches."
    )
    return predict(
        "Cut an image into patches, shuffle them, and give both images to an Activator. How do its logits differ?",
        ["a little: most strokes are inside of a patch", "not at all", "completely: it is another image"],
        "not at all" if same else "completely: it is another image",
        {"not at all": why},
        evidence=table_html(heads, rows),
    )


def ten_times_the_value() -> Prediction:
    """The norm on the value's branch forgets its scale."""
    example = lesson.a_row()
    x, weight, bias = example.inputs.values()
    hidden = x.shape[1] // 2
    factor = torch.cat([torch.ones(hidden), 10 * torch.ones(hidden)]).double()
    once, value, gate = (paper.normalised_gate(each, weight, bias) for each in (x, x * factor, x * factor.roll(hidden)))
    changes = [float((other - once).norm() / once.norm()) for other in (value, gate)]
    why = (
        f"v is normalised, and the factor is gone: the output moves by {changes[0]:.0e}. The gate is normalised "
        "<i>after</i> its activation, and GELU is not the same curve at another scale: there the factor changes the "
        f"output by {changes[1]:.0%}. So the unit is no linear map of its input, in either factor."
    )
    return predict(
        "In z₁, z₂ of one token, multiply z₂ (the value) by 10. What does the gated unit make of it?",
        ["10 times the output", "the same output", "the square, 100 times"],
        "the same output" if changes[0] < 1e-4 else "10 times the output",
        {"the same output": why},
    )


def cheaper_variant() -> Prediction:
    """Operations of A and B against a ViT."""
    a, b = lesson.mac_ratio("Activator A"), lesson.mac_ratio("Activator B")
    rows = [(name, f"{lesson.paper.macs(kind, tokens=64, **lesson.PAPER_SHAPE):,}") for name, kind in
            lesson.KINDS.items()]  # fmt: skip
    answer = "only B" if b < 1 < a else "both"
    why = (
        f"B needs {b:.2f} times the ViT's operations, A {a:.2f} times. Attention costs 4 d² + 2 N d for a token, the "
        "gated unit 3 d f, which is 6 d² here. With few patches attention is <i>cheap</i>: it is the projections "
        "that cost. A saves only from N > d on, more than 256 patches."
    )
    return predict(
        "At the paper's size (64 patches, width 256, hidden 512): which variant computes less than a ViT's block?",
        ["both", "only B", "neither"],
        answer,
        {"only B": why},
        evidence=table_html(("block", "multiply-adds a token"), rows),
    )


PREDICTIONS = (shuffled_patches, ten_times_the_value, cheaper_variant)


# --- exercises -------------------------------------------------------------------------------------------------------


@exercise(
    hint=(
        "Section 5 counts the multiply-adds a token of both blocks. Only attention's know the number of patches.",
        "Set 5 d f equal to 4 d² + 2 N d + 2 d f, with f = 2 d, and solve for N.",
    ),
    solution=256,
    mistakes={"where B breaks even": -256, "half of it": 128, "the hidden size": 512},
    right="N = d. Every image of more than 256 patches makes A the cheaper block at this width.",
)
def break_even(answer):
    """At width d = 256 and hidden f = 512: at how many patches does variant A cost as much as a ViT's block?"""
    assert answer > 0, "a number of patches is above zero."
    close(answer, 256, 0, "set 5 d f = 4 d² + 2 N d + 2 d f with f = 2 d.")


@exercise(
    hint=(
        "List the layers of one block, from the norm before it to the map out of it. Which of them have a bias?",
        "Two linear maps into the gate, one out of it, each with a bias; one LN of width f; one LN of width d.",
    ),
    solution=396_032,
    mistakes={
        "without biases and norms": 393_216,
        "a norm for each branch": 397_056,
        "all four blocks": 1_584_128,
    },
    right="Four such blocks are the 1,584,128 weights of the trunk of variant B.",
)
def weights_of_a_block(answer):
    """How many weights has one block of variant B at d = 256, f = 512?"""
    assert answer != 397_056, "u and v go through the same norm: its weight and bias exist once."
    close(answer, 396_032, 0, "3 d f + 2 f + d for the linear maps, 2 f for their norm, 2 d for the norm before.")


def solved_gate(z, gamma, beta, eps):
    """LN(GELU(z1)) * LN(z2), one norm for both halves of z (rows, 2 f)."""
    z1, z2 = z.chunk(2, dim=-1)

    def norm(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * gamma + beta

    return norm(torch.nn.functional.gelu(z1)) * norm(z2)


def _norm(x, gamma, beta, eps):
    return torch.nn.functional.layer_norm(x, gamma.shape, gamma, beta, eps)


def _norm_first(z, gamma, beta, eps):
    z1, z2 = z.chunk(2, dim=-1)
    return torch.nn.functional.gelu(_norm(z1, gamma, beta, eps)) * _norm(z2, gamma, beta, eps)


def _gate_last(z, gamma, beta, eps):
    return solved_gate(z.roll(z.shape[-1] // 2, -1), gamma, beta, eps)


def _plain_geglu(z, gamma, beta, eps):
    z1, z2 = z.chunk(2, dim=-1)
    return _norm(torch.nn.functional.gelu(z1) * z2, gamma, beta, eps)


def _unbiased(z, gamma, beta, eps):
    z1, z2 = z.chunk(2, dim=-1)

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + eps).sqrt() * gamma + beta

    return norm(torch.nn.functional.gelu(z1)) * norm(z2)


@exercise(
    hint=(
        "Cut z in two. What happens to either half before they are multiplied, and in which order?",
        "First the activation, then the norm; the value's half has the norm only. The variance divides by f.",
    ),
    solution=solved_gate,
    mistakes={
        "the norm before GELU": _norm_first,
        "value first": _gate_last,
        "one norm after the product": _plain_geglu,
        "variance with f - 1": _unbiased,
    },
    right="The kernel computes exactly this, with one read of z.",
)
def the_gate(function):
    """The normalised gate."""
    generator = torch.Generator().manual_seed(0)
    for rows, hidden, eps in ((5, 12, 1e-5), (1, 3, 1e-3), (7, 8, 1e-2)):
        z = torch.randn(rows, 2 * hidden, generator=generator, dtype=torch.float64)
        gamma, beta = (torch.rand(hidden, generator=generator, dtype=torch.float64) + shift for shift in (0.5, -0.5))
        same(
            function(z, gamma, beta, eps),
            paper.normalised_gate(z, gamma, beta, eps=eps),
            "Gate first; activation, then norm; one weight and one bias for both; the variance is a plain mean of "
            "squares.",
            what=f"for z of shape {(rows, 2 * hidden)} and eps = {eps:g}, the result",
        )


def solved_twin(image):
    """Another image (8, 8) that no Activator can tell from this one: its two halves swapped."""
    return torch.cat([image[4:], image[:4]])


@exercise(
    hint=(
        "Section 4 says what an Activator does not see. What may you do to the patches of an image, then?",
        "Patches are 2 x 2, from the top left corner on. Move whole patches; do not turn them.",
    ),
    solution=solved_twin,
    mistakes={
        "the same image": lambda image: image.clone(),
        "moved by one pixel": lambda image: image.roll(1, 0),
        "a mirror image": lambda image: image.flip(1),
        "inverted": lambda image: -image,
        "the same image but for rounding": lambda image: image + 1e-17,
        "the same image, a shade lighter": lambda image: image + 1e-3,
    },
    right="Any order of the 16 patches will do: 16! images look the same to every Activator.",
)
def twin(function):
    """An image that looks different to you and is the same to variant A and B, whatever they have learned."""
    torch.manual_seed(1)
    model = ViT(lesson.MODELS["Activator B"]).double()
    for place in (3, 17, 42):
        image = images.load("digits").test[place, 0].double()
        other = shaped(function(image), (8, 8), what="the other image").double()
        changed = float((other - image).abs().max())
        assert changed > 0.1, f"nobody sees a difference: no pixel (−1 to 1) changes by more than {changed:.2g}."
        with torch.no_grad():
            logits = model(torch.stack([image, other])[:, None])
        difference = float((logits[0] - logits[1]).abs().max())
        assert difference < 1e-12, f"an Activator's logits differ by {difference:.2g}: the two hold different patches."


def solved_spatial(u, v, matrix):
    """u * v', where every token's v' is a mixture of all tokens' v: its row of the matrix says how much of each."""
    return u * (matrix @ v)


@exercise(
    hint=(
        "v is (batch, tokens, hidden). From which side does a matrix (tokens, tokens) mix its tokens?",
        "matrix @ v, from the left; and u, which is not mixed, gates what comes out.",
    ),
    solution=solved_spatial,
    mistakes={
        "mixes after the gate": lambda u, v, matrix: matrix @ (u * v),
        "transposed": lambda u, v, matrix: u * (matrix.mT @ v),
        "does not mix": lambda u, v, matrix: u * v,
        "mixes the gate": lambda u, v, matrix: (matrix @ u) * v,
    },
    right="One matrix, and the network is no bag of patches any more. It also knows only images of this one size.",
)
def spatial(function):
    """The spatial gate: v is mixed along the tokens by a matrix before u gates it."""
    generator = torch.Generator().manual_seed(0)
    for batch, tokens, hidden in ((3, 5, 7), (1, 4, 2), (2, 3, 3)):
        u, v = torch.randn(2, batch, tokens, hidden, generator=generator, dtype=torch.float64)
        matrix = torch.randn(tokens, tokens, generator=generator, dtype=torch.float64)
        same(
            function(u, v, matrix),
            u * torch.einsum("nm,bmf->bnf", matrix, v),
            "Token n gets the sum over m of matrix[n, m] v[m], and u[n] gates that.",
            what=f"for u of shape {tuple(u.shape)}, the result",
        )


EXERCISES = (break_even, weights_of_a_block, the_gate, twin, spatial)
