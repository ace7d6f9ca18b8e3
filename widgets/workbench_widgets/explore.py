"""Turn the knobs of a method and see what it does: knobs from its signature, a picture, and what it costs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import torch
from bokeh.model import Model
from jupyter_bokeh.widgets import BokehModel

from workbench import measure, plots
from workbench.controls import Knob, Range
from workbench.measure.memory import tensors
from workbench.paper import Activation, Example, Method
from workbench.writing import number
from workbench_widgets import knobs, page

Picture = Callable[[Example], Model]

MOST_TOKENS = 96
COEFFICIENT = Range(-2.0, 2.0, 0.05)


class Explorer(page.WithStill):
    """Made by ``explore``. ``set(name=value)`` turns a knob as a reader would; ``example`` is what is shown."""

    def __init__(self, method, size, shown, device, picture, inputs, implementations, fixed) -> None:
        self.method, self.device, self._size = method, device, size
        self._picture = picture or (lambda example: default_picture(method, example))
        self._inputs, self._implementations = inputs, implementations
        self._fixed = dict(fixed)
        self.knobs = _knobs_of(method, size, shown, with_shape=inputs is None)
        self.widgets = {name: knobs.widget(knob, fixed.get(name, ...)) for name, knob in self.knobs.items()}
        for each in self.widgets.values():
            each.observe(lambda _: self._draw(), "value")
        self._said = ipywidgets.HTML()
        self.example = self._example()
        self.figure = self._picture(self.example)
        self._place = BokehModel(self.figure)
        self._said.value = self._costs(self.example)
        controls = list(self.widgets.values())
        columns = [ipywidgets.VBox(controls[start::2]) for start in range(min(2, len(controls)))]
        self.live = ipywidgets.VBox([ipywidgets.HBox(columns), self._place, self._said])
        self.still = page.figures_html([self._picture(self.example)]) + self._said.value

    def set(self, **values: Any) -> None:
        """Turn knobs; ``ValueError`` for a value out of bounds, ``KeyError`` for a knob that is not shown."""
        for name, value in values.items():
            knobs.turn(self.widgets[name], self.knobs[name].check(value))

    def _draw(self) -> None:
        try:
            example = self._example()
            figure, costs = self._picture(example), self._costs(example)
        except (ValueError, RuntimeError) as error:
            self._said.value = f'<div class="wb-box wb-open">{page.escape(error)}</div>'
            return
        self.example, self.figure, self._said.value = example, figure, costs
        self._place.update_from_model(figure)

    def _example(self) -> Example:
        turned = {name: knobs.value_of(widget) for name, widget in self.widgets.items()}
        values = {"size": self._size, **self._fixed, **turned}
        options = {name: value for name, value in values.items() if name in self.method.knobs}
        size = values.pop("size")
        if self._inputs is not None:
            return Example(self._inputs(size), options)
        shape = {name: value for name, value in values.items() if name in self.method.shape_knobs}
        self._refuse_too_large(Example(self.method.example(size, device="meta", **shape).inputs, options))
        made = self.method.example(size, device=self.device, **shape)
        coefficients = [values[name] for name in self.knobs if name.startswith("a_") and name != "a_0"]
        inputs = dict(made.inputs)
        if coefficients:
            inputs["weight"] = torch.tensor(coefficients, device=self.device)
            inputs["bias"] = torch.tensor([values["a_0"]], device=self.device)
        return Example(inputs, {**made.options, **options})

    def _costs(self, example: Example) -> str:
        return costs_html(self.method, example, self._implementations)

    def _refuse_too_large(self, sketch: Example) -> None:
        allowed = measure.memory_limit(self.device)
        for implementation in self._implementations:
            needed = measure.estimate_bytes(self.method, implementation, sketch)
            if needed > allowed:
                about, most = (number(each / 2**30) for each in (needed, allowed))
                raise ValueError(f"This needs about {about} GiB; {most} GiB are allowed.")


def explore(
    method: Method,
    *shown: str,
    size: int = 32,
    device: str = "cpu",
    picture: Picture | None = None,
    inputs: Callable[[int], Mapping[str, torch.Tensor]] | None = None,
    implementations: Sequence[str] = ("reference", "fast"),
    **fixed: Any,
) -> Explorer:
    """Knobs, picture and cost of ``method``.

    ``shown`` names the knobs to show, in order (default: all): those of the method, those of its ``example``, and
    ``"a_0", "a_1", ...`` for the coefficients of a polynomial activation. ``fixed`` sets knobs, shown or not. ``size``
    is what ``example`` takes. ``picture(example)`` makes a figure of another kind than ``default_picture``;
    ``inputs(size)`` gives other input than ``example``. Raises ``ValueError`` for an unknown knob.
    """
    known = _knobs_of(method, size, (), with_shape=inputs is None)
    if unknown := {*shown, *fixed}.difference(known):
        raise ValueError(f"{method.name} has no knob {', '.join(sorted(unknown))}: it has {', '.join(known)}.")
    return Explorer(method, size, shown, device, picture, inputs, tuple(implementations), fixed)


def _knobs_of(method: Method, size: int, shown: Sequence[str], *, with_shape: bool) -> dict[str, Knob]:
    known = {"size": Knob("size", "int", size, "How large the input is.", Range(1, 4096, log=True))}
    known |= method.knobs | (dict(method.shape_knobs) if with_shape else {})
    if with_shape and isinstance(method.slot, Activation) and method.slot.polynomial:
        weight = method.example(1, device="meta").inputs["weight"]
        known.pop("order")  # the number of coefficients decides
        for power in range(len(weight) + 1):
            default = 0.0 if power == 0 else 1 / len(weight)
            known[f"a_{power}"] = Knob(f"a_{power}", "float", default, f"Coefficient of power {power}.", COEFFICIENT)
    return {name: known[name] for name in shown} if shown else known


def default_picture(method: Method, example: Example) -> Model:
    """An attention map of the first head; for another method its results over its first input, number by number: a line
    for each tensor of the results, along the last axis."""
    if method.shows_map:
        query, key = (example.inputs[name][:1, :1] for name in ("query", "key"))
        tokens = max(query.shape[2], key.shape[2])
        if tokens > MOST_TOKENS:
            raise ValueError(f"A map of {tokens} tokens is too fine to be seen: choose at most {MOST_TOKENS}.")
        weights = method.attention_map(query, key, **example.options)[0, 0].cpu().numpy()
        figure = plots.attention_map(weights, *([str(n) for n in range(side)] for side in weights.shape))
        figure.max_width = 620
        return figure
    with torch.no_grad():
        found = [_row(each) for each in tensors(method(*example.inputs.values(), **example.options))]
    x = _row(next(iter(example.inputs.values())))
    shown = min(len(x), *map(len, found))
    drawn = x[:shown].sort()
    names = [method.name] if len(found) == 1 else [f"{method.name}, result {place}" for place in range(len(found))]
    return plots.functions(
        {name: (drawn.values.cpu().numpy(), each[drawn.indices].cpu().numpy())
         for name, each in zip(names, found, strict=True)}
    )  # fmt: skip


def _row(tensor: torch.Tensor) -> torch.Tensor:
    """The first row along the last axis."""
    return tensor.reshape(-1, tensor.shape[-1] if tensor.ndim else 1)[0]


def costs_html(method: Method, example: Example, implementations: Sequence[str]) -> str:
    """Time, extra memory and error of each implementation on this input, as a small table."""
    rows = []
    for implementation in implementations:
        row = measure.measure(method, implementation, example, budget_s=0.03)
        if row["status"] == "ok":
            figures = map(number, (row["median_ms"], row["peak_bytes"] / 1024, row["error"]))
            rows.append((implementation, *figures))
        else:
            rows.append((implementation, page.escape(row["status"]), "", page.escape(row["reason"])))
    heads = ("", "time (ms)", "peak memory (KiB)", "error against float64 reference")
    first = next(iter(example.inputs.values()))
    machine = measure.machine_line(measure.machine(first.device.type))
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in example.inputs.items())
    return page.table_html(heads, rows, page.escape(f"{shapes} · {machine}"))
