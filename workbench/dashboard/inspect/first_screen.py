"""What a visitor sees first, computed before anybody came.

``python -m workbench.dashboard.inspect.first_screen`` makes it anew.

Times and memory are not in it: those belong to the machine that serves, and are measured there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workbench.dashboard.inspect import work as inspecting
from workbench.dashboard.inspect.seeing import Maps, knobs_of
from workbench.dashboard.inspect.work import Request
from workbench.dashboard.shell import toggles, views
from workbench.dashboard.shell.toggles import NONE, Configuration
from workbench.tasks.sentences import EXAMPLES

FILE = Path(__file__).parent / "first_screen.npz"
LAYER, HEAD = 3, 1  # where "it" looks at "animal"
OFF = {"hierarchy": NONE, "doubly_stochastic": NONE}
PLAIN = Configuration({"attention": "softmax_attention", **OFF, "activation": "gelu"})
SIDES = {"a": PLAIN, "b": toggles.decode("b", PLAIN, knobs_of, views.first("inspect"))[0]}
REQUEST = Request(EXAMPLES[0], (EXAMPLES[1], *EXAMPLES[3:6]), SIDES)


def load() -> dict[str, Maps]:
    """What the job for this request would find first: the maps of both sides."""
    with np.load(FILE) as kept:
        tokens = kept["tokens"].tolist()
        return {
            side: Maps(side, tokens, kept[f"{side}_maps"].astype(np.float32), kept[f"{side}_vector"]) for side in SIDES
        }


def compute() -> dict[str, np.ndarray]:
    """The arrays of the file, computed here and now on the CPU."""
    kept: dict[str, np.ndarray] = {}
    for part in inspecting.compute(REQUEST, "cpu")(lambda: False):
        if isinstance(part, Maps):
            kept |= {
                "tokens": np.array(part.tokens),
                f"{part.side}_maps": part.maps,
                f"{part.side}_vector": part.vector,
            }
    return kept


if __name__ == "__main__":
    # Half precision is plenty for colours, and halves what every visitor's first screen reads.
    arrays = compute()
    np.savez_compressed(
        FILE, **{name: a.astype(np.float16) if name.endswith("_maps") else a for name, a in arrays.items()}
    )
    print(f"{FILE.name}: {FILE.stat().st_size / 1024:.0f} KiB")
