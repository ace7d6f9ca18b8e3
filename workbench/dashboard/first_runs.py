"""What a visitor sees first on the pages Train and Generate, computed before anybody came.

``python -m workbench.dashboard.first_runs`` makes it anew. Times are not in it: those belong to the machine that
serves, and are measured there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from workbench.dashboard.generate import work as generating
from workbench.dashboard.generate.work import Judgement, Setting, Walk
from workbench.dashboard.shell import toggles, views
from workbench.dashboard.train import racers
from workbench.dashboard.train import work as racing
from workbench.dashboard.train.work import Point, Result, Start

RACE_FILE = Path(__file__).parent / "first_race.json"
GENERATION_FILE = Path(__file__).parent / "first_generation.npz"
RACE = racers.Request("digits", racers.start("digits"))

GENERATION = generating.Request(
    Setting(),
    {"a": generating.OFF, "b": toggles.decode("b", generating.OFF, generating.knobs_of, views.first("generate"))[0]},
)


def race() -> Result:
    """What the job for this request would bring, without times."""
    kept = json.loads(RACE_FILE.read_text(encoding="utf-8"))
    points = [Point(side, step, loss, score, 0.0) for side, step, loss, score in kept["points"]]
    return Result(Start(kept["parameters"], ""), tuple(points))


def compute_race() -> dict:
    """The content of the file, computed here and now on the CPU."""
    *_, result = (part for part in racing.compute(RACE, "cpu")(lambda: False) if isinstance(part, Result))
    points = [[each.side, each.step, round(each.loss, 4), round(each.score, 4)] for each in result.points]
    return {"parameters": dict(result.start.parameters), "points": points}


def generation() -> Iterator[Walk | Judgement]:
    """What the job for this request would bring, without times."""
    with np.load(GENERATION_FILE) as kept:
        for side in GENERATION.walks:
            shares, far = kept[f"{side}_shares"].tolist(), kept[f"{side}_far"].tolist()
            blocks, cache_bytes, psnr_db, accuracy = kept[f"{side}_numbers"].tolist()
            samples, none = kept[f"{side}_samples"], np.empty(0, np.float16)
            yield Walk(side, tuple(shares), (None,) * len(shares), samples, none, blocks, int(cache_bytes), 0.0)
            yield Judgement(side, psnr_db, None, accuracy, tuple(far))


def compute_generation() -> dict[str, np.ndarray]:
    """The arrays of the file, computed here and now on the CPU."""
    parts = list(generating.compute(GENERATION, "cpu")(lambda: False))
    walks = {part.side: part for part in parts if isinstance(part, Walk)}
    judged = {part.side: part for part in parts if isinstance(part, Judgement)}
    kept = {}
    for side, walk in walks.items():
        kept[f"{side}_shares"], kept[f"{side}_far"] = np.array(walk.shares), np.array(judged[side].far)
        kept[f"{side}_samples"] = walk.samples
        numbers = (walk.blocks, walk.cache_bytes, judged[side].psnr_db, judged[side].accuracy)
        kept[f"{side}_numbers"] = np.array(numbers)
    return kept


if __name__ == "__main__":
    RACE_FILE.write_text(json.dumps(compute_race()) + "\n", encoding="utf-8")
    print(f"{RACE_FILE.name}: {RACE_FILE.stat().st_size / 1024:.0f} KiB")
    np.savez_compressed(GENERATION_FILE, **compute_generation())
    print(f"{GENERATION_FILE.name}: {GENERATION_FILE.stat().st_size / 1024:.0f} KiB")
