"""The lesson on PolyCom: pictures of activations, the theorems as numbers, a race of small language models."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from bokeh.model import Model
from torch import Tensor

from workbench import catalog, measure, plots
from workbench.feedforward import polycom as paper
from workbench.models import language_model, training
from workbench.models.transformer import TransformerConfig
from workbench.paper import Example
from workbench.tasks import grammar
from workbench.writing import vector
from workbench_widgets.page import table_html
from workbench_widgets.race import Race

THIRDS = torch.full((3,), 1 / 3, dtype=torch.float64)
NO_BIAS = torch.zeros(1, dtype=torch.float64)
START = {"a_0": 0.0, "a_1": 1 / 3, "a_2": 1 / 3, "a_3": 1 / 3}  # where training begins


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


def one_row() -> Model:
    """PolyNorm's output over its input, number by number, for one row; GELU of the same numbers beside it."""
    row = a_row()
    drawn = {"PolyNorm": paper.poly_norm(row, THIRDS, NO_BIAS), "GELU": paper.gelu(row)}
    return _limited(
        plots.functions(
            {name: (row.numpy(), output.numpy()) for name, output in drawn.items()},
            x_label="entry of the row", y_label="its output",
        ), -3, 4,
    )  # fmt: skip


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
        rows.append((f"p = {p}", vector(power), f"{mean:.4g}", f"{mean.rsqrt():.4f}", vector(normalised)))
    rows.append(("y = (N₁ + N₂ + N₃) / 3", "", "", "", vector(total)))
    difference = float((paper.poly_norm(x, THIRDS, NO_BIAS) - total).abs().max())
    caption = f"poly_norm gives the same; largest difference {difference:.1e}."
    return table_html(("", "xᵖ", "mean of its squares", "r_p = 1 / root", "N_p = xᵖ r_p"), rows, caption)


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


@functools.cache
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


def racers(names: Sequence[str]) -> dict[str, TransformerConfig]:
    """Small language models by the title of their activation, with equally many parameters."""
    small = language_model.small()
    return {catalog.method(name).title: dataclasses.replace(small, activation=name) for name in names}


def entropy() -> float:
    """Of the text that the models learn, in nats a character: no loss is lower."""
    return grammar.write(training.CHARACTERS).floor


def rank(race: Race, activation: str) -> float:
    """The mean effective rank of the feed-forward matrices that were trained with that activation."""
    blocks = [block.feed_forward for model in race.models[activation] for block in model.blocks]
    return float(np.mean([paper.effective_rank(part.weight) for block in blocks for part in (block.up, block.down)]))


class Coefficients:
    """PolyNorm's coefficients along a race, layer by layer, of its first seed: ``watch`` is told of every lap."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], list[float]] = {}

    def watch(self, seed: int, lap: training.Lap) -> None:
        """Note the coefficients of a PolyNorm model."""
        if seed == 0 and lap.name == paper.poly_norm.title:
            for layer, block in enumerate(lap.model.blocks):
                activation = block.feed_forward.activation
                self._rows[lap.step, layer] = [*activation.bias.tolist(), *activation.weight.tolist()]

    @property
    def frame(self) -> pd.DataFrame:
        """Columns a_0 to a_3 by (step, layer)."""
        index = pd.MultiIndex.from_tuples(list(self._rows), names=["step", "layer"])
        return pd.DataFrame(list(self._rows.values()), index, columns=["a_0", "a_1", "a_2", "a_3"])

    def figure(self) -> Model:
        """The coefficients over the steps, mean over layers, from the values that training began with."""
        mean = self.frame.groupby("step").mean()
        drawn = {name: (np.r_[0, mean.index], np.r_[START[name], mean[name]]) for name in mean}
        return plots.functions(drawn, x_label="training step", y_label="coefficient")

    def table(self) -> str:
        """The coefficients after the last step, layer by layer."""
        last = self.frame.groupby("layer").last()
        cells = [(f"layer {layer}", *(f"{number:.3f}" for number in numbers)) for layer, *numbers in last.itertuples()]
        return table_html(("", *last), cells, "At the start a_0 is 0 and the others are 0.333.")
