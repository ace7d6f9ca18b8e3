"""The lesson on PolyCom: pictures of activations, the theorems as numbers, a race of small language models."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from bokeh.model import Model
from bokeh.models import Legend
from torch import Tensor

from workbench import catalog, measure, plots
from workbench.feedforward import polycom as paper
from workbench.models import language_model, training
from workbench.paper import Example
from workbench.plots.style import INK, blank, note, themed
from workbench.tasks import grammar
from workbench_widgets.page import Progress, table_html

THIRDS = torch.full((3,), 1 / 3, dtype=torch.float64)
NO_BIAS = torch.zeros(1, dtype=torch.float64)


# --- pictures --------------------------------------------------------------------------------------------------------


def plain_activations(width: float = 3.0) -> Model:
    """The activations of one number, PolyReLU among them with its first coefficients."""
    x = torch.linspace(-width, width, 241, dtype=torch.float64)
    drawn = {method.title: method(x) for method in (paper.relu, paper.gelu, paper.relu_squared)}
    drawn["PolyReLU"] = paper.poly_relu(x, THIRDS, NO_BIAS)
    return _limited(plots.functions({name: (x.numpy(), y.numpy()) for name, y in drawn.items()}), -1, 5)


def a_row(width: int = 96, outlier: float | None = None) -> Tensor:
    """One row of standard-normal pre-activations, sorted; the last one replaced by ``outlier``."""
    row = torch.randn(width, generator=torch.Generator().manual_seed(3), dtype=torch.float64).sort().values
    if outlier is not None:
        row[-1] = outlier
    return row


def rows_with_outliers(outliers: Sequence[float] = (8, 20)) -> Model:
    """PolyNorm's output over its input, number by number, for one row and for the same row with one large entry."""
    drawn = {}
    for outlier in (None, *outliers):
        row = a_row(outlier=outlier)
        name = "a row of 96 numbers" if outlier is None else f"one of them set to {outlier:g}"
        drawn[name] = (row[:-1].numpy(), paper.poly_norm(row, THIRDS, NO_BIAS)[:-1].numpy())
    return plots.functions(drawn, x_label="entry of the row (the largest is not drawn)", y_label="its output")


def curve(example: Example) -> Model:
    """The polynomial activation that the knobs describe, on one row, beside GELU and ReLU."""
    x = a_row().to(example.inputs["x"].dtype)
    weight, bias = (example.inputs[name].cpu() for name in ("weight", "bias"))
    drawn = {
        "PolyNorm": paper.poly_norm(x, weight, bias, **example.options),
        "PolyReLU": paper.poly_relu(x, weight, bias),
        "GELU": paper.gelu(x),
    }
    return _limited(plots.functions({name: (x.numpy(), y.numpy()) for name, y in drawn.items()}), -3, 4)


def _limited(figure: Model, low: float, high: float) -> Model:
    figure.y_range.start, figure.y_range.end = low, high
    figure.max_width = 800
    return figure


def by_hand(x: Tensor) -> str:
    """PolyNorm of one short row, every step shown; coefficients 1/3."""
    rows, total = [], torch.zeros_like(x)
    for p, power in enumerate(paper.powers(x, 3), start=1):
        normalised = paper.normalise(power, 1e-6)
        total = total + normalised / 3
        mean = power.square().mean()
        rows.append((f"p = {p}", _vector(power), f"{mean:.4g}", f"{mean.rsqrt():.4f}", _vector(normalised)))
    rows.append(("y = (N₁ + N₂ + N₃) / 3", "", "", "", _vector(total)))
    difference = float((paper.poly_norm(x, THIRDS, NO_BIAS) - total).abs().max())
    caption = f"poly_norm gives the same; largest difference {difference:.1e}."
    return table_html(("", "xᵖ", "mean of its squares", "r_p = 1 / root", "N_p = xᵖ r_p"), rows, caption)


def _vector(numbers: Tensor) -> str:
    return "(" + ", ".join(f"{number:.4g}" for number in numbers.tolist()) + ")"


# --- the theorems as numbers -----------------------------------------------------------------------------------------


def spline_frame(units: Sequence[int] = (4, 8, 16, 32, 64)) -> pd.DataFrame:
    """The error of a fit by that many units, ReLU and cubic PolyReLU, as rows for ``plots.curves``."""
    kinds = {"ReLU": 1, "PolyReLU, order 3": 3}
    rows = [
        {"units": count, "error": paper.spline_error(count, power), "activation": name}
        for name, power in kinds.items()
        for count in units
    ]
    return pd.DataFrame(rows)


def square_prices() -> str:
    """What ReLU pays for x² on [0, 1] at a given error, in width and in depth, and what PolyReLU pays."""
    rows = []
    for pieces, depth in zip((4, 16, 64), (2, 4, 6), strict=True):
        wide, deep = paper.piecewise_linear_error(pieces), paper.sawtooth_error(depth)
        rows.append((f"{wide:.3g}", f"{pieces} pieces", f"{deep:.3g}", f"{depth} layers", "0", "2 units"))
    heads = ("error", "one wide ReLU layer", "error", "a deep ReLU net", "error", "PolyReLU")
    return table_html(heads, rows)


def kept_for_backward(width: int = 1024) -> dict[str, float]:
    """Bytes that autograd keeps, in units of the activation's output, by method and implementation."""
    choices = {
        "ReLU": (paper.relu, "fast"),
        "GELU": (paper.gelu, "fast"),
        "SwiGLU, the formula": (paper.swiglu, "reference"),
        "SwiGLU, fused": (paper.swiglu, "fast"),
        "PolyReLU, the formula": (paper.poly_relu, "reference"),
        "PolyReLU, fused": (paper.poly_relu, "fast"),
        "PolyNorm, the formula": (paper.poly_norm, "reference"),
        "PolyNorm, fused": (paper.poly_norm, "fast"),
    }
    kept = {}
    for name, (method, implementation) in choices.items():
        inputs = method.example(64, hidden=width).inputs.values()
        kept[name] = measure.saved_bytes(method.function(implementation), *inputs) / (64 * width * 4)
    return kept


def relu_network_difference() -> float:
    """Largest difference between a random ReLU network and the same one made of PolyReLU (0, 1, 0, 0)."""
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(32, 32, generator=generator, dtype=torch.float64) / 6 for _ in range(4)]
    weight = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    ours = theirs = torch.randn(100, 32, generator=generator, dtype=torch.float64)
    for matrix in matrices:
        ours, theirs = paper.poly_relu(ours @ matrix, weight, NO_BIAS), paper.relu(theirs @ matrix)
    return float((ours - theirs).abs().max())


# --- measurements ----------------------------------------------------------------------------------------------------


def feed_forward_overhead(device: str, *, rows: int, width: int, dtype: str, budget_s: float) -> float:
    """Time of a feed-forward block with PolyNorm over the same with GELU, forward and backward."""
    times = {}
    for name in ("gelu", "poly_norm"):
        torch.manual_seed(0)
        block = paper.FeedForward(width, 4 * width, catalog.method(name), "fast")
        block = block.to(device, getattr(torch, dtype))
        x = torch.randn(rows, width, device=device, dtype=getattr(torch, dtype), requires_grad=True)

        def step(block=block, x=x) -> None:
            block(x).sum().backward()

        times[name] = measure.time_call(step, device, budget_s=budget_s).median_ms
    return times["poly_norm"] / times["gelu"]


@dataclass(frozen=True)
class Race:
    """What a race left: its laps, the coefficients of PolyNorm along the way, and ranks at the end.

    ``laps`` has columns activation, seed, step, loss, validation; ``coefficients`` step, layer, a_0, a_1, ...;
    ``ranks`` the mean effective rank of the feed-forward matrices by activation.
    """

    laps: pd.DataFrame
    coefficients: pd.DataFrame
    ranks: dict[str, float]

    def validation(self) -> pd.DataFrame:
        """Loss on held-out text after the last step: mean, lowest and highest over seeds, by activation."""
        last = self.laps.dropna(subset="validation")
        return last.groupby("activation", sort=False)["validation"].agg(["mean", "min", "max"])


def run_race(
    activations: Sequence[str], *, seeds: int, steps: int, lap: int, device: str, **settings: int
) -> Race:
    """Train the small language models, with progress under the cell. The notebook's stop button ends the race early and
    keeps its laps."""
    bar = Progress(len(activations) * seeds * -(-steps // lap))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are so small that threads would mostly wait for each other
    laps, coefficients, models = [], [], {}
    try:
        race = language_model.race(
            activations, seeds=range(seeds), steps=steps, lap=lap, device=device, **settings
        )
        for done, each in enumerate(race, start=1):
            loss = f"{each.activation}, seed {each.seed}, step {each.step}: {each.loss:.3f} nats a character"
            bar.update(done, loss)
            laps.append({name: value for name, value in vars(each).items() if name != "model"})
            models[each.activation, each.seed] = each.model
            if each.activation == "poly_norm" and each.seed == 0:
                coefficients += _coefficients(each.model, each.step)
    except KeyboardInterrupt:
        pass
    finally:
        torch.set_num_threads(threads)
    bar.close()
    ranks = {}
    for name in activations:
        blocks = [block.feed_forward for (racer, _), model in models.items() if racer == name for block in model.blocks]
        matrices = itertools.chain.from_iterable((block.up.weight, block.down.weight) for block in blocks)
        ranks[name] = float(np.mean([paper.effective_rank(matrix) for matrix in matrices]))
    return Race(pd.DataFrame(laps), pd.DataFrame(coefficients), ranks)


def _coefficients(model: torch.nn.Module, step: int) -> list[dict[str, float]]:
    rows = []
    for layer, block in enumerate(model.blocks):
        activation = block.feed_forward.activation
        numbers = [*activation.bias.tolist(), *activation.weight.tolist()]
        rows.append({"step": step, "layer": layer} | {f"a_{p}": number for p, number in enumerate(numbers)})
    return rows


def race_figure(race: Race, machine: str) -> Model:
    """Training loss over steps, mean over seeds, with a band from the best to the worst of them."""
    figure = blank("", "training step", "loss (nats a character)", height=360)
    figure.add_layout(Legend(ncols=4, margin=0, padding=4), "below")
    titles = {name: catalog.method(name).title for name in dict.fromkeys(race.laps["activation"])}
    colors = plots.colors_of(titles.values())
    for name, title in titles.items():
        laps = race.laps[race.laps["activation"] == name].groupby("step")["loss"].agg(["mean", "min", "max"])
        figure.varea(laps.index, laps["min"], laps["max"], fill_color=colors[title], fill_alpha=0.18)
        figure.line(laps.index, laps["mean"], color=colors[title], line_width=2.5, legend_label=title)
    floor = grammar.write(training.CHARACTERS).floor
    figure.line([0, race.laps["step"].max()], [floor, floor], line_dash="dotted", color=INK["neutral"], line_width=2,
                legend_label="entropy of the text: no model gets below")  # fmt: skip
    figure.y_range.start = 0
    note(figure, machine)
    return themed(figure, "neutral")


def coefficient_figure(race: Race) -> Model:
    """PolyNorm's coefficients over the steps of the race, mean over layers."""
    mean = race.coefficients.groupby("step").mean()
    start = {"a_0": 0.0}
    drawn = {
        name: (np.r_[0, mean.index], np.r_[start.get(name, 1 / 3), mean[name]])
        for name in mean.columns
        if name.startswith("a_")
    }
    return plots.functions(drawn, x_label="training step", y_label="coefficient, mean over layers")


def coefficient_table(race: Race) -> str:
    """PolyNorm's coefficients after the last step, layer by layer."""
    last = race.coefficients[race.coefficients["step"] == race.coefficients["step"].max()]
    names = [name for name in last.columns if name.startswith("a_")]
    rows = [(f"layer {row.layer}", *(f"{getattr(row, name):.3f}" for name in names)) for row in last.itertuples()]
    return table_html(("", *names), rows, "At the start a_0 is 0 and the others are 0.333.")
