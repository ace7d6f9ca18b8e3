"""What the page Inspect computes on a text: maps of two configurations, then what they cost. No Panel here.

The steps are those of a job: the maps come first, one side at a time, because they are what somebody who turns a knob
waits for; similarity, time and memory follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from workbench.dashboard.inspect import seeing
from workbench.dashboard.inspect.seeing import STEPS, Figures, Maps
from workbench.dashboard.shell import toggles
from workbench.dashboard.shell.jobs import Cancelled, Progress
from workbench.dashboard.shell.toggles import Configuration
from workbench.models import pretrained
from workbench.tasks import sentences, text_trees

MOST_TOKENS = 160  # 6 x 12 maps of 160 x 160 float32 are 7 MiB; longer texts cannot be read as a picture anyway
MOST_OTHERS = 8
LAYERS, HEADS = 6, 12  # of the pretrained encoder


@dataclass(frozen=True)
class Request:
    """What is on the screen: one text, further sentences to compare with, two configurations.

    ``splits`` are where the visitor has the phrases begin, as places among the tokens; None: where punctuation has it.
    """

    text: str
    others: tuple[str, ...]
    sides: Mapping[str, Configuration]
    splits: tuple[int, ...] | None = None

    def key(self, *sides: str) -> tuple:
        """What the maps of these sides depend on, and nothing else."""
        chosen = [self.sides[side] for side in sides]
        splits = self.splits if any(map(seeing.uses_natural_tree, chosen)) else None
        return (self.text, splits, *(each.key for each in chosen))


@dataclass(frozen=True)
class Similarity:
    """Cosines between the text and the other sentences, (n, n), for one side."""

    side: str
    texts: tuple[str, ...]
    cosines: np.ndarray


def options(configuration: Configuration) -> dict[str, Any]:
    """A configuration as the keyword arguments of ``Encoder.inspect`` and ``Encoder.encode``, all but the tree."""
    chosen = {
        "attention": configuration.mixer.name,
        "activation": configuration.methods["activation"],
        "implementation": configuration.implementation,
    }
    if knobs := seeing.mixer_options(configuration):
        chosen["attention_options"] = knobs
    if (layers := seeing.layers_of(configuration, LAYERS)) is not None:
        chosen["layers"] = layers
    if "order" in configuration.options("activation"):
        chosen["activation_order"] = configuration.options("activation")["order"]
    return chosen


def tree_of(configuration: Configuration, splits: Sequence[int] | None) -> dict[str, Callable]:
    """The keyword ``tree`` of the encoder where a configuration wants one, as a dictionary; else an empty one."""
    if not seeing.uses_natural_tree(configuration):
        return {}
    if splits is None:
        return {"tree": text_trees.of_text}
    return {"tree": lambda tokens: text_trees.of_boundaries(tokens, splits)}


def check(request: Request) -> None:
    """Raise ``ValueError`` for texts that are empty or too long, in one sentence."""
    sentences.check_text(request.text)
    if len(request.others) > MOST_OTHERS:
        given = len(request.others)
        raise ValueError(f"There are {given} sentences to compare with: at most {MOST_OTHERS} are allowed.")
    for other in request.others:
        sentences.check_text(other)


def compute(request: Request, device: str) -> Callable[[Cancelled], Iterator[Any]]:
    """The job for a request: yields ``Maps``, ``Similarity`` and ``Figures``, with ``Progress`` between."""

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        check(request)
        yield Progress(0, STEPS, "computing maps")
        encoder = pretrained.load(device)
        _check_length(encoder, request, device)
        vectors = {}
        # What is known already has been drawn (see ``known``): somebody waits for the other.
        for side in sorted(request.sides, key=lambda side: seeing.cache.get(("maps", *request.key(side))) is not None):
            found = _maps(encoder, request, side)
            vectors[side] = found.vector
            yield found
        yield from seeing.settle("comparing sentences")
        if request.others:
            for side, vector in vectors.items():
                yield _similarity(encoder, request, side, vector)
        yield from seeing.costs(
            ("figures", *request.key(*request.sides)),
            {side: lambda side=side: encoder.forward_call(request.text, **_arguments(request, side))
             for side in request.sides},
            device, cancelled, same=len(set(request.sides.values())) == 1,
        )  # fmt: skip

    return steps


def warm(device: str) -> Callable[[Cancelled], Iterator[Any]]:
    """A job that runs every mixer once, and every activation once: with all pairs it would take longer from paper to
    paper, and what the encoder makes for a pair takes a moment when its parts have been run."""

    def steps(cancelled: Cancelled) -> Iterator[Any]:
        if pretrained.why_not():
            return
        encoder = pretrained.load(device)
        pairs = [(name, "gelu") for toggle in ("attention", *toggles.REPLACING) for name in toggles.methods(toggle)]
        pairs += [("softmax_attention", name) for name in toggles.methods("activation")]
        for attention, activation in pairs:
            if not encoder.why_not(attention=attention, activation=activation):
                with seeing.one_thread():
                    encoder.encode("Ready.", attention=attention, activation=activation)
            yield Progress(0, 1)

    return steps


def known(request: Request) -> Iterator[Maps | Similarity | Figures]:
    """What the cache holds of a request already: it can be drawn without a job."""
    for side in request.sides:
        for key in (("maps", *request.key(side)), ("similarity", request.others, *request.key(side))):
            if (found := seeing.cache.get(key)) is not None:
                yield replace(found, side=side)
    if (figures := seeing.fresh(("figures", *request.key(*request.sides)))) is not None:
        yield figures


def _arguments(request: Request, side: str) -> dict[str, Any]:
    configuration = request.sides[side]
    return options(configuration) | tree_of(configuration, request.splits)


def _check_length(encoder: pretrained.Encoder, request: Request, device: str) -> None:
    count = len(encoder.tokens(request.text))
    if count > MOST_TOKENS:
        raise ValueError(f"The text has {count} tokens: Inspect draws at most {MOST_TOKENS}, so shorten it.")
    for configuration in request.sides.values():
        for text in (request.text, *request.others):
            seeing.check_simulated(configuration.mixer, len(encoder.tokens(text)), device)


def _maps(encoder: pretrained.Encoder, request: Request, side: str) -> Maps:
    key = ("maps", *request.key(side))
    if (found := seeing.cache.get(key)) is None:
        with seeing.one_thread():
            seen = encoder.inspect(request.text, **_arguments(request, side))
        groups = _groups(request.sides[side], seen.tokens, request.splits)
        found = Maps(side, seen.tokens, seen.maps.numpy(), seen.vector.numpy(), groups)
        seeing.cache.put(key, found, found.maps.nbytes)
    return replace(found, side=side)


def _groups(
    configuration: Configuration, tokens: Sequence[str], splits: Sequence[int] | None
) -> tuple[seeing.Group, ...]:
    if not seeing.takes_tree(configuration.mixer):
        return ()
    if tree := tree_of(configuration, splits):
        return seeing.groups_of(tree["tree"](list(tokens)))
    return seeing.uniform_groups(configuration.mixer_options, configuration.mixer, len(tokens))


def _similarity(encoder: pretrained.Encoder, request: Request, side: str, vector: np.ndarray) -> Similarity:
    """The other sentences have phrases of their own, so their trees come from punctuation."""
    key = ("similarity", request.others, *request.key(side))
    if (found := seeing.cache.get(key)) is None:
        configuration = request.sides[side]
        with seeing.one_thread():
            others = encoder.encode(request.others, **options(configuration), **tree_of(configuration, None))
        vectors = np.vstack([vector, others.cpu().numpy()])
        found = Similarity(side, (request.text, *request.others), vectors @ vectors.T)
        seeing.cache.put(key, found, found.cosines.nbytes + sum(map(len, found.texts)))
    return replace(found, side=side)


def python_lines(request: Request, layer: int, head: int, device: str) -> str:
    """The lines that compute what is on the screen."""
    trees = {side: tree_of(each, None) != {} for side, each in request.sides.items()}
    splits = request.splits if any(trees.values()) else None
    by_hand = f"lambda tokens: text_trees.of_boundaries(tokens, {splits})"
    tree = "text_trees.of_text" if splits is None else by_hand

    def call(side: str) -> str:
        given = seeing.written(options(request.sides[side]))
        return f"{given}, tree={tree}" if trees[side] else given

    lines = [
        *(["import torch", ""] if request.others else []),
        "from workbench import measure",
        "from workbench.models import pretrained",
        *(["from workbench.tasks import text_trees"] if any(trees.values()) else []),
        "",
        f"encoder = pretrained.load({device!r})",
        f"text = {request.text!r}",
        f"a = dict({call('a')})",
        f"b = dict({call('b')})",
        "inspected = {'a': encoder.inspect(text, **a), 'b': encoder.inspect(text, **b)}",
        f"maps = {{side: seen.maps[{layer}, {head}] for side, seen in inspected.items()}}  # query rows, key columns",
        "cosine = inspected['a'].vector @ inspected['b'].vector",
        "calls = {'a': encoder.forward_call(text, **a), 'b': encoder.forward_call(text, **b)}",
        f"*_, times = measure.time_in_turns(calls, {device!r})",
        f"peaks = {{side: measure.peak_bytes(call, {device!r}) for side, call in calls.items()}}",
    ]
    if request.others:
        by_punctuation = {
            side: f"{{**{side}, 'tree': text_trees.of_text}}" if splits is not None and trees[side] else side
            for side in request.sides
        }
        lines += [
            f"others = {list(request.others)!r}",
            *(f"others_{side} = encoder.encode(others, **{by_punctuation[side]})" for side in request.sides),
            "vectors = {'a': torch.vstack([inspected['a'].vector, others_a.cpu()]),",
            "           'b': torch.vstack([inspected['b'].vector, others_b.cpu()])}",
            "cosines = {side: each @ each.T for side, each in vectors.items()}",
        ]
    return "\n".join(lines)
