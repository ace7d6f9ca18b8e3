r"""FlashAttention-2: exact softmax attention that never writes the score matrix.

Tri Dao, *FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning*, arXiv 2307.08691.

Idea. Cut the queries into blocks of :math:`B_r` rows and the keys into blocks of :math:`B_c` columns. For one block of
rows walk over the blocks of columns and keep three things per row: the running maximum :math:`m` of the scores, the
running sum of exponentials :math:`\ell`, and an output :math:`\tilde O` that is *not yet* divided by :math:`\ell`.
Whenever the maximum grows, what was summed so far is corrected by one factor. Scores live on the chip for one block
only, so memory is linear in the number of tokens.

Notation, for one batch element and one head:

====================  ======================  ==============================================================
paper                 here                    shape
====================  ======================  ==============================================================
:math:`Q, K, V`       query, key, value       (N, d), (M, d), (M, d)
:math:`S`             scores                  (B_r, B_c), times the softmax scale :math:`1/\sqrt d`
:math:`m, \ell`       maximum, normaliser     (B_r,)
:math:`\tilde O`      accumulator             (B_r, d)
:math:`L = m+\log\ell` logsumexp              (N,)
====================  ======================  ==============================================================

The printed Algorithm 1 rescales with an inverse, :math:`\mathrm{diag}(e^{m^{(j-1)}-m^{(j)}})^{-1}`, and leaves the
softmax scale out. What is written here is what is mathematically right: no inverse, and the scale applied once.
"""

from workbench.attention.flash_attention_2.blocks import DEFAULT_BLOCK, block_kinds
from workbench.attention.flash_attention_2.claims import CLAIMS, RECORDINGS
from workbench.attention.flash_attention_2.methods import flash_attention_2, softmax_attention
from workbench.attention.flash_attention_2.reference import backward, finish, forward, online_softmax_step
from workbench.attention.flash_attention_2.walk import Operations, Step, Trace, trace, wave_efficiency
from workbench.paper import Paper, View

__all__ = [
    "DEFAULT_BLOCK",
    "PAPER",
    "Operations",
    "Step",
    "Trace",
    "backward",
    "block_kinds",
    "finish",
    "flash_attention_2",
    "forward",
    "online_softmax_step",
    "softmax_attention",
    "trace",
    "wave_efficiency",
]

PAPER = Paper(
    slug="flash_attention_2",
    title="FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning",
    authors="Tri Dao",
    arxiv="2307.08691",
    year=2023,
    chapter="attention",
    idea="Exact attention in linear memory, arranged so that a GPU spends its time on matrix products.",
    methods=(softmax_attention, flash_attention_2),
    claims=CLAIMS,
    views=(
        View(
            page="inspect",
            title="What does “it” stand for?",
            settings={
                "b.attention": "flash_attention_2",
                "b.attention.window_left": "4",
                "b.attention.window_right": "4",
            },
            first=True,
        ),
        View(
            page="inspect",
            title="See only two neighbours",
            settings={"b.attention.window_left": "2", "b.attention.window_right": "2"},
        ),
        View(
            page="inspect",
            title="Look only backwards",
            settings={
                "b.attention.window_left": "None",
                "b.attention.window_right": "None",
                "b.attention.is_causal": "True",
            },
        ),
    ),
    recordings=RECORDINGS,
    take_when=(
        "Attention has to be exact and sequences are long, or memory is short: in training above all, and "
        "wherever windows or a causal mask with fewer queries than keys keep PyTorch's own kernels from being "
        "taken."
    ),
    leave_when=(
        "Sequences are so short that a call is mostly launching, or nothing but plain or causal attention is "
        "wanted on a GPU that cuDNN serves well: scaled_dot_product_attention is one import less. On a CPU it is "
        "PyTorch's kernel in any case."
    ),
)
