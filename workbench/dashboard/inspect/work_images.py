"""What the page Inspect computes on an image: maps of two configurations of a small ViT, what they see, their costs.

The ViT has learned the set of images with softmax attention and GELU; nothing is trained for another choice. Digits
come with weights. Another set is learned once, in the server, when the first visitor looks at it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from workbench.dashboard.inspect import seeing
from workbench.dashboard.inspect.seeing import STEPS, Figures, Maps
from workbench.dashboard.shell.jobs import Cancelled, Progress
from workbench.dashboard.shell.toggles import Configuration
from workbench.models import swapping, training, vit
from workbench.models.transformer import needs_other_weights
from workbench.tasks import images

LAYERS, HEADS = 4, 4
OFFERED = 120  # test images to choose from
TESTED = 360  # test images that both networks are asked about
PART = 60  # of them at a time
TIMED = 64  # images in the batch whose forward pass is timed
CLOTHES = vit.ViTConfig(image=28, patch=4)
LEARNING = {"steps": 600, "batch": 64, "learning_rate": 3e-3, "lap": 20}


@dataclass(frozen=True)
class Request:
    """What is on the screen: one test image of a set, two configurations."""

    collection: str
    index: int
    sides: Mapping[str, Configuration]

    def key(self, *sides: str) -> tuple:
        return (self.collection, self.index, *(self.sides[side].key for side in sides))


@dataclass(frozen=True)
class Accuracy:
    """How many of ``total`` test images one side has got right."""

    side: str
    right: int
    total: int


def shape(collection: str) -> vit.ViTConfig:
    """The network for a set of images."""
    return vit.pretrained_config() if collection == "digits" else CLOTHES


def patches(collection: str) -> int:
    """Patches on a side of an image."""
    return shape(collection).image // shape(collection).patch


def names(collection: str) -> list[str]:
    """The patches of an image, from the upper left on: row, column."""
    side = patches(collection)
    return [f"{row + 1},{column + 1}" for row in range(side) for column in range(side)]


def why_not(what: str, name: str, implementation: str = "auto") -> list[str]:
    """Why the network cannot take a choice, in sentences; an empty list means that it can."""
    if what == "activation":
        return needs_other_weights(name)
    if what == "implementation" and implementation not in ("auto", "reference", "fast"):
        return ["The small network runs attention and activation alike: as reference or as fast."]
    return []


def options(configuration: Configuration, collection: str) -> dict[str, Any]:
    """A configuration as the keyword arguments of ``swapping.swapped``."""
    chosen: dict[str, Any] = {"mixer": configuration.mixer.name}
    knobs = seeing.mixer_options(configuration, "image")
    if seeing.uses_natural_tree(configuration):
        knobs |= {"block": patches(collection), "levels": 2}
    if knobs:
        chosen["mixer_options"] = knobs
    if configuration.methods["activation"] != "gelu":
        chosen["activation"] = configuration.methods["activation"]
    if configuration.implementation in ("reference", "fast"):
        chosen["implementation"] = configuration.implementation
    if (layers := seeing.layers_of(configuration, LAYERS)) is not None:
        chosen["layers"] = layers
    return chosen


def check(request: Request) -> None:
    """Raise ``ValueError`` for an image that is not there, in one sentence."""
    if reasons := images.why_not(request.collection):
        raise ValueError(" ".join(reasons))
    if not 0 <= request.index < OFFERED:
        raise ValueError(f"image = {request.index} is not allowed: choose a whole number from 0 to {OFFERED - 1}.")


def compute(request: Request, device: str) -> Callable[[Cancelled], Iterator[Any]]:
    """The job for a request: yields ``Maps``, ``Accuracy`` and ``Figures``, with ``Progress`` between."""

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        check(request)
        if request.collection not in _learned:
            yield from _learn(request.collection)
        yield Progress(0, STEPS, "computing maps")
        for configuration in request.sides.values():
            seeing.check_simulated(configuration.mixer, shape(request.collection).tokens, device)
        for side in request.sides:
            yield _maps(request, side, device)
        yield from seeing.settle("asking about other images")
        for side in request.sides:
            yield from _accuracy(request, side, device)
        batch = images.load(request.collection).test[:TIMED].to(device)
        yield from seeing.costs(
            ("figures", request.collection, *(each.key for each in request.sides.values())),
            {side: lambda side=side: _forward(_model(request.collection, request.sides[side], device), batch)
             for side in request.sides},
            device, cancelled, same=len(set(request.sides.values())) == 1,
        )  # fmt: skip

    return steps


def known(request: Request) -> Iterator[Maps | Accuracy | Figures]:
    """What the cache holds of a request already: it can be drawn without a job."""
    for side, configuration in request.sides.items():
        for key in (("maps", *request.key(side)), ("accuracy", request.collection, configuration.key)):
            if (found := seeing.cache.get(key)) is not None:
                yield replace(found, side=side)
    key = ("figures", request.collection, *(each.key for each in request.sides.values()))
    if (figures := seeing.fresh(key)) is not None:
        yield figures


_learned: dict[str, vit.ViT] = {}


def _learn(collection: str) -> Iterator[Progress]:
    """The trained network, from the package or by training it: what is said meanwhile."""
    if collection == "digits":
        _learned[collection] = vit.pretrained()
        return
    note = f"the network learns {collection.replace('_', ' ')} first"
    said = Progress(0, LEARNING["steps"], note)
    for lap in training.train({"vit": shape(collection)}, collection, **LEARNING, ticks=True):
        if lap is not None:
            said = Progress(lap.step, lap.steps, f"{note}, {100 * lap.accuracy:.0f} % right")
            model = lap.model
        yield said
    _learned[collection] = model.eval().cpu()


@functools.lru_cache(maxsize=64)
def _model(collection: str, configuration: Configuration, device: str) -> vit.ViT:
    samples = images.load(collection).train[:64]
    return swapping.swapped(_learned[collection], images=samples, **options(configuration, collection)).to(device)


def _forward(model: vit.ViT, batch: torch.Tensor) -> Callable[[], torch.Tensor]:
    return torch.no_grad()(lambda: model(batch))


def _maps(request: Request, side: str, device: str) -> Maps:
    key = ("maps", *request.key(side))
    if (found := seeing.cache.get(key)) is None:
        configuration = request.sides[side]
        image = images.load(request.collection).test[[request.index]].to(device)
        with seeing.one_thread():
            seen = _model(request.collection, configuration, device).inspect(image)
        probabilities = seen.logits.softmax(-1).cpu().numpy()
        groups = _groups(configuration, request.collection)
        found = Maps(side, names(request.collection), seen.maps.cpu().numpy(), probabilities, groups)
        seeing.cache.put(key, found, found.maps.nbytes)
    return replace(found, side=side)


def _groups(configuration: Configuration, collection: str) -> tuple[seeing.Group, ...]:
    if not seeing.takes_tree(configuration.mixer):
        return ()
    return seeing.uniform_groups(options(configuration, collection).get("mixer_options", {}), configuration.mixer,
                                 shape(collection).tokens)  # fmt: skip


def _accuracy(request: Request, side: str, device: str) -> Iterator[Progress | Accuracy]:
    configuration = request.sides[side]
    key = ("accuracy", request.collection, configuration.key)
    if (found := seeing.cache.get(key)) is None:
        test, model = images.load(request.collection), _model(request.collection, configuration, device)
        right = 0
        for start in range(0, TESTED, PART):
            part = slice(start, start + PART)
            logits = _forward(model, test.test[part].to(device))().cpu()
            right += int((logits.argmax(1) == test.test_labels[part]).sum())
            yield Progress(1, STEPS, "asking about other images")
        found = Accuracy(side, right, min(TESTED, len(test.test)))
        seeing.cache.put(key, found, 100)
    yield replace(found, side=side)


def python_lines(request: Request, layer: int, head: int, device: str) -> str:
    """The lines that compute what is on the screen."""
    collection = request.collection

    def model(side: str) -> str:
        given = options(request.sides[side], collection)
        poly = ", images=data.train[:64]" if request.sides[side].method("activation").layer else ""
        return f"swapped(learned, {seeing.written(given)}{poly}).to({device!r})"

    if collection == "digits":
        learned = ["learned = vit.pretrained()"]
    else:
        given = seeing.written(LEARNING)
        learned = [
            f"config = vit.ViTConfig(image={shape(collection).image}, patch={shape(collection).patch})",
            f"*_, lap = training.train({{'vit': config}}, {collection!r}, {given})",
            "learned = lap.model.eval()",
        ]
    return "\n".join([
        "from workbench import measure",
        "from workbench.models import training, vit" if collection != "digits" else "from workbench.models import vit",
        "from workbench.models.swapping import swapped",
        "from workbench.tasks import images",
        "",
        f"data = images.load({collection!r})",
        f"image = data.test[[{request.index}]].to({device!r})",
        *learned,
        f"models = {{'a': {model('a')},",
        f"          'b': {model('b')}}}",
        "inspected = {side: model.inspect(image) for side, model in models.items()}",
        f"maps = {{side: seen.maps[{layer}, {head}] for side, seen in inspected.items()}}  # query rows, key columns",
        "probabilities = {side: seen.logits.softmax(-1) for side, seen in inspected.items()}",
        f"batch = data.test[:{TIMED}].to({device!r})",
        "calls = {side: lambda model=model: model(batch) for side, model in models.items()}",
        f"*_, times = measure.time_in_turns(calls, {device!r})",
        f"peaks = {{side: measure.peak_bytes(call, {device!r}) for side, call in calls.items()}}",
    ])  # fmt: skip
