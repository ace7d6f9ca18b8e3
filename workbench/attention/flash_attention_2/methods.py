"""Reference, fast and opponents of exact attention, inputs brought together."""

from workbench.attention.flash_attention_2 import fast, reference
from workbench.attention.flash_attention_2.inputs import workspace
from workbench.attention.inputs import cost, example
from workbench.attention.standard import direct, flex_attention, only_backend, sdpa, why_not_flex, without_blocks
from workbench.paper import Attention, Baseline, Method

softmax_attention = Method(
    name="softmax_attention",
    title="Softmax attention",
    idea="Every query looks at every key; the whole score matrix is written out.",
    slot=Attention(),
    reference=direct,
    fast=sdpa,
    example=example,
    cost=cost,
    workspace=lambda implementation, *inputs, **options: workspace(
        "direct" if implementation == "reference" else "sdpa", *inputs, **options
    ),
    tolerance={"float64": 1e-12, "float32": 2e-6},
)

flash_attention_2 = Method(
    name="flash_attention_2",
    title="FlashAttention-2",
    idea="The same attention, block by block, so that the score matrix never leaves the chip.",
    slot=Attention(),
    reference=reference.flash_attention_2,
    fast=fast.flash_attention_2,
    why_not_fast=fast.why_not,
    example=example,
    cost=cost,
    workspace=workspace,
    tolerance={"float64": 1e-12, "float32": 2e-6},
    baselines={
        "softmax_attention": Baseline(lambda *inputs, **options: direct(*inputs, **without_blocks(options))),
        "sdpa_flash": only_backend("FLASH_ATTENTION", "SDPA (FlashAttention)"),
        "flex_attention": Baseline(flex_attention, why_not_flex, "FlexAttention"),
        "sdpa_cudnn": only_backend("CUDNN_ATTENTION", "SDPA (cuDNN)"),
    },
    ordinary="softmax_attention",
)
