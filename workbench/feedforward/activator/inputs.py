"""Shapes, knobs, checks, examples and costs of the gate and of whole blocks, and the arithmetic of all blocks."""

import functools
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.controls import Range
from workbench.paper import Cost, Example

GatedRows = Float[Tensor, "*rows two_hidden"]
Rows = Float[Tensor, "*rows hidden"]
OfHidden = Float[Tensor, " hidden"]
Gate = Annotated[Literal["gelu", "silu", "relu", "identity"], "GEGLU, SwiGLU, ReGLU, or no activation at all."]
Epsilon = Annotated[float, Range(1e-12, 0.01), "Added to the variance of a row before its root is taken."]
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


def check_gate(x: Tensor, weight: Tensor, bias: Tensor) -> None:
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


def check_block(x: Tensor, up_weight: Tensor, *others: Tensor, heads: int = 1) -> None:
    """Raise ``ValueError`` unless x is (batch, tokens, width) and the weights take that width."""
    if x.ndim != 3 or not x.shape[-1]:
        raise ValueError(f"A block takes x (batch, tokens, width), not {tuple(x.shape)}.")
    if not x.is_floating_point():
        raise ValueError(f"A block takes floating-point numbers, not {str(x.dtype)[6:]}.")
    width = x.shape[-1]
    for weight in (up_weight, *others):
        if weight.ndim != 2 or weight.shape[1] != width:
            shapes = f"{tuple(x.shape)} and {tuple(weight.shape)}"
            raise ValueError(f"Tokens of width {width} go through a matrix (out, {width}): they do not fit, {shapes}.")
    if width % heads:
        raise ValueError(f"heads = {heads} must divide the width, {width}.")


def weights_like_x(block: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A block whose weights may have another floating dtype than x: they are taken in x's, which the result has too."""

    def like(value: object, x: Tensor) -> object:
        return value.to(x.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    @functools.wraps(block)
    def run(x: Tensor, *weights: Tensor, **options: object) -> Tensor:
        named = {name: like(value, x) for name, value in options.items()}
        return block(x, *(like(weight, x) for weight in weights), **named)

    return run


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


def gate_example(
    rows: int, *, device: str = "cpu", dtype: str = "float32", seed: int = 0, hidden: Hidden = 512
) -> Example:
    """Standard-normal rows (rows, 2 hidden): z_1, then z_2. Weights near 1 and biases near 0."""
    return Example(drawn({"x": (rows, 2 * hidden), "weight": (hidden,), "bias": (hidden,)}, device, dtype, seed))


def gate_misfits(example: Example) -> dict[str, tuple[Tensor, ...]]:
    """What the gate cannot take."""
    x, weight, bias = example.inputs.values()
    return {
        "an odd width": (x[:, 1:], weight, bias),
        "a weight of another width": (x, weight[1:], bias),
        "a bias of another width": (x, weight, bias[1:]),
    }


def block_misfits(example: Example) -> dict[str, tuple[Tensor, ...]]:
    """What no block can take: weights are for tokens (batch, tokens, width) of one width."""
    x, *weights = example.inputs.values()
    return {"two axes": (x[0], *weights), "another width": (x[..., 1:], *weights)}


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


def cost_of_block(macs_per_token: int, x: Tensor, *weights: Tensor) -> Cost:
    """The matrix products of a block, and least bytes: x and weights read, the output written.

    Backward is twice the products; it reads x, weights and the output's gradient, and writes a gradient for each input.
    """
    flops = 2 * macs_per_token * x[..., 0].numel()
    inputs = x.nbytes + sum(weight.nbytes for weight in weights)
    return Cost(flops, inputs + x.nbytes, 2 * flops, 2 * inputs + x.nbytes)


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
