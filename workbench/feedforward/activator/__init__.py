r"""Activator: a vision transformer whose attention is replaced by a gated linear unit.

Abdullah Nazhat Abdullah and Tarkan Aydin, *Activator: GLU Activations as the Core Functions of a Vision Transformer*,
arXiv 2405.15953, 2024.

Idea. Attention does two things: it fetches values by keys, and it gates what comes through. The paper gives both to a
gated linear unit (GLU) whose two branches are normalised. In **variant A** it stands where attention stood, before the
usual feed-forward block; in **variant B** that block is gone, too.

What a reader must know: in the released code *every operation acts on one patch at a time*. Patches meet only in the
mean before the classifier, so the network sees a bag of patches: shuffle an image's patches, and nothing changes. Here
it is the far end of the axis "how tokens are mixed": not at all.

The gating unit of one token :math:`x \in \mathbb R^d` is

.. math::
    z_1 &= x W_1 + b_1, \quad z_2 = x W_2 + b_2 \qquad (1) \\
    u &= \mathrm{LN}(\mathrm{GELU}(z_1)), \quad v = \mathrm{LN}(z_2) \qquad (2) \\
    \mathrm{AGU}(x) &= (u \odot v) W_3 + b_3 \qquad (3)

with *one and the same* :math:`\mathrm{LN}` (one weight :math:`\gamma`, one bias :math:`\beta`) for u and v. The norm
comes after GELU on the gate's side, and v has no activation. A block is

.. math::
    x \leftarrow x + \mathrm{AGU}(\mathrm{LN}_d(x)) \qquad (4), \qquad
    x \leftarrow x + \mathrm{FFN}(\mathrm{LN}_d(x)) \qquad (5)

variant B without (5), variant A with it, and again one :math:`\mathrm{LN}_d` for both. The paper numbers no equations;
these numbers are ours.

Notation:

==================  ==================  =============================================================================
paper               here                shape
==================  ==================  =============================================================================
:math:`x`           x                   (batch, tokens, d); d = ``width``
:math:`z_1, z_2`    the halves of       (..., 2 f), gate first; f = ``hidden``
                    the gate's input
:math:`W_1, W_2`    up_weight           (2 f, d), the two stacked: one matrix product instead of two
:math:`\gamma`      weight              (f,), shared by both branches
:math:`\beta`       bias                (f,), shared by both branches
:math:`W_3`         down_weight         (d, f)
==================  ==================  =============================================================================

What makes it fast: nothing depends on another token, so everything is rows. One product gives z_1 and z_2, and (2) with
the product of (3) is one pass over them: read 2 f numbers of a row, write f. Plain PyTorch passes over f numbers about
14 times.
"""

from workbench.feedforward.activator.blocks import activator_block
from workbench.feedforward.activator.claims import CLAIMS, RECORDINGS
from workbench.feedforward.activator.inputs import macs
from workbench.feedforward.activator.layers import ActivatorBlock, GatingUnit, NormalisedGate
from workbench.feedforward.activator.methods import attention_block, normalised_gate
from workbench.feedforward.activator.reference import activate, branches, layer_norm
from workbench.paper import Paper

__all__ = [
    "PAPER",
    "ActivatorBlock",
    "GatingUnit",
    "NormalisedGate",
    "activate",
    "activator_block",
    "attention_block",
    "branches",
    "layer_norm",
    "macs",
    "normalised_gate",
]

PAPER = Paper(
    slug="activator",
    title="Activator: GLU Activations as the Core Functions of a Vision Transformer",
    authors="Abdullah Nazhat Abdullah, Tarkan Aydin",
    arxiv="2405.15953",
    year=2024,
    chapter="feedforward",
    idea="A normalised gated unit takes the place of attention, and patches no longer meet.",
    methods=(normalised_gate, activator_block, attention_block),
    layers={"normalised_gate": lambda hidden, order=3, **options: NormalisedGate(hidden, **options)},
    claims=CLAIMS,
    recordings=RECORDINGS,
    take_when=(
        "Classification of images in which no patch has to find another one, at many patches: work is linear in "
        "their number. The normalised gate alone is a drop-in where a GEGLU and a layer norm stand beside each "
        "other."
    ),
    leave_when="Tokens have to meet: language, or anything that compares two places. Attention does that.",
)
