"""A race of small models that differ in their configuration alone: the same data in the same order for all."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from workbench.models import training
from workbench.tasks.images import Images
from workbench_widgets.race import Race, Rows, race

COLUMNS = {"step": "", "seconds": "s", "loss": "nats", "validation": "nats", "accuracy": "%"}


def race_models(
    configs: Mapping[str, training.Config],
    task: str | Images,
    *,
    seeds: int,
    steps: int,
    lap: int,
    device: str = "cpu",
    y: str = "accuracy",
    by: str = "model",
    watch: Callable[[int, training.Lap], None] = lambda seed, lap: None,
    floor: tuple[float, str] | None = None,
    caption: str = "",
    **settings: Any,
) -> Race:
    """Train a model for every configuration and seed, over steps and over seconds, as ``race`` shows it; ``models`` of
    the result holds them, by name one for each seed.

    task      as ``models.training.train`` takes it; ``settings`` are its ``batch`` and ``learning_rate``
    lap       steps between two reports: ``seconds`` so far, training ``loss``, and on held-out data ``validation`` and
              ``accuracy`` in percent (of a language model the first at the end only, and none of the second)
    y         which of them is drawn
    watch     told of every seed's laps, to look at a model along the way
    floor     a height that no curve can cross, and words that say why
    Errors as ``training.train`` and ``race``.
    """
    models: dict[str, list[nn.Module]] = {}

    def run(*, device: str, seed: int) -> Rows:
        if seed == 0:  # a race that begins anew
            models.clear()
        how = {"steps": steps, "lap": lap, "seed": seed, "device": device, **settings}
        for each in training.train(configs, task, **how):
            of_this_name = models.setdefault(each.name, [])
            if not any(each.model is known for known in of_this_name):
                of_this_name.append(each.model)
            watch(seed, each)
            accuracy = None if each.accuracy is None else 100 * each.accuracy
            yield {by: each.name, **{name: getattr(each, name) for name in COLUMNS}, "accuracy": accuracy}

    shown = {"costs": ("step", "seconds"), "floor": floor, "caption": caption}
    made = race(run, COLUMNS, y, by=by, seeds=seeds, device=device, total=len(configs) * -(-steps // lap), **shown)
    made.models = models
    return made
