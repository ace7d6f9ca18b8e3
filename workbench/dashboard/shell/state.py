"""A view as a link, and a link as a view.

Every page declares what its link holds: a name, what may stand there, and the default. Only what differs from the
default is written. What a link says wrongly is replaced by the default and reported in one sentence; it never raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

LONGEST_LINK = 16_000  # characters; servers and browsers cut longer ones


@dataclass(frozen=True)
class Entry:
    """One setting of a page. ``read`` turns text into a value or raises ``ValueError`` saying what is allowed."""

    name: str
    default: Any
    read: Callable[[str], Any] = str
    write: Callable[[Any], str] = str


def number(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise ValueError(f"choose a whole number from {low:,} to {high:,}")
        return value

    return read


def choice(allowed: Iterable[str]) -> Callable[[str], str]:
    """A reader of one word out of ``allowed``."""
    allowed = tuple(allowed)

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"choose {' or '.join(allowed[:12])}")
        return text

    return read


def flag(text: str) -> bool:
    """``"on"`` or ``"off"``."""
    return choice(("on", "off"))(text) == "on"


def on_off(value: bool) -> str:
    return "on" if value else "off"


def listed(read: Callable[[str], Any]) -> Callable[[str], tuple]:
    """A reader of values separated by commas."""
    return lambda text: tuple(read(part) for part in text.split(",") if part)


def with_commas(values: Sequence[Any]) -> str:
    return ",".join(map(str, values))


def split(search: str) -> dict[str, str]:
    """The parameters of ``?name=value&...``; of a name that comes twice the last one counts."""
    return dict(parse_qsl(search.lstrip("?")[:LONGEST_LINK], keep_blank_values=True, errors="replace"))


def join(parameters: Mapping[str, str]) -> str:
    return "?" + urlencode(parameters)


def decode(entries: Iterable[Entry], parameters: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The value of every entry, and a phrase for each that the link got wrong."""
    values, wrong = {}, []
    for entry in entries:
        values[entry.name] = entry.default
        if entry.name in parameters:
            text = parameters[entry.name]
            try:
                values[entry.name] = entry.read(text)
            except ValueError as error:
                given = text if len(text) <= 40 else text[:40] + "…"
                wrong.append(f"{entry.name} = {given!r} ({_without_end(error)})")
    return values, wrong


def encode(entries: Iterable[Entry], values: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a link: only what differs from the default."""
    return {
        entry.name: entry.write(values[entry.name])
        for entry in entries
        if entry.name in values and values[entry.name] != entry.default
    }


def complaint(wrong: Sequence[str]) -> str:
    """One sentence about what a link got wrong; empty when it got nothing wrong."""
    if not wrong:
        return ""
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f"This link asks for something that cannot be, {wrong[0]}{more}: the default is shown instead."


def _without_end(error: ValueError) -> str:
    return str(error).rstrip(".")
