"""The lesson on the Activator: blocks drawn, patches shuffled, small vision transformers trained side by side."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from bokeh.model import Model
from torch import Tensor

from workbench import plots
from workbench.feedforward import activator as paper
from workbench.models.vit import ViT, ViTConfig
from workbench.paper import Example
from workbench.tasks import images
from workbench.writing import vector
from workbench_widgets.page import table_html
from workbench_widgets.race import Race

MODELS: dict[str, ViTConfig] = {
    "ViT": ViTConfig(),
    "MLP-Mixer": ViTConfig(mixer="mlp_mixer", position="none"),
    "Activator A": ViTConfig(mixer="activator", position="none"),
    "Activator B": ViTConfig(mixer="activator", position="none", feed_forward=False),
    "B with places": ViTConfig(mixer="activator", position="learned", feed_forward=False),
    "B with a spatial gate": ViTConfig(mixer="activator_spatial", position="none", feed_forward=False),
}
"""What is compared, at one width, depth and patch size. The last two are ours, not the paper's."""

LEARNING_RATE = 1e-2  # the ViT needs it for races as short as these; it is the same for everybody

FAMILY = {"GEGLU": "gelu", "SwiGLU": "silu", "ReGLU": "relu"}


def family() -> dict[str, ViTConfig]:
    """Variant B with each gated linear unit of the paper's ablation."""
    plain = MODELS["Activator B"]
    return {name: dataclasses.replace(plain, mixer_options={"activation": gate}) for name, gate in FAMILY.items()}


# --- pictures --------------------------------------------------------------------------------------------------------

BLOCKS = {
    "ViT": ("norm", "attention", "+", "norm", "feed-forward", "+"),
    "Activator A": ("norm (one)", "gated unit", "+", "norm (the same)", "feed-forward", "+"),
    "Activator B": ("norm", "gated unit", "+"),
    "B with a spatial gate": ("norm", "gated unit, mixed", "+"),
}
MIXES = ("attention", "gated unit, mixed")


def blocks_svg(names: Sequence[str] = ()) -> str:
    """The blocks beside each other, top to bottom: some of them, or all with orange where tokens meet."""
    width, height, gap = 165, 30, 8
    parts = []
    for column, name in enumerate(names or BLOCKS):
        left = column * (width + 25)
        parts.append(f'<text x="{left}" y="16" font-weight="bold">{name}</text>')
        for row, box in enumerate(BLOCKS[name]):
            top = 28 + row * (height + gap)
            marked = box in MIXES and not names
            fill = plots.ORANGE if marked else "rgba(128,128,128,.18)"
            text = "black" if marked else "currentColor"
            words = "+ input" if box == "+" else box
            parts.append(
                f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="4" fill="{fill}" '
                f'stroke="rgba(128,128,128,.5)"/>'
                f'<text x="{left + width / 2}" y="{top + 20}" text-anchor="middle" fill="{text}">{words}</text>'
            )
    wide, high = len(names or BLOCKS) * (width + 25), 28 + 6 * (height + gap)
    return (
        f'<svg viewBox="0 0 {wide} {high}" style="max-width: {wide}px; width: 100%; font: 14px sans-serif" '
        f'fill="currentColor" role="img" aria-label="The blocks of four models">{"".join(parts)}</svg>'
    )


def shuffled(pixels: Tensor, seed: int = 0, patch: int = 2) -> Tensor:
    """Every image (n, 1, h, w) with its patches in an order of its own, drawn from ``seed``."""
    patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch).flatten(2, 3)  # (n, 1, patches, patch, patch)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(patches.shape[0], patches.shape[2], generator=generator).argsort(1).to(pixels.device)
    moved = patches.gather(2, order[:, None, :, None, None].expand_as(patches))
    side = pixels.shape[2] // patch
    return moved.unflatten(2, (side, side)).permute(0, 1, 2, 4, 3, 5).reshape(pixels.shape)


def shuffled_digits(count: int = 8) -> Model:
    """Some test digits, and below each the same patches in another order."""
    pixels = images.load("digits").test[:count]
    both = torch.cat([pixels, shuffled(pixels)])[:, 0]
    figure = plots.image_grid(both.numpy(), columns=count)
    figure.max_width = 700
    return figure


def a_row(hidden: int = 96) -> Example:
    """One token's z_1 and z_2."""
    return paper.normalised_gate.example(1, hidden=hidden, dtype="float64", seed=3)


def gate_curves(example: Example) -> Model:
    """u over z_1, v over z_2, and the activation alone, for the first row of an example."""
    x, weight, bias = (tensor.double().cpu() for tensor in example.inputs.values())
    activation, eps = example.options.get("activation", "gelu"), example.options.get("eps", 1e-5)
    row, plain, none = x[:1], torch.ones_like(weight), torch.zeros_like(bias)
    u, v = paper.branches(row, plain, none, activation, eps)
    gate, value = row.chunk(2, dim=-1)

    def curve(inputs: Tensor, outputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
        order = inputs[0].argsort()
        return inputs[0][order].numpy(), outputs[0][order].numpy()

    drawn = {
        "activation alone": curve(gate, paper.activate(gate, activation)),
        "u: activation, then norm": curve(gate, u),
        "v: norm only": curve(value, v),
    }
    figure = plots.functions(drawn, x_label="entry of the row", y_label="output")
    figure.max_width = 800
    return figure


def by_hand(gate: Tensor, value: Tensor) -> str:
    """The gate of one short row, every step shown; weight 1, bias 0, ReLU so that the numbers are round."""
    ones, zeros = torch.ones_like(gate), torch.zeros_like(gate)
    activated = torch.relu(gate)
    rows = [
        ("z₁", vector(gate), ""),
        ("ReLU(z₁)", vector(activated), _moments(activated)),
        ("u", vector(paper.layer_norm(activated, ones, zeros, 1e-5)), ""),
        ("z₂", vector(value), _moments(value)),
        ("v", vector(paper.layer_norm(value, ones, zeros, 1e-5)), ""),
    ]
    product = paper.normalised_gate(torch.cat([gate, value])[None], ones, zeros, activation="relu")[0]
    rows.append(("u ⊙ v", vector(product), "what normalised_gate gives"))
    return table_html(("", "numbers", "mean, standard deviation"), rows)


def _moments(x: Tensor) -> str:
    return f"{x.mean():.3g}, {x.var(correction=0).sqrt():.4g}"


# --- arithmetic ------------------------------------------------------------------------------------------------------

KINDS = {
    "ViT": "attention",
    "MLP-Mixer": "mlp_mixer",
    "Activator A": "activator_with_feed_forward",
    "Activator B": "activator",
}
PAPER_SHAPE = {"width": 256, "hidden": 512}


def macs_frame(tokens: Sequence[int] = (16, 64, 256, 1024, 4096)) -> pd.DataFrame:
    """Multiply-adds of one block for one token, in millions, over the number of patches, at the paper's width."""
    rows = [
        {"tokens": count, "macs": paper.macs(kind, tokens=count, **PAPER_SHAPE) / 1e6, "block": name}
        for name, kind in KINDS.items()
        for count in tokens
    ]
    return pd.DataFrame(rows)


def mac_ratio(name: str, tokens: int = 64) -> float:
    """Multiply-adds of a block over those of the ViT's, at the paper's width."""
    mine, vit = (paper.macs(KINDS[each], tokens=tokens, **PAPER_SHAPE) for each in (name, "ViT"))
    return mine / vit


def parameters(config: ViTConfig) -> int:
    """Weights of a model."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in ViT(config).parameters())


# --- training --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def probe(race: Race) -> dict[str, tuple[float, float]]:
    """Accuracy on the test digits as they are and with their patches shuffled, mean over seeds, by model."""
    digits = images.load("digits")
    found = {}
    for name, models in race.models.items():
        scores = []
        for model in models:
            device = model.head.weight.device
            labels = digits.test_labels.to(device)
            for pixels in (digits.test, shuffled(digits.test)):
                right = model(pixels.to(device)).argmax(1) == labels
                scores.append(right.double().mean().item())
        found[name] = (float(np.mean(scores[::2])), float(np.mean(scores[1::2])))
    return found


def lost(probed: Mapping[str, tuple[float, float]], *names: str) -> float:
    """Points of accuracy that shuffling costs: the largest change among some models."""
    changes = [100 * (plain - moved) for plain, moved in (probed[name] for name in names)]
    return max(changes, key=abs)


def probe_table(race: Race) -> str:
    """What each model costs, knows, and still knows when patches are shuffled."""
    rows = []
    for name, (plain, moved) in probe(race).items():
        config = race.models[name][0].config
        rows.append((name, f"{parameters(config):,}", f"{plain:.1%}", f"{moved:.1%}", f"{100 * (plain - moved):.1f}"))
    return table_html(("", "weights", "as they are", "patches shuffled", "points lost"), rows)


def spread(race: Race) -> float:
    """Points between the best and the worst model, each the mean over its seeds."""
    mean = race.final("accuracy")["mean"]
    return float(mean.max() - mean.min())


def spatial_map(race: Race, layer: int = 0) -> Model:
    """The matrix along the tokens that the spatial gate has learned in one block."""
    model = race.models["B with a spatial gate"][0]
    maps = model.inspect(images.load("digits").test[:1].to(model.head.weight.device)).maps
    names = [f"{row},{column}" for row in range(4) for column in range(4)]
    learned = maps[layer, 0].cpu().numpy()
    figure = plots.difference_map(learned, np.eye(len(learned)), names, names)
    figure.title.text = f"block {layer + 1}: A is the matrix now, B the identity that it began as"
    figure.max_width = 620
    return figure
