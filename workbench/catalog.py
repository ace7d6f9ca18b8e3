"""Finds every paper by its slug: a paper is a folder of a chapter whose ``__init__`` defines ``PAPER``.

Slugs are read from the names of folders, so listing them imports nothing; a paper is imported
when it is asked for.
"""

import difflib
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

from workbench.paper import Attention, Block, Method, Mixer, Paper, Toggle

CHAPTERS = (
    "attention",
    "feedforward",
    "recurrence",
    "vision",
    "generation",
    "compression",
    "training",
    "parallel",
    "hardware",
    "theory",
    "surveys",
)


@functools.cache
def slugs() -> dict[str, str]:
    """Every slug with its chapter, in reading order. A file beside the folders is a topic that papers share."""
    root = Path(__file__).parent
    return {
        home.parent.name: chapter
        for chapter in CHAPTERS
        for home in sorted((root / chapter).glob("*/__init__.py"))
    }


@functools.cache
def paper(slug: str) -> Paper:
    """The paper named ``slug``. Raises ``KeyError`` that names the nearest slugs."""
    if slug not in slugs():
        near = difflib.get_close_matches(slug, slugs(), n=3) or list(slugs())
        raise KeyError(f"No paper is called {slug!r}. Did you mean {', '.join(near)}?")
    return importlib.import_module(f"workbench.{slugs()[slug]}.{slug}").PAPER


def papers() -> Iterator[Paper]:
    """Every paper, in reading order."""
    return map(paper, slugs())


@functools.cache
def methods(toggle: Toggle | None = None) -> dict[str, Method]:
    """Every method by name; with ``toggle`` only those that this toggle chooses from."""
    return {
        method.name: method
        for each in papers()
        for method in each.methods
        if toggle is None or method.toggle == toggle
    }


def mixers() -> dict[str, Method]:
    """Every method that can mix the tokens of a model in place of attention, by name."""
    return {name: each for name, each in methods().items() if isinstance(each.slot, Attention)}


def blocks() -> dict[str, Block]:
    """Every block that mixes tokens in its own way and that a model can be built of, by name."""
    slots = (each.slot for each in methods().values())
    return {block.name: block for slot in slots if isinstance(slot, Mixer) for block in slot.blocks}


def method(name: str) -> Method:
    """The method named ``name``. Raises ``KeyError`` that names the nearest ones."""
    known = methods()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or list(known)
        raise KeyError(f"No method is called {name!r}. Did you mean {', '.join(near)}?")
    return known[name]
