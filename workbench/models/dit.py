"""A diffusion transformer, DiT with adaLN-zero (Peebles & Xie, 2022): noise, a time and a label in, a direction out.

The network is cut where a sampler that skips work needs it: ``embed`` makes tokens, ``modulation`` everything that
depends on time and label alone, ``run`` the blocks, ``head`` the answer. ``forward`` is one after the other.

``DIGITS`` is a DiT of 265 000 parameters that draws 8 x 8 digits; ``pretrained()`` is that network, trained, from the
file that ships with the workbench. ``DIT_XL_2`` is the size that papers report on; it comes with random weights.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.controls import Knob, Range

Images = Float[Tensor, "batch channels side side"]
Tokens = Float[Tensor, "batch tokens width"]
Condition = Float[Tensor, "batch width"]

WEIGHTS = Path(__file__).parent / "weights" / "dit_digits.safetensors"
EPSILON = 1e-6  # of every layer normalisation
LARGEST = 2**20  # number that describes a network


@dataclass(frozen=True)
class DiTConfig:
    """The shape of a ``DiT``.

    image          side of the square image, a multiple of ``patch``; ``channels`` of it
    width          of the residual stream, a multiple of ``heads`` (and of 4 with position "sin_cos")
    hidden         width of the feed-forward block's inside; None: 4 * width
    classes        labels 0 to classes - 1; label ``classes`` means "none" (guidance needs it)
    time_features  cosines and sines that describe the time, an even number
    position       "learned" table, or fixed two-dimensional "sin_cos"
    learned_sigma  twice as many channels come out: the noise, then a variance that DDIM has no use for

    Raises ``ValueError`` for parts that do not fit together.
    """

    image: int = 8
    channels: int = 1
    patch: int = 2
    width: int = 48
    depth: int = 6
    heads: int = 4
    hidden: int | None = None
    classes: int = 10
    time_features: int = 64
    position: Literal["learned", "sin_cos"] = "learned"
    learned_sigma: bool = False

    def __post_init__(self) -> None:
        for name in ("image", "channels", "patch", "width", "depth", "heads", "hidden", "classes", "time_features"):
            value = getattr(self, name)
            if value is None and name == "hidden":
                continue
            object.__setattr__(self, name, Knob(name, "int", None, range=Range(1, LARGEST)).check(value))
        if self.position not in ("learned", "sin_cos"):
            raise ValueError(f"position = {self.position!r} is not allowed: choose 'learned' or 'sin_cos'.")
        factors = {"patch": ("image", self.patch), "heads": ("width", self.heads)}
        for name, (whole, factor) in factors.items():
            if getattr(self, whole) % factor:
                raise ValueError(f"{name} = {factor} must divide {whole} = {getattr(self, whole)}.")
        if self.position == "sin_cos" and self.width % 4:
            raise ValueError(f"width = {self.width} must be a multiple of 4 for position 'sin_cos'.")
        if self.time_features % 2:
            raise ValueError(f"time_features = {self.time_features} must be even: as many cosines as sines.")

    @property
    def tokens(self) -> int:
        return (self.image // self.patch) ** 2

    @property
    def modules(self) -> int:
        """Attention and feed-forward of every block: what a cache of module outputs holds."""
        return 2 * self.depth

    @property
    def channels_out(self) -> int:
        return self.channels * (2 if self.learned_sigma else 1)


DIGITS = DiTConfig()
"""8 x 8 digits, 16 tokens, 265 k parameters: trains in minutes on a CPU."""

DIT_XL_2 = DiTConfig(
    image=32,
    channels=4,
    width=1152,
    depth=28,
    heads=16,
    classes=1000,
    time_features=256,
    position="sin_cos",
    learned_sigma=True,
)
"""DiT-XL/2 for 256 x 256 images (32 x 32 latents): 256 tokens, 56 modules, 675 M parameters."""


class Modulation(NamedTuple):
    """All that time and label tell the network, as views of one matrix product.

    ``inner`` (batch, depth, 4, width): shift and factor before attention, then before the feed-forward block.
    ``gates`` (batch, 2 depth, width): what multiplies each module's output, in the network's order.
    ``head`` (batch, 2, width): shift and factor of the last normalisation. A factor is 1 + the paper's scale.
    """

    inner: Tensor
    gates: Tensor
    head: Tensor


class Block(nn.Module):
    """The two modules of one layer. Their outputs are what the papers on caching cache: before the gate."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        hidden = config.hidden or 4 * config.width
        self.project_in = nn.Linear(config.width, 3 * config.width)
        self.project_out = nn.Linear(config.width, config.width)
        self.up = nn.Linear(config.width, hidden)
        self.down = nn.Linear(hidden, config.width)

    def attention(self, x: Tokens, shift: Condition, factor: Condition, out: Tokens | None = None) -> Tokens:
        """Self-attention of the modulated, normalised tokens; ``out`` as in ``into``."""
        projected = self.project_in(modulated(x, shift, factor))
        query, key, value = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        return into(out, self.project_out, attended.transpose(1, 2).flatten(2))

    def feed_forward(self, x: Tokens, shift: Condition, factor: Condition, out: Tokens | None = None) -> Tokens:
        """Up, tanh-GELU, down; ``out`` as in ``into``."""
        return into(out, self.down, nn.functional.gelu(self.up(modulated(x, shift, factor)), approximate="tanh"))


class DiT(nn.Module):
    """Images (batch, channels, side, side), times (batch,) from 0 to 1000 and labels (batch,) to (batch,
    ``config.channels_out``, side, side): a velocity or a noise, as it was trained.

    ``start`` "zero" is what training begins with: every block is the identity and the output is zero. "random" also
    draws the modulation and the last layer, so that an untrained network computes something.
    """

    def __init__(self, config: DiTConfig = DIGITS, start: Literal["zero", "random"] = "zero") -> None:
        super().__init__()
        self.config = config
        width, depth = config.width, config.depth
        self.patches = nn.Linear(config.channels * config.patch**2, width)
        self.time = nn.Sequential(nn.Linear(config.time_features, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(config.classes + 1, width)
        if config.position == "learned":
            self.position = nn.Parameter(torch.empty(config.tokens, width))
        else:
            self.register_buffer("position", sin_cos(config.image // config.patch, width), persistent=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(depth))
        # The modulation of all blocks and of the head is one matrix, gates and head last: a step that skips the blocks
        # multiplies by its last rows only.
        self.modulate = nn.Linear(width, (6 * depth + 2) * width)
        self.register_buffer("unit", _unit(depth, width), persistent=False)
        self.last = nn.Linear(width, config.channels_out * config.patch**2)
        self._initialise(start)

    def _initialise(self, start: str) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for weight in (self.time[0].weight, self.time[2].weight, self.label.weight):
            nn.init.normal_(weight, std=0.02)
        if self.config.position == "learned":
            nn.init.normal_(self.position, std=0.02)
        for layer in (self.modulate, self.last):
            if start == "zero":
                nn.init.zeros_(layer.weight)
            else:
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.normal_(layer.bias, std=0.1)

    def forward(self, images: Images, time: Float[Tensor, " batch"], labels: Int[Tensor, " batch"]) -> Tensor:
        tokens, condition = self.embed(images), self.condition(time, labels)
        modulation = self.modulation(condition)
        return self.head(self.run(tokens, modulation), modulation)

    # --- the parts ---

    def embed(self, images: Images) -> Tokens:
        """One token a patch, its position added."""
        patch = self.config.patch
        cut = rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)
        return self.patches(cut) + self.position

    def condition(self, time: Float[Tensor, " batch"], labels: Int[Tensor, " batch"]) -> Condition:
        """Time and label as one vector each, added."""
        dtype = self.label.weight.dtype
        return self.time(time_features(time, self.config.time_features).to(dtype)) + self.label(labels)

    def modulation(self, condition: Condition) -> Modulation:
        """Shifts, scales and gates of every block and of the head: one matrix product."""
        return self.split(self.modulation_rows(condition))

    def modulation_rows(
        self, condition: Condition, out: Float[Tensor, "batch rows"] | None = None
    ) -> Float[Tensor, "batch rows"]:
        """The same as one row a sample, before it is told apart. 1 is added to every scale, once for the network."""
        return torch.add(self.modulate(nn.functional.silu(condition)), self.unit, out=out)

    def split(self, rows: Float[Tensor, "*batch rows"]) -> Modulation:
        """The product's rows, told apart. No copy."""
        width, depth = self.config.width, self.config.depth
        inner, gates, head = rows.split((4 * depth * width, 2 * depth * width, 2 * width), dim=-1)
        return Modulation(
            inner.unflatten(-1, (depth, 4, width)), gates.unflatten(-1, (-1, width)), head.unflatten(-1, (2, width))
        )

    def run(
        self,
        tokens: Tokens,
        modulation: Modulation,
        first: int = 0,
        last: int | None = None,
        add: Callable[[int, Tensor, Tensor, Tensor], Tensor] | None = None,
        outputs: Float[Tensor, "modules batch tokens width"] | None = None,
    ) -> Tokens:
        """Blocks ``first`` up to, not including, ``last``.

        ``add(module, tokens, output, gate)`` puts a module's output (batch, tokens, width) into the residual stream and
        returns that; the default is ``tokens + gate * output``. Modules are numbered through: attention 2 l and
        feed-forward 2 l + 1 of block l. ``outputs`` is where every module is to write its output: what a cache keeps
        is there without a copy. With it, nothing is differentiated.
        """
        add = add or add_gated
        for number, block in list(enumerate(self.blocks))[first:last]:
            inner = modulation.inner[:, number]
            for part, module in enumerate((block.attention, block.feed_forward)):
                place = 2 * number + part
                out = None if outputs is None else outputs[place]
                output = module(tokens, inner[:, 2 * part], inner[:, 2 * part + 1], out)
                tokens = add(place, tokens, output, modulation.gates[:, place])
        return tokens

    def head(self, tokens: Tokens, modulation: Modulation) -> Tensor:
        """The modulated, normalised tokens as patches of the answer."""
        side = self.config.image // self.config.patch
        patches = self.last(modulated(tokens, modulation.head[:, 0], modulation.head[:, 1]))
        return rearrange(
            patches, "b (h w) (p q c) -> b c (h p) (w q)", h=side, p=self.config.patch, q=self.config.patch
        )

    def load_official(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights under the names of the official DiT code. Raises ``KeyError`` for one that is missing."""
        plain = {"x_embedder.proj": self.patches, "final_layer.linear": self.last}
        plain |= {"t_embedder.mlp.0": self.time[0], "t_embedder.mlp.2": self.time[2]}
        for number, block in enumerate(self.blocks):
            for name, layer in (
                ("attn.qkv", block.project_in),
                ("attn.proj", block.project_out),
                ("mlp.fc1", block.up),
                ("mlp.fc2", block.down),
            ):
                plain[f"blocks.{number}.{name}"] = layer
        with torch.no_grad():
            for name, layer in plain.items():
                layer.weight.copy_(weights[f"{name}.weight"].reshape(layer.weight.shape))
                layer.bias.copy_(weights[f"{name}.bias"])
            self.label.weight.copy_(weights["y_embedder.embedding_table.weight"])
            self.position.copy_(weights["pos_embed"].reshape(self.position.shape))
            for kind, target in (("weight", self.modulate.weight), ("bias", self.modulate.bias)):
                official = [weights[f"blocks.{n}.adaLN_modulation.1.{kind}"] for n in range(len(self.blocks))]
                six = torch.stack([rows.unflatten(0, (6, -1)) for rows in official])  # shift, scale, gate; twice
                head = weights[f"final_layer.adaLN_modulation.1.{kind}"]
                stacked = (six[:, [0, 1, 3, 4]].flatten(0, 2), six[:, [2, 5]].flatten(0, 2), head)
                target.copy_(torch.cat(stacked))


def add_gated(module: int, tokens: Tokens, output: Tokens, gate: Condition) -> Tokens:
    """tokens + gate * output."""
    return torch.addcmul(tokens, gate[:, None], output)


def into(out: Tokens | None, layer: nn.Linear, x: Tokens) -> Tokens:
    """``layer(x)``, written to ``out`` where that is given: (batch, tokens, width), contiguous."""
    if out is None:
        return layer(x)
    if torch.is_autocast_enabled(x.device.type):  # which casts for a layer, and for no product with a place to go to
        return out.copy_(layer(x))
    torch.addmm(layer.bias, x.flatten(0, 1), layer.weight.mT, out=out.view(-1, out.shape[-1]))
    return out


def modulated(x: Tokens, shift: Condition, factor: Condition) -> Tokens:
    """factor * normalised x + shift; the normalisation has no weights of its own."""
    normalised = nn.functional.layer_norm(x, x.shape[-1:], eps=EPSILON)
    return torch.addcmul(shift[:, None], normalised, factor[:, None])


def _unit(depth: int, width: int) -> Float[Tensor, " rows"]:
    """1 where ``modulate`` gives a scale, 0 where it gives a shift or a gate."""
    inner, gates, head = torch.zeros(depth, 4, width), torch.zeros(2 * depth, width), torch.zeros(2, width)
    inner[:, 1::2], head[1] = 1, 1
    return torch.cat([part.flatten() for part in (inner, gates, head)])


def time_features(time: Float[Tensor, " batch"], count: int) -> Float[Tensor, "batch count"]:
    """Cosines, then sines, of ``time`` at ``count / 2`` frequencies from 1 down to 1 / 10000; float32 or float64."""
    half = count // 2
    dtype = torch.float64 if time.dtype == torch.float64 else torch.float32
    exponents = torch.arange(half, dtype=dtype, device=time.device) / half
    angles = time.to(dtype)[:, None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def sin_cos(side: int, width: int) -> Float[Tensor, "tokens width"]:
    """The fixed position table: half of the width tells the column, half the row, each as sines, then cosines."""
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies for place in (column, row)]
    return torch.cat([part for each in angles for part in (each.sin(), each.cos())], dim=1).float()


def pretrained() -> DiT:
    """The DiT that draws digits, trained and frozen: a network of the caller's own, to move and to cast."""
    return copy.deepcopy(_shipped())


@functools.cache
def _shipped() -> DiT:
    from safetensors.torch import load_file

    with torch.inference_mode(False):  # it is kept: a later caller may want gradients through it
        model = DiT(DIGITS)
        model.load_state_dict(load_file(WEIGHTS))
    return model.requires_grad_(False).eval()
