"""The same function, made to pay off: kernels for the balanced tree, batched products for any other."""

from torch import Tensor

from workbench.attention.hierarchical_self_attention.inputs import (
    Block,
    Levels,
    SelfAttend,
    refuse_unless_on_one_tree,
)
from workbench.attention.hierarchical_self_attention.levels import attend_by_levels
from workbench.attention.inputs import KeyOrValue, Output, Query, Scale, attention, repeat_heads
from workbench.attention.trees import Tree
from workbench.paper import kernel_or_cpu


@attention(refuse=refuse_unless_on_one_tree)
def hierarchical_attention(
    query: Query,
    key: KeyOrValue,
    value: KeyOrValue,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    tree: Tree | None = None,
    block: Block = 16,
    levels: Levels = 2,
    self_attend: SelfAttend = True,
) -> Output:
    """The same function, made to pay off. Arguments and errors as ``reference``.

    The balanced tree: on CUDA one Triton kernel a level, which reads its rows once, and one that brings the levels
    together; for the backward pass it keeps the output, the nodes above the leaves, and 8 bytes a token where families
    are long. On a CPU it is batched matrix products with a backward pass of their own, which keeps the inputs only. Any
    other tree: all families of one depth and about one size at once, in float32 at least. Memory a head beside input
    and output: O(N d / b) in the kernels, O(N b) in batched products.

    On an H200 (bfloat16, 16 heads of 64, groups of 64) 65536 tokens take 0.25 ms, cuDNN's softmax attention 38 ms. Up
    to a few thousand tokens a call is bound by launching its kernels; as a CUDA graph it is the faster one from about
    640 tokens on.
    """
    key, value = repeat_heads(query, key, value)
    if tree is None:
        from workbench_kernels.hierarchical.attention import hierarchical_attention as kernel

        return kernel(query, key, value, scale=scale, block=block, levels=levels, self_attend=self_attend)
    return attend_by_levels(query, key, value, tree.levels(query.device), scale, self_attend)


def why_not(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
    """Why ``fast`` cannot run on these inputs, in sentences."""
    if options.get("tree") is not None:
        return []
    from workbench_kernels.hierarchical import attention

    return kernel_or_cpu(query, attention.why_not, query.dtype, query.shape[-1])
