"""The questions and exercises of the lesson on doubly stochastic attention, with answers, solutions and mistakes.

A test runs every solution and every mistake. If you are here to learn: solve them first.
"""

import math

import torch

from workbench.attention import quantum_doubly_stochastic as paper
from workbench.attention.quantum_doubly_stochastic import circuit, theory
from workbench_widgets.answers import close, same, shaped
from workbench_widgets.exercise import exercise
from workbench_widgets.lessons import quantum_doubly_stochastic as lesson
from workbench_widgets.page import table_html
from workbench_widgets.predict import Prediction, predict

EXAMPLE = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 3.0]], dtype=torch.float64)


# --- predict, then run -----------------------------------------------------------------------------------------------


def larger_scores() -> Prediction:
    """What the size of the scores does to Sinkhorn."""
    scales = (0.5, 1, 2, 4, 8)
    needed = {scale: lesson.half_steps_needed(scale) for scale in scales}
    ratio = needed[8] / needed[1]
    alike, eight, more = "about as many", "about 8 times as many", "more than 15 times as many"
    return predict(
        "Eight tokens, normal scores of deviation 1: half of such matrices have all column sums within 10⁻⁶ of 1 "
        f"after {needed[1]} half-steps. Multiply the scores by 8. How many half-steps does it take now?",
        [alike, eight, more],
        more if ratio > 15 else eight if ratio > 4 else alike,
        {
            more: f"{needed[8]}, {ratio:.0f} times as many. A half-step hands on what is too much along the entries "
            "that are not small. Large scores leave few of those: queries and keys fall into groups that hardly see "
            "each other, and what one group has too much must seep through entries near 0. So the size of the scores "
            "decides what 3 or 21 half-steps are worth.",
            eight: f"{needed[8]}, {ratio:.0f} times as many: large scores leave few entries along which a half-step "
            "can hand on what is too much.",
        },
        evidence=table_html(("deviation of the scores", "half-steps, median"), list(needed.items())),
    )


def opposite_scores() -> Prediction:
    """What QR does not see."""
    same = torch.allclose(paper.qr(-EXAMPLE, jitter=0.0), paper.qr(EXAMPLE, jitter=0.0), atol=1e-12)
    rows = [
        (name, lesson.matrix(paper.qr(scores, jitter=0.0)), lesson.matrix(paper.sinkhorn(scores, 101)))
        for name, scores in {"M": EXAMPLE, "−M": -EXAMPLE, "10 M": 10 * EXAMPLE}.items()
    ]
    return predict(
        "Turn the sign of every score: what was similar is now dissimilar. What does QR attention make of it?",
        ["large weights become small ones", "the same map", "the transposed map"],
        "the same map" if same else "the transposed map",
        "If M = UR, then −M = U(−R): the same U. Nor does the size of the scores matter, nor any multiple of an "
        "earlier column that is added to a later one. QR keeps the <i>directions</i> of the columns, in their order: "
        "the first column of the map is the first column of M squared, the others get what is left.",
        evidence=table_html(("scores", "QR", "Sinkhorn"), rows),
    )


def no_scores() -> Prediction:
    """Where the circuit starts."""
    zero, operators = torch.zeros(4, 4, dtype=torch.float64), theory.operators(4)
    identity = torch.equal(operators["QontOT"](zero), torch.eye(4, dtype=torch.float64))
    rows = [(name, lesson.matrix(operators[name](zero))) for name in ("softmax", "QontOT")]
    return predict(
        "All scores are 0, as they nearly are when training begins. Softmax then gives the uniform map. And the "
        "circuit?",
        ["the uniform map, too", "the identity", "a random map: its parameters are random"],
        "the identity" if identity else "the uniform map, too",
        "Every angle is a parameter times a score. With angle 0 no rotation turns anything, the two CX of a block undo "
        "each other, and W is the identity. A freshly initialised layer passes tokens on as they are; mixing has to be "
        "learned. Softmax starts at the other end, with every token the mean of all.",
        evidence=table_html(("operator", "map of zero scores"), rows),
    )


def causal() -> Prediction:
    """Why these methods are for encoders."""
    reasons = ""
    try:
        paper.sinkhorn_attention(*(torch.zeros(1, 1, 4, 2),) * 3, is_causal=True)
    except ValueError as error:
        reasons = f"<p>The method itself says: “{error}”</p>"
    return predict(
        "A language model must not look ahead: its map is 0 above the diagonal. How many doubly stochastic maps of 8 "
        "tokens are like that?",
        ["none", "exactly one", "infinitely many"],
        "exactly one" if reasons else "infinitely many",
        "The first query sees one key and spends its unit on it, so that key is full. The second query sees two keys, "
        "one of which is full, and spends its unit on the other, and so on: the identity is the only one. So the paper "
        "stays with encoders.",
        evidence=reasons,
    )


def light_cone() -> Prediction:
    """How many gates count."""
    counts = {layers: (len(circuit.light_cone(8, 3, layers, "parted")), 14 * layers) for layers in (1, 2, 4, 16)}
    rows = [(str(layers), inside, of) for layers, (inside, of) in counts.items()]
    return predict(
        "The paper's register for 8 tokens has 8 wires, and only the first 3 are read. With one layer the circuit has "
        "14 blocks. How many of them can change the map at all?",
        ["all 14", "10", "6"],
        {14: "all 14", 10: "10"}.get(counts[1][0], "6"),
        "A block on two wires that are not read, and that no later block connects with one that is, turns what is "
        "summed over, and the sum does not notice. From the other side it is the same: auxiliary wires start "
        "maximally mixed, and turning them leaves them so. Influence spreads by a wire or two a layer, like light in "
        "a cone. A shallow circuit with many auxiliary qubits computes mostly nothing.",
        evidence=table_html(("layers", "blocks that count", "of"), rows),
    )


PREDICTIONS = (larger_scores, opposite_scores, no_scores, causal, light_cone)


# --- exercises -------------------------------------------------------------------------------------------------------


@exercise(
    hint=(
        "With one wire the map has only two different entries, and they sum to 1.",
        "P₁₁ = cos²(t / 2) must be 1/2, so cos(t / 2) = 1/√2.",
    ),
    solution=math.pi / 2,
    mistakes={"forgets the half": math.pi / 4, "exchanges the tokens": math.pi, "the share itself": 0.5, "none": 0.0},
    right="π/2: half way between the identity (0) and the exchange of both tokens (π).",
)
def even_shares(answer):
    """The angle t of Ry, between 0 and π, at which the circuit of one wire lets both tokens share evenly."""
    expected = math.pi / 2
    share = math.cos(answer / 2) ** 2
    close(answer, expected, 1e-3, f"there P₁₁ = cos²(t / 2) is {share:.3f}, and 1/2 is wanted, with t from 0 to π.")


@exercise(
    hint=(
        "Count the turns of single wires and the blocks of two wires apart. Which of them are in U₁ as well?",
        "3 angles turn each of the 6 wires (of U₂ only); a layer has 5 blocks of 4 angles, in U₂ and in U₁.",
    ),
    solution=98,
    mistakes={"U₂ alone": 58, "both registers are turned": 116, "no turns": 80},
    right="18 + 2 · 2 · 5 · 4 = 98, the number that the paper gives for its circuit of two layers.",
)
def parameters(answer):
    """The parameters of a parted circuit for 4 tokens, 6 wires a register and 2 layers."""
    expected = circuit.parameter_count(4, auxiliary_qubits=3, layers=2)
    close(answer, expected, 0, f"it is not {answer}: 3 q + 8 (q − 1) L, with q = 6 wires and L = 2 layers.")


def solved_sinkhorn(scores, capacity, half_steps):
    """The map of scores (T, T) whose rows sum to 1 and whose columns come to ``capacity`` (T,), in the log domain."""
    u = v = torch.zeros(len(scores), dtype=scores.dtype)
    for half_step in range(half_steps):
        if half_step % 2 == 0:
            u = -torch.logsumexp(scores + v, dim=1)
        else:
            v = capacity.log() - torch.logsumexp(scores + u[:, None], dim=0)
    return torch.exp(scores + u[:, None] + v)


def _divided(scores, capacity, half_steps):
    """The same with divisions: right while exp neither overflows nor vanishes."""
    map = torch.exp(scores)
    for half_step in range(half_steps):
        target = 1.0 if half_step % 2 == 0 else capacity
        map = map * (target / map.sum(1 - half_step % 2, keepdim=True))
    return map


def _equal_columns(scores, capacity, half_steps):
    return solved_sinkhorn(scores, torch.ones_like(capacity), half_steps)


def _columns_first(scores, capacity, half_steps):
    map = _divided(scores, capacity, 0)
    for half_step in range(half_steps):
        target = capacity if half_step % 2 == 0 else 1.0
        map = map * (target / map.sum(half_step % 2, keepdim=True))
    return map


def _scales_in_the_end(scores, capacity, half_steps):
    return _equal_columns(scores, capacity, half_steps) * capacity


def _without_the_logarithm(scores, capacity, half_steps):
    return solved_sinkhorn(scores, capacity.exp(), half_steps)


@exercise(
    hint=(
        "A half-step on columns makes them sum to 1, whatever they were. By what must it multiply to make them sum to "
        "something else?",
        "u as in section 3; v is log capacity minus the logsumexp over the rows of scores + u.",
    ),
    solution=solved_sinkhorn,
    mistakes={
        "columns that sum to 1": _equal_columns,
        "the capacity multiplied in the end": _scales_in_the_end,
        "the capacity itself in place of its logarithm": _without_the_logarithm,
        "columns first": _columns_first,
        "without logarithms": _divided,
    },
    right="Capacities that are equal give doubly stochastic attention, and any others a transport plan: how to move a "
    "unit from every query into keys that hold so much. QontOT was made for those.",
)
def my_sinkhorn(function):
    """Sinkhorn's map for keys that may receive different amounts."""
    generator = torch.Generator().manual_seed(1)
    for tokens, half_steps, shift in ((5, 1, 0), (5, 2, 0), (5, 3, 0), (3, 8, 0), (5, 3, 1000)):
        scores = theory.normal_scores(2.0, matrices=1, tokens=tokens, seed=3)[0]
        capacity = torch.rand(tokens, generator=generator, dtype=torch.float64) + 0.2
        capacity *= tokens / capacity.sum()
        same(
            function(scores + shift, capacity, half_steps),
            _divided(scores, capacity, half_steps),
            "Half-step 1 makes rows sum to 1, half-step 2 columns to their capacity, and so on, all of it in the log "
            "domain.",
            what=f"with scores around {shift}, after {half_steps} half-steps the map",
        )


def solved_read_out(amplitudes, tokens):
    """P (T, T) from W (N, N), whose first log2 T wires are read on both sides."""
    others = len(amplitudes) // tokens
    blocks = amplitudes.abs().square().reshape(tokens, others, tokens, others)
    return blocks.sum((1, 3)) / others


@exercise(
    hint=(
        "What is measured is |W|². Which of its rows and columns belong to the same token?",
        "Wire 0 is the most significant bit, so a row is (data, other) = data · m + other. Reshape, sum, divide by m.",
    ),
    solution=solved_read_out,
    mistakes={
        "does not divide": lambda w, tokens: solved_read_out(w, tokens) * (len(w) // tokens),
        "squares the sum": lambda w, tokens: (
            w.reshape(tokens, len(w) // tokens, tokens, len(w) // tokens).sum((1, 3)).abs().square()
            / (len(w) // tokens)
        ),
        "reads the last wires": lambda w, tokens: (
            w.abs().square().reshape(len(w) // tokens, tokens, len(w) // tokens, tokens).sum((0, 2))
            / (len(w) // tokens)
        ),
    },
    right="Probabilities are added, not amplitudes: that is what not looking at a qubit means.",
)
def read_out(function):
    """The map that one measures."""
    generator = torch.Generator().manual_seed(0)
    for tokens, qubits in ((2, 1), (4, 4)):
        count = 3 * qubits + 8 * (qubits - 1)
        angles = 2 * torch.randn(count, generator=generator, dtype=torch.float64)
        amplitudes = circuit.unitary(angles, qubits=qubits, layers=1)
        where = f"with {tokens} tokens and {2**qubits} states"
        got = shaped(function(amplitudes, tokens), (tokens, tokens), what=f"{where} the map")
        sums = got.sum(1)
        assert torch.allclose(sums, torch.ones_like(sums)), (
            f"{where} the first row sums to {float(sums[0]):.3g}: divide by the m = N / T columns of a token."
        )
        message = "The sums are right and the map is not: which wires are read?"
        same(got, circuit.read_out(amplitudes, tokens), message, what=f"{where} the map")


@exercise(
    hint=(
        "M = UR, and only U counts. What of the second column goes into R?",
        "Add a multiple of the first column to the second: U does not turn.",
    ),
    solution=((2.0, 3.0), (1.0, 4.0)),
    mistakes={
        "twice as large": ((4.0, 2.0), (2.0, 6.0)),
        "the columns exchanged": ((1.0, 2.0), (3.0, 1.0)),
        "a change of the first column": ((3.0, 1.0), (4.0, 3.0)),
        "not a matrix": (1.0, 2.0),
        "the given one but for rounding": ((2.0, 1.00003), (1.0, 3.0)),
    },
    right="Any multiple of the first column may be added to the second: the part along it goes into R. So different "
    "scores share a map, and most of the 625 matrices of the grid do.",
)
def same_map(answer):
    """Scores with the QR map of (2 1; 1 3), and no multiple of it."""
    given = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    scores = torch.tensor(answer, dtype=torch.float64)
    ratio = float((scores * given).sum() / given.square().sum())
    other = float((scores - ratio * given).norm() / scores.norm())
    assert other > 0.01, "that is a multiple of the given matrix, or nearly: find another kind."
    got, expected = paper.qr(scores, jitter=0.0), paper.qr(given, jitter=0.0)
    assert torch.allclose(got, expected), (
        f"its map starts with {float(got[0, 0]):.3g}, the given one with {float(expected[0, 0]):.3g}."
    )


EXERCISES = (even_shares, parameters, my_sinkhorn, read_out, same_map)
