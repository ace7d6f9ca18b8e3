"""What the Activator is compared with: the block of a vision transformer, and the arithmetic of all blocks."""

from typing import Annotated, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.controls import Range
from workbench.paper import Cost, Example

Tokens = Float[Tensor, "batch tokens width"]
Vector = Float[Tensor, " width"]
Heads = Annotated[int, Range(1, 64, log=True), "Attention heads; they must divide the width."]

Width = Annotated[int, Range(8, 8192, log=True), "Width of a token."]
Hidden = Annotated[int, Range(8, 8192, log=True), "Width inside the block: of the gate, or of the feed-forward part."]
Batch = Annotated[int, Range(1, 1024, log=True), "Images in a batch."]

Block = Literal["activator", "activator_with_feed_forward", "attention", "mlp_mixer"]


def macs(block: Block, *, tokens: int, width: int, hidden: int, token_hidden: int | None = None) -> int:
    """Multiply-adds that one block spends on one token, in its matrix products.

    "activator"                    3 width hidden                              (variant B)
    "activator_with_feed_forward"  5 width hidden                              (variant A)
    "attention"                    4 width^2 + 2 tokens width + 2 width hidden (a ViT's block)
    "mlp_mixer"                    2 width token_hidden + 2 width hidden       (token_hidden: 2 tokens, unless given)

    Raises ``ValueError`` for another block.
    """
    feed_forward = 2 * width * hidden
    counted = {
        "activator": 3 * width * hidden,
        "activator_with_feed_forward": 3 * width * hidden + feed_forward,
        "attention": 4 * width**2 + 2 * tokens * width + feed_forward,
        "mlp_mixer": 2 * width * (token_hidden or 2 * tokens) + feed_forward,
    }
    if block not in counted:
        raise ValueError(f"No block is called {block!r}: choose {', '.join(counted)}.")
    return counted[block]


def attention_block_reference(
    x: Tokens,
    norm_weight: Vector,
    norm_bias: Vector,
    in_weight: Float[Tensor, "three_width width"],
    out_weight: Float[Tensor, "width width"],
    second_norm_weight: Vector,
    second_norm_bias: Vector,
    up_weight: Float[Tensor, "hidden width"],
    up_bias: Float[Tensor, " hidden"],
    down_weight: Float[Tensor, "width hidden"],
    down_bias: Vector,
    *,
    heads: Heads = 4,
) -> Tokens:
    """A vision transformer's block: x + MHSA(LN(x)), then x + FFN(LN(x)) with GELU. Every token sees every other.

    Linear weights are stored (out, in); ``in_weight`` is query above key above value. Returns x's shape and dtype.
    Raises ``ValueError`` for what does not fit together. Memory O(tokens^2) a head; ``macs("attention")`` a token.
    """
    check(x, up_weight, in_weight, heads=heads)
    query, key, value = _heads(norm(x, norm_weight, norm_bias), in_weight, heads)
    weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
    x = x + rearrange(weights @ value, "b h n c -> b n (h c)") @ out_weight.mT
    normed = norm(x, second_norm_weight, second_norm_bias)
    return _feed_forward(x, normed, up_weight, up_bias, down_weight, down_bias)


def attention_block_fast(
    x: Tokens,
    norm_weight: Vector,
    norm_bias: Vector,
    in_weight: Float[Tensor, "three_width width"],
    out_weight: Float[Tensor, "width width"],
    second_norm_weight: Vector,
    second_norm_bias: Vector,
    up_weight: Float[Tensor, "hidden width"],
    up_bias: Float[Tensor, " hidden"],
    down_weight: Float[Tensor, "width hidden"],
    down_bias: Vector,
    *,
    heads: Heads = 4,
) -> Tokens:
    """The same with PyTorch's fused attention, which writes no score to memory, and layer norms in one pass. Arguments
    as ``reference``."""
    check(x, up_weight, in_weight, heads=heads)
    inputs = _heads(norm_fast(x, norm_weight, norm_bias), in_weight, heads)
    attended = nn.functional.scaled_dot_product_attention(*inputs)
    x = x + rearrange(attended, "b h n c -> b n (h c)") @ out_weight.mT
    normed = norm_fast(x, second_norm_weight, second_norm_bias)
    return _feed_forward(x, normed, up_weight, up_bias, down_weight, down_bias)


def norm(x: Tokens, weight: Vector, bias: Vector, eps: float = 1e-5) -> Tokens:
    """PyTorch's layer norm over the last axis."""
    if x.is_cpu and x.element_size() < 4:
        # In low precision its CPU kernel would add up the gradients of weight and bias in that precision.
        return nn.functional.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps).to(x.dtype)
    return nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


def norm_fast(x: Tokens, weight: Vector, bias: Vector, eps: float = 1e-5) -> Tokens:
    """``norm`` by a kernel for short rows, where there is one for such numbers."""
    from workbench_kernels.normalisation import layer_norm as kernels

    if x.is_cpu or x.is_cuda and not kernels.why_not(x.shape[-1], x.dtype):
        return kernels.layer_norm(x, weight, bias, eps)
    return norm(x, weight, bias, eps)


def _heads(x: Tokens, weight: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = rearrange(x @ weight.mT, "b n (three h c) -> three b h n c", three=3, h=heads)
    return query, key, value


def _feed_forward(
    x: Tokens,
    normed: Tokens,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
) -> Tokens:
    hidden = nn.functional.gelu(nn.functional.linear(normed, up_weight, up_bias))
    return x + nn.functional.linear(hidden, down_weight, down_bias)


def attention_block_example(
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
        "in_weight": (3 * width, width),
        "out_weight": (width, width),
        "second_norm_weight": (width,),
        "second_norm_bias": (width,),
        "up_weight": (hidden, width),
        "up_bias": (hidden,),
        "down_weight": (width, hidden),
        "down_bias": (width,),
    }
    return Example(drawn(shapes, device, dtype, seed))


def drawn(shapes: dict[str, tuple[int, ...]], device: str, dtype: str, seed: int) -> dict[str, Tensor]:
    """Tensors by name: x standard normal, matrices of variance 1/columns, norms near 1 and 0, biases near 0.

    Norms and biases are not exactly 1 and 0, so that an implementation which forgets one of them gives itself away.
    """
    generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        normal = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
        if name != "x":
            normal = normal * shape[-1] ** -0.5 if len(shape) > 1 else normal * 0.1 + name.endswith("weight")
        return normal.to(getattr(torch, dtype))

    return {name: draw(name, shape) for name, shape in shapes.items()}


def cost_of_block(macs_per_token: int, x: Tensor, *weights: Tensor) -> Cost:
    """The matrix products of a block, and least bytes: x and weights read, the output written.

    Backward is twice the products; it reads x, weights and the output's gradient, and writes a gradient for each input.
    """
    flops = 2 * macs_per_token * x[..., 0].numel()
    inputs = x.nbytes + sum(weight.nbytes for weight in weights)
    return Cost(flops, inputs + x.nbytes, 2 * flops, 2 * inputs + x.nbytes)


def attention_block_cost(x: Tensor, *weights: Tensor, **options: object) -> Cost:
    """``macs("attention")`` a token."""
    hidden = weights[6].shape[0]
    return cost_of_block(macs("attention", tokens=x.shape[1], width=x.shape[2], hidden=hidden), x, *weights)


def attention_block_workspace(implementation: str, x: Tensor, *weights: Tensor, **options: object) -> int:
    """Bytes beside input and output at the peak of a forward call: an upper bound.

    Normed tokens, query, key, value, their contiguous copies and the attended tokens; the equations'
    scores and weights of every pair of tokens; or twice the inside of the feed-forward part, whichever is more.
    """
    batch, tokens, width = x.shape
    pairs = batch * int(options.get("heads", 4)) * tokens**2 * x.element_size()
    attending = 9 * x.nbytes + (2 * pairs if implementation == "reference" else 0)
    feeding = 2 * x.nbytes + 2 * batch * tokens * weights[6].shape[0] * x.element_size()
    return max(attending, feeding)


def check(x: Tensor, up_weight: Tensor, *others: Tensor, heads: int = 1) -> None:
    """Raise ``ValueError`` unless x is (batch, tokens, width) and the weights take that width."""
    if x.ndim != 3 or not x.shape[-1]:
        raise ValueError(f"A block takes x (batch, tokens, width), not {tuple(x.shape)}.")
    if not x.is_floating_point():
        raise ValueError(f"A block takes floating-point numbers, not {str(x.dtype)[6:]}.")
    width = x.shape[-1]
    for weight in (up_weight, *others):
        if weight.ndim != 2 or weight.shape[1] != width:
            raise ValueError(f"For x {tuple(x.shape)} a matrix (out, {width}) is needed, not {tuple(weight.shape)}.")
    if width % heads:
        raise ValueError(f"heads = {heads} must divide the width, {width}.")
