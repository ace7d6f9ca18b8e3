"""Knobs, read from a function's signature.

A knob is a keyword-only parameter whose annotation carries its bounds and a line of help::

    def sinkhorn(query, key, value, *,
                 iterations: Annotated[int, Range(1, 50), "Row and column normalisations."] = 5): ...

That one line is what the notebooks' widgets, the dashboard's widgets, the command line's flags and the
validation are made of. A parameter without ``Annotated`` is no knob: a caller may pass it, nobody is shown it.

This module imports nothing of ours, and nothing heavy.
"""

import functools
import inspect
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Range:
    """Closed interval ``[low, high]``. ``step`` is a hint for sliders; ``log`` asks for a doubling scale."""

    low: float
    high: float
    step: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Knob:
    """One setting of a method.

    ``kind`` is ``"int"``, ``"float"``, ``"flag"`` or ``"choice"``. ``range`` is set for numbers, ``choices`` for
    choices. ``optional`` says that ``None`` is allowed too (the method then chooses by itself).
    """

    name: str
    kind: Literal["int", "float", "flag", "choice"]
    default: Any
    help: str = ""
    range: Range | None = None
    choices: tuple = ()
    optional: bool = False

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")

    def check(self, value: Any) -> Any:
        """``value`` as the method will see it, or a ``ValueError`` naming the knob, the value and what is allowed."""
        if value is None and self.optional:
            return None
        if self.kind == "flag" and isinstance(value, bool):
            return value
        # True == 1 == 1.0, so equality alone would let one choice pass for another.
        if self.kind == "choice" and any(type(value) is type(choice) and value == choice for choice in self.choices):
            return value
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if self.kind in ("int", "float") and number and self.range.low <= value <= self.range.high:  # NaN is not
            if self.kind == "float":
                return float(value)
            if value == int(value):
                return int(value)
        raise ValueError(f"{self.name} = {reprlib.repr(value)} is not allowed: choose {self.allowed}.")

    def parse(self, text: str) -> Any:
        """The value that ``text`` (a command line's flag, a part of a URL) stands for, checked."""
        if self.optional and text.lower() in ("", "none"):
            return None
        try:
            if self.kind == "flag":
                value = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            elif self.kind == "choice":
                value = next(choice for choice in self.choices if str(choice) == text)
            else:
                value = int(text) if text.lstrip("+-").isdecimal() else float(text)
        except (ValueError, KeyError, StopIteration):
            value = text
        return self.check(value)

    @property
    def allowed(self) -> str:
        """What may be given, in words."""
        if self.kind == "flag":
            words = "True or False"
        elif self.kind == "choice":
            words = "one of " + ", ".join(map(repr, self.choices))
        elif self.kind == "int":
            words = f"a whole number from {int(self.range.low)} to {int(self.range.high)}"
        else:
            words = f"a number from {self.range.low:g} to {self.range.high:g}"
        return words + (" (or None)" if self.optional else "")


@functools.cache
def knobs(function: Callable) -> Mapping[str, Knob]:
    """The knobs of ``function`` by name, in the order of its signature. Raises ``TypeError`` for one without bounds."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        if parameter.kind is parameter.KEYWORD_ONLY and typing.get_origin(hint) is Annotated:
            found[parameter.name] = _knob(parameter, hint)
    return types.MappingProxyType(found)


def validate(function: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with every knob of ``function`` checked. Options that are no knobs pass through.

    Raises ``ValueError`` for a knob out of bounds and ``TypeError`` for a name the function does not know.
    """
    known = knobs(function)
    accepted = inspect.signature(function).parameters
    checked = {}
    for name, value in options.items():
        if name not in accepted:
            raise TypeError(f"{function.__name__} has no option {name!r}: its knobs are {', '.join(known) or 'none'}.")
        checked[name] = known[name].check(value) if name in known else value
    return checked


def _knob(parameter: inspect.Parameter, hint: Any) -> Knob:
    kind, *notes = typing.get_args(hint)
    optional = type(None) in typing.get_args(kind)
    if optional:
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
    help = next((note for note in notes if isinstance(note, str)), "")
    range = next((note for note in notes if isinstance(note, Range)), None)
    common = {"name": parameter.name, "default": parameter.default, "help": help, "optional": optional}
    if kind is bool:
        return Knob(kind="flag", **common)
    if typing.get_origin(kind) is Literal:
        return Knob(kind="choice", choices=typing.get_args(kind), **common)
    if kind in (int, float) and range is not None:
        return Knob(kind=kind.__name__, range=range, **common)
    raise TypeError(
        f"{parameter.name}: a knob is Annotated[int or float, Range(...), help], Annotated[bool, help] "
        f"or Annotated[Literal[...], help], not {hint!r}."
    )
