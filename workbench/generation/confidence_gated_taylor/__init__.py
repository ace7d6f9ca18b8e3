r"""CG-Taylor: the first block is computed at every step, and says whether the last block's forecast can be trusted.

Xiaoliu Guan et al., *Forecasting When to Forecast: Accelerating Diffusion Models with Confidence-Gated Taylor*,
arXiv 2508.02240, 2025.

Idea. TaylorSeer forecasts the output of every module, so it keeps 2 L (m + 1) tensors; and it forecasts on a fixed
schedule, even where the forecast is bad. CG-Taylor (1) forecasts only what leaves the **last block**, one trajectory
instead of 2 L, and (2) always computes the **first block** and compares it with its own forecast:

.. math::
    e_s = \frac{\mathrm{mean}\,|\hat h^1(s) - h^1(s)|}{\mathrm{mean}\,|h^1(s)|}, \qquad
    \text{forecast } h^L \text{ if } e_s < \tau, \text{ compute blocks } 2..L \text{ otherwise}

Differences and forecasts are TaylorSeer's (``workbench.generation.taylorseer``). Two stacks, each with its own list of
refreshes: the first block's is refreshed only when the gate refused, though its output is known at every step. So the
gate judges a forecast of exactly the age that the last block's would have.

Notation:

========================  =======================  ==================================================================
paper                     here                     shape or range
========================  =======================  ==================================================================
:math:`h^1, h^L`          features[:, 0], [:, 1]   (batch, steps, tokens, width): what leaves the first, the last block
:math:`\tau`              threshold                0.008 (DiT-XL/2), 0.13 (FLUX), 0.24 (Wan): a model's own
:math:`w`                 warmup                   steps 0 to w are full
:math:`m_1, m_L`          order_first, order_last  3 and 1 for DiT-XL/2
========================  =======================  ==================================================================

The first and the last step are always full. ``scope`` "sample" is an addition to the paper: every sample of a batch is
judged by its own error, and only those that fail are computed.

Two baselines stand beside it: the last block's forecast without a gate, on a fixed schedule, and the first-block cache,
which asks whether the first block's *output* changed, not whether its *forecast* failed. A fast but straight trajectory
passes the one test and fails the other.
"""

from workbench.generation.confidence_gated_taylor.claims import CLAIMS, RECORDINGS, SAMPLING
from workbench.generation.confidence_gated_taylor.decisions import Decisions, decide, forecast_errors
from workbench.generation.confidence_gated_taylor.methods import (
    confidence_gated_taylor,
    first_block_cache,
    gate_error,
    last_block_forecast,
)
from workbench.generation.confidence_gated_taylor.reference import relative_l1
from workbench.generation.confidence_gated_taylor.strategies import FirstBlockCache, GatedCache, LastBlockCache
from workbench.paper import Paper, View

__all__ = [
    "PAPER",
    "Decisions",
    "FirstBlockCache",
    "GatedCache",
    "LastBlockCache",
    "confidence_gated_taylor",
    "decide",
    "first_block_cache",
    "forecast_errors",
    "gate_error",
    "last_block_forecast",
    "relative_l1",
]

GATE = {"a.caching": "taylorseer", "a.caching.interval": "4", "b.caching": "confidence_gated_taylor"}

PAPER = Paper(
    slug="confidence_gated_taylor",
    title="Forecasting When to Forecast: Accelerating Diffusion Models with Confidence-Gated Taylor",
    authors="Xiaoliu Guan, Lielin Jiang, Hanqi Chen, Xu Zhang, Jiaxing Yan, Guanzhong Wang, Yi Liu, Zetao Zhang, Yu Wu",
    arxiv="2508.02240",
    year=2025,
    chapter="generation",
    idea="The first block checks its own forecast at every step and decides whether the last block's may be used.",
    methods=(last_block_forecast, first_block_cache, confidence_gated_taylor, gate_error),
    claims=CLAIMS,
    recordings=RECORDINGS,
    sampling=SAMPLING,
    views=(
        View(page="generate", title="Let a gate decide", settings=GATE),
        View(page="generate", title="A bend in the path: another digit half way", settings={"switch": "on", **GATE}),
    ),
    take_when=(
        "How many steps may be skipped depends on the image, or only the last block's features fit in memory: the gate "
        "computes a step where its forecast fails, and keeps one trajectory. Digits whose label changes on the way are "
        "12 dB nearer to those without a cache than on a fixed plan with as many full steps."
    ),
    leave_when=(
        "A fixed plan is known to be good enough: undisturbed digits are 1 dB further away with the gate, and asking "
        "it costs the network's first block at every step. With 18 of 50 steps full DiT-XL/2 is 2.2 times as fast with "
        "the gate, 2.7 times on a fixed plan (H200, two samples, bfloat16). Few steps, where neighbouring ones differ "
        "too much for any forecast."
    ),
)
