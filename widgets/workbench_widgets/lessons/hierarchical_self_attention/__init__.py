"""The lesson on hierarchical self-attention: maps and trees, numbers by hand, the theorem tested, measurements."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from bokeh.model import Model
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from workbench import measure, plots
from workbench.attention import hierarchical_self_attention as paper
from workbench.attention.flash_attention_2 import flash_attention_2
from workbench.attention.hierarchical_self_attention import Tree, best_block, hierarchical_attention
from workbench.models import pretrained
from workbench.models.vit import ViTConfig
from workbench.paper import Example
from workbench.plots.style import blank, themed
from workbench.tasks import text_trees
from workbench.tasks.sentences import EXAMPLES
from workbench_widgets.lessons.hierarchical_self_attention.steps import groups
from workbench_widgets.lessons.hierarchical_self_attention.theorem import (
    both_maps,
    constraints,
    divergence,
    free_weights,
    minimised,
    tied,
    ties,
)
from workbench_widgets.model_race import race_models
from workbench_widgets.page import Progress, table_html
from workbench_widgets.race import Race

SENTENCE = "When it rained, the dog stayed inside; the cat, which likes puddles, went out."
ELEVEN = Tree.from_nested([[0, 1, 2], [[3, 4], [5, 6, 7]], 8, [9, 10]])
"""An uneven tree of eleven tokens, on which the theorem is tested."""
SCORES = torch.tensor([[0.0, 1.0, 2.0], [1.5, 0.0, 0.0], [0.5, 1.0, 0.3]], dtype=torch.float64)
"""Three tokens to calculate by hand; the first two are a group."""


# --- inputs ----------------------------------------------------------------------------------------------------------


def grouped_tokens(tokens: int, *, group: int = 8, spread: float = 0.4, head_dim: int = 16) -> dict[str, Tensor]:
    """Query, key and value (1, 1, tokens, head_dim), float64. Tokens of a group of ``group`` neighbours resemble each
    other: ``spread`` 0 makes them equal, 1 unrelated."""
    generator = torch.Generator().manual_seed(3)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, head_dim, generator=generator, dtype=torch.float64)

    centres = normal(-(-tokens // group)).repeat_interleave(group, 0)[:tokens]
    x = math.sqrt(1 - spread**2) * centres + spread * normal(tokens)
    query, key = (1.4 * x @ normal(head_dim) / math.sqrt(head_dim) for _ in range(2))
    return {"query": query[None, None], "key": key[None, None], "value": normal(tokens)[None, None]}


def eleven_tokens() -> tuple[Tensor, Tensor]:
    """Query and key (1, 1, 11, 6) without any structure."""
    generator = torch.Generator().manual_seed(3)
    query, key = (torch.randn(1, 1, 11, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return query, key


def sentence(layer: int = 5, head: int = 11) -> tuple[list[str], Tree, Tensor, Tensor]:
    """Word pieces, their tree, and the maps (T, T) of softmax and of hierarchical attention in one head of the
    pretrained encoder; where it is not installed, words and made-up maps."""
    if pretrained.why_not():
        tokens = ["[CLS]", *SENTENCE.lower().replace(",", " ,").replace(";", " ;").replace(".", " .").split(), "[SEP]"]
        tree, inputs = text_trees.of_text(tokens), grouped_tokens(len(tokens), group=4)
        maps = [(inputs["query"] @ inputs["key"].mT / 4).softmax(-1)[0, 0]]
        maps.append(hierarchical_attention.attention_map(inputs["query"], inputs["key"], tree=tree)[0, 0])
        return tokens, tree, *maps
    encoder = pretrained.load()
    tokens = encoder.tokens(SENTENCE)
    options = ({}, {"attention": "hierarchical_attention", "tree": text_trees.of_text, "layers": [layer]})
    maps = [encoder.inspect(SENTENCE, **each).maps[layer, head].double() for each in options]
    return tokens, text_trees.of_text(tokens), *maps


def hardest_head(layer: int = 0) -> tuple[list[str], Tree, Tensor, Tensor]:
    """As ``sentence``, for the head of a layer of the pretrained encoder whose hierarchical map is furthest from its
    softmax map. Raises ``RuntimeError`` where the encoder is not installed."""
    encoder = pretrained.load()
    options = {"attention": "hierarchical_attention", "tree": text_trees.of_text, "layers": [layer]}
    pairs = zip(encoder.inspect(SENTENCE).maps[layer], encoder.inspect(SENTENCE, **options).maps[layer], strict=True)
    gaps = [divergence(hierarchical.double(), softmax.double()) for softmax, hierarchical in pairs]
    return sentence(layer, int(np.argmax(gaps)))


# --- pictures --------------------------------------------------------------------------------------------------------


def two_maps(tokens: Sequence[str], tree: Tree, softmax: Tensor, hierarchical: Tensor) -> list[Model]:
    """Both maps with the same colours, the groups as frames and brackets."""
    high = max(float(softmax.max()), float(hierarchical.max()))
    gap = divergence(hierarchical, softmax)
    titles = {
        f"softmax: {len(tokens) ** 2} free weights": softmax,
        f"hierarchical: {free_weights(tree)} free weights, {gap:.2f} nats from softmax": hierarchical,
    }
    figures = []
    for title, map in titles.items():
        options = {"title": title, "high": high, "tree": groups(tree)}
        figures.append(plots.attention_map(map.float().numpy(), tokens, tokens, **options))
        figures[-1].max_width = 620
    return figures


def map_with_gap(example: Example) -> Model:
    """A picture for ``explore``: the map with its groups, in its title the free weights and the distance to softmax."""
    query, key = (example.inputs[name][:1, :1] for name in ("query", "key"))
    options = dict(example.options)
    tokens = query.shape[2]
    tree = Tree.uniform(tokens, options.get("block", 16), options.get("levels", 2))
    map = hierarchical_attention.attention_map(query, key, **options)[0, 0]
    gap = abs(float(paper.kl_gap(query, key, **options)[0, 0]))
    title = f"{free_weights(tree):,} of {tokens**2:,} weights are free; {gap:.2g} nats from softmax"
    names = [str(number) for number in range(tokens)]
    figure = plots.attention_map(map.float().numpy(), names, names, title=title, tree=groups(tree))
    figure.max_width = 620
    return figure


def around_the_optimum(steps: int = 400) -> Model:
    """Maps with the same ties, in random directions from the closed form: how far from softmax they are."""
    query, key = eleven_tokens()
    best, softmax = both_maps(query, key, ELEVEN)
    labels = ties(ELEVEN)
    rows, free = constraints(labels), tied(best, labels)
    inside = torch.linalg.svd(rows).Vh[len(rows) :]  # directions that leave every row sum as it is
    generator = torch.Generator().manual_seed(0)
    distances, gaps = [], []
    for _ in range(steps):
        direction = inside.mT @ torch.randn(len(inside), generator=generator, dtype=torch.float64)
        most = (-free / direction)[direction < 0].min()  # further on a weight would be negative
        moved = free + 0.9 * most * torch.rand(1, generator=generator, dtype=torch.float64) * direction
        distances.append(float((moved - free)[labels].norm()))
        gaps.append(divergence(moved[labels], softmax))
    made = blank("", "distance from the closed form (Frobenius norm)", "mean KL to softmax (nats)", height=320)
    made.scatter(distances, gaps, color=plots.ORANGE, size=5, alpha=0.6, legend_label="random maps with the same ties")
    made.scatter([0], [divergence(best, softmax)], color=plots.BLUE, size=11, legend_label="the closed form")
    made.legend.location = "bottom_right"
    return themed(made, "neutral")


# --- the theorem -----------------------------------------------------------------------------------------------------


def optimality_error() -> float:
    """The closed form against the direct minimisation, largest difference of a weight."""
    query, key = eleven_tokens()
    best, softmax = both_maps(query, key, ELEVEN)
    return float((best - minimised(softmax, ELEVEN)).abs().max())


def flat_error() -> float:
    """The reference on a tree of one level against softmax attention, float64, relative error."""
    query, key, value = grouped_tokens(40, spread=1.0).values()
    truth = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1) @ value
    return measure.relative_error(hierarchical_attention.reference(query, key, value, levels=1), truth)


def gap_frame(tokens: int = 64, spreads: Sequence[float] = (1.0, 0.5, 0.1), group: int = 8) -> pd.DataFrame:
    """The KL gap of two levels over the group size, for tokens that resemble each other in groups of ``group``."""
    rows = []
    for spread in spreads:
        inputs = grouped_tokens(tokens, group=group, spread=spread)
        for block in [2**power for power in range(int(math.log2(tokens)) + 1)]:
            gap = float(paper.kl_gap(inputs["query"], inputs["key"], block=block)[0, 0])
            rows.append(
                {
                    "block": block,
                    "nats_from_softmax": max(gap, 0.0),
                    "tokens": f"spread {spread:g} in groups of {group}",
                }
            )
    return pd.DataFrame(rows)


# --- numbers ---------------------------------------------------------------------------------------------------------


def size_table(lengths: Sequence[int]) -> str:
    """How many different weights one head has: in softmax attention, and in groups."""
    rows = []
    for tokens in lengths:
        deep = _levels(tokens)
        counts = (tokens**2, free_weights_of(tokens, best_block(tokens), 2), free_weights_of(tokens, 16, deep))
        rows.append((f"{tokens:,}", *(f"{count:,}" for count in counts), str(deep)))
    heads = ("tokens", "softmax", "groups in a sequence", "groups of groups, 16 in each", "levels of those")
    return table_html(heads, rows, "Different weights in one head.")


def free_weights_of(tokens: int, block: int, levels: int) -> int:
    """``free_weights`` of the balanced tree, from the method's own count of FLOPs."""
    return round(_flops(tokens, block=block, levels=levels) / (4 * 64))


def by_hand() -> str:
    """Three tokens, the first two a group, every number shown. The scores are ``SCORES``."""
    tree = Tree.from_nested([[0, 1], 2])
    identity = torch.eye(3, dtype=torch.float64)[None, None]
    query = SCORES[None, None]
    inside, weights = paper.upward(query, identity, tree, 1.0)
    map = hierarchical_attention.attention_map(query, identity, tree=tree, scale=1.0, implementation="reference")[0, 0]
    pair, root = (weights[node][0, 0] for node in (1, 0))
    rows = SCORES[:2, :2].logsumexp(-1)
    lines = [
        ("up: rows of the pair", "log(e⁰ + e¹), log(e¹·⁵ + e⁰)", digits(rows)),
        ("up: energy of the pair", "their mean, −φ", f"{float(inside[1]):.6f}"),
        ("root, row of the pair", "share kept, share of token 2", digits(root[0])),
        ("root, row of token 2", "share of the pair, share kept", digits(root[1])),
        ("inside the pair", "softmax of its rows", f"{digits(pair[0])}<br>{digits(pair[1])}"),
        ("down: the map", "row 0<br>row 1<br>row 2", "<br>".join(digits(row) for row in map)),
    ]
    caption = "Row 2 gives both tokens of the pair the same weight: half of the share."
    return table_html(("", "", "numbers"), lines, caption)


def digits(numbers: Tensor) -> str:
    """Numbers with six digits after the point, for people."""
    return ", ".join(f"{number:.6f}" for number in numbers.tolist())


def _levels(tokens: int, block: int = 16) -> int:
    """As many levels as it takes for no family to have more than ``block`` children."""
    levels = 1
    while block**levels < tokens:
        levels += 1
    return levels


def _flops(tokens: int, method=hierarchical_attention, **options: int) -> float:
    inputs = method.example(tokens, device="meta", heads=1, head_dim=64).inputs
    return method.cost(*inputs.values(), **options).flops


def flops_frame(lengths: Sequence[int]) -> pd.DataFrame:
    """FLOPs of one head of 64 over the tokens, counted by the methods themselves."""
    rows = []
    for size in lengths:
        found = {
            "softmax attention": _flops(size, flash_attention_2),
            "two levels, best group": _flops(size, block=best_block(size), levels=2),
            "families of 16": _flops(size, block=16, levels=_levels(size)),
        }
        rows += [{"tree": name, "size": size, "FLOPs": flops} for name, flops in found.items()]
    return pd.DataFrame(rows)


def counted(tokens: int, block: int, levels: int) -> int:
    """The operations of one head of 64 that PyTorch's counter sees while ``fast`` runs on the balanced tree, as on any
    other: nothing is calculated, the tensors are on the meta device."""
    inputs = hierarchical_attention.example(tokens, device="meta", heads=1, head_dim=64).inputs
    with FlopCounterMode(display=False) as counter:
        hierarchical_attention.fast(*inputs.values(), tree=Tree.uniform(tokens, block, levels))
    return counter.get_total_flops()


def cost_exponent(low: int = 4096, high: int = 65536) -> float:
    """With which power of the tokens the counted operations grow in families of 16."""
    few, many = (counted(size, 16, _levels(size)) for size in (low, high))
    return math.log(many / few) / math.log(high / low)


# --- measurements ----------------------------------------------------------------------------------------------------


def times(sizes: Sequence[int], *, device: str, dtype: str, heads: int, budget_s: float) -> pd.DataFrame:
    """Measured rows: ``fast`` with the best group of two levels, and the exact softmax attentions that run here; column
    ``what`` names them."""
    inputs = flash_attention_2.example(1, device=device, dtype=dtype).inputs.values()
    exact = [
        (flash_attention_2, name)
        for name in flash_attention_2.implementations
        if name in ("fast", "sdpa_flash", "sdpa_cudnn") and not flash_attention_2.why_not(name, *inputs)
    ]
    bar, rows = Progress(len(sizes) * (1 + len(exact))), []
    for size in sizes:
        options = {"block": best_block(size), "levels": 2}
        choices = [(hierarchical_attention, "fast"), *exact]
        for row in measure.sweep(
            choices, [size], device=device, dtype=dtype, shape={"heads": heads}, options=options, budget_s=budget_s,
        ):  # fmt: skip
            ours = row["method"] == hierarchical_attention.name
            rows.append(row | {"what": "hierarchical, two levels" if ours else f"softmax, {row['implementation']}"})
            bar.update(len(rows), f"{rows[-1]['what']} at {size:,} tokens")
    bar.close()
    return measure.frame(rows)


def timed(frame: pd.DataFrame, since: int = 4096) -> dict[str, float]:
    """The claim on speed, from the rows of ``times``: the least gain over lengths of at least ``since`` tokens (over
    the largest one, where all are shorter)."""
    gains = _gains(frame)
    return {"faster_than_softmax": float(gains[gains.index >= min(since, gains.index.max())].min())}


def _gains(frame: pd.DataFrame) -> pd.Series:
    """By length, the time of the fastest softmax attention over ours."""
    good = frame[frame["status"] == "ok"].pivot_table(index="size", columns="what", values="median_ms")
    ours = good["hierarchical, two levels"]
    return good.drop(columns=ours.name).min(axis=1) / ours


def growth(sizes: Sequence[int], *, device: str, dtype: str, budget_s: float) -> pd.DataFrame:
    """Measured rows of ``fast`` in two levels, one head of 64, as a CUDA graph where there is CUDA. At ``sizes`` of
    2^(3 m - 1) tokens the best group is a power of two, 2^m: there the operations are on the curve N^(4/3)."""
    bar, rows = Progress(len(sizes)), []
    for size in sizes:
        rows += measure.sweep(
            [(hierarchical_attention, "fast")], [size], device=device, dtype=dtype, shape={"heads": 1},
            options={"block": best_block(size), "levels": 2}, budget_s=budget_s, replayed=device == "cuda",
        )  # fmt: skip
        bar.update(len(rows), f"{size:,} tokens in groups of {best_block(size)}")
    bar.close()
    return measure.frame(rows)


def growth_figure(frame: pd.DataFrame, machine: str) -> Model:
    """The time of ``growth``, and the two floors under it: operations, bytes that must move."""
    good = frame[frame["status"] == "ok"]
    ceilings = measure.ceilings(good["device"].iloc[0], good["dtype"].iloc[0])
    parts = {
        "measured": good["median_ms"],
        "its operations alone": [ceilings.floor_ms(flops, 0) for flops in good["flops"]],
        "its bytes alone": [ceilings.floor_ms(0, moved) for moved in good["bytes"]],
    }
    rows = pd.concat(
        [pd.DataFrame({"size": good["size"], "median_ms": list(ms), "what": what}) for what, ms in parts.items()]
    )
    return plots.curves(rows, "size", "median_ms", group="what", machine=machine, x_label="tokens")


def grown(frame: pd.DataFrame) -> dict[str, float]:
    """The claim on growth, from the rows of ``growth``: the slope of a line through all lengths in log-log; nothing
    where fewer than two could be measured."""
    good = frame[frame["status"] == "ok"]
    if len(good) < 2:
        return {}
    return {"time_exponent": float(np.polyfit(np.log(good["size"]), np.log(good["median_ms"].astype(float)), 1)[0])}


def crossings(recorded: pd.DataFrame) -> dict[str, float]:
    """From how many tokens on hierarchical attention beats the fastest softmax attention, by the recorded replays: as
    measured (``median_ms``), and if both ran at the machine's ceilings (``floor_ms``)."""
    rows = recorded[recorded["replayed"] & (recorded["status"] == "ok")]
    found = {}
    for column in ("median_ms", "floor_ms"):
        best = rows.pivot_table(index="size", columns="method", values=column, aggfunc="min").dropna()
        gain = np.log(best["flash_attention_2"] / best[hierarchical_attention.name]).to_numpy()
        size = np.log(best.index.to_numpy(float))
        # The last pair before it stays above zero; where it is above from the start, the first pair, prolonged.
        at = min(max(0, int(np.flatnonzero(gain <= 0).max(initial=-1))), len(gain) - 2)
        found[column] = float(np.exp(size[at] - gain[at] * (size[at + 1] - size[at]) / (gain[at + 1] - gain[at])))
    return found


def swapped_layers(device: str = "cpu", *, sentences: int | None = None) -> dict[str, float]:
    """How much the sentence vectors of the pretrained encoder turn (1 - cosine, mean over the first ``sentences``
    examples, None for all) when some of its layers, counted from 1, get hierarchical attention on words and clauses.
    Empty without the encoder."""
    if pretrained.why_not():
        return {}
    encoder, texts = pretrained.load(device), EXAMPLES[:sentences]
    original = encoder.encode(texts)
    choices = {f"layer {number}": [number] for number in range(1, 7)}
    choices |= {"layers 4, 5, 6": [4, 5, 6], "layers 2, 4, 6": [2, 4, 6], "all layers": list(range(1, 7))}
    bar, lost = Progress(len(choices)), {}
    for name, layers in choices.items():
        options = {"attention": "hierarchical_attention", "layers": [layer - 1 for layer in layers]}
        vectors = encoder.encode(texts, tree=text_trees.of_text, **options)
        lost[name] = max(0.0, 1 - float((vectors * original).sum(-1).mean()))
        bar.update(len(lost), name)
    bar.close()
    return lost


def later_layers(lost: Mapping[str, float]) -> dict[str, float]:
    """The claim on layers, from ``swapped_layers``: what the early half costs over what the later half does, mean over
    its layers; nothing where the encoder is not installed."""
    if not lost:
        return {}
    early, late = (sum(lost[f"layer {number}"] for number in half) for half in ((1, 2, 3), (4, 5, 6)))
    return {"later_layers_are_safer": early / max(late, 1e-9)}


def run_race(*, seeds: int, steps: int, lap: int, device: str, batch: int = 100, caption: str = "") -> Race:
    """Small vision transformers learn digits, 16 patches in groups of 4, with softmax and hierarchical attention."""
    configs = {
        "softmax": ViTConfig(depth=2),
        "hierarchical": ViTConfig(depth=2, mixer="hierarchical_attention", mixer_options={"block": 4}),
    }
    return race_models(
        configs, "digits", seeds=seeds, steps=steps, lap=lap, device=device, batch=batch, caption=caption
    )


def learned(race: Race) -> dict[str, float]:
    """The claim on training: accuracy of hierarchical minus softmax attention, as a part of 1, mean over seeds."""
    found = race.final()["mean"] / 100
    return {"trained_from_scratch": float(found["hierarchical"] - found["softmax"])}
