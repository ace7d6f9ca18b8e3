"""The lesson on TaylorSeer: paths of features, forecasts and their errors, sweeps over interval and order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from bokeh.model import Model
from torch import Tensor

from workbench import plots
from workbench.generation import taylorseer as paper
from workbench.paper import Example
from workbench_widgets.lessons import digits as bench
from workbench_widgets.lessons.digits import Digits
from workbench_widgets.page import table_html
from workbench_widgets.states import StateOverTime, implied_map, state_over_time

MODULE = 7  # the feed-forward part of block 3: the one that the pictures follow


def module_features(count: int = 4) -> Tensor:
    """What one module puts out along an uncached run: (count, 50, 16, 48)."""
    return bench.features(count).modules[:, MODULE]


# --- pictures --------------------------------------------------------------------------------------------------------


def directions(count: int = 8) -> Tensor:
    """One run of that module's output along the directions in which it moves most: (50, count), less its mean."""
    rows = module_features()[0].flatten(1).double()
    centred = rows - rows.mean(0)
    return centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:count].mT


def forecasts(interval: int = 8, orders: Sequence[int] = (0, 1, 2), coordinate: int = 300) -> Model:
    """One number of a module's output, computed at every step, and as forecasts of several orders see it."""
    features = module_features()[:1]
    steps = np.arange(features.shape[1])
    drawn = {"computed at every step": (steps, features[0].flatten(1)[:, coordinate].numpy())}
    for order in orders:
        seen = paper.taylorseer(features, interval=interval, order=order)[0].flatten(1)[:, coordinate]
        drawn["reused" if order == 0 else f"forecast, order {order}"] = (steps, seen.numpy())
    return _wide(plots.functions(drawn, x_label="sampling step", y_label="one number of the output"))


def picture(example: Example) -> Model:
    """What the knobs make of one number of a module's output."""
    features = example.inputs["features"][:1]
    seen = paper.taylorseer(features, **example.options)
    steps, number = np.arange(features.shape[1]), 300
    full = paper.full_steps(len(steps), example.options.get("interval", 4), example.options.get("first_full", 2))
    error = (seen - features).flatten(2).norm(dim=2)[0] / features.flatten(2).norm(dim=2)[0]
    drawn = {
        "computed at every step": (steps, features[0].flatten(1)[:, number].numpy()),
        f"{sum(full)} of {len(steps)} computed": (steps, seen[0].flatten(1)[:, number].numpy()),
        "relative error, whole output": (steps, error.numpy()),
    }
    return _wide(plots.functions(drawn, x_label="sampling step", y_label="one number, and the error"))


def errors_by_age(interval: int = 10, orders: Sequence[int] = (0, 1, 2, 4)) -> Model:
    """The relative error of a forecast over the steps since the last full one, mean over the run, by order."""
    features = module_features()
    full = torch.tensor(paper.full_steps(features.shape[1], interval))
    ages = _ages(full)
    drawn = {}
    for order in orders:
        off = paper.taylorseer(features, interval=interval, order=order) - features
        error = off.flatten(2).norm(dim=2).mean(0) / features.flatten(2).norm(dim=2).mean(0)
        late = torch.arange(len(full)) >= 1 + 2 * interval  # every order has its differences by then
        means = [float(error[late & (ages == age)].mean()) for age in range(interval)]
        drawn["reuse" if order == 0 else f"order {order}"] = (np.arange(interval), np.array(means))
    return _wide(plots.functions(drawn, x_label="age: steps since the last full one", y_label="relative error"))


def parabola_errors(a: float = 1.0, interval: int = 4, steps: int = 24) -> pd.DataFrame:
    """Forecast minus truth for a s², by age, in a regular interval: measured, and the law −a N x (−a x (N + x) for
    order 1)."""
    features = (a * torch.arange(steps).double() ** 2)[None, :, None, None]
    rows = {}
    for order, weights in ((0, "taylor"), (1, "taylor"), (2, "taylor"), (2, "newton")):
        seen = paper.taylorseer(features, interval=interval, order=order, first_full=1, weights=weights)
        name = "reuse" if order == 0 else f"order {order}" + (", Newton's weights" if weights == "newton" else "")
        rows[name] = (seen - features)[0, 4 * interval : 5 * interval, 0, 0].tolist()
    return pd.DataFrame(rows, index=pd.Index(range(interval), name="age"))


def by_hand() -> str:
    """Three full steps of one number, its differences, and a forecast; every number shown."""
    steps, values = (0, 4, 8), (1.0, 3.0, 9.0)
    cache, rows = paper.DerivativeCache(2), []
    for step, value in zip(steps, values, strict=True):
        cache.refresh(step, torch.tensor(value, dtype=torch.float64))
        entries = [f"{entry:.4g}" for entry in cache.stack]
        rows.append((f"s = {step}", f"{value:g}", str(cache.gap), *entries, *[""] * (3 - len(entries))))
    weights = paper.taylor_weights(2, 3)
    terms = " + ".join(f"{w:g} · {entry:.4g}" for w, entry in zip(weights, cache.stack, strict=True))
    caption = f"Forecast of s = 10, x = 2: {terms} = {cache.forecast(10):.4g}"
    return table_html(("", "F", "gap", "D⁽⁰⁾", "D⁽¹⁾", "D⁽²⁾"), rows, caption)


def mixture() -> StateOverTime:
    """One module's output, computed at every step, along its principal directions; beside it how much of each step a
    cache of order 1 mixes into what it gives, with every 8th step full."""
    interval, order, seen = 8, 1, directions(4)
    options = {"interval": interval, "order": order}

    def cached(values: Tensor) -> Tensor:
        return paper.taylorseer(values[None, :, :, None], **options)[0, :, :, 0]

    caption = (
        f"Every {interval}th step is full, order {order}; every row sums to 1. A full step is itself. A forecast takes "
        "more than all of the last full step (blue), and takes some of the one before away (orange), the more the "
        "further it is away. In the first interval weights reach 8, beyond the colours: the two full steps before it "
        "are neighbours, and their slope is carried far."
    )
    return state_over_time(
        seen, implied_map(cached, len(seen)), time=3 * interval, name="output", channels="principal direction",
        what="sampling step", mixes="full step that is mixed in", marks=paper.full_steps(len(seen), interval),
        marked="full", strongest=2, caption=caption,
    )  # fmt: skip


# --- the trained network ---------------------------------------------------------------------------------------------


def sweep(digits: Digits, intervals: Sequence[int], orders: Sequence[int] = (0, 1, 2, 4)) -> pd.DataFrame:
    """Nearness to the uncached digits for every interval and order, and for samplers with as many steps as calls."""
    settings = {"steps": digits.steps, "intervals": intervals, "orders": orders}
    return pd.DataFrame(paper.by_interval(digits.model, digits.noise, digits.labels, **settings))


def choices(frame: pd.DataFrame, steps: int = 50) -> list[dict[str, Any]]:
    """The sweep as choices between costs: network calls (``computed``, % of the steps) against ``error``, that
    of a pixel."""
    names = {-1: "fewer steps, no cache", 0: "reuse"}
    return [
        {
            "name": f"{names.get(row.order, f'order {row.order}')}, {row.calls} calls",
            "sampler": names.get(row.order, f"order {row.order}"),
            "computed": 100 * row.calls / steps,
            "error": bench.rms_error(row.decibels),
        }
        for row in frame.itertuples()
    ]


def sweep_table(frame: pd.DataFrame) -> str:
    """The sweep as a table: a row an interval."""
    orders = [order for order in frame["order"].unique() if order >= 0]
    rows = []
    for interval, part in frame.groupby("interval"):
        near = part.set_index("order")["decibels"]
        rows.append(
            (f"{interval}", f"{part['calls'].iloc[0]}", *(f"{near[order]:.1f}" for order in orders), f"{near[-1]:.1f}")
        )
    heads = ("N", "network calls", *("reuse" if order == 0 else f"order {order}" for order in orders), "fewer steps")
    return table_html(heads, rows, "dB to the uncached digits from the same noise; 6 dB are half the error.")


def decibels(frame: pd.DataFrame, interval: int, order: int) -> float:
    """One number of a sweep; order −1 is the sampler with fewer steps."""
    return float(frame.query("interval == @interval and order == @order")["decibels"].iloc[0])


def module_errors(digits: Digits, interval: int = 5, order: int = 1) -> Model:
    """How far off each module's forecast is, mean over the forecast steps of a run."""
    steps = digits.walk("taylorseer", interval=interval, order=order, record_error=True)
    errors = torch.stack([step.module_errors for step in steps if step.module_errors is not None]).mean(0)
    names = [f"block {number // 2}, {('attention', 'feed-forward')[number % 2]}" for number in range(len(errors))]
    return plots.bars(names, errors.tolist(), "relative error of the forecast, mean over the run")


def memory_bill() -> str:
    """What the cache holds, for a few networks and orders."""
    rows = []
    shapes = {
        "our digits": (6, 16, 48, 4),
        "DiT-XL/2, 256 × 256": (28, 256, 1152, 2),
        "DiT-XL/2, 512 × 512": (28, 1024, 1152, 2),
    }
    for name, (depth, tokens, width, size) in shapes.items():
        one = 2 * depth * tokens * width * size / 2**20
        rows.append((name, f"{2 * depth}", *(f"{one * (order + 1):,.3g}" for order in (0, 1, 4))))
    heads = ("one sample", "modules", "MiB at order 0", "order 1", "order 4")
    return table_html(heads, rows, "2 L (m + 1) tokens × width, four bytes a number for the digits and two elsewhere.")


def _ages(full: Tensor) -> Tensor:
    last = torch.where(full, torch.arange(len(full)), 0).cummax(0).values
    return torch.arange(len(full)) - last


def _wide(figure: Model) -> Model:
    figure.max_width = 860
    return figure
