"""The block as a method, and as what a model may have in the place of its mixer."""

from workbench.feedforward.activator import fast, reference
from workbench.feedforward.activator.inputs import (
    block_cost,
    block_example,
    block_misfits,
    block_workspace,
)
from workbench.feedforward.activator.layers import ActivatorBlock
from workbench.feedforward.activator.methods import normalised_gate
from workbench.feedforward.compiled import compiled_on_cuda
from workbench.paper import Block, Method, Mixer


def channel_block(width: int, hidden: int, *, tokens: int, **options: object) -> ActivatorBlock:
    """The paper's block: the same for any number of tokens, since none meets another."""
    return ActivatorBlock(width, hidden, **options)


BLOCKS = (
    Block(
        name="activator",
        title="Activator",
        phrase="a gated unit; tokens do not meet (Activator)",
        method=normalised_gate,
        make=channel_block,
        closing_norm=False,  # as in the paper
    ),
    Block(
        name="activator_spatial",
        title="Activator, spatial",
        phrase="a gated unit with a learned matrix along the tokens (ours)",
        method=normalised_gate,
        make=ActivatorBlock,
        closing_norm=False,
    ),
)

activator_block = Method(
    name="activator_block",
    title="Activator block",
    idea="A token passes through a normalised gated unit and never meets another token.",
    slot=Mixer(BLOCKS),
    reference=reference.activator_block,
    fast=fast.activator_block,
    why_not_fast=fast.why_not_block,
    baselines={"torch_compile": compiled_on_cuda(reference.activator_block)},
    example=block_example,
    misfits=block_misfits,
    cost=block_cost,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    workspace=block_workspace,
)
