"""Numbers of an algorithm as SVG: scalars, rows and matrices as cells, rows as bars."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from workbench.plots import svg
from workbench.plots.looks import BLUE, ORANGE

SIDE, BAR = 46, 60
MOST_CELLS = 24  # a side; of more, the first ones are shown
STRONGEST = 0.5  # opacity of the largest number's colour: text on it keeps its contrast on a light and a dark page


@dataclass(frozen=True, eq=False)
class Cells:
    """Numbers (), (columns,) or (rows, columns), written into cells; NaN leaves a cell empty.

    marked   what has a thick edge: a mask of the numbers' shape
    rows, columns  names at the sides
    strongest  the number that has the strongest colour (default: the largest of all frames)
    sums     bars for the sums of rows and columns of a matrix, with a line at 1; ``"rows"`` or ``"columns"`` draws
             those of one side in orange: what was just normalised
    """

    numbers: np.ndarray
    marked: np.ndarray | None = None
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    strongest: float | None = None
    sums: bool | Literal["rows", "columns"] = False
    whole: bool = field(init=False)

    def __post_init__(self) -> None:
        numbers = as_array(self.numbers)
        if numbers.ndim > 2:
            raise ValueError(f"Cells show a number, a row or a matrix, not an array of shape {numbers.shape}.")
        object.__setattr__(self, "whole", np.asarray(as_plain(self.numbers)).dtype.kind in "iub")
        object.__setattr__(self, "numbers", numbers)
        if self.marked is not None and as_array(self.marked).shape != numbers.shape:
            raise ValueError(f"The mark has the shape {as_array(self.marked).shape}, the numbers {numbers.shape}.")

    def reach(self) -> float:
        """The size of a number that has the strongest colour: the largest, where nothing else was asked for."""
        if self.strongest is not None:
            return self.strongest
        finite = np.abs(self.numbers[np.isfinite(self.numbers)])
        return float(finite.max(initial=0))

    def draw(self, name: str, reach: float, before: "Cells | None" = None) -> str:
        """SVG: blue above zero, orange below, strongest at ``reach``. A cell whose number is another one than
        ``before`` has an orange corner."""
        grid = np.atleast_2d(self.numbers)
        height, width = (min(side, MOST_CELLS) for side in grid.shape)
        changed = self._changed(before)
        left = 8 * max((len(row) for row in self.rows), default=0)
        top = 18 if self.columns else 0
        drawn = [svg.text(left - 6, top + (i + 0.6) * SIDE, row, "end") for i, row in enumerate(self.rows[:height])]
        drawn += [svg.text(left + (j + 0.5) * SIDE, 12, name, "middle") for j, name in enumerate(self.columns[:width])]
        for i in range(height):
            for j in range(width):
                edge = 2.5 if self.marked is not None and np.atleast_2d(as_array(self.marked))[i, j] else 0
                place = (left + j * SIDE, top + i * SIDE)
                words = f"{grid[i, j]:.0f}" if self.whole else short(grid[i, j])
                drawn.append(_cell(*place, float(grid[i, j]), words, reach, edge, bool(changed[i, j])))
        right, bottom = left + width * SIDE, top + height * SIDE
        if self.sums:
            drawn += _sums(grid[:height, :width], left, top, self.sums)
            right, bottom = right + BAR + 50, bottom + BAR + 20
        if grid.shape != (height, width):
            drawn.append(svg.text(0, bottom + 14, f"{height} × {width} of {grid.shape[0]} × {grid.shape[1]}", size=12))
            bottom += 20
        return svg.picture(right + 2, bottom + 2, drawn, f"{name}: {self.numbers.shape or 'a number'}")

    def _changed(self, before: "Cells | None") -> np.ndarray:
        if before is None or before.numbers.shape != self.numbers.shape:
            return np.zeros(np.atleast_2d(self.numbers).shape, dtype=bool)
        same = (before.numbers == self.numbers) | (np.isnan(before.numbers) & np.isnan(self.numbers))
        return np.atleast_2d(~same)


@dataclass(frozen=True, eq=False)
class Bars:
    """Numbers (n,) as bars from zero on; NaN where there is none yet.

    outlines  others to compare with, as empty bars
    strong    which bars are in full colour, a mask; the others are paler (default: all)
    orange    which are orange and not blue, a mask
    names     words below the bars
    low       where the bars begin, when only differences count
    """

    numbers: np.ndarray
    outlines: np.ndarray = field(default_factory=lambda: np.empty(0))
    strong: np.ndarray | None = None
    orange: np.ndarray | None = None
    names: Sequence[str] = ()
    low: float = 0.0
    digits: int | None = None
    width: float = 46
    height: float = 76

    def __post_init__(self) -> None:
        for name in ("numbers", "outlines"):
            object.__setattr__(self, name, as_array(getattr(self, name)).reshape(-1))

    def reach(self) -> float:
        """The largest distance from ``low``, which is drawn as high as there is room."""
        both = np.concatenate((self.numbers, self.outlines)) - self.low
        return float(np.abs(both[np.isfinite(both)]).max(initial=0))

    def draw(self, name: str, reach: float, before: "Bars | None" = None) -> str:
        """SVG, a bar of size ``reach`` as high as there is room."""
        signed = any(number < self.low for number in (*self.numbers, *self.outlines))
        middle = 16 + self.height
        drawn = [svg.line(0, middle, self.width * len(self.numbers), middle)]
        for place, number in enumerate(self.numbers):
            if not np.isfinite(number):
                continue
            tall = self._tall(number, reach)
            color = ORANGE if self.orange is not None and self.orange[place] else BLUE
            opacity = 0.85 if self.strong is None or self.strong[place] else 0.4
            drawn.append(self._bar(place, tall, middle, color, opacity, 0.14))
            y = middle - tall - 4 if tall >= 0 else middle - tall + 14
            words = short(number) if self.digits is None else f"{number:.{self.digits}f}"
            drawn.append(svg.text((place + 0.5) * self.width, y, words, "middle", size=12))
        for place, number in enumerate(self.outlines):
            if np.isfinite(number):
                drawn.append(self._bar(place, self._tall(number, reach), middle, "none", 1, 0.04, edge=1.3))
        bottom = middle + 4 + (self.height + 12 if signed else 0)
        for place, word in enumerate(self.names):
            drawn.append(svg.text((place + 0.5) * self.width, bottom + 12, word, "middle", size=12))
        bottom += 18 if self.names else 0
        return svg.picture(self.width * len(self.numbers) + 2, bottom, drawn, f"{name}: {len(self.numbers)} bars")

    def _tall(self, number: float, reach: float) -> float:
        return float(np.clip((number - self.low) / (reach or 1), -1, 1)) * self.height

    def _bar(
        self, place: int, tall: float, middle: float, color: str, opacity: float, inset: float, edge: float = 0
    ) -> str:
        x, width = (place + inset) * self.width, (1 - 2 * inset) * self.width
        return svg.box(x, middle - max(tall, 0), width, abs(tall), color, opacity, edge=edge)


def as_array(numbers: object) -> np.ndarray:
    """Anything that holds numbers, a tensor on any device included, as float64; complex numbers by their size."""
    plain = as_plain(numbers)
    return np.array(np.abs(plain) if np.iscomplexobj(plain) else plain, dtype=np.float64)


def as_plain(numbers: object) -> object:
    """A tensor as a NumPy array (bfloat16, which NumPy does not have, as float32); anything else as it is."""
    if not hasattr(numbers, "detach"):
        return numbers
    plain = numbers.detach().cpu()
    return (plain.float() if "bfloat16" in str(plain.dtype) else plain).numpy()


def short(number: float) -> str:
    """A number in five characters or so, as it stands in a cell."""
    if not np.isfinite(number):
        return "" if np.isnan(number) else "∞" if number > 0 else "−∞"
    size = abs(number)
    if 0 < size < 5e-4 or size >= 1e6:
        digits, power = f"{number:.0e}".split("e")
        words = f"{digits}·10{str(int(power)).translate(RAISED)}"
    elif size >= 100:
        words = f"{number:.0f}"
    else:
        words = f"{number:.3f}" if 0 < size < 5e-3 else f"{number:.2f}"
    return words.replace("-", "−")


RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _cell(x: float, y: float, number: float, words: str, reach: float, edge: float, changed: bool) -> str:
    if np.isnan(number):
        return svg.box(x, y, SIDE - 2, SIDE - 2, svg.GREY, 0.08, edge=edge)
    part = min(abs(number) / reach, 1) if reach and np.isfinite(number) else 0.0
    drawn = svg.box(x, y, SIDE - 2, SIDE - 2, BLUE if number >= 0 else ORANGE, 0.06 + STRONGEST * part, edge=edge)
    if changed:
        drawn += f'<path d="M{x + SIDE - 12:.1f} {y:.1f}h10v10z" fill="{ORANGE}"/>'
    return drawn + svg.text(x + SIDE / 2 - 1, y + SIDE / 2 + 4, words, "middle", size=12)


def _sums(grid: np.ndarray, left: float, top: float, told: bool | str) -> list[str]:
    """Bars for the sums at the right and below, and a line where a sum is 1."""
    sums = {"rows": np.nansum(grid, 1), "columns": np.nansum(grid, 0)}
    longest = max(2.0, *map(np.max, sums.values()))
    right, below = left + grid.shape[1] * SIDE + 4, top + grid.shape[0] * SIDE + 4
    one, drawn = BAR / longest, []
    for side, numbers in sums.items():
        color = ORANGE if told == side else svg.GREY
        for place, number in enumerate(numbers):
            long = BAR * max(float(number), 0.0) / longest
            if side == "rows":
                y = top + place * SIDE
                drawn.append(svg.box(right, y + 12, long, SIDE - 26, color, 0.8))
                drawn.append(svg.text(right + max(long, one) + 5, y + 26, short(number), size=12))
            else:
                x = left + place * SIDE
                drawn.append(svg.box(x + 12, below, SIDE - 26, long, color, 0.8))
                drawn.append(svg.text(x + SIDE / 2 - 1, below + max(long, one) + 14, short(number), "middle", size=12))
    drawn.append(svg.line(right + one, top, right + one, below - 6, opacity=1, dashed=True))
    drawn.append(svg.line(left, below + one, right - 6, below + one, opacity=1, dashed=True))
    return drawn
