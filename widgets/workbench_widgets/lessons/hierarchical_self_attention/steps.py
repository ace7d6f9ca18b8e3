"""The tree of the lesson on hierarchical self-attention as a picture: bars over the tokens, a walk up and down them.

Frames are drawn as SVG beforehand, so that the same picture is live under a slider and stands in an exported page.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.attention import hierarchical_self_attention as paper
from workbench.attention.hierarchical_self_attention import Tree
from workbench.plots import BLUE, ORANGE
from workbench_widgets import page
from workbench_widgets.lessons.quantum_doubly_stochastic.steps import FONT, Steps

LEVEL, TALL, BAR = 54, 30, 64
GREY = "#8C8C8C"


@dataclass(frozen=True)
class Frame:
    """One picture: ``line`` says what happens, ``labels`` are words on nodes, ``shares`` fill them (0 to 1), ``marked``
    are nodes with a thick edge; ``weights`` are numbers below the tokens, as bars, ``outlines`` others to compare."""

    line: str
    labels: Mapping[int, str] = field(default_factory=dict)
    shares: Mapping[int, float] = field(default_factory=dict)
    marked: Collection[int] = ()
    weights: Sequence[float] = ()
    outlines: Sequence[float] = ()


# --- the tree --------------------------------------------------------------------------------------------------------


def heights(tree: Tree) -> list[int]:
    """How far every node is above its deepest leaf: 0 for a leaf."""
    found = [0] * len(tree.parent)
    for node in range(len(tree.parent) - 1, 0, -1):
        found[tree.parent[node]] = max(found[tree.parent[node]], found[node] + 1)
    return found


def groups(tree: Tree) -> list[tuple[int, int, int]]:
    """The groups below the root as ``plots.attention_map`` takes them: first token, token after the last, height."""
    tall = heights(tree)
    return [(tree.first[node], tree.last[node], tall[node]) for node, _ in tree.families() if node]


def tree_picture(tree: Tree, tokens: Sequence[str]) -> str:
    """The tree over its tokens, as SVG: a bar for every group, as wide as the tokens below it."""
    sizes = {node: f"{tree.leaves_below(node)} tokens" for node, _ in tree.families()}
    families = len(sizes)
    line = f"{tree.tokens} tokens, {families} families; the largest has {tree.largest_family} children."
    return draw(tree, tokens, Frame(line, labels=sizes))


def draw(tree: Tree, tokens: Sequence[str], frame: Frame) -> str:
    """A frame as SVG. Raises ``ValueError`` unless there is a word for every leaf."""
    if len(tokens) != tree.tokens:
        raise ValueError(f"The tree has {tree.tokens} leaves, and {len(tokens)} words were given.")
    tall = heights(tree)
    top, cell = 34, max(52, min(92, 1060 // tree.tokens))

    def middle(node: int) -> float:
        return (tree.first[node] + tree.last[node]) * cell / 2

    def upper(node: int) -> float:
        return top + (tall[0] - tall[node]) * LEVEL

    drawn = []
    for node, above in enumerate(tree.parent[1:], start=1):
        drawn.append(
            f'<line x1="{middle(node):.1f}" y1="{upper(above) + TALL}" x2="{middle(node):.1f}" y2="{upper(node)}" '
            f'stroke="currentColor" opacity=".45"/>'
        )
    for node, below in enumerate(tree.children):
        width = tree.leaves_below(node) * cell - 6
        share = frame.shares.get(node)
        fill, opacity = (BLUE, 0.12) if share is None else (ORANGE, 0.08 + 0.85 * share)
        edge = 'stroke="currentColor" stroke-width="2.5"' if node in frame.marked else ""
        drawn.append(
            f'<rect x="{middle(node) - width / 2:.1f}" y="{upper(node)}" width="{width}" height="{TALL}" rx="4" '
            f'fill="{fill}" fill-opacity="{opacity:.2f}" {edge}/>'
        )
        words = frame.labels.get(node, "") if below else tokens[tree.first[node]]
        drawn.append(_text(middle(node), upper(node) + 19, words, "middle"))
        if not below and node in frame.labels:
            drawn.append(_text(middle(node), upper(node) + TALL + 16, frame.labels[node], "middle"))
    bottom = top + tall[0] * LEVEL + TALL + 30
    drawn += _bars(frame, bottom, cell)
    height = bottom + (BAR + 24 if frame.weights else 0)
    width = max(720, tree.tokens * cell)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" style="max-width:100%;display:block" role="img" '
        f'aria-label="{page.escape(frame.line)}">{_text(0, 15, frame.line)}{"".join(drawn)}</svg>'
    )


def _bars(frame: Frame, top: float, cell: int) -> list[str]:
    """The weights as bars below the tokens, the outlines around them."""
    drawn = []
    largest = max([*frame.weights, *frame.outlines, 1e-9])
    kinds = ((frame.weights, f'fill="{ORANGE}" fill-opacity=".85"', 26), (frame.outlines, _OUTLINE, 16))
    for numbers, look, inset in kinds:
        for place, number in enumerate(numbers):
            tall = BAR * number / largest
            drawn.append(
                f'<rect x="{place * cell + inset}" y="{top + BAR - tall:.1f}" width="{cell - 2 * inset}" '
                f'height="{tall:.1f}" {look}/>'
            )
    for place, number in enumerate(frame.weights):
        drawn.append(_text((place + 0.5) * cell, top + BAR + 15, f"{number:.3f}", "middle"))
    return drawn


_OUTLINE = 'fill="none" stroke="currentColor" stroke-width="1.3"'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{FONT}">{page.escape(text)}</text>'


# --- the walk --------------------------------------------------------------------------------------------------------


def walk(query: Tensor, key: Tensor, tree: Tree, tokens: Sequence[str], watched: Sequence[int]) -> Steps:
    """Energies up, family by family, then the shares of one token down; a menu holds the tokens to be ``watched``.

    query, key (tokens, head_dim), one head.
    """
    query, key = query[None, None], key[None, None]
    scale = query.shape[-1] ** -0.5
    inside, weights = paper.upward(query, key, tree, scale)
    energies = {node: float(value) for node, value in inside.items()}
    softmax = (query @ key.mT * scale).softmax(-1)[0, 0]
    up = _up(tree, tokens, energies, weights)
    walks = {}
    for token in watched:
        frames = [*up, *_down(tree, tokens, weights, token, softmax[token].tolist())]
        walks[f"the row of “{tokens[token]}”"] = [draw(tree, tokens, frame) for frame in frames]
    longest = max(map(len, walks.values()))
    walks = {name: frames + frames[-1:] * (longest - len(frames)) for name, frames in walks.items()}
    last = len(next(iter(walks.values()))) - 1
    return Steps(walks, "step", (0, len(up) - 1, *range(len(up), last + 1)))


def _up(tree: Tree, tokens: Sequence[str], energies: Mapping[int, float], weights: Mapping[int, Tensor]) -> list[Frame]:
    known = {node: f"{energies[node]:.2f}" for node, below in enumerate(tree.children) if not below}
    frames = [Frame("Up. A token's energy is its score with itself, with a minus: −φ stands below it.", dict(known))]
    for node, children in reversed(list(tree.families())):
        # A row's partition function: its own entry on the diagonal, minus the logarithm of the share that this got.
        rows = [
            energies[child] - float(weights[node][0, 0, place, place].log()) for place, child in enumerate(children)
        ]
        known[node] = f"−φ = {energies[node]:.2f}"
        each = ", ".join(f"{row:.2f}" for row in rows)
        line = (
            f"Up. {_name(tree, node, tokens)}: log-partition functions of its children's rows {each}; "
            f"their mean, by tokens, is {energies[node]:.2f}."
        )
        frames.append(Frame(line, dict(known), marked=(node, *children)))
    return frames


def _down(
    tree: Tree, tokens: Sequence[str], weights: Mapping[int, Tensor], token: int, softmax: Sequence[float]
) -> list[Frame]:
    frames, shares, node, kept = [], {0: 1.0}, 0, 1.0
    word = tokens[token]
    for child in tree.ancestors(token):
        row = weights[node][0, 0, tree.children[node].index(child)].tolist()
        shares |= {other: kept * part for other, part in zip(tree.children[node], row, strict=True)}
        had, kept = kept, shares[child]
        stays = f"at “{word}” itself" if not tree.children[child] else f"in {_name(tree, child, tokens)}"
        others = ", ".join(
            f"{shares[other]:.2f} to {_name(tree, other, tokens)}" for other in tree.children[node] if other != child
        )
        line = f"Down. Of the {had:.2f} that “{word}” has here, {kept:.2f} stay {stays}; {others}."
        frames.append(Frame(line, _numbers(shares), dict(shares), marked=(child,)))
        node = child
    row = [0.0] * tree.tokens
    for other, share in shares.items():
        if not tree.children[other] or other not in (0, *tree.ancestors(token)):
            for leaf in range(tree.first[other], tree.last[other]):
                row[leaf] = share / tree.leaves_below(other)
    line = f"The row of “{word}”: a group shares out evenly what it got. Outlines: softmax attention."
    return [*frames, Frame(line, _numbers(shares), shares, weights=row, outlines=softmax)]


def _numbers(shares: Mapping[int, float]) -> dict[int, str]:
    return {node: f"{share:.2f}" for node, share in shares.items()}


def _name(tree: Tree, node: int, tokens: Sequence[str]) -> str:
    """What a node holds, in words."""
    if node == 0:
        return "the root"
    return "“" + " ".join(tokens[tree.first[node] : tree.last[node]]) + "”"


def example() -> tuple[list[str], Tree, Tensor, Tensor]:
    """Six words, their tree, and queries and keys (6, 4) in which words of a group resemble each other; float64."""
    generator = torch.Generator().manual_seed(3)
    tokens, tree = ["the", "cat", "sleeps", "dogs", "bark", "."], Tree.from_nested([[[0, 1], 2], [3, 4], 5])
    centres = torch.randn(3, 4, generator=generator, dtype=torch.float64)[[0, 0, 0, 1, 1, 2]]
    query, key = (centres + 0.7 * torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return tokens, tree, 0.6 * query, key
