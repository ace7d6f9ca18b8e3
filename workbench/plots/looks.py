"""How a line looks: colour = method, dash and marker = implementation, the same in every figure of every page.

A method's colour is its place among those that can stand in the same slot of a model, as the catalog lists them: what
is compared with one another is told apart. So it depends neither on what else is drawn nor on who looks. The first
seven are Okabe and Ito's; a wheel of equal lightness steps goes on from there, each colour as far as can be from those
before it. Colours alone tell some ten things apart; dashes and markers help, and ``curves`` numbers its lines when
there are more.
"""

import functools
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from workbench import catalog
from workbench.paper import Method

BLUE = "#0072B2"
ORANGE = "#E69F00"
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C")  # without black and yellow: one of
# them vanishes on a dark page, the other on a light one
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star")
DASHES = ((), (9, 4), (2, 3), (9, 3, 2, 3), (5, 3), (9, 3, 2, 3, 2, 3), (14, 4))  # fast, reference, opponents

SIDES = {"A": BLUE, "B": ORANGE}
_ALONE = {"fast": BLUE, "reference": "#D55E00"}  # where nothing says of which method


@dataclass(frozen=True)
class Look:
    """Of a line: ``dash`` in pixels on and off (none: solid), ``marker`` as Bokeh calls it."""

    color: str
    dash: tuple[int, ...] = ()
    marker: str = MARKERS[0]


def look_of(method: str, implementation: str) -> Look:
    """The look of one implementation of a method. What it is compared with and is a method itself keeps that one's
    colour."""
    known = catalog.methods()
    named = (implementation, "fast") if implementation in known else (method, implementation)
    place = _place(known.get(method), implementation)
    return Look(color_of(named[0]), DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])


def color_of(name: str) -> str:
    """The colour of a method, by name or title, or of a side; that of another name is drawn from its letters."""
    if name in SIDES:
        return SIDES[name]
    place = _places().get(name)
    if place is not None:
        return wheel(place + 1)[place]
    return _ALONE.get(name) or PALETTE[zlib.crc32(name.encode()) % len(PALETTE)]


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, no two alike: ``color_of`` where it is still free, elsewhere the next free one. Methods
    choose first."""
    names = list(dict.fromkeys(names))
    own = _places()
    chosen: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name not in own and name not in SIDES):
        wanted = color_of(name)
        if wanted in chosen.values():
            wanted = next(color for color in wheel(len(names) + len(PALETTE)) if color not in chosen.values())
        chosen[name] = wanted
    return {name: chosen[name] for name in names}


def _places() -> dict[str, int]:
    """Where each method of the catalog stands among those of its slot, by name and by title."""
    taken: dict[str, int] = {}
    places: dict[str, int] = {}
    for method in catalog.methods().values():
        kind = type(method.slot).__name__
        place = taken[kind] = taken.get(kind, -1) + 1
        places |= {method.name: place, method.title: place}
    return places


def _place(method: Method | None, implementation: str) -> int:
    """Of an implementation among those of its method; a method says in which order its opponents come."""
    names = ("fast", "reference", *(method.baselines if method is not None else ()))
    if implementation in names:
        return names.index(implementation)
    return 2 + zlib.crc32(implementation.encode()) % (len(DASHES) - 2)


# --- the wheel -------------------------------------------------------------------------------------------------------

LIGHTNESS = (0.51, 0.575, 0.64)  # in OKLab: every one of them can be seen on a white and on a dark page
CHROMA = 0.15
HUES = 48


@functools.cache
def wheel(count: int) -> tuple[str, ...]:
    """So many colours: ``PALETTE``, then those that are farthest from all before. They repeat when the wheel is used
    up, after about a hundred."""
    found = list(PALETTE[:count])
    candidates = {color: oklab(color) for color in _candidates()}
    distance = {color: min(_apart(place, oklab(each)) for each in PALETTE) for color, place in candidates.items()}
    while len(found) < count:
        if not distance:
            return tuple((found * (1 + count // len(found)))[:count])
        best = max(distance, key=distance.get)
        found.append(best)
        del distance[best]
        distance = {color: min(near, _apart(candidates[color], candidates[best])) for color, near in distance.items()}
    return tuple(found)


def oklab(color: str) -> np.ndarray:
    """A colour in OKLab (lightness, green to red, blue to yellow), where distances are as eyes see them."""
    channels = np.array([int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return _FROM_CONES @ np.cbrt(_TO_CONES @ linear)


def _candidates() -> Iterator[str]:
    for lightness in LIGHTNESS:
        for hue in np.arange(HUES) * 2 * np.pi / HUES:
            yield _hex(np.array([lightness, CHROMA * np.cos(hue), CHROMA * np.sin(hue)]))


def _hex(lab: np.ndarray) -> str:
    """The colour at a place of OKLab, or the nearest to it with less chroma that a screen can show."""
    for part in np.linspace(1, 0, 21):
        linear = np.linalg.solve(_TO_CONES, np.linalg.solve(_FROM_CONES, lab * [1, part, part]) ** 3)
        if (linear > -1e-6).all() and (linear < 1 + 1e-6).all():
            break
    linear = linear.clip(0, 1)
    channels = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * each):02X}" for each in channels)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other))


# Björn Ottosson, A perceptual color space for image processing, 2020.
_TO_CONES = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_FROM_CONES = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip
