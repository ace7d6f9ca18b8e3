"""Knobs as something to turn: a form of native controls, generated from ``controls.Knob``.

A form is one Panel component, whatever it holds: every control has a label, can be reached by keyboard and says what it
does. While somebody drags, it reports at most every 80 ms, and the last position always.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import param

from workbench import writing
from workbench.controls import Knob
from workbench.dashboard.shell.asking import Asking

STATIC = Path(__file__).parents[1] / "static"
FEW = 33  # a whole-number knob with at most so many values stops at each of them


@dataclass(frozen=True)
class Option:
    """One thing to choose. ``why`` is the sentence that says why it cannot be chosen; empty: it can."""

    value: str
    label: str
    why: str = ""


@dataclass(frozen=True)
class Field:
    """One control.

    kind     "choice" (a menu), "many" (several may be on), "slider" (stops), "flag", "text", "lines" (a larger text)
             or "button"
    value    the chosen option, a tuple of them, the index of the stop, on or off, the text
    options  of a choice; ``stops`` of a slider, as text
    help     one line; ``group`` puts controls under a common heading
    why      why a button cannot be pressed, in one sentence; ``sends`` what pressing it means, so that a second click
             on "start" is not one on the "stop" that has taken its place
    """

    name: str
    label: str
    kind: Literal["choice", "many", "slider", "flag", "text", "lines", "button"]
    value: Any = ""
    options: tuple[Option, ...] = ()
    stops: tuple[str, ...] = ()
    help: str = ""
    group: str = ""
    longest: int = 0
    why: str = ""
    sends: str = ""

    def read(self, given: Any) -> Any:
        """What the browser sent, as a value of this control. Raises ``ValueError`` for what it never offered."""
        allowed = {option.value for option in self.options if not option.why}
        if self.kind == "choice" and given in allowed:
            return given
        if self.kind == "many" and isinstance(given, list) and allowed.issuperset(given):
            return tuple(option.value for option in self.options if option.value in given)
        if self.kind == "slider" and isinstance(given, int) and 0 <= given < len(self.stops):
            return given
        if self.kind == "flag" and isinstance(given, bool):
            return given
        if self.kind in ("text", "lines") and isinstance(given, str):
            return given
        if self.kind == "button" and not self.why:
            return None
        barred = {option.value: option.why for option in self.options if option.why}
        told = self.why or next((why for value, why in barred.items() if given == value), "")
        raise ValueError(told or f"{self.label}: {str(given)[:60]!r} is not one of the choices.")


def stops(knob: Knob, value: Any = None, *, limit: float | None = None) -> list[Any]:
    """The values at which a knob's slider stops, ascending; ``None`` first where that is allowed.

    Few whole numbers: all of them. Many: doubling, with a stop half way. ``limit`` shortens the range to what makes a
    difference here; ``value`` is always among the stops.
    """
    low = knob.range.low
    high = knob.range.high if limit is None else max(low, min(knob.range.high, limit))
    if knob.kind == "float":
        found = (
            {low + (high - low) * index / 20 for index in range(21)}
            if not knob.range.log
            else set(_doubling(low, high))
        )
    elif knob.range.step:
        count = int((high - low) / knob.range.step)
        found = (
            {int(low + knob.range.step * index) for index in range(count + 1)}
            if count < FEW
            else set(_doubling(low, high))
        )
    elif high - low < FEW and not knob.range.log:
        found = set(range(int(low), int(high) + 1))
    else:
        found = set(_doubling(low, high))
        if not knob.range.log:
            found |= {middle for stop in list(found) if low <= (middle := int(stop * 1.5)) <= high}
    found |= {given for given in (value, knob.default) if given is not None}
    return ([None] if knob.optional else []) + sorted(found)


def _doubling(low: float, high: float) -> list[Any]:
    found = [low, high]
    whole = float(low).is_integer() and float(high).is_integer()
    step = 2.0 ** math.floor(math.log2(low)) if low > 0 else (1.0 if whole else high / 2**20)
    while step < high:
        if step > low:
            found.append(step)
        step *= 2
    return [int(stop) for stop in found] if whole else found


def in_words(value: Any) -> str:
    """A value as a slider shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return writing.number(value) if isinstance(value, float | int) else str(value)


def field_of(knob: Knob, value: Any, *, prefix: str = "", group: str = "", limit: float | None = None) -> Field:
    """The control for a knob that stands at ``value``."""
    about = {"name": prefix + knob.name, "label": knob.label, "help": knob.help, "group": group}
    if knob.kind == "flag":
        return Field(kind="flag", value=value, **about)
    if knob.kind == "choice":
        options = tuple(Option(str(choice), str(choice)) for choice in knob.choices)
        return Field(kind="choice", value=str(value), options=options, **about)
    at = stops(knob, value, limit=limit)
    return Field(kind="slider", value=at.index(value), stops=tuple(map(in_words, at)), **about)


def value_of(knob: Knob, value: Any, given: Any, *, limit: float | None = None) -> Any:
    """The knob's value after its control, made with the same ``value`` and ``limit``, was set to ``given``."""
    if knob.kind == "flag":
        return knob.check(given)
    if knob.kind == "choice":
        return knob.parse(given)
    return knob.check(stops(knob, value, limit=limit)[given])


class Form(Asking):
    """A form of ``Field``\\ s. ``on_change(name, value)`` is called with what somebody chose, already checked."""

    fields = param.List(default=[], doc="The controls, as plain dictionaries.")
    legend = param.String(default="", doc="What the form is about, for people who cannot see it.")
    look = param.Selector(default="row", objects=["row", "card", "panel"], doc="How it is laid out.")
    folded = param.List(default=[], doc="Groups that are closed at first.")
    badge = param.String(default="", doc="A letter that stands before the legend: A or B.")

    _esm = STATIC / "form.js"
    _stylesheets = [(STATIC / "form.css").read_text(encoding="utf-8")]

    def __init__(self, on_change: Callable[[str, Any], None] = lambda name, value: None, **params: Any) -> None:
        super().__init__(sizing_mode="stretch_width", margin=0, **params)
        self._known: Mapping[str, Field] = {}
        self._on_change = on_change

    def show(self, fields: Iterable[Field]) -> None:
        """Replace what the form holds; the browser keeps what did not change, and the focus."""
        shown: Sequence[Field] = list(fields)
        self._known = {field.name: field for field in shown}
        plain = [asdict(field) for field in shown]
        if plain != self.fields:
            self.fields = plain

    def hear(self, data: Any) -> None:
        field = self._known.get(data.get("name")) if isinstance(data, dict) else None
        if field is None:
            raise ValueError("What was clicked has been replaced meanwhile: choose again.")
        if field.kind == "button" and (data.get("value") or "") != field.sends:
            return  # the second of two clicks on a button that means something else by now
        self._on_change(field.name, field.read(data.get("value")))
