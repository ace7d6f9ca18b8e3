"""The tree of the lesson on hierarchical self-attention as a picture: bars over the tokens, a walk up and down them."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from workbench.attention import hierarchical_self_attention as paper
from workbench.attention.hierarchical_self_attention import Tree
from workbench.plots import BLUE, ORANGE, Bars, svg
from workbench.plots.cells import short
from workbench_widgets.stepper import Frame, Stepper, stepper

LEVEL, TALL = 54, 30


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
    return f"<div>{line}</div>{draw(tree, tokens, sizes)}"


def cell(tree: Tree) -> int:
    """Pixels for a token."""
    return max(52, min(92, 1060 // tree.tokens))


def draw(
    tree: Tree,
    tokens: Sequence[str],
    labels: Mapping[int, str],
    shares: Mapping[int, float] | None = None,
    marked: Collection[int] = (),
) -> str:
    """The tree as SVG: ``labels`` are words on nodes, ``shares`` fill them (0 to 1), ``marked`` have a thick edge.

    Raises ``ValueError`` unless there is a word for every leaf.
    """
    if len(tokens) != tree.tokens:
        raise ValueError(f"The tree has {tree.tokens} leaves, and {len(tokens)} words were given.")
    tall, wide = heights(tree), cell(tree)
    middle = [(first + last) * wide / 2 for first, last in zip(tree.first, tree.last, strict=True)]
    upper = [4 + (tall[0] - each) * LEVEL for each in tall]
    drawn = [
        svg.line(middle[node], upper[above] + TALL, middle[node], upper[node])
        for node, above in enumerate(tree.parent[1:], start=1)
    ]
    for node, below in enumerate(tree.children):
        width = tree.leaves_below(node) * wide - 6
        share = (shares or {}).get(node)
        look = (BLUE, 0.12) if share is None else (ORANGE, 0.08 + 0.5 * share)
        place = (middle[node] - width / 2, upper[node], width, TALL)
        drawn.append(svg.box(*place, *look, edge=2.5 if node in marked else 0, round=4))
        words = labels.get(node, "") if below else tokens[tree.first[node]]
        drawn.append(svg.text(middle[node], upper[node] + 19, words, "middle"))
        if not below and node in labels:
            drawn.append(svg.text(middle[node], upper[node] + TALL + 16, labels[node], "middle"))
    height = 4 + tall[0] * LEVEL + TALL + 24
    return svg.picture(tree.tokens * wide, height, drawn, f"a tree over {tree.tokens} tokens")


# --- the walk --------------------------------------------------------------------------------------------------------


def walk(query: Tensor, key: Tensor, tree: Tree, tokens: Sequence[str], watched: Sequence[int]) -> Stepper:
    """Energies up, family by family, then the shares of one token down; a menu holds the tokens to be ``watched``.

    query, key (tokens, head_dim), one head.
    """
    query, key = query[None, None], key[None, None]
    scale = query.shape[-1] ** -0.5
    inside, weights = paper.upward(query, key, tree, scale)
    energies = {node: float(value) for node, value in inside.items()}
    softmax = (query @ key.mT * scale).softmax(-1)[0, 0]
    up = _up(tree, tokens, energies, weights)
    walks = {
        f"the row of “{tokens[token]}”": [*up, *_down(tree, tokens, weights, token, softmax[token])]
        for token in watched
    }
    last = len(next(iter(walks.values()))) - 1
    source = (paper.upward, "for node, children", "weights[node]")
    return stepper(walks, source=source, keys=(0, len(up) - 1, *range(len(up), last + 1)))


def _up(tree: Tree, tokens: Sequence[str], energies: Mapping[int, float], weights: Mapping[int, Tensor]) -> list[Frame]:
    known = {node: short(energies[node]) for node, below in enumerate(tree.children) if not below}
    line = "Up. A token's energy is its score with itself, with a minus: −φ stands below it."
    frames = [Frame(line, {"": draw(tree, tokens, known)})]
    for node, children in reversed(list(tree.families())):
        # A row's partition function: its own entry on the diagonal, minus the logarithm of the share that this got.
        rows = [
            energies[child] - float(weights[node][0, 0, place, place].log()) for place, child in enumerate(children)
        ]
        known[node] = f"−φ = {short(energies[node])}"
        each = ", ".join(short(row) for row in rows)
        line = (
            f"Up. {_name(tree, node, tokens)}: log-partition functions of its children's rows {each}; "
            f"their mean, by tokens, is {short(energies[node])}."
        )
        frames.append(Frame(line, {"": draw(tree, tokens, known, marked=(node, *children))}, "inside[node] ="))
    return frames


def _down(tree: Tree, tokens: Sequence[str], weights: Mapping[int, Tensor], token: int, softmax: Tensor) -> list[Frame]:
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
        frames.append(Frame(line, {"": draw(tree, tokens, _numbers(shares), shares, (child,))}))
        node = child
    row = [0.0] * tree.tokens
    for other, share in shares.items():
        if not tree.children[other] or other not in (0, *tree.ancestors(token)):
            for leaf in range(tree.first[other], tree.last[other]):
                row[leaf] = share / tree.leaves_below(other)
    line = f"The row of “{word}”: a group shares out evenly what it got."
    bars = Bars(row, outlines=softmax, names=tokens, width=cell(tree), digits=3)
    values = {"": draw(tree, tokens, _numbers(shares), shares), "the row; outlined: softmax attention": bars}
    return [*frames, Frame(line, values)]


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
