"""What is chosen on the page Inspect, its link, and the controls of a side's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import param

from workbench import naming
from workbench.dashboard.inspect import first_screen, fitting, seeing
from workbench.dashboard.inspect import work as inspecting
from workbench.dashboard.inspect import work_images as inspecting_images
from workbench.dashboard.inspect.seeing import SIDES, USES
from workbench.dashboard.shell import state, toggles
from workbench.dashboard.shell.knobs import Field, Option, field_of, value_of
from workbench.dashboard.shell.state import Entry
from workbench.dashboard.shell.toggles import Configuration

DEFAULT = first_screen.REQUEST
SOURCES = ("text", "image")
COLLECTIONS = ("digits", "fashion_mnist")
IMAGE, PATCH = 3, 5
WORK = {"text": inspecting, "image": inspecting_images}
COMPUTED = frozenset({"source", "text", "others", "splits", "collection", "image", *SIDES})  # what maps depend on


def places(text: str) -> tuple[int, ...] | None:
    """Reads where phrases begin: "3,7"; nothing at all is one phrase, "auto" what punctuation says."""
    if text == "auto":
        return None
    return tuple(sorted(set(state.listed(state.number(2, inspecting.MOST_TOKENS))(text))))


# What says how many layers, heads and patches there are.
FIRST = (
    Entry("source", "text", state.choice(SOURCES)),
    Entry("collection", "digits", state.choice(COLLECTIONS)),
)
ENTRIES = (
    *FIRST,
    Entry("text", DEFAULT.text),
    Entry("with", DEFAULT.others, lambda text: tuple(filter(None, text.split("|"))), "|".join),
    Entry("splits", None, places, lambda splits: "auto" if splits is None else state.with_commas(splits)),
    Entry("image", IMAGE, state.number(0, inspecting_images.OFFERED - 1)),
    Entry("scales", "shared", state.choice(("shared", "own"))),
    Entry("difference", False, state.flag, state.on_off),
)


def entries(source: str, collection: str) -> tuple[Entry, ...]:
    """All that a link holds of the page but the two sides."""
    work = WORK[source]
    return (
        *ENTRIES,
        Entry("patch", PATCH, state.number(0, inspecting_images.shape(collection).tokens - 1)),
        Entry("layer", min(first_screen.LAYER, work.LAYERS - 1), state.number(0, work.LAYERS - 1)),
        Entry("head", min(first_screen.HEAD, work.HEADS - 1), state.number(0, work.HEADS - 1)),
    )


class InspectState(param.Parameterized):
    """What is chosen on the page. Change a parameter, and everything that depends on it follows."""

    source = param.Selector(default="text", objects=list(SOURCES))
    text = param.String(default=DEFAULT.text)
    others = param.ClassSelector(class_=tuple, default=DEFAULT.others)
    splits = param.ClassSelector(class_=tuple, default=None, allow_None=True)
    collection = param.Selector(default="digits", objects=list(COLLECTIONS))
    image = param.Integer(default=IMAGE, bounds=(0, inspecting_images.OFFERED - 1))
    patch = param.Integer(default=PATCH, bounds=(0, None))
    a = param.ClassSelector(class_=Configuration, default=DEFAULT.sides["a"])
    b = param.ClassSelector(class_=Configuration, default=DEFAULT.sides["b"])
    layer = param.Integer(default=first_screen.LAYER, bounds=(0, inspecting.LAYERS - 1))
    head = param.Integer(default=first_screen.HEAD, bounds=(0, inspecting.HEADS - 1))
    scales = param.Selector(default="shared", objects=["shared", "own"])
    difference = param.Boolean(default=False)

    @property
    def sides(self) -> dict[str, Configuration]:
        return {side: getattr(self, side) for side in SIDES}

    @property
    def request(self) -> inspecting.Request | inspecting_images.Request:
        if self.source == "image":
            return inspecting_images.Request(self.collection, self.image, self.sides)
        return inspecting.Request(self.text, self.others, self.sides, self.splits if self.has_phrases else None)

    @property
    def size(self) -> tuple[int, int]:
        """Layers and heads of the network that looks."""
        return WORK[self.source].LAYERS, WORK[self.source].HEADS

    @property
    def has_phrases(self) -> bool:
        """Whether a side's tree is made of the text's phrases."""
        return self.source == "text" and any(map(seeing.uses_natural_tree, self.sides.values()))

    def change(self, **values: Any) -> list[str]:
        """Set parameters together; what no longer fits to them is brought into bounds. A sentence for each choice that
        cannot be shown, see ``fitting``."""
        new = {**{name: getattr(self, name) for name in ("source", "collection", "layer", "head", "patch")}, **values}
        layers, heads = WORK[new["source"]].LAYERS, WORK[new["source"]].HEADS
        patches = inspecting_images.shape(new["collection"]).tokens
        if "text" in values and values["text"] != self.text and "splits" not in values:
            values["splits"] = None  # they were places in another text
        told: list[str] = []
        if COMPUTED.intersection(values):
            values = {name: getattr(self, name) for name in COMPUTED} | values
            told = fitting.fitted(values, {"text": self.text}, dict(DEFAULT.sides))
        self.param.update(
            **values
            | {"layer": min(new["layer"], layers - 1), "head": min(new["head"], heads - 1)}
            | {"patch": min(new["patch"], patches - 1)}
        )
        return told

    def read(self, parameters: Mapping[str, str]) -> list[str]:
        """Take over what a link says; a sentence for each thing that it got wrong."""
        first, _ = state.decode(FIRST, parameters)
        values, wrong = state.decode(entries(**first), parameters)
        sides = {}
        for side in SIDES:
            sides[side], more = toggles.decode(side, DEFAULT.sides[side], seeing.knobs_of, parameters)
            wrong += more
        values["others"] = values.pop("with")
        if not values["text"].strip():
            wrong.append(f"The link's text is empty: it is {DEFAULT.text!r} instead.")
            values["text"] = DEFAULT.text
        return wrong + self.change(**values, **sides)

    def written(self) -> dict[str, str]:
        said = state.encode(entries(self.source, self.collection), {**self.param.values(), "with": self.others})
        for side in SIDES:
            said |= toggles.encode(side, DEFAULT.sides[side], seeing.knobs_of, getattr(self, side))
        return said

    def turn(self, side: str, name: str, given: Any) -> list[str]:
        """One control of a side's card was set; sentences as those of ``change``. Raises ``ValueError`` when that
        cannot be."""
        configuration: Configuration = getattr(self, side)
        if name in configuration.methods:
            changed = configuration.choose(name, given)
        elif name == "implementation":
            changed = configuration.run_as(given)
        else:
            toggle, knob_name = name.split(".")
            knob = seeing.knobs_of(toggle, configuration.method(toggle))[knob_name]
            value = configuration.options(toggle).get(knob.name, knob.default)
            changed = configuration.set(toggle, knob, value_of(knob, value, given, limit=limit(knob.name)))
        return self.change(**{side: changed})

    def card(self, side: str) -> list[Field]:
        """The controls of one side: the toggles, how the mixer runs, and the knobs that make a difference."""
        configuration: Configuration = getattr(self, side)
        fields = []
        for toggle in USES:
            now = configuration.methods[toggle]
            options = tuple(
                Option(name, title, toggles.conflict(configuration, toggle, name)
                       or fitting.why_not(self.source, toggle, name))
                for name, title in toggles.choices(toggle).items()
            )
            fields.append(Field(toggle, toggles.label(toggle), "choice", now, options))
        mixer = configuration.mixer
        ways = tuple(
            Option(
                way,
                naming.implementation(way, mixer.name),
                fitting.why_not(self.source, "implementation", mixer.name, way),
            )
            for way in ("auto", *mixer.implementations)
        )
        fields.insert(
            len(USES) - 1, Field("implementation", "Run as", "choice", configuration.implementation, ways)
        )
        without = seeing.idle(configuration, self.source)
        for toggle in filter(configuration.is_on, USES):
            method = configuration.method(toggle)
            for name, knob in seeing.knobs_of(toggle, method).items():
                if (toggle, name) not in without:
                    value = configuration.options(toggle).get(name, knob.default)
                    fields.append(field_of(knob, value, prefix=f"{toggle}.", group=method.title, limit=limit(name)))
        return fields


def limit(knob: str) -> int | None:
    """Beyond a text's length a window or a block makes no difference."""
    return inspecting.MOST_TOKENS if knob.startswith(("window", "block")) else None
