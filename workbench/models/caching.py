"""How a sampler gets through one step of its walk: by computing the network, or from what it kept of earlier steps.

``STRATEGIES`` names the ways; each is a ``Strategy`` on a ``Stage``.
"""

from collections.abc import Mapping

from workbench.models.caching_gated import FirstBlockCache, GatedCache
from workbench.models.caching_scheduled import LastBlockCache, ModuleCache
from workbench.models.caching_strategy import Outcome, Strategy, plain
from workbench.models.stage import Stage

__all__ = ["ALSO", "STRATEGIES", "Outcome", "Stage", "Strategy", "plain"]

STRATEGIES: Mapping[str, type[Strategy]] = {
    "none": Strategy,
    "feature_reuse": ModuleCache,
    "taylorseer": ModuleCache,
    "last_block_forecast": LastBlockCache,
    "first_block_cache": FirstBlockCache,
    "confidence_gated_taylor": GatedCache,
}
ALSO = {"feature_reuse": {"order": 0, "weights": "taylor"}}  # options that a method fixes
