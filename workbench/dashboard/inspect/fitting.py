"""What of a choice can be shown on the page Inspect: texts in bounds, methods that run, phrases that are there.

Whatever cannot be is replaced by the nearest thing that can, and a sentence says so.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from workbench.dashboard.inspect import parts, seeing
from workbench.dashboard.inspect import work as inspecting
from workbench.dashboard.inspect import work_images as inspecting_images
from workbench.dashboard.inspect.seeing import SIDES
from workbench.dashboard.shell import toggles
from workbench.dashboard.shell.device import device
from workbench.dashboard.shell.toggles import NONE, Configuration
from workbench.models import pretrained
from workbench.models.transformer import chosen as method_of
from workbench.tasks import sentences


@functools.cache
def why_not(source: str, what: str, name: str, implementation: str = "auto", options: tuple = ()) -> str:
    """Why the network that looks cannot take this choice, in one sentence; empty when it can. Of "implementation",
    ``name`` is the mixer, and ``options`` are its knobs."""
    if name == NONE:
        return ""
    if source == "image":
        reasons = inspecting_images.why_not(what, name, implementation)
        if not reasons and what == "implementation" and implementation != "auto":
            inputs = [torch.zeros(1, inspecting_images.HEADS, 1, 8, device=device())] * 3
            reasons = method_of(name, "attention").why_not(implementation, *inputs, **dict(options))
        return " ".join(reasons)
    if reasons := pretrained.why_not():
        return " ".join(reasons)
    encoder = pretrained.load(device())
    if what == "activation":
        return " ".join(encoder.why_not(activation=name))
    return " ".join(
        encoder.why_not(attention=name, attention_options=dict(options), implementation=implementation)
    )


def fitted(values: dict[str, Any], before: dict[str, Any], defaults: dict[str, Configuration]) -> list[str]:
    """Bring what is chosen into bounds, in place; a sentence for each thing that could not be.

    ``values`` are all parameters of the page's state as they are to be, ``before`` what stands for a text that is
    empty, ``defaults`` what stands for a method that cannot run.
    """
    told: list[str] = []
    longest = 0
    if values["source"] == "text":
        told += _fit_texts(values, before["text"])
        if not pretrained.why_not():
            tokens = token_count(values["text"])
            longest = max([tokens, *map(token_count, values["others"])])
            told += _fit_splits(values)
    else:
        longest = inspecting_images.shape(values["collection"]).tokens
    for side in SIDES:
        values[side], more = toggles.fitted(
            side, values[side], defaults[side], functools.partial(_why_not_there, values["source"], longest)
        )
        told += more
    return told


def _why_not_there(source: str, tokens: int, chosen: Configuration, what: str, name: str) -> str:
    if what == "implementation":
        options = tuple(sorted(seeing.mixer_options(chosen, source).items()))
        return why_not(source, what, chosen.mixer.name, name, options)
    reason = why_not(source, what, name)
    if not reason and what != "activation" and name != NONE:
        try:
            seeing.check_simulated(method_of(name, "attention"), tokens, device())
        except ValueError as error:
            return str(error)
    return reason


def _fit_texts(values: dict[str, Any], before: str) -> list[str]:
    told = []
    if not values["text"].strip():
        values["text"] = before
        told.append("The text is empty: what was there before is still shown.")
    values["text"], more = _shortened("The text", values["text"])
    told += more
    others = [each for each in values["others"] if each.strip()]
    if len(others) > inspecting.MOST_OTHERS:
        told.append(
            f"There are {len(others):,} sentences to compare with, and at most {inspecting.MOST_OTHERS} are shown: the "
            "first ones."
        )
    kept = []
    for place, other in enumerate(others[: inspecting.MOST_OTHERS], start=1):
        text, more = _shortened(f"Sentence {place} to compare with", other)
        kept.append(text)
        told += more
    values["others"] = tuple(kept)
    return told


def _shortened(what: str, text: str) -> tuple[str, list[str]]:
    """As much of a text as can be shown, and a sentence when that is not all of it."""
    told = ""
    if len(text) > sentences.LONGEST:
        told = f"{what} has {len(text):,} characters, and at most {sentences.LONGEST:,} are allowed: it ends there."
        text = text[: sentences.LONGEST]
    if not pretrained.why_not() and token_count(text) > inspecting.MOST_TOKENS:
        told = told or f"{what} has more than the {inspecting.MOST_TOKENS} tokens that can be drawn: it ends there."
        text = _beginning(text)
    return text, [told] if told else []


def _beginning(text: str) -> str:
    """The longest beginning of a text that has few enough tokens: whole words where there are several."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if token_count(text[:middle]) <= inspecting.MOST_TOKENS:
            low = middle
        else:
            high = middle - 1
    whole = text[:low].rpartition(" ")[0].strip()
    return whole or text[:low].strip()


@functools.lru_cache(maxsize=256)
def token_count(text: str) -> int:
    """How many tokens the encoder makes of a text; more than it can read count as one too many."""
    return len(_tokens(text))


def _tokens(text: str) -> Sequence[str]:
    try:
        return pretrained.load(device()).tokens(text)
    except ValueError:  # the encoder itself reads no more
        return [""] * (inspecting.MOST_TOKENS + 1)


def _fit_splits(values: dict[str, Any]) -> list[str]:
    if not values["splits"]:
        return []
    there = parts.places(_tokens(values["text"]))
    kept = tuple(place for place in values["splits"] if place in there)
    if kept == values["splits"]:
        return []
    lost = [str(place) for place in values["splits"] if place not in there]
    values["splits"] = kept
    return [f"No word of this text begins at place {', '.join(lost[:6])}: no phrase can begin there."]
