r"""TaylorSeer: a diffusion transformer's features are forecast where they need not be computed.

Jiacheng Liu et al., *From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers*, arXiv 2503.06923,
ICCV 2025.

Idea. A sampler calls its network at every step, and the output F of each attention and feed-forward module moves along
a smooth curve meanwhile. Older caches compute F at every N-th step and *reuse* it in between; the error grows with its
age. TaylorSeer keeps, beside the last F, its finite differences over the step index, and *forecasts*:

.. math::
    D^{(0)}_j = F(s_j), \qquad D^{(i+1)}_j = \frac{D^{(i)}_j - D^{(i)}_{j-1}}{s_j - s_{j-1}}, \qquad
    \hat F(s) = \sum_{i=0}^{m} \frac{(s - s_j)^i}{i!} D^{(i)}_j

No training, no matrix product; order m = 0 is reuse.

Notation:

==========================  ================  ======================================================================
paper                       here              shape or range
==========================  ================  ======================================================================
:math:`F`                   features          (batch, steps, tokens, width): a module's output **before** its gate
:math:`N, m`                interval, order   whole numbers; N = 1 computes everything
:math:`e`                   first_full        steps at the start that are all computed
:math:`D^{(0)}..D^{(m)}`    derivatives       (..., order + 1, tokens, width)
:math:`x = s - s_j`         distance          steps since the last full one
:math:`\alpha`              gates             (batch, modules, width), from the **current** time
==========================  ================  ======================================================================

Steps are counted as the sampler visits them, from 0 up. The official code counts down; distances and differences change
sign together, so the forecasts are the same.

What makes it fast: on a skipped step no module sees what another one did, so all 2 L forecasts, their gates and the
residual stream are *one* sum, :math:`h + \sum_k \alpha_k \odot \sum_i w_i D^{(i)}_k`: one pass over the cache. Up to
the next full step nothing in it changes but gates and weights, which are known beforehand. So a sampler goes over the
cache once an interval. At the end of a full step one kernel refreshes all differences and, while they are in registers,
adds up the sum of each coming step (``workbench_kernels.forecast.ahead``, with the bytes that this takes). A skipped
step is then the tokens of its image, plus a sum, and the head. On an H200 runs of DiT-XL/2 with order 1 get 94 % (every
third step full) and 93 % (every fifth) of what the skipped steps allow; ``recorded/sampling`` has all of them.
"""

from workbench.generation.forecasting import (
    DerivativeCache,
    factors_by_age,
    forecast_weights,
    full_count,
    full_steps,
    newton_weights,
    refreshed,
    reuse_weights,
    schedule,
    seen_tables,
    tables,
    taylor_weights,
)
from workbench.generation.taylorseer.claims import CLAIMS, RECORDINGS, SAMPLING
from workbench.generation.taylorseer.methods import (
    feature_reuse,
    forecast_modules,
    refresh_derivatives,
    taylorseer,
)
from workbench.generation.taylorseer.strategies import ModuleCache, ReuseCache, Scheduled
from workbench.generation.taylorseer.studies import STUDIES, by_interval
from workbench.paper import Paper, View

__all__ = [
    "PAPER",
    "DerivativeCache",
    "ModuleCache",
    "ReuseCache",
    "Scheduled",
    "by_interval",
    "factors_by_age",
    "feature_reuse",
    "forecast_modules",
    "forecast_weights",
    "full_count",
    "full_steps",
    "newton_weights",
    "refresh_derivatives",
    "refreshed",
    "reuse_weights",
    "schedule",
    "seen_tables",
    "tables",
    "taylor_weights",
    "taylorseer",
]

PAPER = Paper(
    slug="taylorseer",
    title="From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers",
    authors="Jiacheng Liu, Chang Zou, Yuanhuiyi Lyu, Junjie Chen, Linfeng Zhang",
    arxiv="2503.06923",
    year=2025,
    chapter="generation",
    idea="Skipped steps of a diffusion transformer are forecast from the finite differences of the computed ones.",
    methods=(feature_reuse, taylorseer, forecast_modules, refresh_derivatives),
    studies=STUDIES,
    claims=CLAIMS,
    recordings=RECORDINGS,
    sampling=SAMPLING,
    views=(
        View(
            page="generate",
            title="One step in five, the rest forecast",
            settings={"b.caching": "taylorseer", "b.caching.interval": "5"},
            first=True,
        ),
        View(
            page="generate",
            title="Reuse against forecast",
            settings={"a.caching": "feature_reuse", "a.caching.interval": "8", "b.caching.interval": "8"},
        ),
        View(page="generate", title="Too lazy: one step in twelve", settings={"b.caching.interval": "12"}),
    ),
    take_when=(
        "A diffusion transformer draws in many steps and waiting matters more than the last digit. With first order "
        "and every third of 50 steps computed DiT-XL/2 is 2.6 times as fast, with every fifth 4.2 times (H200, two "
        "samples, bfloat16); digits with every fifth computed are 13 dB nearer to those without a cache than those of "
        "a sampler that takes as few steps."
    ),
    leave_when=(
        "Few steps, where neighbouring ones differ too much to forecast; memory that cannot hold the features of "
        "all modules; or images that have to be those of the uncached sampler."
    ),
)
