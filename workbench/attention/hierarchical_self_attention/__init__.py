r"""Hierarchical self-attention: the closest to softmax attention that treats all tokens of a sibling group alike.

Amizadeh, Abdali, Li, Koishida, *Hierarchical Self-Attention: Generalizing Neural Attention Mechanics to Multi-Scale
Problems*, arXiv 2509.15448.

Idea. The tokens are the leaves of a tree (words in sentences in paragraphs, patches in images in pages). Whoever looks
from one branch into a *sibling* branch gives all leaves there the same weight. Among all row-stochastic attention maps
with that property there is one that is closest to softmax attention, and it can be written down: go up the tree giving
every node an energy (a hierarchical log-partition function), then go down splitting every node's unit of attention
between "stay inside" and "go to sibling C". Only means of queries, keys and values per node are needed, so N tokens
cost O(N b) with families of b, not O(N^2).

Notation, for one batch element and one head (Sec. 3):

==============================  ======================  ======================================================
paper                           here                    shape
==============================  ======================  ======================================================
:math:`q_i, k_i, v_i`           query, key, value       (N, d)
:math:`|A|`                     count                   leaves below node A
:math:`\rho_q(A), \rho_k(A)`    means over the leaves   (d,)
:math:`-\psi_{A \to B}`         scores                  :math:`\rho_q(A) \cdot \rho_k(B) / \sqrt d`
:math:`-\phi(A)`                inside                  log-partition function of A; of a leaf: its own score
:math:`\mu(A)`                  kept                    share of A's attention that stays inside A
:math:`|C|\,\delta(B, C)`       weights                 share of B's attention that goes to sibling C
==============================  ======================  ======================================================

With layer-normalised queries and keys the paper's squared distances are these scores up to a constant that cancels.
For other queries and keys (a pretrained model's) the theorem holds for the dot products used here. Positions are
expected inside query and key; the paper's separate embedding of sibling positions is not part of this function.

It is for encoders, as in the paper. A mask alone would not make it causal: what a group keeps is one number for all its
tokens, made of all their queries and keys, so the first of them would know of the last.

What it costs, on the balanced tree with families of g = ``block``: two levels take 4 N g d + 4 (N / g)^2 d FLOPs a
head. That is O(N^(4/3) d) when g grows as (2 N)^(1/3) (``best_block``); when g stays it is in the end quadratic, with
1/g^2 of softmax's constant. With g fixed and as many levels as it takes (``enough_levels``) it is O(N g d). One level
is softmax attention.
"""

from workbench.attention.hierarchical_self_attention.balanced import best_block, enough_levels
from workbench.attention.hierarchical_self_attention.claims import CLAIMS, RECORDINGS
from workbench.attention.hierarchical_self_attention.methods import hierarchical_attention
from workbench.attention.hierarchical_self_attention.optimum import energy, kl_gap
from workbench.attention.hierarchical_self_attention.reference import means, upward
from workbench.attention.trees import Level, Tree
from workbench.paper import Paper, View
from workbench.tasks import sentences

__all__ = [
    "PAPER",
    "Level",
    "Tree",
    "best_block",
    "energy",
    "enough_levels",
    "hierarchical_attention",
    "kl_gap",
    "means",
    "upward",
]

PAPER = Paper(
    slug="hierarchical_self_attention",
    title="Hierarchical Self-Attention: Generalizing Neural Attention Mechanics to Multi-Scale Problems",
    authors="Saeed Amizadeh, Sara Abdali, Yinheng Li, Kazuhito Koishida",
    arxiv="2509.15448",
    year=2025,
    chapter="attention",
    idea="The closest to softmax attention that gives all tokens of a neighbouring group one shared weight.",
    methods=(hierarchical_attention,),
    claims=CLAIMS,
    recordings=RECORDINGS,
    views=(
        View(
            page="inspect",
            title="Phrases as a tree",
            settings={
                "b.attention.window_left": "None",
                "b.attention.window_right": "None",
                "b.hierarchy": "hierarchical_attention",
                "text": sentences.EXAMPLES[8],
                "layer": "4",
            },
        ),
    ),
    take_when=(
        "Sequences are long and have groups by nature, such as words in phrases or patches in an image, and far "
        "tokens matter only as a group: work and memory then grow far less than quadratically. As a CUDA graph it is "
        "ahead of cuDNN's exact attention from about 640 tokens on (H200, bfloat16, 16 heads of 64)."
    ),
    leave_when=(
        "Sequences are short enough for exact attention, single far tokens matter, or a model must not see its "
        "future: the method is not causal."
    ),
)
