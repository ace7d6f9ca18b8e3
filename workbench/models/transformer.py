"""A small Transformer whose attention, activation, normalisation and cache are chosen by name.

Pre-norm: ``x = x + attention(norm(x))``, then ``x = x + feed_forward(norm(x))``, and one last norm before the logits.
Positions are learned vectors added to the token vectors. Encoder (every token sees every token) or causal.

The cache is a value: it goes in with the new tokens and comes out longer. Feeding a text piece by piece gives the same
logits as feeding it at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from workbench import catalog, controls
from workbench.models.feed_forward import FeedForward, equal_parameter_hidden
from workbench.paper import Method, Toggle

Normalisation = Literal["layer_norm", "rms_norm"]
CacheKind = Literal["key_value", "none"]
LayerCache = tuple[Tensor, Tensor]
Cache = tuple[LayerCache, ...]
"""What the tokens so far left behind: a key and a value, each (batch, kv_heads, tokens so far, head_dim), a layer."""


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a ``Transformer`` and the names of its parts.

    vocabulary         number of different tokens
    width              of the residual stream; ``heads`` must divide it
    kv_heads           key/value heads, shared by groups of query heads; None: as many as ``heads``
    hidden             width of the feed-forward block; None: 4 * width, or what has as many parameters when gated
    tokens             longest sequence, cache included
    attention          what mixes the tokens, a method of ``catalog.mixers``, with ``attention_options`` for its knobs
    activation         a method of the toggle "activation"
    implementation     "auto", or one that both methods have by that name
    cache              "none": ``empty_cache`` refuses and ``generate`` computes everything anew for each token

    Raises ``ValueError`` for parts that do not fit together, ``KeyError`` for names that are not in the catalog.
    """

    vocabulary: int
    width: int = 128
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None
    hidden: int | None = None
    tokens: int = 512
    is_causal: bool = True
    attention: str = "softmax_attention"
    attention_options: Mapping[str, Any] = field(default_factory=dict)
    activation: str = "gelu"
    normalisation: Normalisation = "layer_norm"
    implementation: str = "auto"
    cache: CacheKind = "key_value"

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "depth", "heads", "kv_heads", "hidden", "tokens"):
            value = getattr(self, name)
            if value is None and name in ("kv_heads", "hidden"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} = {value!r} is not allowed: a whole number of 1 or more is needed.")
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} must divide width = {self.width}.")
        if self.heads % self.key_value_heads:
            raise ValueError(f"kv_heads = {self.kv_heads} must divide heads = {self.heads}.")
        for name, kind in (("normalisation", Normalisation), ("cache", CacheKind)):
            if getattr(self, name) not in get_args(kind):
                allowed = " or ".join(map(repr, get_args(kind)))
                raise ValueError(f"{name} = {getattr(self, name)!r} is not allowed: choose {allowed}.")
        attention = chosen(self.attention, "attention")
        controls.validate(attention.reference, self.attention_options)
        for method in (attention, chosen(self.activation, "activation")):
            if self.implementation not in ("auto", *method.implementations):
                choices = ", ".join(map(repr, ("auto", *method.implementations)))
                raise ValueError(f"{method.name} has no implementation {self.implementation!r}: choose {choices}.")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def key_value_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def feed_forward_hidden(self) -> int:
        """``hidden``, or the width that costs a gated block as many parameters as 4 * width costs a plain one."""
        if self.hidden is not None:
            return self.hidden
        return equal_parameter_hidden(4 * self.width, 1, chosen(self.activation, "activation").branches)


def chosen(name: str, toggle: Toggle) -> Method:
    """The method ``name`` of a toggle; for "attention" any of ``catalog.mixers``, whatever its toggle.

    Raises ``ValueError`` that lists the choices when it is not one of them.
    """
    choices = catalog.mixers() if toggle == "attention" else catalog.methods(toggle)
    if name not in choices:
        raise ValueError(f"{toggle} = {name!r} is not allowed: choose {', '.join(choices)}.")
    return choices[name]


def needs_other_weights(activation: str) -> list[str]:
    """Why weights trained with a plain activation cannot take this one, in sentences; empty: they can."""
    if (branches := chosen(activation, "activation").branches) > 1:
        return [
            f"{activation} multiplies the outputs of {branches} up-projections; the trained weights have one, so it "
            "would have to be trained anew."
        ]
    return []


class SelfAttention(nn.Module):
    """Project to heads, attend with the configured method, project back. x (batch, n, width) -> the same shape."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.method = chosen(config.attention, "attention")
        self.heads = (config.heads, config.key_value_heads, config.key_value_heads)
        self.project_in = nn.Linear(config.width, sum(self.heads) * config.head_dim, bias=False)
        self.project_out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, cache: LayerCache | None) -> tuple[Tensor, LayerCache]:
        """The new rows, and the cache with their keys and values appended."""
        projected = self.project_in(x).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
        query, key, value = projected.split(self.heads, dim=1)
        if cache is not None:
            key, value = torch.cat((cache[0], key), dim=2), torch.cat((cache[1], value), dim=2)
        # Causal is aligned bottom-right: the last query is the last key, so new rows see the whole cache.
        attended = self.method(
            query,
            key,
            value,
            is_causal=self.config.is_causal,
            implementation=self.config.implementation,
            **self.config.attention_options,
        )
        return self.project_out(attended.transpose(1, 2).flatten(2)), (key, value)


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        normalisation = nn.LayerNorm if config.normalisation == "layer_norm" else nn.RMSNorm
        self.attention_norm = normalisation(config.width)
        self.attention = SelfAttention(config)
        self.feed_forward_norm = normalisation(config.width)
        self.feed_forward = FeedForward(
            config.width, config.feed_forward_hidden, chosen(config.activation, "activation"), config.implementation
        )

    def forward(self, x: Tensor, cache: LayerCache | None) -> tuple[Tensor, LayerCache]:
        attended, cache = self.attention(self.attention_norm(x), cache)
        x = x + attended
        return x + self.feed_forward(self.feed_forward_norm(x)), cache


class Transformer(nn.Module):
    """Tokens in, one row of logits a token out. The output matrix is the embedding matrix, transposed."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.tokens, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        normalisation = nn.LayerNorm if config.normalisation == "layer_norm" else nn.RMSNorm
        self.norm = normalisation(config.width)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def empty_cache(self, batch: int) -> Cache:
        """The cache before the first token. Raises ``ValueError`` for a model that keeps none."""
        if self.config.cache == "none":
            raise ValueError("This model has cache = 'none': feed it whole sequences, or configure 'key_value'.")
        if not self.config.is_causal:
            raise ValueError("An encoder sees what comes later too: it cannot be fed piece by piece, and has no cache.")
        weight = self.embedding.weight
        empty = weight.new_empty(batch, self.config.key_value_heads, 0, self.config.head_dim)
        return tuple((empty, empty) for _ in self.blocks)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor | tuple[Tensor, Cache]:
        """Logits (batch, n, vocabulary) of ``tokens`` (batch, n) of integers below ``vocabulary``.

        With a ``cache`` (start with ``empty_cache``) the tokens continue what it holds, and (logits, longer cache)
        comes back. Raises ``ValueError`` for no tokens, or more than ``config.tokens`` with the cache.
        """
        before = 0 if cache is None else cache[0][0].shape[2]
        if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= self.config.tokens - before:
            given = f"{tuple(tokens.shape)} was given" + (f" after {before} in the cache" if before else "")
            raise ValueError(f"tokens must be (batch, n) with 1 to {self.config.tokens} in all: {given}.")
        positions = torch.arange(before, before + tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) + self.position(positions)
        longer = []
        for block, layer_cache in zip(self.blocks, cache or [None] * len(self.blocks), strict=True):
            x, layer_cache = block(x, layer_cache)
            longer.append(layer_cache)
        logits = self.norm(x) @ self.embedding.weight.mT
        return logits if cache is None else (logits, tuple(longer))

    @torch.no_grad()
    def generate(
        self, tokens: Tensor, count: int, *, temperature: float = 0.0, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """``count`` further tokens, one tensor (batch,) at a time; stop reading and it stops working.

        ``temperature`` 0 takes the likeliest token. With cache "key_value" a step computes one row, with "none" all of
        them: n rows instead of n^2 / 2 in total.
        """
        if not self.config.is_causal:
            raise ValueError("An encoder cannot generate: configure is_causal = True.")
        cached = self.config.cache == "key_value"
        cache, new = self.empty_cache(len(tokens)) if cached else None, tokens
        for _ in range(count):
            if cached:
                logits, cache = self(new, cache)
            else:
                logits = self(tokens)
            following = _pick(logits[:, -1], temperature, generator)
            yield following
            new = following[:, None]
            tokens = torch.cat((tokens, new), dim=1)


def _pick(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
