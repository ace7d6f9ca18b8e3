"""Standard attention, and what a PyTorch user takes for it today: the direct formula, SDPA and FlexAttention."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from workbench.attention.inputs import (
    Causal,
    KeyOrValue,
    Output,
    Query,
    Scale,
    Window,
    allowed,
    attention,
    repeat_heads,
    scores_of,
)
from workbench.paper import Baseline

ROWS_AT_A_TIME = 256
FEWEST_KEYS = 16  # with fewer, PyTorch's CPU kernel drops a NaN from the maximum and answers it with zeros


@attention
def direct(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: Causal = False,
    scale: Scale = None,
    window_left: Window = None,
    window_right: Window = None,
) -> Output:
    """Standard attention (Sec. 2.2): S = scale Q K^T, P = softmax(S), O = P V, with S and P written out.

    Arguments as ``reference``. Memory O(N M) a head.
    """
    key, value = repeat_heads(query, key, value)
    scores = scores_of(query, key, scale)
    if is_causal or window_left is not None or window_right is not None:
        visible = {"is_causal": is_causal, "window_left": window_left, "window_right": window_right}
        mask = allowed(query.shape[-2], key.shape[-2], **visible, device=query.device)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        weights = weights.masked_fill(~mask.any(1)[:, None], 0.0)  # a row that sees nothing: zeros, not NaN
    else:
        weights = scores.softmax(-1)
    return weights.to(value.dtype) @ value


@attention
def sdpa(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: Causal = False,
    scale: Scale = None,
    window_left: Window = None,
    window_right: Window = None,
) -> Output:
    """``torch.nn.functional.scaled_dot_product_attention`` with our masks: what a PyTorch user takes today.

    On a GPU a causal call with as many queries as keys goes to PyTorch's fused kernels; windows and unequal lengths
    need a mask, which takes N M bytes. Arguments as ``reference``.
    """
    visible = {"is_causal": is_causal, "window_left": window_left, "window_right": window_right}
    if query.is_cpu:
        return fused_cpu(query, key, value, scale=scale, **visible)
    queries, keys = query.shape[-2], key.shape[-2]
    attend = torch.nn.functional.scaled_dot_product_attention
    grouped = {"scale": scale, "enable_gqa": query.shape[1] != key.shape[1]}
    windowed = window_left is not None or (window_right is not None and not is_causal)
    if not windowed and (queries == keys or not is_causal):
        return attend(query, key, value, is_causal=is_causal, **grouped)
    mask = allowed(queries, keys, **visible, device=query.device)
    return attend(query, key, value, mask, **grouped).masked_fill(~mask.any(1)[:, None], 0.0)


def only_backend(name: str, title: str) -> Baseline:
    """SDPA held to one backend, so that PyTorch cannot silently take another."""

    def run(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(getattr(SDPBackend, name)):
            return sdpa(query, key, value, **without_blocks(options))

    def why_not(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
        reasons = []
        if not query.is_cuda:
            reasons.append(f"The {name} backend of scaled_dot_product_attention is measured on CUDA only.")
        if query.dtype not in (torch.float16, torch.bfloat16):
            reasons.append(f"The {name} backend takes float16 and bfloat16, not {str(query.dtype)[6:]}.")
        if name == "CUDNN_ATTENTION" and query.shape[-1] % 8:
            reasons.append(f"cuDNN takes a head_dim that is a multiple of 8, not {query.shape[-1]}.")
        windowed = options.get("window_left") is not None or options.get("window_right") is not None
        if windowed or (options.get("is_causal") and query.shape[-2] != key.shape[-2]):
            reasons.append(f"The {name} backend knows no window and no bottom-right alignment.")
        return reasons

    return Baseline(run, why_not, title)


@attention
def flex_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: Scale = None, **options: object) -> Tensor:
    """PyTorch's FlexAttention, compiled, with the same masks. Arguments as ``reference``."""
    from torch.nn.attention.flex_attention import create_block_mask

    queries, keys = query.shape[-2], key.shape[-2]
    left, right = options.get("window_left"), options.get("window_right")
    right = 0 if options.get("is_causal") else right
    mask = None
    if left is not None or right is not None:
        mask = _flex_mask(create_block_mask, queries, keys, left, right, query.device)
    # Compiled anew for every shape, as a user with one shape gets it, not once for all shapes.
    with torch._dynamo.config.patch(recompile_limit=64):
        return _compiled_flex()(
            query, key, value, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
        )


@functools.cache
def _flex_mask(create: Callable, queries: int, keys: int, left: int | None, right: int | None, device: object):
    def visible(batch, head, row, column):
        row = row + (keys - queries)
        seen = column >= 0
        if right is not None:
            seen = seen & (column <= row + right)
        if left is not None:
            seen = seen & (column >= row - left)
        return seen

    return create(visible, None, None, queries, keys, device=device)


@functools.cache
def _compiled_flex() -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def why_not_flex(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
    if not query.is_cuda:
        return ["FlexAttention is measured on CUDA only: on a CPU its backward is missing."]
    if query.shape[-1] < 16:
        return [f"FlexAttention takes a head_dim of at least 16, not {query.shape[-1]}."]
    return []


def fused_cpu(query: Tensor, key: Tensor, value: Tensor, *, scale: float, **visible: bool | int | None) -> Tensor:
    """PyTorch's own CPU kernel is FlashAttention-2 already. It knows no window and aligns causal masks top-left, so
    those cases go row block by row block, each with the keys that it can see at all."""
    if key.shape[-2] < FEWEST_KEYS:  # float16 ends before products of large numbers do, the gradients' ones too
        wide = torch.float32 if query.dtype == torch.float16 else query.dtype
        query_, key_, value_ = query.to(wide), key.to(wide), value.to(wide)
        return direct(query_, key_, value_, scale=scale, **visible).to(query.dtype)
    attend = torch.nn.functional.scaled_dot_product_attention
    grouped = {"scale": scale, "enable_gqa": query.shape[1] != key.shape[1]}
    queries, keys = query.shape[-2], key.shape[-2]
    left, right = visible["window_left"], 0 if visible["is_causal"] else visible["window_right"]
    if left is None and (right is None or (visible["is_causal"] and queries == keys)):
        return attend(query, key, value, is_causal=visible["is_causal"], **grouped)

    outputs = []
    for start in range(0, queries, ROWS_AT_A_TIME):
        rows = slice(start, min(start + ROWS_AT_A_TIME, queries))
        mask = allowed(queries, keys, **visible, rows=rows, device=query.device)
        first = 0 if left is None else rows.start + keys - queries - left
        last = keys if right is None else rows.stop + keys - queries + right
        columns = slice(max(0, min(first, keys - FEWEST_KEYS)), min(keys, max(last, FEWEST_KEYS)))
        output = attend(query[..., rows, :], key[..., columns, :], value[..., columns, :], mask[:, columns], **grouped)
        outputs.append(output.masked_fill(~mask.any(1)[:, None], 0.0))
    return torch.cat(outputs, dim=-2)


def without_blocks(options: dict) -> dict:
    return {name: value for name, value in options.items() if not name.startswith("block_")}
