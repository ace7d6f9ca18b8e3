"""FlashAttention-2, made to pay off."""

from torch import Tensor

from workbench.attention.flash_attention_2.blocks import Block
from workbench.attention.inputs import Causal, KeyOrValue, Output, Query, Scale, Window, attention
from workbench.attention.standard import fused_cpu
from workbench.paper import kernel_or_cpu


@attention
def flash_attention_2(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: Causal = False,
    scale: Scale = None,
    window_left: Window = None,
    window_right: Window = None,
    block_rows: Block = None,
    block_columns: Block = None,
) -> Output:
    """The same function, made to pay off: a Triton kernel on CUDA, PyTorch's fused CPU attention elsewhere.

    Arguments and errors as ``reference``. Block sizes are ignored: the kernel takes the tiles that measured best.
    The kernel is deterministic, backward too. Memory beside input and output: 4 bytes a row (its logsumexp), and where
    queries are so few that the keys are split over the GPU, the partial results: up to 4000 rows or so.
    """
    visible = {"is_causal": is_causal, "window_left": window_left, "window_right": window_right}
    if query.is_cuda:
        from workbench_kernels.attention.flash_attention import flash_attention

        return flash_attention(query, key, value, scale=scale, **visible)[0]
    return fused_cpu(query, key, value, scale=scale, **visible)


def why_not(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
    """Why the fast version cannot run on these inputs, in sentences."""
    from workbench_kernels.attention import flash_attention

    return kernel_or_cpu(query, flash_attention.why_not, query.dtype, query.shape[-1])
