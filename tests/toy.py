"""A made-up paper, small enough to know every figure of it: y_i = factor * sum_j x_i x_j.

The reference writes all n^2 products, ``fast`` does not; the baselines each go wrong in one way.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch

from workbench.controls import Range
from workbench.paper import Axes, Baseline, Claim, Cost, Example, Method, Paper, Study

Factor = Annotated[float, Range(0, 4), "What the result is multiplied with."]
Sign = Annotated[Literal["plus", "minus"], "The sign of the result."]


def reference(x, *, factor: Factor = 1.0, sign: Sign = "plus"):
    return (x[:, :, None] * x[:, None, :]).sum(-1) * (factor if sign == "plus" else -factor)


def fast(x, *, factor: Factor = 1.0, sign: Sign = "plus"):
    return x * (x.sum(-1, keepdim=True) * (factor if sign == "plus" else -factor))


def example(
    size: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Annotated[int, Range(1, 8), "Rows."] = 1,
):
    generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)
    shape = (batch, size)
    return Example({"x": torch.rand(shape, generator=generator, device=device, dtype=getattr(torch, dtype))})


def cost(x, **options):
    moved = 2 * x.numel() * x.element_size()
    return Cost(2 * x.numel() * x.shape[-1], moved, 4 * x.numel() * x.shape[-1], 1.5 * moved)


def out_of_memory(x, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1000 GiB.")


def crash(x, **options):
    raise RuntimeError("a bug")


METHOD = Method(
    name="toy",
    title="Toy",
    idea="All products of pairs, summed.",
    slot=None,
    reference=reference,
    fast=fast,
    example=example,
    cost=cost,
    tolerance={"float64": 1e-12, "float32": 1e-5},
    workspace=lambda implementation, x, **options: (
        x.numel() * x.shape[-1] * x.element_size() if implementation == "reference" else 0
    ),
    baselines={
        "wrong": Baseline(lambda x, **options: 1.01 * fast(x, **options)),
        "not_a_number": Baseline(lambda x, **options: fast(x, **options) * torch.nan),
        "absent": Baseline(crash, lambda x, **options: ["It is not installed.", "It needs a GPU."]),
        "greedy": Baseline(out_of_memory),
        "buggy": Baseline(crash),
    },
)

CLOSED = []


def walk(
    *,
    device: str,
    seed: int,
    steps: Annotated[int, Range(1, 100), "How many."] = 10,
    width: Annotated[float, Range(0.0, 2.0), "Of a step."] = 1.0,
):
    """A drunkard on a line, and a sober one."""
    generator = torch.Generator().manual_seed(seed)
    place = step = 0
    try:
        for step in range(steps):
            place += width * (2 * torch.randint(2, (), generator=generator).item() - 1)
            yield {"step": step, "place": place, "who": "drunk"}
            yield {"step": step, "place": width * (step + 1), "who": "sober"}
    finally:
        CLOSED.append(step)


STUDY = Study(
    name="walk",
    title="A walk",
    question="How far does a drunkard come?",
    run=walk,
    columns={"who": "", "step": "", "place": "m"},
    axes=Axes(x="step", y="place", by=("who",)),
    sizes={"ci": {"steps": 2}, "gpu": {"steps": 100, "width": 0.5}},
    length=lambda steps, width: 2 * steps,
)

STROLL = replace(STUDY, name="stroll", title="A stroll", needs_cuda=True)

PAPER = Paper(
    slug="toy",
    title="A Toy",
    authors="Nobody",
    arxiv="0000.00000",
    year=2024,
    chapter="attention",
    idea="Sums need no table.",
    methods=(METHOD,),
    studies=(STUDY,),
    claims=(
        Claim(
            name="faster",
            statement="It is faster.",
            where="Table 1",
            reported="3 x on a GPU",
            unit="x",
            how="time of reference over time of fast",
            low=2,
            must_hold=("gpu",),
            caveat="A CPU gains less.",
        ),
        Claim(
            name="exact",
            statement="It is exact.",
            where="Sec. 2",
            reported="exact",
            unit="relative error",
            how="against float64",
            high=1e-5,
            must_hold=("cpu", "gpu"),
        ),
    ),
)
