"""What hierarchical attention on a GPU is measured against: the balanced tree as batched matrix products."""

from torch import Tensor

from workbench.attention.hierarchical_self_attention.inputs import refuse_unless_on_one_tree
from workbench.attention.inputs import Scale, attention, repeat_heads


@attention(refuse=refuse_unless_on_one_tree)
def batched_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool = False,
    scale: Scale = None,
    tree: None = None,
    block: int = 16,
    levels: int = 2,
    self_attend: bool = True,
) -> Tensor:
    """A few PyTorch operations a level, the weights of all its families in memory; what ``fast`` is on a CPU."""
    from workbench_kernels.hierarchical.levels import hierarchical_levels

    key, value = repeat_heads(query, key, value)
    return hierarchical_levels(query, key, value, scale, block, levels, self_attend)


def why_not_products(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
    """Why they are not measured on these inputs, in sentences."""
    reasons = []
    if not query.is_cuda:
        reasons.append("On a CPU the batched products are what fast is; beside it they are measured on CUDA only.")
    if options.get("tree") is not None:
        reasons.append("The batched products know the balanced tree only.")
    return reasons
