"""The toggles, generated from the catalog, and the configuration that they choose.

The same on every page: what a toggle offers are the methods that name it. A toggle that no method names yet has nothing
to offer, and says so.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from workbench import catalog
from workbench.controls import Knob
from workbench.dashboard.state import Entry, choice
from workbench.paper import Method, Toggle

TOGGLES: tuple[Toggle, ...] = get_args(Toggle)


def label(toggle: str) -> str:
    return toggle.replace("_", " ").capitalize()


def methods(toggle: Toggle) -> dict[str, Method]:
    """What a toggle chooses from, by name."""
    return catalog.methods(toggle)


def silent(toggles: Iterable[Toggle] = TOGGLES) -> str:
    """One sentence about the toggles that have nothing to choose from; empty when all have."""
    names = [label(toggle) for toggle in toggles if not methods(toggle)]
    if not names:
        return ""
    words = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1].lower()}"
    return f"{words}: no paper of the catalog offers a choice yet."


@dataclass(frozen=True)
class Configuration:
    """One side of a comparison: a method for each toggle, and how the methods' own knobs stand.

    ``methods`` maps toggles to method names, ``knobs`` maps toggles to the knobs that differ from their defaults,
    ``implementation`` is that of the attention. Hashable, so that it can be the key of a cache.
    """

    methods: Mapping[str, str]
    knobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    implementation: str = "auto"

    @functools.cached_property
    def key(self) -> tuple:
        knobs = tuple((toggle, tuple(sorted(self.knobs[toggle].items()))) for toggle in sorted(self.knobs))
        return (*sorted(self.methods.items()), *(part for part in knobs if part[1]), self.implementation)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Configuration) and self.key == other.key

    def method(self, toggle: Toggle) -> Method:
        return catalog.method(self.methods[toggle])

    def options(self, toggle: Toggle) -> dict[str, Any]:
        return dict(self.knobs.get(toggle, {}))

    def choose(self, toggle: str, name: str) -> Configuration:
        """Another method. Its knobs are at their defaults, but for those that the method before had too."""
        known = catalog.method(name).knobs
        kept = {knob: value for knob, value in self.options(toggle).items() if knob in known}
        implementation = self.implementation
        if toggle == "attention" and implementation not in catalog.method(name).implementations:
            implementation = "auto"
        return Configuration(
            {**self.methods, toggle: name}, _without_empty({**self.knobs, toggle: kept}), implementation
        )

    def set(self, toggle: str, knob: Knob, value: Any) -> Configuration:
        """One knob at another value, checked. Raises ``ValueError`` when it is out of bounds."""
        knobs = {**self.options(toggle), knob.name: knob.check(value)}
        if value == knob.default:
            knobs.pop(knob.name)
        return Configuration(self.methods, _without_empty({**self.knobs, toggle: knobs}), self.implementation)

    def run_as(self, implementation: str) -> Configuration:
        return Configuration(self.methods, self.knobs, implementation)


def _without_empty(knobs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {toggle: values for toggle, values in knobs.items() if values}


# --- a configuration in a link: b.attention=flash_attention_2&b.attention.window_left=4 ---


def decode(
    side: str, default: Configuration, knobs_of: Any, parameters: Mapping[str, str]
) -> tuple[Configuration, list[str]]:
    """The configuration that a link asks for, and a phrase for each thing that it got wrong.

    ``knobs_of(toggle, method)`` are the knobs that the page offers.
    """
    from workbench.dashboard import state

    entries = [Entry(f"{side}.{toggle}", name, choice(methods(toggle))) for toggle, name in default.methods.items()]
    values, wrong = state.decode(entries, parameters)
    found = default
    for toggle in default.methods:
        if values[f"{side}.{toggle}"] != found.methods[toggle]:
            found = found.choose(toggle, values[f"{side}.{toggle}"])
    runs = Entry(
        f"{side}.implementation", found.implementation, choice(("auto", *found.method("attention").implementations))
    )
    values, more = state.decode([runs], parameters)
    found, wrong = found.run_as(values[runs.name]), wrong + more
    for toggle in found.methods:
        knobs = knobs_of(toggle, found.method(toggle))
        entries = [Entry(f"{side}.{toggle}.{name}", found.options(toggle).get(name, knob.default), knob.parse)
                   for name, knob in knobs.items()]  # fmt: skip
        values, more = state.decode(entries, parameters)
        wrong += more
        for entry, knob in zip(entries, knobs.values(), strict=True):
            found = found.set(toggle, knob, values[entry.name])
    return found, wrong


def encode(side: str, default: Configuration, knobs_of: Any, chosen: Configuration) -> dict[str, str]:
    """What a link must say so that ``decode`` gives ``chosen`` back."""
    said = {}
    start = default
    for toggle, name in chosen.methods.items():
        if name != default.methods[toggle]:
            said[f"{side}.{toggle}"] = name
            start = start.choose(toggle, name)
    if chosen.implementation != start.implementation:
        said[f"{side}.implementation"] = chosen.implementation
    for toggle in chosen.methods:
        for name, knob in knobs_of(toggle, chosen.method(toggle)).items():
            value = chosen.options(toggle).get(name, knob.default)
            if value != start.options(toggle).get(name, knob.default):
                said[f"{side}.{toggle}.{name}"] = str(value)
    return said
