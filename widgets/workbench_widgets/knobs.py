"""ipywidgets made of knobs: the signature of a method is what its sliders, boxes and menus come from."""

import math
from typing import Any

import ipywidgets

from workbench.controls import Knob

LABEL = {"description_width": "9em"}
LAYOUT = {"width": "24em"}
NOT_SET = "not set"


def widget(knob: Knob, value: Any = ...) -> ipywidgets.ValueWidget:
    """The widget for ``knob``, set to ``value`` or the default. Read it with ``value_of``, turn it with ``turn``.

    A number on a doubling scale, or one that may be None, becomes a menu of powers of two ("not set" stands for
    None); other numbers become sliders, flags become boxes, choices menus.
    """
    value = knob.default if value is ... else knob.check(value)
    common = {"description": knob.label, "style": LABEL, "layout": LAYOUT, "tooltip": knob.help}
    if knob.kind == "flag":
        return ipywidgets.Checkbox(value=value, description=knob.label, indent=True, style=LABEL, tooltip=knob.help)
    if knob.kind == "choice":
        return ipywidgets.Dropdown(options=[(str(choice), choice) for choice in knob.choices], value=value, **common)
    if knob.optional or knob.range.log:
        return ipywidgets.Dropdown(options=_steps(knob, value), value=_shown(value), **common)
    slider = ipywidgets.IntSlider if knob.kind == "int" else ipywidgets.FloatSlider
    step = knob.range.step or (1 if knob.kind == "int" else (knob.range.high - knob.range.low) / 100)
    readout = {} if knob.kind == "int" else {"readout_format": ".3g"}
    return slider(
        value=value,
        min=knob.range.low,
        max=knob.range.high,
        step=step,
        continuous_update=False,
        **readout,
        **common,
    )


def value_of(widget: ipywidgets.ValueWidget) -> Any:
    """What the widget says, as the method takes it."""
    return None if widget.value == NOT_SET else widget.value


def turn(widget: ipywidgets.ValueWidget, value: Any) -> None:
    """Set the widget to a value that its knob allows, in its menu or not."""
    if isinstance(widget, ipywidgets.Dropdown) and _shown(value) not in [option for _, option in widget.options]:
        widget.options = [*widget.options, (f"{value:,}", value)]
    widget.value = _shown(value)


def _shown(value: Any) -> Any:
    # A menu takes None for "nothing chosen", so the choice None needs another value.
    return NOT_SET if value is None else value


def _steps(knob: Knob, value: Any) -> list[tuple[str, Any]]:
    """Powers of two between the bounds, 0 where it is allowed, the value itself, and None as "not set"."""
    low, high = knob.range.low, min(knob.range.high, 2**20)
    steps = {2**power for power in range(math.ceil(math.log2(max(low, 1))), int(math.log2(high)) + 1)}
    if low == 0:
        steps.add(0)
    if value is not None:
        steps.add(value)
    number = int if knob.kind == "int" else float
    unset = [(NOT_SET, NOT_SET)] if knob.optional else []
    return unset + [(f"{step:,}", number(step)) for step in sorted(steps)]
