"""Reference, fast and opponents of hierarchical attention, inputs brought together."""

from workbench.attention.hierarchical_self_attention import fast, reference
from workbench.attention.hierarchical_self_attention.inputs import cost, workspace
from workbench.attention.hierarchical_self_attention.products import batched_products, why_not_products
from workbench.attention.inputs import example
from workbench.paper import Attention, Baseline, Method

hierarchical_attention = Method(
    name="hierarchical_attention",
    title="Hierarchical self-attention",
    idea="Tokens in groups: full attention inside a group, one shared weight for each group elsewhere.",
    slot=Attention(family="hierarchical"),
    reference=reference.hierarchical_attention,
    fast=fast.hierarchical_attention,
    why_not_fast=fast.why_not,
    example=example,
    cost=cost,
    workspace=workspace,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    baselines={"batched_products": Baseline(batched_products, why_not_products)},
)
