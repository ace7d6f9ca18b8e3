"""A small vision transformer whose token mixer is chosen by name: any attention or block of the catalog, a matrix.

An image is cut into patches, each becomes a token, and blocks turn tokens into tokens; the mean of all tokens goes into
a linear classifier. What differs between models is how - or whether - tokens meet inside of the blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from workbench import catalog, controls
from workbench.models.feed_forward import FeedForward, equal_parameter_hidden
from workbench.models.transformer import SelfAttention, TransformerConfig, chosen
from workbench.paper import Block

Position = Literal["learned", "none"]
OWN_MIXERS = {
    "mlp_mixer": "a small network along the tokens, the same for every channel (MLP-Mixer)",
    "none": "nothing: each token for itself",
}
"""Token mixers that stand in no paper's folder, with a phrase each."""

WEIGHTS = Path(__file__).parent / "weights" / "vit_digits.safetensors"


def no_attention() -> dict[str, str]:
    """Every ``ViTConfig.mixer`` that is no attention, with a phrase each: the catalog's blocks, then ``OWN_MIXERS``."""
    return {**{name: block.phrase for name, block in catalog.blocks().items()}, **OWN_MIXERS}


def mixers() -> tuple[str, ...]:
    """Everything that ``ViTConfig.mixer`` may be: the catalog's attentions, then ``no_attention``."""
    return (*catalog.mixers(), *no_attention())


@dataclass(frozen=True)
class ViTConfig:
    """The shape of a ``ViT`` and the names of its parts.

    image, channels   height and width of an image, and its channels
    patch             height and width of a patch; it must divide ``image``
    rows              a token is a strip of ``patch`` whole rows of the image instead of a square patch
    width, depth      of the tokens; blocks. ``heads`` must divide ``width``
    hidden            width inside of a block; None: 2 * width, or what has as many parameters where the activation is
                      gated
    mixer             a name out of ``mixers()``; ``mixer_options`` are its knobs
    feed_forward      False leaves out the feed-forward part of every block
    activation        of the feed-forward part: a method of the toggle "activation"
    position          "learned" adds a vector to every token that depends on its place only; "none" does not
    implementation    "auto", or one that the mixer and the activation both have by that name

    Raises ``ValueError`` for parts that do not fit together.
    """

    image: int = 8
    channels: int = 1
    patch: int = 2
    classes: int = 10
    width: int = 32
    depth: int = 4
    heads: int = 4
    hidden: int | None = None
    mixer: str = "softmax_attention"
    mixer_options: Mapping[str, Any] = field(default_factory=dict)
    feed_forward: bool = True
    activation: str = "gelu"
    position: Position = "learned"
    implementation: str = "auto"
    rows: bool = False

    def __post_init__(self) -> None:
        for name in ("image", "channels", "patch", "classes", "width", "depth", "heads", "hidden"):
            value = getattr(self, name)
            if value is None and name == "hidden":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} = {value!r} is not allowed: a whole number of 1 or more is needed.")
        if self.image % self.patch:
            raise ValueError(f"patch = {self.patch} must divide image = {self.image}.")
        if self.position not in get_args(Position):
            raise ValueError(f"position = {self.position!r} is not allowed: choose 'learned' or 'none'.")
        if self.mixer in no_attention():
            self._check_without_attention()
        else:
            if self.mixer not in mixers():
                raise ValueError(f"mixer = {self.mixer!r} is not allowed: choose {', '.join(mixers())}.")
            _ = self.as_transformer  # checks the rest

    def _check_without_attention(self) -> None:
        block = self.block
        if block is not None:
            controls.validate(block.method.reference, self.mixer_options)
        elif self.mixer_options:
            raise ValueError(f"mixer = {self.mixer!r} has no options, and {dict(self.mixer_options)} was given.")
        if self.mixer == "none" and not self.feed_forward:
            raise ValueError("With mixer = 'none' and no feed-forward part, nothing would be left of a block.")
        runs = {"auto", *chosen(self.activation, "activation").implementations}
        if block is not None:
            runs &= {"auto", *block.method.implementations}
        if self.implementation not in runs:
            raise ValueError(
                f"implementation = {self.implementation!r} is not allowed: choose auto, reference or fast."
            )

    @property
    def block(self) -> Block | None:
        """The catalog's block of which the model is built, if it is of one."""
        return catalog.blocks().get(self.mixer)

    @property
    def as_transformer(self) -> TransformerConfig:
        """The attention part of this configuration, as ``SelfAttention`` takes it."""
        return TransformerConfig(
            vocabulary=1,
            width=self.width,
            heads=self.heads,
            tokens=self.tokens,
            is_causal=False,
            attention=self.mixer,
            attention_options=self.mixer_options,
            activation=self.activation,
            implementation=self.implementation,
        )

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        return self.image // self.patch if self.rows else (self.image // self.patch) ** 2

    @property
    def block_hidden(self) -> int:
        """``hidden``, or 2 * width made equal in parameters for a gated activation."""
        if self.hidden is not None:
            return self.hidden
        return equal_parameter_hidden(2 * self.width, 1, chosen(self.activation, "activation").branches)


class Inspection(NamedTuple):
    """What ``ViT.inspect`` saw: ``maps`` (layers, heads, tokens, tokens), rows are the tokens that look, and ``logits``
    (classes,)."""

    maps: Tensor
    logits: Tensor


class TokenMLP(nn.Module):
    """MLP-Mixer's half block: along the tokens, through twice as many numbers. x (batch, tokens, width) -> the same."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(tokens, 2 * tokens), nn.Linear(2 * tokens, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(x.mT))).mT


class PreNormBlock(nn.Module):
    """Pre-norm: x + mixer(norm(x)), then x + feed_forward(norm(x)); either half may be missing."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.mixer = None
        if config.mixer == "mlp_mixer":
            self.mixer = TokenMLP(config.tokens)
        elif config.mixer != "none":
            self.mixer = SelfAttention(config.as_transformer)
        self.mixer_norm = nn.LayerNorm(config.width) if self.mixer else None
        activation = chosen(config.activation, "activation")
        self.feed_forward = (
            FeedForward(config.width, config.block_hidden, activation, config.implementation, bias=True)
            if config.feed_forward
            else None
        )
        self.feed_forward_norm = nn.LayerNorm(config.width) if self.feed_forward else None

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.mixer, SelfAttention):
            x = x + self.mixer(self.mixer_norm(x), None)[0]
        elif self.mixer is not None:
            x = x + self.mixer(self.mixer_norm(x))
        return x if self.feed_forward is None else x + self.feed_forward(self.feed_forward_norm(x))


class ViT(nn.Module):
    """Images in, logits out. A norm stands before the classifier, unless the block in use wants none."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        patch = (config.patch, config.image if config.rows else config.patch)
        self.embedding = nn.Conv2d(config.channels, config.width, patch, stride=patch)
        self.position = (
            nn.Parameter(0.02 * torch.randn(config.tokens, config.width)) if config.position == "learned" else None
        )
        self.blocks = nn.Sequential(*(self._block() for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width) if config.block is None or config.block.closing_norm else nn.Identity()
        self.head = nn.Linear(config.width, config.classes)

    def _block(self) -> nn.Module:
        config = self.config
        if config.block is None:
            return PreNormBlock(config)
        return config.block.make(
            config.width,
            config.block_hidden,
            tokens=config.tokens,
            feed_forward=chosen(config.activation, "activation") if config.feed_forward else None,
            implementation=config.implementation,
            **config.mixer_options,
        )

    def embed(self, images: Tensor) -> Tensor:
        """The tokens (batch, tokens, width) that go into the first block. Raises ``ValueError`` for other images."""
        config = self.config
        expected = (config.channels, config.image, config.image)
        if images.ndim != 4 or images.shape[1:] != expected or not len(images):
            raise ValueError(f"Images must be (batch, {', '.join(map(str, expected))}), not {tuple(images.shape)}.")
        tokens = self.embedding(images).flatten(2).mT
        return tokens if self.position is None else tokens + self.position

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width)."""
        return self.head(self.norm(self.blocks(self.embed(images))).mean(1))

    @torch.no_grad()
    def inspect(self, images: Tensor) -> Inspection:
        """Who looks at whom, in every layer and head, while one image (1, channels, height, width) is classified.

        An attention's map is what multiplies its values. Where there is one map for all channels, it stands as one
        head: the block's own matrix, or the identity where no token looks at another. Raises ``ValueError`` for several
        images, and for "mlp_mixer", whose mixing is no matrix.
        """
        if self.config.mixer == "mlp_mixer":
            raise ValueError("MLP-Mixer has no map: what it does along the tokens is not linear.")
        if len(images) != 1:
            raise ValueError(f"One image at a time can be inspected, and {len(images)} were given.")
        projected: list[Tensor] = []
        mixers = [block.mixer for block in self.blocks if isinstance(block, PreNormBlock) and block.mixer]
        hooks = [
            mixer.project_in.register_forward_hook(lambda module, inputs, output: projected.append(output))
            for mixer in mixers
        ]
        try:
            logits = self(images)[0]
        finally:
            for hook in hooks:
                hook.remove()
        if mixers:
            maps = [self._map(mixer, each) for mixer, each in zip(mixers, projected, strict=True)]
        else:
            maps = [self._own_map(block) for block in self.blocks]
        return Inspection(torch.stack(maps), logits)

    def _map(self, mixer: SelfAttention, projected: Tensor) -> Tensor:
        query, key, _ = projected.unflatten(-1, (3, self.config.heads, -1)).permute(2, 0, 3, 1, 4)
        options = {"implementation": mixer.config.implementation, **mixer.config.attention_options}
        return mixer.method.attention_map(query, key, **options)[0]

    def _own_map(self, block: nn.Module) -> Tensor:
        found, weight = getattr(block, "token_map", None), self.head.weight
        if found is None:
            found = torch.eye(self.config.tokens, dtype=weight.dtype, device=weight.device)
        return found[None]


@functools.cache
def pretrained_config() -> ViTConfig:
    """The shape of the digits model that is shipped."""
    return ViTConfig(hidden=128)


def ship(model: ViT, file: Path = WEIGHTS) -> None:
    """Write the weights of a model of the shape ``pretrained_config()``, as ``pretrained`` reads them."""
    from safetensors.torch import save_file

    save_file({name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()}, file)


def pretrained() -> ViT:
    """A ``ViT`` that knows the digits of ``tasks.images``: on the CPU, in float32.

    Trained with softmax attention and GELU by ``training.train_shipped``, on the images to train on only. Read from the
    package's own file in some milliseconds; ``swapping.swapped`` puts other parts around its weights.
    """
    from safetensors.torch import load_file

    model = ViT(pretrained_config())
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
