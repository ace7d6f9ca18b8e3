"""Axes that can be read: ticks on a logarithmic axis however little of it is seen, numbers as ``writing`` writes them.

Bokeh's own logarithmic ticks are the powers of its base, so that a range under a decade has one tick or none; its
numbers are a program's ("2.000e-3"). Ticks and numbers are made in the browser, where somebody may zoom.
"""

from bokeh.models import (
    BasicTickFormatter,
    ColorBar,
    CustomJSHover,
    CustomJSTicker,
    CustomJSTickFormatter,
    FixedTicker,
    LogAxis,
    LogTickFormatter,
)
from bokeh.plotting import figure

# ``writing.number`` in the browser's words.
_NUMBER = """
const number = (value, digits) => {
  if (value === null || Number.isNaN(value)) return "–"
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞"
  const bare = (text) => text.includes(".") ? text.replace(/0+$/, "").replace(/[.]$/, "") : text
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e")
  const power = Number(exponent), rounded = Math.abs(Number(mantissa + "e" + power))
  if (rounded === 0) return "0"
  if (1e-4 <= rounded && rounded < 1e6) {
    const [whole, part] = value.toFixed(Math.max(0, digits - 1 - power)).split(".")
    const grouped = whole.replace(/[0-9](?=([0-9]{3})+$)/g, "$&,")
    return bare(part === undefined ? grouped : grouped + "." + part)
  }
  const ten = "10" + [...String(power)].map((each) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(each)]).join("")
  const front = bare(mantissa)
  return front === "1" ? ten : front === "-1" ? "-" + ten : front + " × " + ten
}
"""

TICK_DIGITS = 6  # of the numbers at an axis, whose neighbours may differ little
HOVER_DIGITS = 4

# Powers of ten where three of them or more are in view, else 1, 2 and 5 of each, else steps as on a linear axis.
_TICKS = """
const {start, end} = cb_data, low = Math.min(start, end), high = Math.max(start, end), ticks = []
if (!(low > 0) || !Number.isFinite(high)) return []
const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high))
const inside = (each) => each >= low * (1 - 1e-9) && each <= high * (1 + 1e-9)
const at = (digits, every) => {
  const found = []
  for (let power = first; power <= last; power++) {
    if (power % every) continue
    for (const digit of digits) found.push(Number(digit + "e" + power))
  }
  return found.filter(inside)
}
const decades = Math.log10(high / low)
"""
_MAJOR = (
    _TICKS
    + """
if (decades >= 3) return at([1], Math.ceil(decades / 8))
const some = decades >= 2 ? at([1, 3], 1) : at([1, 2, 5], 1)
if (some.length >= 3) return some
const rough = (high - low) / 5, size = 10 ** Math.floor(Math.log10(rough))
const step = size * [1, 2, 5, 10].find((each) => each * size >= rough)
const count = Math.floor(high / step)
for (let index = Math.ceil(low / step); index <= count; index++) ticks.push(Number((index * step).toPrecision(12)))
return ticks
"""
)
_MINOR = (
    _TICKS
    + """
return decades > 8 ? [] : at([1, 2, 3, 4, 5, 6, 7, 8, 9], 1)
"""
)


def readable(made: figure) -> None:
    """Give every axis and scale of numbers ticks that are there and numbers that people read; what else has been
    chosen for one (names, percent) stays."""
    for axis in made.axis:
        if isinstance(axis, LogAxis) and not isinstance(axis.ticker, CustomJSTicker | FixedTicker):
            axis.ticker = log_ticker()
    for scale in (*made.axis, *made.select({"type": ColorBar})):
        if scale.formatter == "auto" or type(scale.formatter) in (BasicTickFormatter, LogTickFormatter):
            scale.formatter = CustomJSTickFormatter(code=f"{_NUMBER}\nreturn number(tick, {TICK_DIGITS})")


def log_ticker() -> CustomJSTicker:
    """Ticks for a logarithmic axis, wherever somebody zooms."""
    return CustomJSTicker(major_code=_MAJOR, minor_code=_MINOR)


def spoken(*columns: str) -> dict[str, CustomJSHover]:
    """The ``formatters`` of a ``HoverTool`` that says what stands in these columns as people read it: the tooltip
    says "@y{number}" where the column is called "@y"."""
    said = CustomJSHover(code=f"{_NUMBER}\nreturn number(value, {HOVER_DIGITS})")
    return dict.fromkeys(columns, said)
