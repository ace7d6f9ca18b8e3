"""Reference, fast and opponents of the paper's attentions, inputs brought together."""

from workbench.attention.inputs import cost, example
from workbench.attention.quantum_doubly_stochastic import fast, reference
from workbench.attention.quantum_doubly_stochastic.circuit_inputs import (
    LARGEST_EXAMPLE,
    qontot_cost,
    qontot_example,
    qontot_workspace,
    why_not_qontot,
)
from workbench.attention.quantum_doubly_stochastic.inputs import (
    norm_softmax_workspace,
    qr_cost,
    qr_example,
    qr_workspace,
    sinkhorn_workspace,
    why_not_sinkhorn,
)
from workbench.attention.quantum_doubly_stochastic.opponents import compiled, qr_one_by_one
from workbench.paper import Attention, Baseline, Method

norm_softmax_attention = Method(
    name="norm_softmax_attention",
    title="NormSoftmax attention",
    idea="Softmax with the spread of the scores as its temperature.",
    slot=Attention(offered=False),
    reference=reference.norm_softmax_attention,
    fast=fast.norm_softmax_attention,
    example=example,
    cost=cost,
    workspace=norm_softmax_workspace,
    tolerance={"float64": 1e-11, "float32": 1e-5},
)

sinkhorn_attention = Method(
    name="sinkhorn_attention",
    title="Sinkhorn attention",
    idea="Rows and columns of the map are normalised in turn, until both sum to one.",
    slot=Attention(family="doubly stochastic"),
    reference=reference.sinkhorn_attention,
    fast=fast.sinkhorn_attention,
    why_not_fast=why_not_sinkhorn,
    example=example,
    cost=cost,
    workspace=sinkhorn_workspace,
    tolerance={"float64": 1e-11, "float32": 1e-5},
    baselines={
        "torch_compile": compiled(reference.sinkhorn_attention),
        "torch_compile_training": compiled(reference.sinkhorn_attention, training=True),
    },
)

qr_attention = Method(
    name="qr_attention",
    title="QR attention",
    idea="Squares of an orthogonal matrix are doubly stochastic; a QR decomposition of the scores gives one.",
    slot=Attention(family="doubly stochastic"),
    reference=reference.qr_attention,
    fast=fast.qr_attention,
    example=qr_example,
    cost=qr_cost,
    workspace=lambda implementation, *inputs, **options: qr_workspace(*inputs),
    tolerance={"float64": 1e-9, "float32": 1e-3},
    baselines={"one_by_one": Baseline(qr_one_by_one)},
)

qontot_attention = Method(
    name="qontot_attention",
    title="QontOT attention",
    idea="What a quantum circuit measures whose angles are the scores, simulated exactly.",
    slot=Attention(family="doubly stochastic"),
    reference=reference.qontot_attention,
    fast=fast.qontot_attention,
    why_not_fast=why_not_qontot,
    example=qontot_example,
    cost=qontot_cost,
    workspace=qontot_workspace,
    tolerance={"float64": 1e-10, "float32": 1e-4},
    largest=LARGEST_EXAMPLE,
)
