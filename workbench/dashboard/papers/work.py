"""What the page of a paper computes when a knob is turned: the method's arithmetic, and a picture of what it does.

Both are made on the spot: the arithmetic from the method's own formulas, on tensors that hold no numbers, the picture
with the paper's equations on a small example. No Panel here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from workbench import catalog
from workbench.controls import Knob
from workbench.dashboard.inspect import seeing
from workbench.dashboard.shell.jobs import Cancelled, Progress
from workbench.paper import Activation, Caching, Count, Method

LOWEST, HIGHEST = 4, 14  # powers of two for the size
MAP_TOKENS = 32
STEPS = 24  # of a trajectory
DRAWN = 201  # points of a function


@dataclass(frozen=True)
class Request:
    """One method, its knobs and those of its example, where they differ from the defaults, and the example's size."""

    method: str
    size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arithmetic:
    """One forward call: FLOPs, the least bytes to move, the bytes held meanwhile by implementation, and what else the
    paper counts."""

    flops: float
    bytes: float
    held: Mapping[str, int]
    counts: Mapping[str, Count] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """What a method does. ``kind`` "map": ``y`` (tokens, tokens). "function" and "error": ``y`` over ``x``."""

    kind: str
    y: np.ndarray
    x: np.ndarray


def sizes(method: Method) -> list[int]:
    """The sizes to choose from."""
    top = 2**HIGHEST if method.largest is None else method.largest
    return [2**power for power in range(LOWEST, HIGHEST + 1) if 2**power <= top]


def knobs(method: Method) -> dict[str, dict[str, Knob]]:
    """The knobs of a method, and those of its example's shape."""
    return {"option": dict(method.knobs), "shape": dict(method.shape_knobs)}


def compute(request: Request) -> Callable[[Cancelled], Iterator[Any]]:
    """The job for a request: yields ``Arithmetic``, then a ``Picture`` where there is one to draw."""

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        method = catalog.method(request.method)
        yield Progress(0, 2, "computing")
        yield arithmetic(method, request)
        with seeing.one_thread(), torch.no_grad():
            found = picture(method, request)
        if found is not None:
            yield found

    return steps


def arithmetic(method: Method, request: Request) -> Arithmetic:
    """What the method's formulas say. Raises ``ValueError`` for knobs that do not fit together."""
    example = method.example(request.size, device="meta", dtype="float32", **request.shape)
    inputs, options = example.inputs.values(), {**example.options, **request.options}
    cost = method.cost(*inputs, **options)
    held = {name: method.workspace(name, *inputs, **options) for name in ("reference", "fast")}
    return Arithmetic(cost.flops, cost.bytes, held, cost.counts)


def picture(method: Method, request: Request) -> Picture | None:
    """An attention's map, an activation's curve, a forecast's error; None for what has no such picture."""
    options = dict(request.options)
    if method.shows_map:
        tokens = min(MAP_TOKENS, method.largest or MAP_TOKENS)
        example = method.example(tokens, seed=1, **{"heads": 1} if "heads" in method.shape_knobs else {})
        found = method.attention_map(example.inputs["query"], example.inputs["key"], implementation="reference",
                                     **{**example.options, **options})  # fmt: skip
        return Picture("map", found[0, 0].numpy(), np.arange(tokens))
    if isinstance(method.slot, Activation):
        shape = {name: value for name, value in request.shape.items() if name != "hidden"}
        example = method.example(1, **{**shape, "hidden": DRAWN})
        x = torch.linspace(-4, 4, DRAWN)
        inputs = {**example.inputs, "x": x.repeat(method.branches)[None]}
        y = method.reference(*inputs.values(), **{**example.options, **options})
        return Picture("function", y[0].numpy(), x.numpy())
    if isinstance(method.slot, Caching):
        example = method.example(STEPS, seed=1)
        features = example.inputs["features"]
        seen = method.reference(*example.inputs.values(), **{**example.options, **options})
        truth = features if features.ndim == seen.ndim else features[:, -1]
        error = (seen - truth).flatten(2).norm(dim=-1) / truth.flatten(2).norm(dim=-1)
        return Picture("error", error.mean(0).numpy(), np.arange(STEPS))
    return None


def python_lines(request: Request) -> str:
    """The lines that compute what is on the screen."""
    method = catalog.method(request.method)
    shape = "".join(f", {name}={value!r}" for name, value in request.shape.items())
    options = "".join(f", {name}={value!r}" for name, value in request.options.items())
    lines = [
        "from workbench import catalog",
        "",
        f"method = catalog.method({request.method!r})",
        f"example = method.example({request.size}, device='meta'{shape})",
        f"cost = method.cost(*example.inputs.values(){options})",
        f"held = method.workspace('reference', *example.inputs.values(){options})",
    ]
    if method.shows_map:
        tokens = min(MAP_TOKENS, method.largest or MAP_TOKENS)
        lines += [
            f"small = method.example({tokens}, seed=1, heads=1).inputs",
            f"map = method.attention_map(small['query'], small['key'], implementation='reference'{options})",
        ]
    return "\n".join(lines)
