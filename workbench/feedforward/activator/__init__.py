r"""Activator: a vision transformer whose attention is replaced by a gated linear unit.

Abdullah Nazhat Abdullah and Tarkan Aydin, *Activator: GLU Activations as the Core Functions of a Vision Transformer*,
arXiv 2405.15953, 2024.

Idea. Attention does two things: it fetches values by keys, and it gates what comes through. The paper gives both to a
gated linear unit (GLU) whose two branches are normalised. In **variant A** it stands where attention stood, before the
usual feed-forward block; in **variant B** that block is gone, too.

What a reader must know: in the released code *every operation acts on one patch at a time*. Patches meet only in the
mean before the classifier, so the network sees a bag of patches: shuffle an image's patches, and nothing changes. Here
it is the far end of the axis "how tokens are mixed": not at all.

The gating unit of one token :math:`x \in \mathbb R^d` is

.. math::
    z_1 &= x W_1 + b_1, \quad z_2 = x W_2 + b_2 \qquad (1) \\
    u &= \mathrm{LN}(\mathrm{GELU}(z_1)), \quad v = \mathrm{LN}(z_2) \qquad (2) \\
    \mathrm{AGU}(x) &= (u \odot v) W_3 + b_3 \qquad (3)

with *one and the same* :math:`\mathrm{LN}` (one weight :math:`\gamma`, one bias :math:`\beta`) for u and v. The norm
comes after GELU on the gate's side, and v has no activation. A block is

.. math::
    x \leftarrow x + \mathrm{AGU}(\mathrm{LN}_d(x)) \qquad (4), \qquad
    x \leftarrow x + \mathrm{FFN}(\mathrm{LN}_d(x)) \qquad (5)

variant B without (5), variant A with it, and again one :math:`\mathrm{LN}_d` for both. The paper numbers no equations;
these numbers are ours.

Notation:

==================  ==================  =============================================================================
paper               here                shape
==================  ==================  =============================================================================
:math:`x`           x                   (batch, tokens, d); d = ``width``
:math:`z_1, z_2`    the halves of       (..., 2 f), gate first; f = ``hidden``
                    the gate's input
:math:`W_1, W_2`    up_weight           (2 f, d), the two stacked: one matrix product instead of two
:math:`\gamma`      weight              (f,), shared by both branches
:math:`\beta`       bias                (f,), shared by both branches
:math:`W_3`         down_weight         (d, f)
==================  ==================  =============================================================================

What makes it fast: nothing depends on another token, so everything is rows. One product gives z_1 and z_2, and (2) with
the product of (3) is one pass over them: read 2 f numbers of a row, write f. Plain PyTorch passes over f numbers about
14 times.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.controls import Range
from workbench.feedforward.activator.claims import CLAIMS
from workbench.feedforward.activator.vit import (
    Batch,
    Hidden,
    Tokens,
    Width,
    attention_block_cost,
    attention_block_example,
    attention_block_fast,
    attention_block_reference,
    attention_block_workspace,
    check,
    cost_of_block,
    drawn,
    macs,
    norm_fast,
)
from workbench.feedforward.compiled import compiled, compiled_on_cuda
from workbench.models.feed_forward import FeedForward
from workbench.paper import Activation, Baseline, Block, Cost, Example, Method, Mixer, Paper, Recording, kernel_or_cpu

__all__ = [
    "PAPER",
    "ActivatorBlock",
    "GatingUnit",
    "NormalisedGate",
    "activate",
    "activator_block",
    "attention_block",
    "branches",
    "layer_norm",
    "macs",
    "normalised_gate",
]

GatedRows = Float[Tensor, "*rows two_hidden"]
Rows = Float[Tensor, "*rows hidden"]
Vector = Float[Tensor, " hidden"]
Gate = Annotated[Literal["gelu", "silu", "relu", "identity"], "GEGLU, SwiGLU, ReGLU, or no activation at all."]
Epsilon = Annotated[float, Range(1e-12, 0.01), "Added to the variance of a row before its root is taken."]


# --- the reference: Eq. 1 to 4 ---------------------------------------------------------------------------------------


def activate(x: Tensor, activation: str) -> Tensor:
    """The activation of the gate's branch. GELU is the exact one, x Phi(x)."""
    if activation == "gelu":
        return x * 0.5 * (1 + torch.erf(x / 2**0.5))
    if activation == "silu":
        return x * torch.sigmoid(x)
    return torch.relu(x) if activation == "relu" else x


def layer_norm(x: Rows, weight: Vector, bias: Vector, eps: float) -> Rows:
    """Each row less its mean, divided by its (biased) standard deviation; then weight and bias."""
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight + bias


def branches(x: GatedRows, weight: Vector, bias: Vector, activation: str, eps: float) -> tuple[Rows, Rows]:
    """Eq. 2: u and v from z_1 and z_2, the halves of x."""
    gate, value = x.chunk(2, dim=-1)
    return layer_norm(activate(gate, activation), weight, bias, eps), layer_norm(value, weight, bias, eps)


def normalised_gate_reference(
    x: GatedRows, weight: Vector, bias: Vector, *, activation: Gate = "gelu", eps: Epsilon = 1e-5
) -> Rows:
    """Eq. 2 and the product of Eq. 3: LN(activation(z_1)) * LN(z_2), one LN for both.

    x (..., 2 hidden) holds z_1, then z_2; weight and bias (hidden,). Returns (..., hidden) of x's dtype. Raises
    ``ValueError`` for what does not fit together. O(hidden) operations a row.
    """
    _check_gate(x, weight, bias)
    u, v = branches(x, weight, bias, activation, eps)
    return u * v


def activator_block_reference(
    x: Tokens,
    norm_weight: Float[Tensor, " width"],
    norm_bias: Float[Tensor, " width"],
    up_weight: Float[Tensor, "two_hidden width"],
    up_bias: Float[Tensor, " two_hidden"],
    weight: Vector,
    bias: Vector,
    down_weight: Float[Tensor, "width hidden"],
    down_bias: Float[Tensor, " width"],
    *,
    activation: Gate = "gelu",
    eps: Epsilon = 1e-5,
) -> Tokens:
    """Eq. 4, a block of variant B: x + AGU(LN_d(x)). Every token for itself.

    Linear weights are stored (out, in), as in ``nn.Linear``; ``up_weight`` is W_1 above W_2. Returns x's shape and
    dtype. Raises ``ValueError`` for what does not fit together. 3 width hidden multiply-adds a token.
    """
    check(x, up_weight, down_weight.mT)
    z = layer_norm(x, norm_weight, norm_bias, eps) @ up_weight.mT + up_bias
    u, v = branches(z, weight, bias, activation, eps)
    return x + (u * v) @ down_weight.mT + down_bias


# --- fast ------------------------------------------------------------------------------------------------------------


def normalised_gate_fast(
    x: GatedRows, weight: Vector, bias: Vector, *, activation: Gate = "gelu", eps: Epsilon = 1e-5
) -> Rows:
    """Both branches in one pass over x: a Triton kernel on CUDA, rows in cache-sized pieces on a CPU.

    Arguments and errors as ``reference``. The arithmetic is float32 (float64 for float64 input) and is rounded once.
    The backward pass keeps x and four numbers a row, and is deterministic.
    """
    _check_gate(x, weight, bias)
    from workbench_kernels.activation.gated_norm import gated_norm

    return gated_norm(x, weight, bias, activation, eps)


def activator_block_fast(
    x: Tokens,
    norm_weight: Float[Tensor, " width"],
    norm_bias: Float[Tensor, " width"],
    up_weight: Float[Tensor, "two_hidden width"],
    up_bias: Float[Tensor, " two_hidden"],
    weight: Vector,
    bias: Vector,
    down_weight: Float[Tensor, "width hidden"],
    down_bias: Float[Tensor, " width"],
    *,
    activation: Gate = "gelu",
    eps: Epsilon = 1e-5,
) -> Tokens:
    """A layer norm in one pass, and two matrix products with the fused gate between them. Arguments and errors as
    ``reference``."""
    check(x, up_weight, down_weight.mT)
    z = nn.functional.linear(norm_fast(x, norm_weight, norm_bias, eps), up_weight, up_bias)
    gated = normalised_gate_fast(z, weight, bias, activation=activation, eps=eps)
    return x + nn.functional.linear(gated, down_weight, down_bias)


def why_not_fast(x: Tensor, *inputs: Tensor, **options: object) -> list[str]:
    """Why the fused gate cannot run on x (..., 2 hidden), in sentences."""
    from workbench_kernels.activation import gated_norm

    return kernel_or_cpu(x, gated_norm.why_not, x.shape[-1] // 2, x.dtype)


def why_not_fast_block(x: Tensor, *weights: Tensor, **options: object) -> list[str]:
    """Why the fused gate cannot run inside of a block, in sentences."""
    from workbench_kernels.activation import gated_norm

    return kernel_or_cpu(x, gated_norm.why_not, weights[2].shape[0] // 2, x.dtype)


# --- what it is held against -----------------------------------------------------------------------------------------


def _eager_gate(x: Tensor, weight: Tensor, bias: Tensor, *, activation: str = "gelu", eps: float = 1e-5) -> Tensor:
    """PyTorch's own calls, as the official code makes them: an activation, two layer norms, a product."""
    _check_gate(x, weight, bias)
    gate, value = x.chunk(2, dim=-1)
    if activation != "identity":
        gate = getattr(nn.functional, activation)(gate)
    u = nn.functional.layer_norm(gate, weight.shape, weight, bias, eps)
    return u * nn.functional.layer_norm(value, weight.shape, weight, bias, eps)


# --- layers: they hold weights, nothing else -------------------------------------------------------------------------


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


# --- inputs and cost -------------------------------------------------------------------------------------------------


def gate_example(
    rows: int, *, device: str = "cpu", dtype: str = "float32", seed: int = 0, hidden: Hidden = 512
) -> Example:
    """Standard-normal rows (rows, 2 hidden): z_1, then z_2. Weights near 1 and biases near 0."""
    return Example(drawn({"x": (rows, 2 * hidden), "weight": (hidden,), "bias": (hidden,)}, device, dtype, seed))


def block_example(
    tokens: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Batch = 4,
    width: Width = 256,
    hidden: Hidden = 512,
) -> Example:
    """Standard-normal tokens (batch, tokens, width), and weights as at the start of training."""
    shapes = {
        "x": (batch, tokens, width),
        "norm_weight": (width,),
        "norm_bias": (width,),
        "up_weight": (2 * hidden, width),
        "up_bias": (2 * hidden,),
        "weight": (hidden,),
        "bias": (hidden,),
        "down_weight": (width, hidden),
        "down_bias": (width,),
    }
    return Example(drawn(shapes, device, dtype, seed))


def gate_cost(x: Tensor, weight: Tensor, bias: Tensor, *, activation: str = "gelu", **options: object) -> Cost:
    """Operations for one number of the output: its activation, 14 for two LN (sum, centre, square, sum, scale, weight
    and bias each) and the product. Backward 29, and the activation with its slope.

    The backward pass reads x and the output's gradient, and writes the gradient of x; weights are small change.
    """
    act, slope = {"gelu": (5, 8), "silu": (4, 6), "relu": (1, 1), "identity": (0, 0)}[activation]
    output, parameters = x.nbytes // 2, weight.nbytes + bias.nbytes
    moved = x.nbytes + output + parameters
    numbers = x.numel() // 2
    return Cost((act + 15) * numbers, moved, (act + slope + 29) * numbers, moved + x.nbytes + parameters)


def block_cost(x: Tensor, *weights: Tensor, **options: object) -> Cost:
    """The block's matrix products: ``macs("activator")`` a token."""
    hidden = weights[2].shape[0] // 2
    return cost_of_block(macs("activator", tokens=x.shape[1], width=x.shape[2], hidden=hidden), x, *weights)


def gate_workspace(implementation: str, x: Tensor, *inputs: Tensor, **options: object) -> int:
    """Bytes beside input and output at the peak of a forward call that needs no gradients, an upper bound.

    The equations hold two tensors like x, and so does what is compiled of them at most. Fast holds four numbers a row
    and, on a CPU, pieces of 2^16 numbers a core.
    """
    if implementation != "fast":
        return 2 * x.nbytes
    size = 8 if x.dtype == torch.float64 else 4
    on_cpu = 3 * size * min(x.numel(), 2**16 * torch.get_num_threads()) if x.is_cpu else 0
    return on_cpu + 4 * size * x[..., 0].numel()


def block_workspace(implementation: str, x: Tensor, *weights: Tensor, **options: object) -> int:
    """As ``gate_workspace``: normed tokens, the gate's input and output, and what the gate holds."""
    z = torch.empty(*x.shape[:-1], weights[2].shape[0], dtype=x.dtype, device="meta")
    gate = gate_workspace(implementation, z.to("meta"))
    return 3 * x.nbytes + z.nbytes + z.nbytes // 2 + gate


# --- the methods -----------------------------------------------------------------------------------------------------


normalised_gate = Method(
    name="normalised_gate",
    title="Normalised GEGLU",
    idea="GELU of one half gates the other half, and both go through the same layer norm.",
    slot=Activation(branches=2),
    reference=normalised_gate_reference,
    fast=normalised_gate_fast,
    why_not_fast=why_not_fast,
    baselines={
        "eager": Baseline(_eager_gate),
        "torch_compile": compiled(normalised_gate_reference),
    },
    example=gate_example,
    cost=gate_cost,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    workspace=gate_workspace,
)



def channel_block(width: int, hidden: int, *, tokens: int, **options: object) -> ActivatorBlock:
    """The paper's block: the same for any number of tokens, since none meets another."""
    return ActivatorBlock(width, hidden, **options)


BLOCKS = (
    Block(
        name="activator",
        title="Activator",
        phrase="a gated unit; tokens do not meet (Activator)",
        method=normalised_gate,
        make=channel_block,
        closing_norm=False,  # as in the paper
    ),
    Block(
        name="activator_spatial",
        title="Activator, spatial",
        phrase="a gated unit with a learned matrix along the tokens (ours)",
        method=normalised_gate,
        make=ActivatorBlock,
        closing_norm=False,
    ),
)

activator_block = Method(
    name="activator_block",
    title="Activator block",
    idea="A token passes through a normalised gated unit and never meets another token.",
    slot=Mixer(BLOCKS),
    reference=activator_block_reference,
    fast=activator_block_fast,
    why_not_fast=why_not_fast_block,
    baselines={"torch_compile": compiled_on_cuda(activator_block_reference)},
    example=block_example,
    cost=block_cost,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    workspace=block_workspace,
)

attention_block = Method(
    name="attention_block",
    title="ViT block",
    idea="Tokens attend to each other, then each passes through a feed-forward block.",
    slot=None,
    reference=attention_block_reference,
    fast=attention_block_fast,
    baselines={"torch_compile": compiled_on_cuda(attention_block_reference)},
    example=attention_block_example,
    cost=attention_block_cost,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    workspace=attention_block_workspace,
)


PAPER = Paper(
    slug="activator",
    title="Activator: GLU Activations as the Core Functions of a Vision Transformer",
    authors="Abdullah Nazhat Abdullah, Tarkan Aydin",
    arxiv="2405.15953",
    year=2024,
    chapter="feedforward",
    idea="A normalised gated unit takes the place of attention, and patches no longer meet.",
    methods=(normalised_gate, activator_block, attention_block),
    layers={"normalised_gate": lambda hidden, order=3, **options: NormalisedGate(hidden, **options)},
    claims=CLAIMS,
    recordings=(
        *(
            Recording(
                group=f"gate, hidden {hidden}", methods=("normalised_gate",), sizes=sizes, shape={"hidden": hidden}
            )
            for hidden, sizes in ((512, (16384, 131072)), (2048, (16384,)))
        ),
        Recording(
            group="blocks, 16 images",
            methods=("activator_block", "attention_block"),
            sizes=(64, 256, 1024, 4096),
            shape={"batch": 16, "width": 256, "hidden": 512},
            implementations=("fast", "torch_compile"),
        ),
        Recording(  # without the host's time for launching
            group="blocks, 16 images, as a graph",
            methods=("activator_block", "attention_block"),
            sizes=(256, 1024, 4096),
            shape={"batch": 16, "width": 256, "hidden": 512},
            implementations=("fast", "torch_compile"),
            directions=("forward",),
            replayed=True,
        ),
    ),
)


# --- checks shared by the above --------------------------------------------------------------------------------------


def _check_gate(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise ``ValueError`` unless x is a floating tensor (..., 2 hidden) and weight and bias are (hidden,)."""
    if x.ndim == 0 or not x.shape[-1] or x.shape[-1] % 2:
        raise ValueError(f"normalised_gate takes x (..., 2 hidden), not {tuple(x.shape)}.")
    hidden = x.shape[-1] // 2
    if weight.shape != (hidden,) or bias.shape != (hidden,):
        raise ValueError(
            f"normalised_gate takes one weight and one bias for both halves of x {tuple(x.shape)}, ({hidden},) each, "
            f"not {tuple(weight.shape)} and {tuple(bias.shape)}."
        )
    if not all(each.is_floating_point() for each in (x, weight, bias)):
        raise ValueError(f"normalised_gate takes floating-point numbers, not {x.dtype}, {weight.dtype}, {bias.dtype}.")
    if not x.device == weight.device == bias.device:
        raise ValueError(f"normalised_gate needs one device, not {x.device}, {weight.device}, {bias.device}.")
