"""A view as a link, and a link as a view.

Every page declares what its link holds: a name, what may stand there, and the default. Only what differs from the
default is written. What a link says wrongly is replaced by the nearest thing that works, everything else is kept, and
each of it is told in one sentence; it never raises.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from workbench.controls import Knob

LONGEST_LINK = 16_000  # characters; servers and browsers cut longer ones
MOST_TOLD = 8  # complaints; a link that is all wrong need not be read aloud
ALIKE = 0.7  # of two words, as ``difflib`` counts: from there on one is taken for a slip of the other
LIST = 160  # characters of what can be chosen, in a complaint
SHORT = 40  # characters of a value in a complaint
BAD = "\N{REPLACEMENT CHARACTER}"  # stands for a link's bytes that are no text


ESCAPED = "surrogateescape"  # how such bytes come out of a link: as halves of a character, which no text has


class Refused(ValueError):
    """What cannot be, and why; ``nearest`` is what can be instead (None: nothing is near)."""

    def __init__(self, why: str, nearest: Any = None) -> None:
        super().__init__(why)
        self.nearest = nearest


@dataclass(frozen=True)
class Entry:
    """One setting of a page. ``read`` turns text into a value or raises ``ValueError`` saying what is allowed, or
    ``Refused`` with the nearest value."""

    name: str
    default: Any
    read: Callable[[str], Any] = str
    write: Callable[[Any], str] = str


class Link(Mapping[str, str]):
    """The parameters of ``?name=value&...``, and which of them somebody asked for.

    ``wrong`` are sentences about the link itself: a name that comes twice (the last one counts), bytes that are no
    text, a length that is cut.
    """

    def __init__(self, parameters: Iterable[tuple[str, str]] = (), wrong: Iterable[str] = ()) -> None:
        pairs = list(parameters)
        self._values, self._asked, self.wrong = {_text(n): _text(v) for n, v in pairs}, set[str](), list(wrong)
        for name, count in Counter(_text(name) for name, _ in pairs).items():
            if count > 1:
                self.wrong.append(f"The link says {_quoted(name)} {count} times: the last one counts.")
        for name, value in pairs:
            if _text(name + value) != name + value:
                where = _quoted(_text(name))
                self.wrong.append(f"The link's {where} holds bytes that are no text: “{BAD}” stands for them.")

    def __getitem__(self, name: str) -> str:
        self._asked.add(name)
        return self._values[name]

    def __contains__(self, name: object) -> bool:  # Mapping's would ask for a value
        self._asked.add(str(name))
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def asked(self) -> frozenset[str]:
        """The names that somebody asked for, whether they are there or not."""
        return frozenset(self._asked)

    def left_over(self, where: str) -> list[str]:
        """A sentence for each setting that nobody asked for: ``where`` does not have it."""
        found = []
        for name in self._values:
            if name not in self._asked:
                close = nearest(name, self._asked)
                hint = f" (is {close} meant?)" if close else ""
                found.append(f"The link says {_quoted(name)}, which {where} does not have{hint}: it is left out.")
        return found


# --- readers ---


def number(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        allowed = f"choose a whole number from {low:,} to {high:,}"
        given = _float(text)
        if not math.isfinite(given) or given != int(given) or not low <= given <= high:
            raise Refused(allowed, None if math.isnan(given) else round(min(max(given, low), high)))
        return int(given)

    return read


def one_of(allowed: Iterable[int]) -> Callable[[str], int]:
    """A reader of one of these numbers; nearest is the one that is."""
    allowed = tuple(allowed)

    def read(text: str) -> int:
        given = _float(text)
        if given not in allowed:
            words = f"choose {', '.join(f'{each:,}' for each in allowed[:-1])} or {allowed[-1]:,}"
            raise Refused(words, None if math.isnan(given) else min(allowed, key=lambda each: abs(each - given)))
        return int(given)

    return read


def choice(allowed: Iterable[str]) -> Callable[[str], str]:
    """A reader of one word out of ``allowed``; nearest is the one that is spelled almost alike."""
    allowed = tuple(allowed)

    def read(text: str) -> str:
        if text not in allowed:
            raise Refused(f"choose {_offered(allowed)}", nearest(text, allowed))
        return text

    return read


def turned(knob: Knob) -> Callable[[str], Any]:
    """A reader of a knob's values; nearest is the end of its range, or the choice that is spelled almost alike."""

    def read(text: str) -> Any:
        try:
            return knob.parse(text)
        except ValueError:
            raise Refused(f"choose {knob.allowed}", _nearest_of(knob, text)) from None

    return read


def flag(text: str) -> bool:
    """``"on"`` or ``"off"``."""
    if text not in ("on", "off"):
        raise Refused("choose on or off")
    return text == "on"


def on_off(value: bool) -> str:
    return "on" if value else "off"


def listed(read: Callable[[str], Any]) -> Callable[[str], tuple]:
    """A reader of values separated by commas; nearest are those that can be."""

    def read_all(text: str) -> tuple:
        found, wrong = [], []
        for part in filter(None, text.split(",")):
            try:
                found.append(read(part))
            except ValueError as error:
                wrong.append(f"{_quoted(part)}: {_without_end(error)}")
                if (near := getattr(error, "nearest", None)) is not None:
                    found.append(near)
        found = tuple(dict.fromkeys(found))
        if wrong:
            raise Refused("; ".join(wrong[:2]), found or None)
        return found

    return read_all


def with_commas(values: Sequence[Any]) -> str:
    return ",".join(map(str, values))


def nearest(text: str, allowed: Iterable[str]) -> str | None:
    """The word that is spelled almost like ``text``; None when none is."""
    found = difflib.get_close_matches(text[:100], list(allowed), n=1, cutoff=ALIKE)
    return found[0] if found else None


def _offered(words: Sequence[str]) -> str:
    """As many of the words as a sentence takes."""
    few = [word for place, word in enumerate(words) if len(" or ".join(words[: place + 1])) <= LIST]
    return " or ".join(few) + (f" or one of {len(words) - len(few)} more" if len(few) < len(words) else "")


def _float(text: str) -> float:
    try:
        return float(text) if len(text) < 400 else math.nan
    except ValueError:
        return math.nan


def _nearest_of(knob: Knob, text: str) -> Any:
    if knob.kind in ("flag", "choice"):
        words = {str(each): each for each in (knob.choices if knob.kind == "choice" else (True, False))}
        return words.get(nearest(text, words))
    given = _float(text)
    if math.isnan(given):
        return None
    inside = min(max(given, knob.range.low), knob.range.high)
    return knob.check(round(inside) if knob.kind == "int" else inside)


# --- links ---


def split(search: str) -> Link:
    """The parameters of ``?name=value&...``."""
    wrong = []
    if len(search) > LONGEST_LINK:
        wrong.append(f"The link is longer than {LONGEST_LINK:,} characters: what comes after them is left out.")
    return Link(parse_qsl(search.lstrip("?")[:LONGEST_LINK], keep_blank_values=True, errors=ESCAPED), wrong)


def join(parameters: Mapping[str, str]) -> str:
    return "?" + urlencode(parameters)


def decode(entries: Iterable[Entry], parameters: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The value of every entry, and a sentence for each that the link got wrong."""
    values, wrong = {}, []
    for entry in entries:
        values[entry.name] = entry.default
        if entry.name in parameters:
            text = parameters[entry.name]
            try:
                values[entry.name] = entry.read(text)
            except ValueError as error:
                if (near := getattr(error, "nearest", None)) is not None:
                    values[entry.name] = near
                wrong.append(complaint(entry.name, text, str(error), entry.write(values[entry.name])))
    return values, wrong


def encode(entries: Iterable[Entry], values: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a link: only what differs from the default."""
    return {
        entry.name: entry.write(values[entry.name])
        for entry in entries
        if entry.name in values and values[entry.name] != entry.default
    }


def complaint(name: str, given: str, why: str, shown: str) -> str:
    """One sentence about a setting that a link got wrong: what it said, why that cannot be, what is shown instead."""
    instead = f"it is {_quoted(shown)} instead" if shown else "the default is shown instead"
    return f"The link's {name} = {_quoted(given)} cannot be ({why.rstrip('.')}): {instead}."


def told(wrong: Iterable[str]) -> list[str]:
    """The complaints as a visitor reads them: no more than can be read, each once."""
    found = list(dict.fromkeys(wrong))
    if len(found) <= MOST_TOLD:
        return found
    return [*found[: MOST_TOLD - 1], f"{len(found) - MOST_TOLD + 1} more things in the link cannot be: left out."]


def _text(words: str) -> str:
    """Words of a link, with ``BAD`` for each byte that is no text."""
    return "".join(BAD if "\ud800" <= letter <= "\udfff" else letter for letter in words)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= SHORT else text[:SHORT] + "…")


def _without_end(error: ValueError) -> str:
    return str(error).rstrip(".")
