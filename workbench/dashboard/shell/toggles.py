"""The toggles, generated from the catalog, and the configuration that they choose.

The same on every page: what a toggle offers are the methods that name it, and "none" where it can be off. A toggle that
no method names yet has nothing to offer, and says so.

Attention, hierarchy and doubly stochastic normalisation choose one thing together: the method that mixes tokens, the
*mixer*. The latter two, when they are on, replace softmax attention as a whole, so at most one of them can be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from workbench import catalog
from workbench.controls import Knob
from workbench.dashboard.shell import state
from workbench.dashboard.shell.state import Entry, choice
from workbench.paper import Method, Toggle

TOGGLES: tuple[Toggle, ...] = get_args(Toggle)
NONE = "none"
CAN_BE_OFF: tuple[Toggle, ...] = ("hierarchy", "doubly_stochastic", "caching")
REPLACING: tuple[Toggle, ...] = ("hierarchy", "doubly_stochastic")  # the attention, as a whole


def label(toggle: str) -> str:
    return toggle.replace("_", " ").capitalize()


def methods(toggle: Toggle) -> dict[str, Method]:
    """What a toggle chooses from, by name."""
    return catalog.methods(toggle)


def choices(toggle: Toggle) -> dict[str, str]:
    """The titles of what a toggle can stand at, by name; "none" comes first where it can be off."""
    off = {NONE: NONE} if toggle in CAN_BE_OFF else {}
    return off | {name: method.title for name, method in methods(toggle).items()}


def conflict(configuration: Configuration, toggle: str, name: str) -> str:
    """Why ``toggle`` cannot be set to ``name`` beside what else is chosen, in one sentence; empty when it can."""
    if name == NONE or toggle not in ("attention", *REPLACING):
        return ""
    for other in REPLACING:
        if other != toggle and configuration.is_on(other):
            title = configuration.method(other).title
            also = "" if toggle == "attention" else f", and so would {label(toggle).lower()}"
            return f"{label(other)} ({title}) replaces softmax attention as a whole{also}: switch it to none first."
    return ""


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

    ``methods`` maps toggles to method names (or "none"), ``knobs`` maps toggles to the knobs that differ from their
    defaults, ``implementation`` is that of the mixer. Hashable, so that it can be the key of a cache.
    """

    methods: Mapping[str, str]
    knobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    implementation: str = "auto"

    @functools.cached_property
    def key(self) -> tuple:
        knobs = tuple((toggle, tuple(sorted(self.knobs[toggle].items()))) for toggle in sorted(self.knobs))
        on = sorted((toggle, name) for toggle, name in self.methods.items() if name != NONE)
        return (*on, *(part for part in knobs if part[1]), self.implementation)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Configuration) and self.key == other.key

    def is_on(self, toggle: str) -> bool:
        """Whether a method is chosen: not "none", and not a toggle that this configuration does not have."""
        return self.methods.get(toggle, NONE) != NONE

    def method(self, toggle: Toggle) -> Method:
        """The chosen method. Raises ``KeyError`` for a toggle that is off."""
        if not self.is_on(toggle):
            raise KeyError(f"{label(toggle)} is off.")
        return catalog.method(self.methods[toggle])

    def options(self, toggle: Toggle) -> dict[str, Any]:
        return dict(self.knobs.get(toggle, {}))

    @property
    def mixing(self) -> Toggle:
        """The toggle whose method mixes the tokens: "hierarchy" or "doubly_stochastic" when it is on."""
        return next((toggle for toggle in REPLACING if self.is_on(toggle)), "attention")

    @property
    def mixer(self) -> Method:
        """The method that mixes the tokens."""
        return self.method(self.mixing)

    @property
    def mixer_options(self) -> dict[str, Any]:
        """The mixer's knobs that differ from their defaults."""
        return self.options(self.mixing)

    def choose(self, toggle: str, name: str) -> Configuration:
        """Another method, or "none". Its knobs are at their defaults, but for those that the method before had too.

        Raises ``ValueError`` with the reason when two toggles would replace the attention, see ``conflict``. The choice
        of an attention that is replaced is kept for when it no longer is.
        """
        if toggle in REPLACING and (reason := conflict(self, toggle, name)):
            raise ValueError(reason)
        known = catalog.method(name).knobs if name != NONE else {}
        kept = {knob: value for knob, value in self.options(toggle).items() if knob in known}
        changed = Configuration(
            {**self.methods, toggle: name}, _without_empty({**self.knobs, toggle: kept}), self.implementation
        )
        if changed.is_on(changed.mixing) and self.implementation not in changed.mixer.implementations:
            return changed.run_as("auto")
        return changed

    def set(self, toggle: str, knob: Knob, value: Any) -> Configuration:
        """One knob at another value, checked. Raises ``ValueError`` when it is out of bounds."""
        knobs = {**self.options(toggle), knob.name: knob.check(value)}
        if value == knob.default:
            knobs.pop(knob.name)
        return Configuration(self.methods, _without_empty({**self.knobs, toggle: knobs}), self.implementation)

    def run_as(self, implementation: str) -> Configuration:
        return Configuration(self.methods, self.knobs, implementation)


def _off_first(chosen: Mapping[str, str]) -> list[tuple[str, str]]:
    """In an order in which every choice finds the way free: what is switched off comes first."""
    return sorted(chosen.items(), key=lambda item: item[1] != NONE)


def _without_empty(knobs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {toggle: values for toggle, values in knobs.items() if values}


# --- a configuration in a link: b.attention=softmax_attention&b.attention.window_left=4 ---


def decode(
    side: str, default: Configuration, knobs_of: Any, parameters: Mapping[str, str]
) -> tuple[Configuration, list[str]]:
    """The configuration that a link asks for, and a sentence for each thing that it got wrong.

    ``knobs_of(toggle, method)`` are the knobs that the page offers.
    """
    entries = [Entry(f"{side}.{toggle}", name, choice(choices(toggle))) for toggle, name in default.methods.items()]
    values, wrong = state.decode(entries, parameters)
    found = default
    asked = {toggle: values[f"{side}.{toggle}"] for toggle in default.methods}
    for toggle, name in _off_first(asked):
        if name != found.methods[toggle]:
            try:
                found = found.choose(toggle, name)
            except ValueError as error:
                wrong.append(state.complaint(f"{side}.{toggle}", name, str(error), found.methods[toggle]))
    if found.is_on(found.mixing):
        runs = Entry(f"{side}.implementation", found.implementation, choice(("auto", *found.mixer.implementations)))
        values, more = state.decode([runs], parameters)
        found, wrong = found.run_as(values[runs.name]), wrong + more
    for toggle in filter(found.is_on, default.methods):
        knobs = knobs_of(toggle, found.method(toggle))
        entries = [Entry(f"{side}.{toggle}.{name}", found.options(toggle).get(name, knob.default), state.turned(knob))
                   for name, knob in knobs.items()]  # fmt: skip
        values, more = state.decode(entries, parameters)
        wrong += more
        for entry, knob in zip(entries, knobs.values(), strict=True):
            found = found.set(toggle, knob, values[entry.name])
    return found, wrong


def fitted(
    side: str, chosen: Configuration, default: Configuration, why_not: Callable[[Configuration, str, str], str]
) -> tuple[Configuration, list[str]]:
    """What can run of ``chosen``, and a sentence for each thing that cannot and what stands there instead.

    ``why_not(configuration, what, name)`` is why ``what``, a toggle or "implementation", cannot be ``name`` there, in
    one sentence; empty when it can. Where nothing else can be either, the choice stays: whoever computes it says why.
    """
    told = []
    for toggle in sorted(chosen.methods, key=lambda each: each not in REPLACING):
        name = chosen.methods[toggle]
        if toggle in ("attention", *REPLACING) and toggle != chosen.mixing:
            continue  # it is off, or replaced
        if reason := why_not(chosen, toggle, name):
            offered = choices(toggle)
            others = [each for each in (default.methods[toggle], *offered) if each in offered and each != name]
            instead = next((each for each in others if not why_not(chosen, toggle, each)), None)
            if instead is not None:
                chosen = chosen.choose(toggle, instead)
                told.append(_instead(side, label(toggle), offered[name], reason, offered[instead]))
    name = chosen.implementation
    if name != "auto" and (reason := why_not(chosen, "implementation", name)):
        chosen = chosen.run_as("auto")
        told.append(_instead(side, "Run as", name.replace("_", " "), reason, "auto"))
    return chosen, told


def _instead(side: str, what: str, name: str, reason: str, instead: str) -> str:
    return f"{side.upper()} · {what}: {name} cannot be here ({reason.rstrip('.')}), so it is {instead}."


def encode(side: str, default: Configuration, knobs_of: Any, chosen: Configuration) -> dict[str, str]:
    """What a link must say so that ``decode`` gives ``chosen`` back."""
    said = {}
    start = default
    for toggle, name in _off_first(chosen.methods):
        if name != default.methods[toggle]:
            said[f"{side}.{toggle}"] = name
            start = start.choose(toggle, name)
    if chosen.implementation != start.implementation:
        said[f"{side}.implementation"] = chosen.implementation
    for toggle in filter(chosen.is_on, chosen.methods):
        for name, knob in knobs_of(toggle, chosen.method(toggle)).items():
            value = chosen.options(toggle).get(name, knob.default)
            if value != start.options(toggle).get(name, knob.default):
                said[f"{side}.{toggle}.{name}"] = str(value)
    return said
