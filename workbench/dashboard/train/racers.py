"""What the page Train can race: a task, and two small models that differ in the toggles. Nothing is trained here."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any

import torch

from workbench import catalog
from workbench.controls import Knob, Range
from workbench.dashboard.shell import toggles
from workbench.dashboard.shell.toggles import Configuration
from workbench.models.transformer import TransformerConfig
from workbench.models.vit import ViTConfig, no_attention
from workbench.paper import Method, Unavailable
from workbench.tasks import grammar, images

SIDES = ("a", "b")
GRAMMAR = "grammar"
TOKENS = 64  # characters that the language model sees at once
HEADS = 4
FLOOR_CHARACTERS = 40_000  # tell the floor to about one percent
ATTENTION = "attention"
LAPS = 50  # about so many points has a curve


@functools.cache
def mixings() -> dict[str, str]:
    """What mixes the tokens of a ViT: what the toggles say, a block of the catalog, or one of the ViT's own mixers."""
    blocks = {name: block.title for name, block in catalog.blocks().items()}
    return {ATTENTION: "Attention", **blocks, "mlp_mixer": "MLP-Mixer", "none": "nothing"}


def knob(name: str, default: float, low: float, high: float, help: str, **options: Any) -> Knob:
    kind = "float" if isinstance(default, float) else "int"
    return Knob(name, kind, default, help, Range(low, high, **options))


# What both sides share. The defaults of the widths and lengths are those of the task, see ``shape``.
STEPS = knob("steps", 500, 20, 5000, "", log=True)
SEED = knob("seed", 0, 0, 99, "")
WIDTH = knob("width", 32, 16, 512, "Width of the residual stream.", log=True)
DEPTH = knob("depth", 4, 1, 12, "Blocks.")
BATCH = knob("batch", 32, 4, 1024, "Examples a step.", log=True)
RATE = knob("learning_rate", 3e-3, 1e-4, 1e-1, "Peak of the learning rate: it warms up and descends.", log=True)
SHAPE = {each.name: each for each in (WIDTH, DEPTH, BATCH, RATE)}


TASKS = {
    "digits": "Digits: 8 x 8 images, by a small ViT",
    "fashion_mnist": "Clothes: 28 x 28 images, by a small ViT",
    GRAMMAR: "A small language, by a causal Transformer",
}
"""What can be learned, by name."""


def task_why_not(task: str) -> str:
    """Why a task is not there on this machine, in one sentence; empty when it is."""
    return "" if task == GRAMMAR else " ".join(images.why_not(task))


def shape(task: str) -> dict[str, Any]:
    """The defaults of ``SHAPE`` for a task: sizes at which two cores are done in under half a minute."""
    if task == GRAMMAR:
        return {"width": 64, "depth": 2, "batch": 8, "learning_rate": 3e-3}
    return {"width": 32, "depth": 3, "batch": 32, "learning_rate": 3e-3}


@dataclass(frozen=True)
class Side:
    """One racer: the toggles, what mixes the tokens of a ViT, and whether a feed-forward block follows."""

    configuration: Configuration
    mixing: str = "attention"
    feed_forward: bool = True

    @property
    def key(self) -> tuple:
        return (self.configuration.key, self.mixing, self.feed_forward)


def start(task: str) -> dict[str, Side]:
    """The two sides that a task opens with."""
    off = dict.fromkeys(toggles.REPLACING, toggles.NONE)
    plain = Configuration({"attention": "softmax_attention", "activation": "gelu", **off})
    if task == GRAMMAR:
        return {"a": Side(plain), "b": Side(plain.choose("activation", "poly_norm"))}
    return {"a": Side(plain), "b": Side(plain, next(iter(catalog.blocks()), "none"))}


@dataclass(frozen=True)
class Request:
    """One race. ``shape`` holds what differs from the task's defaults."""

    task: str
    sides: Mapping[str, Side]
    steps: int = STEPS.default
    seed: int = SEED.default
    shape: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple:
        sides = tuple(self.sides[side].key for side in SIDES)
        return (self.task, *sides, self.steps, self.seed, *sorted(self.shape.items()))

    @property
    def full_shape(self) -> dict[str, Any]:
        return {**shape(self.task), **self.shape}

    @property
    def lap(self) -> int:
        return max(1, self.steps // LAPS)


# --- what can be chosen -----------------------------------------------------------------------------------------------


def knobs_of(toggle: str, method: Method) -> dict[str, Knob]:
    """The knobs that a model can take: those of what mixes the tokens. Whether it is causal is the task's to say."""
    if toggle not in ("attention", *toggles.REPLACING):
        return {}
    return {name: each for name, each in method.knobs.items() if name not in ("is_causal", "scale")}


def limit(task: str, knob: str) -> int | None:
    """Beyond the number of tokens a window or a block makes no difference."""
    if not knob.startswith(("window", "block")):
        return None
    return TOKENS if task == GRAMMAR else 64


def config(request: Request, side: str) -> ViTConfig | TransformerConfig:
    """The model of one side. Raises ``ValueError`` where the parts do not fit together."""
    chosen, sizes = request.sides[side], request.full_shape
    configuration = chosen.configuration
    activation = configuration.methods["activation"]
    mixer, options = configuration.mixer.name, configuration.mixer_options
    if request.task == GRAMMAR:
        return TransformerConfig(
            len(grammar.ALPHABET), width=sizes["width"], depth=sizes["depth"], heads=HEADS, tokens=TOKENS,
            attention=mixer, attention_options=options, activation=activation, normalisation="rms_norm",
            implementation=configuration.implementation,
        )  # fmt: skip
    data = images.load(request.task)
    side_of_image = data.train.shape[-1]
    by_toggles = chosen.mixing == "attention"
    return ViTConfig(
        image=side_of_image, channels=data.train.shape[1], patch=2 if side_of_image <= 8 else 4,
        classes=len(data.classes), width=sizes["width"], depth=sizes["depth"], heads=HEADS,
        mixer=mixer if by_toggles else chosen.mixing, mixer_options=options if by_toggles else {},
        feed_forward=chosen.feed_forward, activation=activation, implementation=configuration.implementation,
    )  # fmt: skip


def mixer_of(request: Request, side: str) -> str:
    """What mixes the tokens of a side, by name."""
    chosen = request.sides[side]
    if chosen.mixing == ATTENTION or request.task == GRAMMAR:
        return chosen.configuration.mixer.name
    return chosen.mixing


def conflict(request: Request, side: str, what: str, name: str) -> str:
    """Why ``what`` (a toggle, "mixing", "feed_forward") cannot be set to ``name``, in one sentence; empty when it can.

    The first reason counts: the task's, another choice's, then the method's own.
    """
    chosen = request.sides[side]
    if what in ("mixing", "feed_forward") and request.task == GRAMMAR:
        return "" if name in (ATTENTION, "on") else (
            "The language model predicts every character from those before it: only attention can look back."
        )  # fmt: skip
    if what == "mixing":
        if name == "none" and not chosen.feed_forward:
            return "Without a feed-forward part, nothing would be left of a block."
        return ""
    if what == "feed_forward":
        if name == "off" and chosen.mixing == "none":
            return "Where nothing mixes the tokens, nothing would be left of a block."
        return ""
    if what == "activation":
        return "" if chosen.feed_forward else "There is no feed-forward part that could use it: switch that on first."
    if name != toggles.NONE and chosen.mixing != ATTENTION and request.task != GRAMMAR:
        mixing, told = mixings()[chosen.mixing], no_attention()[chosen.mixing]
        return f"{mixing} mixes the tokens ({told}): choose Attention there first."
    if reason := toggles.conflict(chosen.configuration, what, name):
        return reason
    return "" if name == toggles.NONE else why_not(name, request.task)


@functools.cache
def why_not(method: str, task: str) -> str:
    """Why a mixer cannot be trained at a task: its own words when it is tried on a few numbers; empty when it can."""
    causal = task == GRAMMAR
    query, key, value = torch.rand(3, 1, 1, 4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    try:
        catalog.method(method)(query, key, value, **({"is_causal": True} if causal else {})).sum().backward()
    except (ValueError, TypeError, Unavailable, RuntimeError) as error:
        words = " ".join(str(error).split())
        return words if words.endswith(".") else words + "."
    return ""


def fitted(request: Request) -> tuple[dict[str, Side], list[str]]:
    """The sides of a race as they can run, and a sentence for each choice that cannot be and what is there instead."""
    sides, told = dict(request.sides), []
    for side, default in start(request.task).items():
        for what, instead in (("mixing", {"mixing": default.mixing}), ("feed_forward", {"feed_forward": True})):
            chosen = sides[side]
            name = chosen.mixing if what == "mixing" else "on" if chosen.feed_forward else "off"
            if reason := conflict(replace(request, sides=sides), side, what, name):
                sides[side] = replace(chosen, **instead)
                told.append(f"{side.upper()}: {reason}")
        if sides[side].mixing == ATTENTION:
            why = functools.partial(_why_not_there, request, sides[side], side)
            configuration, more = toggles.fitted(side, sides[side].configuration, default.configuration, why)
            sides[side] = replace(sides[side], configuration=configuration)
            told += more
    return sides, told


def _why_not_there(
    request: Request, chosen: Side, side: str, configuration: Configuration, what: str, name: str
) -> str:
    if what != "implementation":
        return "" if what == "activation" or name == toggles.NONE else why_not(name, request.task)
    trial = replace(chosen, configuration=configuration.run_as(name))
    try:
        config(replace(request, sides={**request.sides, side: trial}), side)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def check(request: Request) -> None:
    """Raise ``ValueError`` in one sentence for a race that cannot be."""
    for side in SIDES:
        chosen = request.sides[side]
        asked = {"mixing": chosen.mixing, "feed_forward": "on" if chosen.feed_forward else "off"}
        if chosen.mixing == ATTENTION or request.task == GRAMMAR:
            mixing = chosen.configuration.mixing
            asked[mixing] = chosen.configuration.methods[mixing]
        for what, name in asked.items():
            if reason := conflict(request, side, what, name):
                raise ValueError(f"{side.upper()}: {reason}")
        config(request, side)


# --- in words ---------------------------------------------------------------------------------------------------------


def words(request: Request, side: str) -> str:
    """What a side is, in a few words."""
    chosen = request.sides[side]
    configuration = chosen.configuration
    by_toggles = chosen.mixing == ATTENTION or request.task == GRAMMAR
    own = mixings()[chosen.mixing] if chosen.mixing != "none" else "no mixing"
    mixed = configuration.mixer.title if by_toggles else own
    activation = catalog.method(configuration.methods["activation"]).title
    return f"{mixed}, {activation}" if chosen.feed_forward else f"{mixed} only"


@functools.cache
def floor(task: str) -> tuple[float, str] | None:
    """The loss below which no model of the language can come, and words for it; None where it is not known."""
    if task != GRAMMAR:
        return None
    return grammar.write(FLOOR_CHARACTERS).floor, "lowest loss possible"


def python_lines(request: Request, device: str) -> str:
    """The lines that compute what is on the screen."""
    sizes = request.full_shape
    lines = ["from workbench.models import training"]
    kind = "transformer" if request.task == GRAMMAR else "vit"
    name = "TransformerConfig" if request.task == GRAMMAR else "ViTConfig"
    lines += [f"from workbench.models.{kind} import {name}", ""]
    for side in SIDES:
        made = config(request, side)
        given = {f.name: getattr(made, f.name) for f in fields(made) if not _is_default(f, getattr(made, f.name))}
        lines.append(f"{side} = {name}({', '.join(f'{key}={value!r}' for key, value in given.items())})")
    lines += [
        "laps = training.train(",
        f"    {{'a': a, 'b': b}}, {request.task!r}, steps={request.steps}, batch={sizes['batch']}, "
        f"learning_rate={sizes['learning_rate']},",
        f"    seed={request.seed}, device={device!r}, lap={request.lap},",
        ")",
        "for lap in laps:",
        "    print(lap.name, lap.step, lap.loss, lap.accuracy, lap.seconds)",
    ]
    return "\n".join(lines)


def _is_default(entry: Field, value: Any) -> bool:
    return value == (entry.default_factory() if entry.default_factory is not MISSING else entry.default)
