"""How numbers are written for people: one way on every page, in figures, lessons, tables, on the command line.

Three digits that count, zeros at the end left out: 0.002, 12.5, 1,250. What would need a long row of zeros is written
with a power of ten, as the axes of the figures write it: 5.3 × 10⁻⁷, 10⁻¹⁶ - never 5.3e-07, which is how a program
reads a number, not how a paper prints one. Counts are written out. The axes have
a version of ``number`` of their own, for the browser: ``plots.axes``.
"""

import math
from numbers import Integral
from typing import Any

SMALLEST, LARGEST = 1e-4, 1e6  # of what is written without a power of ten
NOTHING = "–"  # where there is no number
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any, digits: int = 3) -> str:
    """``value`` with so many significant digits, whole numbers of type int with all of theirs; "–" for None and NaN."""
    if value is None or value != value:
        return NOTHING
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    mantissa, exponent = f"{float(value):.{digits - 1}e}".split("e")
    power = int(exponent)
    if float(mantissa) == 0:
        return "0"
    if SMALLEST <= abs(float(f"{mantissa}e{power}")) < LARGEST:
        return _without_zeros(f"{float(value):,.{max(0, digits - 1 - power)}f}")
    mantissa = _without_zeros(mantissa)
    ten = f"10{str(power).translate(_SUPERSCRIPT)}"
    return {"1": ten, "-1": f"-{ten}"}.get(mantissa, f"{mantissa} × {ten}")


def quantity(value: Any, unit: str) -> str:
    """A number and its unit; "–" where there is no number."""
    words = number(value)
    return words if words == NOTHING or not unit else f"{words} {unit}"


def ratio(value: float) -> str:
    """How many times as much: "×0.61"."""
    return f"×{number(value)}"


def duration(milliseconds: float) -> str:
    """A time that was measured: in ms, so that two of them can be compared, from ten seconds on in s."""
    if milliseconds < 10_000:
        return quantity(float(milliseconds), "ms")
    return quantity(milliseconds / 1000, "s")


def vector(numbers: Any) -> str:
    """A tensor or an array of one dimension: "(0.5, 1.25)"."""
    return "(" + ", ".join(number(float(each), 4) for each in numbers.tolist()) + ")"


def about(seconds: float) -> str:
    """A time that was estimated, roughly: "12 s", "3 min"."""
    if seconds < 1:
        return "less than a second"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _without_zeros(digits: str) -> str:
    return digits.rstrip("0").rstrip(".") if "." in digits else digits
