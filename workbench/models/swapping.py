"""Other parts in a trained vision transformer, around the same weights: a mixer in some layers, an activation.

Nothing is trained again. What was learned with softmax attention and GELU shows how much of it the other part keeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from workbench.models.feed_forward import fit_coefficients
from workbench.models.transformer import chosen, needs_other_weights
from workbench.models.vit import ViT

COEFFICIENTS = (".activation.weight", ".activation.bias")


def swapped(model: ViT, *, layers: Collection[int] | None = None, images: Tensor | None = None, **changes: Any) -> ViT:
    """A model with the weights of ``model`` and other parts; ``model`` stays as it is.

    changes   fields of ``ViTConfig``, such as ``mixer`` with ``mixer_options``, ``activation``, ``implementation``
    layers    the blocks that get the mixer; the others keep that of ``model``. None: all
    images    (n, channels, height, width): a polynomial activation gets, in every block, the coefficients that come
              closest to GELU on what arrives there for these images. Needed for those, else unused

    Raises ``ValueError`` for changes that need other weights, for layers that are not there, and for a polynomial
    activation without images.
    """
    depth = model.config.depth
    if layers is not None and not set(layers) <= set(range(depth)):
        raise ValueError(f"layers = {sorted(layers)} is not allowed: choose from 0 to {depth - 1}.")
    made = _filled(model, changes)
    if layers is not None and len(set(layers)) < depth:
        mixing = ("mixer", "mixer_options")
        without = _filled(model, {name: value for name, value in changes.items() if name not in mixing})
        for layer in set(range(depth)) - set(layers):
            made.blocks[layer] = without.blocks[layer]
    if made.blocks[0].feed_forward is not None and chosen(made.config.activation, "activation").layer is not None:
        if images is None:
            raise ValueError(f"{made.config.activation} has coefficients to fit: give images on which to.")
        _fit(model, made, images)
    return made.eval()


def _filled(model: ViT, changes: dict[str, Any]) -> ViT:
    if reasons := needs_other_weights(changes.get("activation", "gelu")):
        raise ValueError(" ".join(reasons))
    made = ViT(dataclasses.replace(model.config, **changes)).to(model.head.weight.device)
    try:
        missing, unexpected = made.load_state_dict(model.state_dict(), strict=False)
    except RuntimeError:  # shapes that differ
        missing, unexpected = ["shapes"], []
    if unexpected or not all(name.endswith(COEFFICIENTS) for name in missing):
        raise ValueError(f"The weights do not fit into this model: {', '.join(changes)}.")
    return made.requires_grad_(False)


@torch.no_grad()
def _fit(model: ViT, made: ViT, images: Tensor) -> None:
    method = chosen(made.config.activation, "activation")
    arriving: list[Tensor] = []
    hooks = [
        block.feed_forward.up.register_forward_hook(lambda module, inputs, output: arriving.append(output))
        for block in model.blocks
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    for block, x in zip(made.blocks, arriving, strict=True):
        activation = block.feed_forward.activation
        weight, bias = fit_coefficients(method, x, torch.nn.functional.gelu(x))
        activation.weight.copy_(weight)
        activation.bias.copy_(bias)
