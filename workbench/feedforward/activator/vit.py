"""What the Activator is compared with: the block of a vision transformer."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.feedforward.activator.inputs import (
    Batch,
    Heads,
    Hidden,
    Tokens,
    Vector,
    Width,
    check_block,
    cost_of_block,
    drawn,
    macs,
    weights_like_x,
)
from workbench.paper import Cost, Example


@weights_like_x
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
    check_block(x, up_weight, in_weight, heads=heads)
    query, key, value = _heads(norm(x, norm_weight, norm_bias), in_weight, heads)
    weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
    x = x + rearrange(weights @ value, "b h n c -> b n (h c)") @ out_weight.mT
    normed = norm(x, second_norm_weight, second_norm_bias)
    return _feed_forward(x, normed, up_weight, up_bias, down_weight, down_bias)


@weights_like_x
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
    check_block(x, up_weight, in_weight, heads=heads)
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
