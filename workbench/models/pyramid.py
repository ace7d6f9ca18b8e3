"""Vision networks in stages, each with fewer and wider tokens than the one before: stem, blocks, downsampling, head.

What differs between such networks is the block, so a ``Pyramid`` is given one. Batch norms of a trained network are
folded into the convolutions beside them by ``folded``; ``count`` says what a network holds and does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Map = Float[Tensor, "batch channels height width"]
Norm = Callable[[int], nn.Module]


class ConvNorm(nn.Module):
    """A convolution without bias, a batch norm, and an activation (None: none), on maps (batch, C, H, W).

    ``padding`` None keeps the size at stride 1: half the kernel.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = nn.Identity() if activation is None else activation

    def forward(self, x: Map) -> Map:
        return self.activation(self.norm(self.conv(x)))


@dataclass(frozen=True)
class Convolution:
    """One convolution of a stem or between stages: how large its kernel is, its stride, and whether a norm follows."""

    kernel: int = 3
    stride: int = 2
    padding: int = 1
    normed: bool = True


@dataclass(frozen=True)
class PyramidConfig:
    """The shape of a ``Pyramid``.

    widths, depths  channels, and number of blocks, of every stage
    stem            its convolutions; all but the last have half, a quarter ... of the first stage's width, and an
                    activation behind them
    between         the convolution between stages
    classes         of the head; 0 leaves the head out

    Raises ``ValueError`` for widths and depths that do not fit.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    channels: int = 3
    classes: int = 1000
    stem: tuple[Convolution, ...] = (Convolution(), Convolution())
    between: Convolution = Convolution()

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths) or not self.widths:
            raise ValueError(f"A pyramid has a depth for each width, not {self.depths} for {self.widths}.")
        if min(self.widths) < 1 or min(self.depths) < 0 or not self.stem:
            raise ValueError(f"A pyramid has widths from 1, depths from 0 and a stem, not {self}.")
        if self.widths[0] % 2 ** (len(self.stem) - 1):
            raise ValueError(f"A stem of {len(self.stem)} convolutions cannot halve {self.widths[0]} that often.")


class Pyramid(nn.Module):
    """Images (batch, channels, H, W) in, logits (batch, classes) out; without classes the last stage's map.

    block(stage, index, width) -> nn.Module  what stands at that place; maps keep their shape in it
    downsample(stage, width, next_width) -> nn.Module  what stands between stages; None: the convolution ``between``
    norm(width) -> nn.Module  before the mean over the map; None: a layer norm of the whole map (``GroupNorm(1, ...)``)
    activation() -> nn.Module  in the stem
    """

    def __init__(
        self,
        config: PyramidConfig,
        block: Callable[[int, int, int], nn.Module],
        *,
        downsample: Callable[[int, int, int], nn.Module] | None = None,
        norm: Norm | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.config = config
        self.stem = stem(config.channels, config.widths[0], config.stem, activation)
        down = downsample or (lambda stage, width, following: _convolution(width, following, config.between))
        pairs = enumerate(zip(config.widths, config.widths[1:], strict=False))
        self.between = nn.ModuleList([down(stage, *widths) for stage, widths in pairs])
        self.stages = nn.ModuleList(
            nn.Sequential(*(block(stage, index, width) for index in range(depth)))
            for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True))
        )
        last = config.widths[-1]
        self.norm = (nn.GroupNorm(1, last) if norm is None else norm(last)) if config.classes else nn.Identity()
        self.head = nn.Linear(last, config.classes) if config.classes else nn.Identity()

    def maps(self, images: Map) -> list[Map]:
        """The map at the end of every stage, the largest first."""
        x, found = self.stem(images), []
        for index, stage in enumerate(self.stages):
            x = stage(self.between[index - 1](x) if index else x)
            found.append(x)
        return found

    def forward(self, images: Map) -> Tensor:
        last = self.maps(images)[-1]
        return self.head(self.norm(last).mean((2, 3))) if self.config.classes else last


def stem(
    channels: int, width: int, convolutions: Sequence[Convolution], activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Convolutions that turn an image into the first stage's map; the widths double up to ``width``."""
    made, before = [], channels
    for place, each in enumerate(convolutions):
        following = width // 2 ** (len(convolutions) - 1 - place)
        last = place == len(convolutions) - 1
        made.append(_convolution(before, following, each, None if last else activation()))
        before = following
    return nn.Sequential(*made)


def _convolution(
    channels: int, out_channels: int, shape: Convolution, activation: nn.Module | None = None
) -> nn.Module:
    settings = {"stride": shape.stride, "padding": shape.padding}
    if shape.normed:
        return ConvNorm(channels, out_channels, shape.kernel, **settings, activation=activation)
    plain = nn.Conv2d(channels, out_channels, shape.kernel, **settings)
    return plain if activation is None else nn.Sequential(plain, activation)


# --- folding: what an inference need not compute ---------------------------------------------------------------------


@torch.no_grad()
def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that does what ``norm(conv(x))`` does in inference: W gamma / sqrt(v + eps), the bias alike.

    Raises ``ValueError`` in training mode, where the norm depends on the batch.
    """
    scale, shift = _scale_and_shift(norm)
    made = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups,
        padding_mode=conv.padding_mode, device=conv.weight.device, dtype=conv.weight.dtype,
    )  # fmt: skip
    made.weight.copy_(conv.weight * scale[:, None, None, None])
    made.bias.copy_(shift if conv.bias is None else conv.bias * scale + shift)
    return made.eval()


@torch.no_grad()
def fold_before(norm: nn.BatchNorm1d, linear: nn.Linear) -> nn.Linear:
    """One linear layer that does what ``linear(norm(x))`` does in inference. Errors as ``fold``."""
    scale, shift = _scale_and_shift(norm)
    made = nn.Linear(linear.in_features, linear.out_features, device=linear.weight.device, dtype=linear.weight.dtype)
    made.weight.copy_(linear.weight * scale)
    made.bias.copy_(linear.weight @ shift + (0 if linear.bias is None else linear.bias))
    return made.eval()


@torch.no_grad()
def fold_residual(conv: nn.Conv2d) -> nn.Conv2d:
    """One depthwise convolution that does what ``x + conv(x)`` does: 1 is added to the tap in the middle.

    Raises ``ValueError`` for a convolution that is not depthwise, or that changes the size of its map.
    """
    odd = all(kernel % 2 and 2 * pad == kernel - 1 for kernel, pad in zip(conv.kernel_size, conv.padding, strict=True))
    if not (conv.groups == conv.in_channels == conv.out_channels and odd and set(conv.stride) == {1}):
        raise ValueError(f"Only a depthwise convolution that keeps its map can take the residual in, not {conv}.")
    made = copy.deepcopy(conv)
    middle = tuple(kernel // 2 for kernel in conv.kernel_size)
    made.weight[:, 0, middle[0], middle[1]] += 1
    return made


def folded(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which every ``ConvNorm`` is one convolution with its activation. Errors as ``fold``."""
    model = copy.deepcopy(model)
    return _folded(model)


def _folded(module: nn.Module) -> nn.Module:
    if isinstance(module, ConvNorm):
        conv = fold(module.conv, module.norm)
        return conv if isinstance(module.activation, nn.Identity) else nn.Sequential(conv, module.activation)
    for name, child in module.named_children():
        setattr(module, name, _folded(child))
    return module


def _scale_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    if norm.training or norm.running_var is None:
        raise ValueError("A batch norm can be folded in inference only: call eval() first, and keep its statistics.")
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else norm.weight * scale
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else norm.bias + shift


# --- counts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What a network holds and does: parameters, and FLOPs of one image's products (a multiply-add counts 2; papers
    that speak of MACs mean half of it)."""

    parameters: int
    flops: int

    @property
    def macs(self) -> int:
        return self.flops // 2


def count(model: nn.Module, *shape: int) -> Counts:
    """Counts of ``model`` for an input of ``shape`` (without the batch). Nothing is computed: shapes alone are run."""
    dtype = next((weight.dtype for weight in model.parameters()), torch.float32)
    sketch = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        sketch(torch.empty(1, *shape, device="meta", dtype=dtype))
    return Counts(sum(weight.numel() for weight in model.parameters()), counter.get_total_flops())
