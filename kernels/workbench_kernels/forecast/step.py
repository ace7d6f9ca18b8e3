"""What a step of a diffusion transformer computes besides its blocks: tokens from the image, and the image from tokens.

Both treat every token alone, so each is one kernel. A step that forecasts its blocks is these two and nothing else, and
its time is what launching them takes: the tokens of DiT-XL/2 for two samples are 1.2 MB, the weights 0.1 MB.
"""

import torch
from torch import Tensor

from workbench_kernels.launch import prepared
from workbench_kernels.tiles import next_power_of_2, why_not

try:
    import triton
    import triton.language as tl
except ImportError:  # `tiles.why_not` says so
    triton = None

EMBED_ROWS, EMBED_COLUMNS, EMBED_WARPS = 16, 64, 4  # tokens and columns of a program
PRODUCTS = 1 << 16  # of one token with the last matrix: all of them in registers
PER_WARP = 1 << 12  # eight warps for DiT-XL/2: each number of a token is then loaded by the thread that uses it


def has_kernels(images: Tensor, weight: Tensor, values: int) -> bool:
    """Whether both functions run: on CUDA with Triton, for float32 images and a 16 or 32-bit network whose last matrix,
    ``weight`` (any, width), fits into registers with the ``values`` rows that make a token's part of the image."""
    fits = next_power_of_2(values) * next_power_of_2(weight.shape[1]) <= PRODUCTS
    return images.is_cuda and images.dtype == torch.float32 and not why_not(weight.dtype) and fits


def embed_patches(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    added: Tensor | None = None,
    at: Tensor | None = None,
    *,
    copies: int = 1,
) -> Tensor:
    """``weight @ patch + bias + position``, and ``+ added[at % len(added)]`` where that is given: (batch * copies,
    tokens, width) in the weight's type, rounded once.

    images (batch, channels, side, side), contiguous; weight (width, channels * patch * patch); bias (width,); position
    (tokens, width); added (places, batch * copies, tokens, width), contiguous; at (1,), int64. Tokens are numbered row
    by row, and a patch's numbers channel, row, column. CUDA; not differentiable.
    """
    batch, channels, side, _ = images.shape
    width, values = weight.shape
    tokens = len(position)
    patch = round((values // channels) ** 0.5)
    out = torch.empty(batch * copies, tokens, width, dtype=weight.dtype, device=weight.device)
    rows, columns = EMBED_ROWS, max(16, min(EMBED_COLUMNS, next_power_of_2(width)))
    _embed_kernel[(-(-tokens // rows), -(-width // columns), batch * copies)](
        images, weight.contiguous(), bias, position.contiguous(), out if added is None else added,
        images if at is None else at, out, batch, tokens, width,
        1 if added is None else len(added), 0 if added is None else added.stride(0),
        CHANNELS=channels, SIDE=side, PATCH=patch, ADD=added is not None,
        VALUES=max(16, next_power_of_2(values)), ROWS=rows, COLUMNS=columns, num_warps=EMBED_WARPS,
    )  # fmt: skip
    return out


def update_images_(
    images: Tensor,
    tokens: Tensor,
    head: Tensor,
    weight: Tensor,
    bias: Tensor,
    numbers: Tensor,
    at: Tensor,
    arrived: Tensor,
    *,
    guidance: float = 1.0,
    epsilon: float,
) -> None:
    """The head of the network and a sampler's update, in place: ``images = numbers[at, 0] * images + numbers[at, 1] *
    output``, where output is the linear layer of ``normalised tokens * head[at, :, 1] + head[at, :, 0]``, as patches.

    images   (batch, channels, side, side), float32, contiguous
    tokens   (rows, tokens, width); rows is batch, or 2 * batch with ``guidance`` other than 1: with the label, then
             without, of which ``without + guidance * (with - without)`` is taken
    head     (steps, rows, 2, width), dense in the last dimension: shift and factor of the normalisation, a row a step
    weight   (patch * patch * channels_out, width) and bias: a patch's numbers are row, column, channel; channels beyond
             those of the images are left out
    numbers  (steps, 2 or more), float32
    at       (1,), int64, the row of this step; one more afterwards, without a kernel for that alone
    arrived  (1,), int32, zero before and after: how many programs are through

    Everything after the tokens in float32. CUDA; not differentiable.
    """
    batch, channels, side, _ = images.shape
    rows, count, width = tokens.shape
    patch = round(side / count**0.5)
    values, block = next_power_of_2(channels * patch * patch), next_power_of_2(width)
    _update_kernel[(count, batch)](
        images, tokens.contiguous(), head, weight.contiguous(), bias, numbers, at, arrived, batch, count,
        width, *head.stride()[:3], numbers.stride(0), guidance, epsilon, 1 / width,
        CHANNELS=channels, CHANNELS_OUT=len(weight) // (patch * patch), SIDE=side, PATCH=patch,
        GUIDED=rows != batch, VALUES=values, WIDTH=block,
        num_warps=max(1, min(16, values * block // PER_WARP)),
    )  # fmt: skip


if triton is not None:

    @prepared
    @triton.jit
    def _embed_kernel(
        images, weight, bias, position, added, at, out, batch, tokens, width, places, place_stride,
        CHANNELS: tl.constexpr, SIDE: tl.constexpr, PATCH: tl.constexpr, ADD: tl.constexpr,
        VALUES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        element = tl.program_id(2).to(tl.int64)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None]
        value = tl.arange(0, VALUES)
        within = (value // PATCH % PATCH) * SIDE + value % PATCH + value // (PATCH * PATCH) * (SIDE * SIDE)
        corner = (row // (SIDE // PATCH)) * (PATCH * SIDE) + row % (SIDE // PATCH) * PATCH
        real = value < CHANNELS * PATCH * PATCH
        image = images + element % batch * (CHANNELS * SIDE * SIDE)
        patches = tl.load(image + corner + within[None], mask=(row < tokens) & real[None], other=0.0)
        across = weight + column * (CHANNELS * PATCH * PATCH) + value[:, None]
        matrix = tl.load(across, mask=real[:, None] & (column < width), other=0.0)
        mask = (row < tokens) & (column < width)
        place = row * width + column
        total = tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
        total += tl.load(position + place, mask=mask, other=0.0).to(tl.float32)
        own = element * tokens * width + place
        if ADD:
            before = added + tl.load(at) % places * place_stride
            total += tl.load(before + own, mask=mask, other=0.0).to(tl.float32)
        # The image in the network's type, as the network takes it; so few products that float32 costs nothing.
        patches = patches.to(matrix.dtype).to(tl.float32)
        total += tl.dot(patches, matrix.to(tl.float32), input_precision="ieee")
        tl.store(out + own, total, mask=mask)

    @triton.jit
    def _head(tokens, head, matrix, width, inverse, epsilon, column, head_part):
        """The products (VALUES,) of one token's modulated, normalised numbers with every row of the matrix."""
        real = column < width
        x = tl.load(tokens + column, mask=real, other=0.0).to(tl.float32)
        centred = tl.where(real, x - (tl.sum(x, 1) * inverse)[:, None], 0.0)
        scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) * inverse + epsilon)
        shift = tl.load(head + column, mask=real, other=0.0).to(tl.float32)
        factor = tl.load(head + head_part + column, mask=real, other=0.0).to(tl.float32)
        return tl.sum((centred * scale[:, None] * factor + shift) * matrix.to(tl.float32), 1)

    @prepared
    @triton.jit
    def _update_kernel(
        images, tokens, head, weight, bias, numbers, at, arrived, batch, count, width,
        head_step, head_row, head_part, number_step, guidance, epsilon, inverse,
        CHANNELS: tl.constexpr, CHANNELS_OUT: tl.constexpr, SIDE: tl.constexpr, PATCH: tl.constexpr,
        GUIDED: tl.constexpr, VALUES: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        token, element = tl.program_id(0), tl.program_id(1).to(tl.int64)
        column = tl.arange(0, WIDTH)[None]
        value = tl.arange(0, VALUES)
        channel, inside = value // (PATCH * PATCH), value % (PATCH * PATCH)
        real = channel < CHANNELS
        now = tl.load(at)
        line = inside * CHANNELS_OUT + channel  # of the matrix: row, column, channel
        matrix = tl.load(weight + line[:, None] * width + column, mask=real[:, None] & (column < width), other=0.0)
        shift = tl.load(bias + line, mask=real, other=0.0).to(tl.float32)
        head += now * head_step + element * head_row
        own = tokens + (element * count + token) * width
        output = _head(own, head, matrix, width, inverse, epsilon, column, head_part) + shift
        if GUIDED:
            own = tokens + ((element + batch) * count + token) * width
            free = _head(own, head + batch * head_row, matrix, width, inverse, epsilon, column, head_part) + shift
            output = free + guidance * (output - free)
        corner = token // (SIDE // PATCH) * (PATCH * SIDE) + token % (SIDE // PATCH) * PATCH
        place = element * (CHANNELS * SIDE * SIDE) + corner
        to = images + place + channel * (SIDE * SIDE) + inside // PATCH * SIDE + inside % PATCH
        before = tl.load(to, mask=real, other=0.0)
        keep, take = tl.load(numbers + now * number_step), tl.load(numbers + now * number_step + 1)
        tl.store(to, before * keep + output * take, mask=real)
        # The last program moves the step on: all the others have read it before they arrive here.
        if tl.atomic_add(arrived, 1) == tl.num_programs(0) * tl.num_programs(1) - 1:
            tl.store(arrived, 0)
            tl.store(at, now + 1)
