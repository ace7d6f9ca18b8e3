"""The normalised gate as a method, and the block of a vision transformer beside it."""

from torch import Tensor, nn

from workbench.feedforward.activator import fast, reference
from workbench.feedforward.activator.inputs import (
    block_misfits,
    check_gate,
    gate_cost,
    gate_example,
    gate_misfits,
    gate_workspace,
)
from workbench.feedforward.activator.vit import (
    attention_block_cost,
    attention_block_example,
    attention_block_fast,
    attention_block_reference,
    attention_block_workspace,
)
from workbench.feedforward.compiled import compiled, compiled_on_cuda
from workbench.paper import Activation, Baseline, Method


def eager_gate(x: Tensor, weight: Tensor, bias: Tensor, *, activation: str = "gelu", eps: float = 1e-5) -> Tensor:
    """PyTorch's own calls, as the official code makes them: an activation, two layer norms, a product."""
    check_gate(x, weight, bias)
    gate, value = x.chunk(2, dim=-1)
    if activation != "identity":
        gate = getattr(nn.functional, activation)(gate)
    u = nn.functional.layer_norm(gate, weight.shape, weight, bias, eps)
    return u * nn.functional.layer_norm(value, weight.shape, weight, bias, eps)


normalised_gate = Method(
    name="normalised_gate",
    title="Normalised GEGLU",
    idea="GELU of one half gates the other half, and both go through the same layer norm.",
    slot=Activation(branches=2),
    reference=reference.normalised_gate,
    fast=fast.normalised_gate,
    why_not_fast=fast.why_not,
    baselines={
        "eager": Baseline(eager_gate),
        "torch_compile": compiled(reference.normalised_gate),
    },
    example=gate_example,
    misfits=gate_misfits,
    cost=gate_cost,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    workspace=gate_workspace,
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
    misfits=block_misfits,
    cost=attention_block_cost,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    workspace=attention_block_workspace,
)
