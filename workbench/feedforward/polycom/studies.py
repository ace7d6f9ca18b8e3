"""The paper's whole run here: small language models of equal size that differ in the activation."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from workbench import catalog
from workbench.controls import Range
from workbench.models import language_model
from workbench.paper import Axes, Study

RACERS = {
    "two": ("swiglu", "poly_norm"),
    "three": ("gelu", "swiglu", "poly_norm"),
    "four": ("gelu", "swiglu", "poly_relu", "poly_norm"),
}


def run(
    *,
    device: str,
    seed: int,
    racers: Annotated[Literal["two", "three", "four"], "SwiGLU and PolyNorm; with GELU; with PolyReLU too."] = "three",
    seeds: Annotated[int, Range(1, 10), "Runs of each, from other random numbers."] = 3,
    steps: Annotated[int, Range(10, 5000, log=True), "Training steps."] = 100,
    lap: Annotated[int, Range(1, 100), "Steps between two rows of a racer."] = 10,
) -> Iterator[dict[str, Any]]:
    """A race on the text of a small grammar. Racers of one seed see the same batches and have as many parameters."""
    titles = {name: catalog.method(name).title for name in RACERS[racers]}
    every = range(seed, seed + seeds)
    for each in language_model.race(RACERS[racers], seeds=every, steps=steps, lap=lap, device=device):
        yield {
            "activation": titles[each.activation],
            "seed": each.seed,
            "step": each.step,
            "loss": each.loss,
            "validation": each.validation,
        }


def length(racers: str, seeds: int, steps: int, lap: int) -> int:
    """Rows of a run."""
    return len(RACERS[racers]) * seeds * -(-steps // lap)


RACE = Study(
    name="race",
    title="A race of activations",
    question="Which activation learns a small language fastest, at equal numbers of parameters?",
    run=run,
    columns={"activation": "", "seed": "", "step": "", "loss": "nats a character", "validation": "nats a character"},
    axes=Axes(x="step", y="loss", by=("activation",)),
    sizes={
        "ci": {"racers": "two", "seeds": 1, "steps": 10, "lap": 5},
        "gpu": {"racers": "four", "seeds": 5, "steps": 400, "lap": 20},
    },
    length=length,
)
STUDIES = (RACE,)
