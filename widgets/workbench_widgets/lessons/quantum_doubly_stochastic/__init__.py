"""The lesson on doubly stochastic attention: maps of a real encoder, numbers by hand, studies, a race of operators."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from bokeh.model import Model
from bokeh.models import Legend
from torch import Tensor

from workbench import measure, plots
from workbench.attention import quantum_doubly_stochastic as paper
from workbench.attention.quantum_doubly_stochastic import circuit, theory
from workbench.models import pretrained
from workbench.models.vit import ViTConfig
from workbench.paper import Example
from workbench.plots.style import blank, themed
from workbench.tasks.sentences import EXAMPLES
from workbench.writing import vector
from workbench_widgets.model_race import race_models
from workbench_widgets.page import table_html
from workbench_widgets.race import Race

SENTENCE = EXAMPLES[0]
TRAINED_WITH = {
    "softmax": ("softmax_attention", {}),
    "Sinkhorn": ("sinkhorn_attention", {"iterations": 3}),
    "QR": ("qr_attention", {}),
    "QontOT": ("qontot_attention", {"layers": 2, "auxiliary": 1}),
}
"""The mixers that are trained, with the knobs they are given."""


# --- maps of a real encoder ------------------------------------------------------------------------------------------


def encoder_map(device: str = "cpu") -> tuple[list[str], Tensor]:
    """The tokens of a sentence and the softmax map (T, T) of the pretrained encoder's head in which one token receives
    the most attention, float64; where the encoder is not installed, a made-up map with a sink like it."""
    if pretrained.why_not():
        scores = torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        scores[:, 0] += 4
        return [str(number) for number in range(12)], scores.softmax(-1)
    seen = pretrained.load(device).inspect(SENTENCE)
    received = seen.maps.sum(-2).amax(-1)
    layer, head = np.unravel_index(int(received.argmax()), received.shape)
    return seen.tokens, seen.maps[layer, head].double()


def before_and_after(tokens: Sequence[str], softmax: Tensor, half_steps: int = 101) -> list[Model]:
    """A softmax map and what Sinkhorn makes of the same scores, as two figures.

    log P stands for the scores: they differ by one number a row, and a row step takes that out.
    """
    maps = {"softmax": softmax, f"Sinkhorn, {half_steps} half-steps": paper.sinkhorn(softmax.log(), half_steps)}
    figures = []
    for name, map in maps.items():
        most = int(map.sum(-2).argmax())
        title = f"{name}: “{tokens[most]}” receives {float(map.sum(-2)[most]):.2f} of {len(tokens)}"
        figures.append(plots.attention_map(map.float().numpy(), tokens, tokens, title=title))
        figures[-1].max_width = 560
    return figures


def swapped_in() -> str:
    """What happens to sentence vectors when a pretrained encoder gets another mixer without training, as a table."""
    if reasons := pretrained.why_not():
        return f"<p>{' '.join(reasons)}</p>"
    encoder, rows = pretrained.load(), []
    mixers = {
        "softmax": ("softmax_attention", {}),
        "Sinkhorn, 3": ("sinkhorn_attention", {"iterations": 3}),
        "Sinkhorn, 21": ("sinkhorn_attention", {"iterations": 21}),
        "QR": ("qr_attention", {}),
        "QontOT": ("qontot_attention", {}),
    }
    texts = EXAMPLES[3:6]
    original = encoder.encode(texts)
    for name, (attention, options) in mixers.items():
        vectors = encoder.encode(texts, attention=attention, attention_options=options)
        same, other = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
        kept = float((vectors * original).sum(-1).mean())
        rows.append((name, f"{kept:.2f}", f"{same:.2f}", f"{other:.2f}"))
    heads = ("mixer", "cosine with the original vector", f"“{texts[0]}” and “{texts[1]}”", f"and “{texts[2]}”")
    return table_html(heads, rows)


# --- by hand ---------------------------------------------------------------------------------------------------------


def sinkhorn_by_hand(scores: Tensor, half_steps: Sequence[int] = (1, 2, 3, 101)) -> str:
    """A 2 x 2 map after some half-steps, with its sums, and the limit in closed form."""
    rows = []
    for made in half_steps:
        map = paper.sinkhorn(scores, made)
        rows.append((str(made), matrix(map), vector(map.sum(-1)), vector(map.sum(-2))))
    (a, b), (c, d) = torch.exp(scores).tolist()
    limit = math.sqrt(a * d) / (math.sqrt(a * d) + math.sqrt(b * c))
    caption = f"In the limit the first entry is √(ad) / (√(ad) + √(bc)) = {limit:.6f} for exp(M) = (a b; c d)."
    return table_html(("half-steps", "P", "row sums", "column sums"), rows, caption)


def qr_by_hand(scores: Tensor) -> str:
    """M, its orthogonal factor and the squares."""
    orthogonal, triangular = torch.linalg.qr(scores)
    orthogonal = orthogonal * torch.where(triangular.diagonal() < 0, -1.0, 1.0)  # the sign is free; this one is usual
    rows = [("M", matrix(scores)), ("U", matrix(orthogonal)), ("P = U ∘ U", matrix(paper.qr(scores, jitter=0.0)))]
    return table_html(("", ""), rows, "The first column of P is M’s first column, squared and divided by its norm².")


def one_wire(angles: Sequence[float] = (0.3, 0.7, 0.2)) -> str:
    """The smallest circuit there is, by hand: one wire, three rotations."""
    found = circuit.unitary(torch.tensor(angles, dtype=torch.float64), qubits=1, layers=0, ansatz="simple")
    map = circuit.read_out(found, 2)
    rows = [
        ("angles", vector(torch.tensor(angles))),
        ("P", matrix(map)),
        ("cos²(t₂ / 2)", f"{math.cos(angles[1] / 2) ** 2:.6f}"),
    ]
    return table_html(
        ("", ""), rows, "Rz only turns phases, which |W|² does not see: the first and third angle drop out."
    )


def half_steps_needed(scale: float, *, tolerance: float = 1e-6, matrices: int = 15, most: int = 5001) -> int:
    """After how many half-steps the columns of half of the matrices (8 tokens, normal scores of deviation ``scale``)
    sum to 1 within ``tolerance``; ``most`` where that is not reached."""
    scores = theory.normal_scores(scale, matrices=matrices)
    v = torch.zeros(scores.shape[:-1], dtype=scores.dtype)
    for half_steps in range(1, most, 2):
        u = -torch.logsumexp(scores + v[:, None, :], -1)
        columns = torch.logsumexp(scores + u[:, :, None], -2)
        errors = torch.expm1(columns + v).abs().amax(-1)
        if 2 * (errors <= tolerance).sum() > matrices:
            return half_steps
        v = -columns
    return most


def matrix(numbers: Tensor) -> str:
    """A matrix for people, row by row."""
    return "<br>".join(", ".join(f"{number:.6g}" for number in row) for row in (numbers + 0.0).tolist())


# --- studies ---------------------------------------------------------------------------------------------------------


def counts_figure(counts: Mapping[str, int]) -> Model:
    """How many of the 625 matrices of the sphere grid stay apart, a bar an operator."""
    return plots.bars(list(counts), list(counts.values()), "distinct maps out of 625 (counted)")


def scale_frame(scales: Sequence[float] = (0.25, 0.5, 1, 2, 4, 8), matrices: int = 32) -> pd.DataFrame:
    """Distance, entropy and loss of information by operator, over the size of normal scores."""
    return pd.DataFrame(theory.scale_study(scales, matrices=matrices))


def scale_figures(frame: pd.DataFrame) -> list[Model]:
    """Distance and entropy over the size of the scores. The distance of QR and the circuit is rounding: not drawn."""
    look = {"group": "operator", "x_label": "standard deviation of the scores (a score has no unit)"}
    iterated = frame[~frame["operator"].isin(["QR", "QontOT"])]
    figures = [plots.curves(iterated, "scale", "distance", **look)]
    figures.append(plots.curves(frame, "scale", "entropy", log_y=False, **look))
    figures[0].yaxis[0].axis_label = "distance to doubly stochastic (Frobenius norm)"
    figures[1].yaxis[0].axis_label = "entropy of a row (nats)"
    return figures


def scatter(frame: pd.DataFrame) -> Model:
    """Entropy over information loss, both for one operator at one score scale; a line joins the scales."""
    made = blank("", "information lost, |M − P| / |M|", "entropy of a row (nats)", height=340)
    made.add_layout(Legend(ncols=2, margin=0, padding=4), "below")
    for name, color in plots.colors_of(frame["operator"].unique()).items():
        rows = frame[frame["operator"] == name]
        lost = rows["information_loss"] / rows["scale"] / 8
        made.line(lost, rows["entropy"], color=color, line_width=1.5, legend_label=name)
        made.scatter(lost, rows["entropy"], color=color, size=4 + 2 * np.log2(8 * rows["scale"]), legend_label=name)
    return themed(made, "neutral")


def sharp_tokens(tokens: int) -> dict[str, Tensor]:
    """Query, key and value (1, 1, tokens, 32), float32; scores of deviation 2, with one key that everybody likes."""
    generator = torch.Generator().manual_seed(5)
    query, key, value = (torch.randn(1, 1, tokens, 32, generator=generator) for _ in range(3))
    key[..., 0, :] += query.mean(-2)
    return {"query": 2 * query, "key": key, "value": value}


def map_with_figures(method) -> Model:
    """A picture for ``explore``: the map, and in its title how far from doubly stochastic it is and how it spreads."""

    def picture(example: Example) -> Model:
        query, key = (example.inputs[name][:1, :1] for name in ("query", "key"))
        map = method.attention_map(query, key, **example.options)[0, 0]
        found = paper.diagnostics(map)
        title = f"distance to doubly stochastic {float(found.distance):.1e}, entropy {float(found.entropy):.2f} nats"
        tokens = [str(number) for number in range(len(map))]
        figure = plots.attention_map(map.cpu().float().numpy(), tokens, tokens, title=title)
        figure.max_width = 560
        return figure

    return picture


# --- what the circuit costs ------------------------------------------------------------------------------------------


def circuit_costs(tokens: Sequence[int], device: str, *, layers: int = 16, budget_s: float = 0.1) -> pd.DataFrame:
    """Time of one simulated map (ms), with log2 T + 1 auxiliary qubits and one extra, by tokens; 8 maps at a time."""
    rows = []
    for count in tokens:
        auxiliary = circuit.data_qubits(count) + 1
        operator = theory.circuit(count, auxiliary_qubits=auxiliary, layers=layers, dtype=torch.float32)
        scores = theory.normal_scores(1.0, matrices=8, tokens=count).float().to(device)
        time = measure.time_call(lambda operator=operator, scores=scores: operator(scores), device, budget_s=budget_s)
        qubits = circuit.register_qubits(count, auxiliary)
        rows.append({"tokens": count, "qubits": qubits, "median_ms": time.median_ms / 8, "amplitudes": 4**qubits})
    return pd.DataFrame(rows)


def costs_table(frame: pd.DataFrame) -> str:
    """``circuit_costs`` in words."""
    rows = [
        (row.tokens, row.qubits, 2 * row.qubits, f"{row.amplitudes:,}", f"{row.median_ms:.3g}")
        for row in frame.itertuples()
    ]
    heads = ("tokens", "qubits of a register", "qubits in all", "amplitudes of W", "ms a map")
    return table_html(
        heads, rows, "Each doubling of the tokens adds two qubits to a register: 16 times the amplitudes."
    )


# --- a race of operators ---------------------------------------------------------------------------------------------


def run_race(
    operators: Sequence[str],
    *,
    seeds: int,
    steps: int,
    lap: int,
    device: str,
    batch: int = 100,
    changes: Mapping[str, Mapping[str, int]] | None = None,
    caption: str = "",
) -> Race:
    """Small vision transformers that differ in the mixer learn digits, a row of pixels a token (T = 8, one head, one
    block, width 32). ``changes`` are other knobs for an operator."""
    configs = {}
    for name in operators:
        mixer, options = TRAINED_WITH[name]
        shape = {"patch": 1, "rows": True, "width": 32, "depth": 1, "heads": 1, "hidden": 32}
        configs[name] = ViTConfig(mixer=mixer, mixer_options={**options, **(changes or {}).get(name, {})}, **shape)
    return race_models(
        configs, "digits", seeds=seeds, steps=steps, lap=lap, device=device, batch=batch, caption=caption
    )


def outcome(race: Race) -> str:
    """Who is ahead after the last step, and whether by more than the seeds differ, in a sentence."""
    found = race.final().sort_values("mean", ascending=False)
    (first, second), spread = found["mean"].iloc[:2], found["std"].max()
    lead = first - second
    weight = "more" if lead > spread else "no more"
    return (
        f"After the last step {found.index[0]} is ahead of {found.index[1]} by {lead:.1f} points, which is {weight} "
        f"than the {spread:.1f} points by which one operator's seeds deviate."
    )


# --- measurements for the claims -------------------------------------------------------------------------------------


def learned(race: Race) -> dict[str, float]:
    """The claims on accuracy and stability, from a race in which softmax took part."""
    found = race.final()
    others = found.drop("softmax")
    return {
        "accuracy": others["mean"].min() - found.loc["softmax", "mean"],
        "stability": others["std"].max() / max(found.loc["softmax", "std"], 1e-9),
    }


def studied(frame: pd.DataFrame, counts: Mapping[str, int], matrices: int) -> dict[str, float]:
    """The claims on expressivity and distance; ``frame`` must hold scores of several deviations, 2 too."""
    rows = frame[frame["scale"] == 2].set_index("operator")
    far = [rows.loc[name, "distance"] for name in ("softmax", "Sinkhorn, 3", "Sinkhorn, 21")]
    (deep,) = theory.depth_counts([8], matrices, auxiliary_qubits=[3])
    return {
        "distinct_sinkhorn": counts["Sinkhorn, 3"],
        "distinct_qontot": counts["QontOT, parted, 8 layers"],
        "distinct_qr": counts["QR"],
        "deep_circuits_are_injective": deep["distinct"],
        "more_half_steps_come_closer": min(far[0] / far[1], far[1] / far[2]),
        "exactly_doubly_stochastic": rows.loc[["QR", "QontOT"], "distance"].max(),
        "circuit_keeps_entropy": min(row["gap"] for row in theory.entropy_at_equal_loss(frame.to_dict("records"))),
    }


def headline(recorded: pd.DataFrame) -> str:
    """The recorded forward times of Sinkhorn attention over 8 x 16 heads, a column an implementation."""
    rows = recorded[(recorded["method"] == "sinkhorn_attention") & (recorded["batch"] == 8)]
    times = rows[rows["direction"] == "forward"].pivot_table(
        index="group", columns="implementation", values="median_ms", sort=False
    )
    cells = [
        (group, *("–" if math.isnan(ms) else f"{ms:.2f}" for ms in each))
        for group, each in zip(times.index, times.to_numpy(), strict=True)
    ]
    machine = measure.machine_line(recorded.attrs["provenance"])
    return table_html(("time of one call (ms), recorded", *times.columns), cells, machine)


def on_a_gpu(device: str) -> dict[str, float]:
    """The claims on time and memory that only a GPU can settle."""

    def rows(method, names: Sequence[str], sizes: Sequence[int], **settings) -> pd.DataFrame:
        choices = [(method, name) for name in names]
        return pd.DataFrame(measure.sweep(choices, sizes, device=device, **settings)).set_index(
            ["implementation", "size"]
        )

    long = rows(paper.sinkhorn_attention, ["fast"], [4096, 8192], dtype="bfloat16", shape={"heads": 16})
    heads = {"batch": 8, "heads": 16}
    options = {"iterations": 10}
    names = ["fast", "torch_compile", "torch_compile_training"]
    fused = rows(paper.sinkhorn_attention, names, [1024], shape=heads, options=options, replayed=True)["median_ms"]
    qr = rows(paper.qr_attention, ["fast", "one_by_one"], [8], shape={"batch": 32, "heads": 8})
    return {
        "memory_growth": math.log2(long.loc[("fast", 8192), "peak_bytes"] / long.loc[("fast", 4096), "peak_bytes"]),
        "fused_speedup": min(fused[name, 1024] for name in names[1:]) / fused["fast", 1024],
        "batched_qr_speedup": qr.loc[("one_by_one", 8), "median_ms"] / qr.loc[("fast", 8), "median_ms"],
    }
