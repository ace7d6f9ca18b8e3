"""The gate, the gating unit and the block as modules that hold their weights."""

import torch
from torch import Tensor, nn

from workbench.feedforward.activator.inputs import GatedRows, Rows, Tokens
from workbench.feedforward.activator.methods import normalised_gate
from workbench.feedforward.activator.reference import branches
from workbench.models.feed_forward import FeedForward
from workbench.paper import Method


class NormalisedGate(nn.Module):
    """The gate with its one LN: (..., 2 hidden) to (..., hidden). ``activation`` as in ``normalised_gate``."""

    def __init__(self, hidden: int, activation: str = "gelu", implementation: str = "auto") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.activation, self.implementation = activation, implementation

    def forward(self, x: GatedRows) -> Rows:
        return normalised_gate(
            x, self.weight, self.bias, activation=self.activation, implementation=self.implementation
        )


class GatingUnit(nn.Module):
    """Eq. 1 to 3: (batch, tokens, width) to the same shape, every token for itself.

    With ``tokens`` it is the *spatial* unit, which is ours and not in the paper's code: v is multiplied along the
    tokens by a learned matrix ``spatial`` (tokens, tokens), the identity at first, and so tokens do meet.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str = "gelu",
        tokens: int | None = None,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden)
        self.gate = NormalisedGate(hidden, activation, implementation)
        self.down = nn.Linear(hidden, width)
        self.spatial = None if tokens is None else nn.Parameter(torch.eye(tokens))

    def forward(self, x: Tokens) -> Tokens:
        z = self.up(x)
        if self.spatial is None:
            return self.down(self.gate(z))
        u, v = branches(z, self.gate.weight, self.gate.bias, self.gate.activation, 1e-5)
        return self.down(u * (self.spatial @ v))


class ActivatorBlock(nn.Module):
    """Eq. 4, and Eq. 5 where ``feed_forward`` names that part's activation: variant A with it, variant B without. One
    LN_d for both.

    ``hidden`` is the width of the gate and of the feed-forward part; the other options are ``GatingUnit``'s. The
    official training drops half of the numbers inside the feed-forward part (dropout); this block does not.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        feed_forward: Method | None = None,
        activation: str = "gelu",
        tokens: int | None = None,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.unit = GatingUnit(width, hidden, activation=activation, tokens=tokens, implementation=implementation)
        self.feed_forward = None
        if feed_forward is not None:
            self.feed_forward = FeedForward(width, hidden, feed_forward, implementation, bias=True)

    def forward(self, x: Tokens) -> Tokens:
        x = x + self.unit(self.norm(x))
        return x if self.feed_forward is None else x + self.feed_forward(self.norm(x))

    @property
    def token_map(self) -> Tensor | None:
        """The learned matrix along the tokens (tokens, tokens), if there is one: else no token meets another."""
        return self.unit.spatial
