"""The lesson on confidence-gated Taylor: one trajectory instead of many, and a gate that says when to trust it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from bokeh.model import Model
from bokeh.models import Span
from torch import Tensor

from workbench import plots
from workbench.generation import confidence_gated_taylor as paper
from workbench.generation.taylorseer import DerivativeCache, full_count, full_steps
from workbench.paper import Example
from workbench.plots.style import INK, blank, legend_below, themed
from workbench_widgets.lessons import digits as bench
from workbench_widgets.lessons.digits import Digits
from workbench_widgets.page import table_html
from workbench_widgets.pareto_cloud import ParetoCloud, pareto_cloud

GATE = "confidence_gated_taylor"


def blocks(count: int = 6) -> Tensor:
    """What leaves the first and the last block along an uncached run: (count, 2, 50, 16, 48)."""
    return bench.features(count).blocks


# --- one trajectory --------------------------------------------------------------------------------------------------


def memory_bill() -> str:
    """What three caches hold for DiT-XL/2."""
    one = 256 * 1152 * 2 / 2**20
    rows = [
        (name, f"{count}", f"{count * one:.3g}")
        for name, count in (
            ("all modules, order 1", 56 * 2),
            ("all modules, order 4", 56 * 5),
            ("last block, order 1", 2),
            ("gate: first block order 3, last block order 1", 6),
        )
    ]
    return table_html(("DiT-XL/2, one sample, bfloat16", "tensors", "MiB"), rows)


def last_block_frame(digits: Digits, intervals: Sequence[int] = (3, 4, 5)) -> pd.DataFrame:
    """Nearness (dB) with all modules or the last block cached, orders 0 and 1, on fixed schedules."""
    rows = []
    for interval in intervals:
        row = {"N": interval, "full steps": full_count(digits.steps, interval)}
        for order in (0, 1):
            for name, caching in (("modules", "taylorseer"), ("last block", "last_block_forecast")):
                row[f"{name}, order {order}"] = digits.decibels(caching, interval=interval, order=order)
        rows.append(row)
    return pd.DataFrame(rows)


def cache_ratio(digits: Digits) -> float:
    """Bytes of the cache of all modules over those of the last block's, order 1."""
    few = digits.few(1)
    held = [few.walk(caching, order=1)[0].cache_bytes for caching in ("taylorseer", "last_block_forecast")]
    return held[0] / held[1]


# --- the first block tells the last ----------------------------------------------------------------------------------


def error_pairs(interval: int = 4, order: int = 1) -> pd.DataFrame:
    """On a fixed schedule, for every forecast step: age, and the error of the first and of the last block."""
    found = [paper.forecast_errors(blocks()[:, place], interval=interval, order=order) for place in (0, 1)]
    full, age, rows = full_steps(len(found[0]), interval), 0, []
    for step, computed in enumerate(full):
        age = 0 if computed else age + 1
        if not computed:
            rows.append({"step": step, "age": age, "first": found[0][step].item(), "last": found[1][step].item()})
    return pd.DataFrame(rows)


def spearman(pairs: pd.DataFrame) -> float:
    """Correlation of the ranks of both errors."""
    ranks = pairs[["first", "last"]].rank()
    return float(ranks.corr().iloc[0, 1])


def error_figure(pairs: pd.DataFrame) -> Model:
    """The last block's error over the first's, a dot a step, coloured by age."""
    made = blank("", "error of the first block's forecast", "error of the last block's", height=340,
                 x_axis_type="log", y_axis_type="log")  # fmt: skip
    legend_below(made)
    for number, (age, part) in enumerate(pairs.groupby("age")):
        made.scatter(part["first"], part["last"], size=9, marker=plots.MARKERS[number], color=plots.PALETTE[number],
                     alpha=0.8, legend_label=f"age {age}")  # fmt: skip
    made.max_width = 700
    return themed(made, "neutral")


# --- the gate --------------------------------------------------------------------------------------------------------


def strip(gate: Sequence[float], fixed: Sequence[float]) -> Model:
    """Two strips of steps: A is the gate's run, B the fixed schedule's; full cells were computed."""
    made = plots.timeline(len(gate))
    plots.update_timeline(made, {"A": list(gate), "B": list(fixed)}, len(gate))
    made.max_width = 860
    return made


def shares(digits: Digits, caching: str, **options: float) -> list[float]:
    """Which part of the batch each step computed."""
    return [step.share for step in digits.walk(caching, **options)]


def gate_figure(digits: Digits, threshold: float, **options: float) -> Model:
    """The gate's error at every step, and the threshold that it is held against."""
    steps = digits.walk(GATE, threshold=threshold, **options)
    known = [step for step in steps if step.error is not None]
    made = blank("", "sampling step", "relative error of the first block's forecast", height=320, y_axis_type="log")
    legend_below(made)
    for name, marker, color, chosen in (
        ("trusted: the rest is forecast", "circle", plots.ORANGE, [s for s in known if not s.computed]),
        ("refused: all is computed", "square", plots.BLUE, [s for s in known if s.computed]),
    ):
        made.scatter([s.index for s in chosen], [s.error for s in chosen], size=9, marker=marker, color=color,
                     legend_label=name)  # fmt: skip
    made.add_layout(Span(location=threshold, dimension="width", line_color=INK["neutral"], line_dash="dashed"))
    made.max_width = 860
    return themed(made, "neutral")


def picture(example: Example) -> Model:
    """What the knobs make of one number of the last block's output."""
    features = example.inputs["features"]
    seen = paper.confidence_gated_taylor(features, **example.options)
    decided = paper.decide(
        features[:, 0],
        **{name: value for name, value in example.options.items() if name != "order_last"},
    )
    steps, number = np.arange(features.shape[2]), 300
    truth = features[:, 1]
    error = (seen - truth)[0].flatten(1).norm(dim=1) / truth[0].flatten(1).norm(dim=1)
    drawn = {
        "last block, computed": (steps, truth[0].flatten(1)[:, number].numpy()),
        f"{int(decided.full[0].sum())} of {len(steps)} computed": (steps, seen[0].flatten(1)[:, number].numpy()),
        "relative error, whole output": (steps, error.numpy()),
    }
    made = plots.functions(drawn, x_label="sampling step", y_label="one number, and the error")
    made.max_width = 860
    return made


# --- against other ways ----------------------------------------------------------------------------------------------


def gate_sweep(digits: Digits, thresholds: Sequence[float], **options: float) -> pd.DataFrame:
    """Full steps and nearness (dB) for every threshold of the gate."""
    rows = []
    for threshold in thresholds:
        steps = digits.walk(GATE, threshold=threshold, **options)
        near = digits.judge(steps[-1].sample).psnr_db
        rows.append({"threshold": threshold, "full": sum(step.share for step in steps), "decibels": near})
    return pd.DataFrame(rows)


FIXED = {"all modules, fixed": "taylorseer", "last block, fixed": "last_block_forecast"}
FEWER = "fewer steps, no cache"


def others(
    digits: Digits,
    intervals: Sequence[int],
    changes: Sequence[float] = (0.05, 0.1, 0.2),
    ways: Sequence[str] = (*FIXED, FEWER),
) -> pd.DataFrame:
    """The same for what stands beside it: fixed schedules, fewer steps, a first-block cache."""
    rows = []
    for interval in intervals:
        full = full_count(digits.steps, interval)
        for name in ways:
            if name in FIXED:
                near = digits.decibels(FIXED[name], interval=interval, order=1)
                rows.append({"name": name, "full": full, "decibels": near, "interval": interval})
            elif digits.labels.ndim == 1:  # a label that changes at a step means nothing to a sampler with other steps
                rows.append({"name": name, "full": full, "decibels": digits.decibels(steps=full)})
    for change in changes:
        steps = digits.walk("first_block_cache", threshold=change)
        near = digits.judge(steps[-1].sample).psnr_db
        rows.append({"name": "first-block cache", "full": sum(step.share for step in steps), "decibels": near})
    return pd.DataFrame(rows)


def cloud(gate: pd.DataFrame, beside: pd.DataFrame, depth: int = 6, steps: int = 50, caption: str = "") -> ParetoCloud:
    """All of it as choices between work (% of an uncached run, the first block of trusted steps included) and error."""
    rows = [("gate", f"threshold {row.threshold:g}", row.full, row.decibels) for row in gate.itertuples()]
    words = {"all modules, fixed": "N = {:.0f}", "last block, fixed": "N = {:.0f}"}
    rows += [
        (row.name, words.get(row.name, "{1:.0f} full").format(row.interval, row.full), row.full, row.decibels)
        for row in beside.reindex(columns=["name", "full", "decibels", "interval"]).itertuples(index=False)
    ]
    looks = ("gate", "first-block cache")  # these compute the first block at every step
    points = [
        {
            "name": f"{way}, {setting}",
            "way": way,
            "computed": 100 * (full + (steps - full) / depth * (way in looks)) / steps,
            "error": bench.rms_error(near),
        }
        for way, setting, full, near in rows
    ]
    labels = {"computed": "computed blocks (% of an uncached run)", "error": bench.ERROR}
    return pareto_cloud(
        points, {"computed": "less", "error": "less"}, group="way", log=["error"], labels=labels, caption=caption
    )


def advantage_words(gate: pd.DataFrame, beside: pd.DataFrame) -> str:
    """Whether the gate is nearer than the fixed schedule here, in a sentence."""
    gain = advantage(gate, beside)
    if np.isnan(gain):
        return "No threshold of these has 12 to 19 full steps, and a fixed schedule with as many beside it."
    words = "no better" if abs(gain) < 1 else "ahead" if gain > 0 else "behind"
    return (
        f"Against the last block's forecast on a fixed schedule with at least as many full steps (12 to 19) the gate "
        f"is {words} here: {gain:+.1f} dB."
    )


def gate_table(gate: pd.DataFrame) -> str:
    """Full steps and nearness for every threshold."""
    shown = gate.assign(threshold=100 * gate["threshold"])
    return frame_html(shown, {"threshold": "threshold (%)", "full": "full steps", "decibels": "dB"})


def pairs_table(pairs: pd.DataFrame) -> str:
    """How well the first block's error tells the last's: in all, and among forecasts of one age."""
    parts = [("all", pairs), *((f"age {age}", part) for age, part in pairs.groupby("age"))]
    rows = [
        (name, f"{spearman(part):.2f}", f"{(part['last'] / part['first']).median():.1f}", str(len(part)))
        for name, part in parts
    ]
    heads = ("forecasts", "rank correlation", "last block's error / first's (median)", "how many")
    return table_html(heads, rows)


def advantage(gate: pd.DataFrame, beside: pd.DataFrame, least: int = 12, most: int = 19) -> float:
    """dB of the gate over the last block's forecast on the fixed schedule with the fewest full steps that are not fewer
    than the gate's; the mean over the thresholds with ``least`` to ``most`` full steps."""
    fixed = beside[beside["name"] == "last block, fixed"].sort_values("full")
    found = []
    for row in gate[gate["full"].between(least, most)].itertuples():
        enough = fixed[fixed["full"] >= row.full]
        if len(enough):
            found.append(row.decibels - enough["decibels"].iloc[0])
    return float(np.mean(found)) if found else float("nan")


def out_of_order(gate: pd.DataFrame) -> int:
    """Neighbouring thresholds of which the larger one has more full steps, or is nearer."""
    ordered = gate.sort_values("threshold")
    return int(((ordered["full"].diff() > 0) | (ordered["decibels"].diff() > 0)).sum())


def frame_html(frame: pd.DataFrame, words: Mapping[str, str] | None = None, caption: str = "") -> str:
    """A small table of numbers, one digit after the point where there is one."""
    heads = [(words or {}).get(name, name) for name in frame.columns]
    rows = [[f"{value:.1f}" if value % 1 else f"{value:.0f}" for value in row] for row in frame.to_numpy(dtype=float)]
    return table_html(heads, rows, caption)


def sample_gates(digits: Digits, threshold: float) -> tuple[float, float]:
    """Full steps, as their mean over the samples, with one gate for the batch and with one for each sample."""
    counts = [sum(shares(digits, GATE, threshold=threshold, scope=scope)) for scope in ("batch", "sample")]
    return counts[0], counts[1]


def by_hand() -> str:
    """The gate on one number, step by step: order 1, threshold 0.1."""
    values = torch.tensor([4.0, 5.0, 6.0, 7.0, 8.2, 9.9, 12.0], dtype=torch.float64)
    cache, rows = DerivativeCache(1), []
    for step, value in enumerate(values):
        forecast = error = None
        if step > 1:
            forecast = cache.forecast(step)
            error = float((forecast - value).abs() / value.abs())
        trusted = error is not None and error < 0.1
        if not trusted:
            cache.refresh(step, value)
        words = "warm-up" if error is None else "trusted" if trusted else "refused: refresh"
        rows.append((f"s = {step}", f"{value:g}", "" if error is None else f"{forecast:.4g}",
                     "" if error is None else f"{error:.3f}", words))  # fmt: skip
    return table_html(("", "h¹", "forecast", "e", ""), rows, "Order 1, threshold 0.1, warm-up up to s = 1.")
