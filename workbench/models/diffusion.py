"""Sampling from a diffusion transformer, with or without a cache: one step at a time, or all of them at once.

``sample`` yields a ``Step`` for every step of the walk from noise to image, the last one with the result. ``Sampler``
is the same thing kept: its caches and, on CUDA, its graphs are made once and used for every further run.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from workbench import catalog, controls
from workbench.models.caching import Outcome, Strategy, plain, strategies
from workbench.models.diffusion_quality import Quality, quality
from workbench.models.diffusion_training import TIME_SCALE, DiffusionLap, train_dit
from workbench.models.dit import DiT
from workbench.models.stage import Stage

__all__ = ["DiffusionLap", "Quality", "Recorded", "Sampler", "Step", "quality", "record", "sample", "train_dit"]

Solver = Literal["euler", "ddim"]
NOISE_STEPS = 1000  # of the chain that DDIM takes its steps from
STEPS = controls.Knob("steps", "int", 50, "Of the walk.", controls.Range(1, NOISE_STEPS, log=True))


@dataclass(frozen=True)
class Step:
    """One step of a sampling run, after it was made.

    index, steps    which of how many; ``time`` is the network's, from 1000 (noise) down
    computed        whether the network was computed for any sample; ``share``: for which part of the batch
    error           the cache's own estimate of the forecast's relative error (at the first block), or what was recorded
    milliseconds    of this step alone
    cache_bytes     what the cache holds, all the time; ``sum_bytes``: what is held besides, sums of it for the steps up
                    to the next full one, in float32
    sample          the images now, (batch, channels, side, side), float32 or float64: a copy
    true_error      with ``record_error``, on forecast steps: relative error of the last block's output
    module_errors   the same for every module's output, where the modules are forecast one by one
    """

    index: int
    steps: int
    time: float
    computed: bool
    error: float | None
    milliseconds: float
    cache_bytes: int
    sample: Tensor
    share: float = 1.0
    true_error: float | None = None
    module_errors: Tensor | None = None
    sum_bytes: int = 0


def sample(
    model: DiT,
    noise: Tensor,
    labels: Tensor,
    *,
    steps: int = 50,
    caching: str = "none",
    options: Mapping[str, Any] | None = None,
    guidance: float = 1.0,
    sampler: Solver = "euler",
    cuda_graphs: bool | None = None,
    record_error: bool = False,
) -> Iterator[Step]:
    """Walk from noise to images; yield every step as it is made. Stop reading and it stops working.

    noise         (batch, channels, side, side), standard normal, on the model's device; float64 stays float64
    labels        (batch,) of integers, or (steps, batch): a label that changes on the way
    caching       "none", or a method of the toggle "caching", with ``options`` for its knobs
    guidance      1: none; else the network runs with and without the label, and the difference is stretched
    sampler       "euler" for a network trained as rectified flow, "ddim" for one trained to find noise
    cuda_graphs   None: where the device is CUDA. True raises ``ValueError`` elsewhere
    record_error  compute forecast steps as well, without using it, and say how far off they were: slow, and no graphs

    Raises ``ValueError`` for settings that are not allowed and for shapes that do not fit.
    """
    settings = {"steps": steps, "caching": caching, "options": options, "guidance": guidance, "sampler": sampler}
    made = Sampler(model, **settings, cuda_graphs=cuda_graphs, record_error=record_error)
    return made.steps_of(noise, labels)


class Sampler:
    """``sample`` with its settings fixed: ``sampler(noise, labels)`` gives the images, ``steps_of`` every step.

    The call without steps never waits for the device, except where a gate has to decide. Caches and graphs are made on
    the first run with a shape of noise, and anew when something changes that they were made for: the shape, the type or
    the place of the model's weights, autocast. They are left out when a sampler is copied or pickled.

    Under autocast the network computes as PyTorch's layers do there; what is kept stays in the type of the weights.
    """

    def __init__(
        self,
        model: DiT,
        *,
        steps: int = 50,
        caching: str = "none",
        options: Mapping[str, Any] | None = None,
        guidance: float = 1.0,
        sampler: Solver = "euler",
        cuda_graphs: bool | None = None,
        record_error: bool = False,
    ) -> None:
        if sampler not in ("euler", "ddim"):
            raise ValueError(f"sampler = {sampler!r} is not allowed: choose 'euler' or 'ddim'.")
        self.model, self.steps, self.guidance = model, STEPS.check(steps), float(guidance)
        self.caching, self.options = caching, _options(caching, options or {})
        self.cuda_graphs, self.record_error = cuda_graphs, record_error
        self.times, self.factors = (euler if sampler == "euler" else ddim)(self.steps)
        self._run: _Run | None = None
        _ = self.graphs  # refused here, not at the first run

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_run": None}

    @property
    def graphs(self) -> bool:
        """Whether steps are replayed from CUDA graphs. Raises ``ValueError`` where they are wanted and cannot be."""
        device = self.model.label.weight.device
        if self.cuda_graphs and device.type != "cuda":
            raise ValueError(f"CUDA graphs need a model on CUDA, not on {device.type}.")
        return device.type == "cuda" and not self.record_error if self.cuda_graphs is None else self.cuda_graphs

    @property
    def caches(self) -> tuple[Tensor, ...]:
        """What the last run kept: (batch, modules, entries, tokens, width), or a stack a block. Empty before a run."""
        return self._run.strategy.caches if self._run else ()

    @torch.no_grad()
    def __call__(self, noise: Tensor, labels: Tensor) -> Tensor:
        """The images, (batch, channels, side, side). Raises ``ValueError`` for shapes that do not fit."""
        run = self._prepared(noise, labels)
        with run.autocast():
            for step in range(self.steps):
                run.step(step, record=False)
        return run.stage.images.clone()

    @torch.no_grad()
    def steps_of(self, noise: Tensor, labels: Tensor) -> Iterator[Step]:
        """Every step, as ``sample`` yields them. One run at a time: a new one takes over the caches of the last."""
        run = self._prepared(noise, labels)
        for step in range(self.steps):
            with torch.no_grad(), run.autocast():  # a generator's caller may have left them
                _wait(noise)
                begun = time.perf_counter()
                outcome = run.step(step, record=self.record_error)
                _wait(noise)
                spent = 1e3 * (time.perf_counter() - begun)
                images = run.stage.images.clone()
            yield Step(
                index=step,
                steps=self.steps,
                time=self.times[step].item(),
                computed=outcome.share > 0,
                error=outcome.error,
                milliseconds=spent,
                cache_bytes=run.cache_bytes,
                sample=images,
                share=outcome.share,
                true_error=outcome.true_error,
                module_errors=outcome.module_errors,
                sum_bytes=run.sum_bytes,
            )

    def _prepared(self, noise: Tensor, labels: Tensor) -> _Run:
        config, batch = self.model.config, len(noise)
        expected = (batch, config.channels, config.image, config.image)
        if tuple(noise.shape) != expected:
            raise ValueError(
                f"noise must be (batch, {', '.join(map(str, expected[1:]))}) here, not {tuple(noise.shape)}."
            )
        if tuple(labels.shape) not in ((batch,), (self.steps, batch)) or labels.is_floating_point():
            raise ValueError(
                f"labels must be whole numbers ({batch},) or ({self.steps}, {batch}), not {tuple(labels.shape)} of "
                f"{str(labels.dtype)[6:]}."
            )
        if noise.device != self.model.label.weight.device:
            raise ValueError(f"The noise is on {noise.device}, the network on {self.model.label.weight.device}.")
        made_for = self._made_for(noise)
        if self._run is None or self._run.made_for != made_for:
            self._run = None  # first make room
            # What is kept must serve a later call outside of inference mode, too.
            with torch.inference_mode(False), torch.no_grad():
                self._run = _Run(self, noise, made_for)
        self._run.start(noise, labels)
        return self._run

    def _made_for(self, noise: Tensor) -> tuple[Any, ...]:
        """What a run's tensors and graphs are made for: they serve as long as none of it changes."""
        weight, kind = self.model.label.weight, noise.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        # A graph holds the addresses of the weights that it was captured with.
        where = _addresses(self.model) if self.graphs else ()
        return noise.shape, noise.dtype == torch.float64, weight.dtype, weight.device, autocast, self.graphs, where


class _Run:
    """The tensors of a sampling run, and its strategy's parts, as graphs where graphs are wanted."""

    def __init__(self, sampler: Sampler, noise: Tensor, made_for: tuple[Any, ...]) -> None:
        self.made_for, self.steps = made_for, sampler.steps
        kind = noise.device.type
        enabled = torch.is_autocast_enabled(kind)
        self.autocast = functools.partial(torch.autocast, kind, torch.get_autocast_dtype(kind), enabled)
        strategy = strategies()[sampler.caching]
        numbers = torch.cat((sampler.factors, strategy.columns(sampler.steps, **sampler.options)), dim=1)
        exact = torch.float64 if noise.dtype == torch.float64 else torch.float32
        images = torch.zeros_like(noise, dtype=exact, memory_format=torch.contiguous_format)
        self.reach = strategy.reach(sampler.steps, **sampler.options)
        self.stage = Stage(sampler.model, images, sampler.guidance, sampler.times, numbers, max(self.reach))
        self.strategy = strategy(self.stage, sampler.steps, **sampler.options)
        self.known = 0  # up to which step, not including it, the stage has looked ahead
        self.graphs: Mapping[str, torch.cuda.CUDAGraph] = {}
        if sampler.graphs and len(noise):
            with self.autocast(cache_enabled=False):  # a cast weight that is kept elsewhere would leave the graph
                self.graphs = _captured(self.strategy)

    @property
    def cache_bytes(self) -> int:
        return sum(cache.nbytes for cache in self.strategy.caches)

    @property
    def sum_bytes(self) -> int:
        return sum(each.nbytes for each in self.strategy.sums)

    def start(self, noise: Tensor, labels: Tensor) -> None:
        self.stage.start(noise, labels)
        self.strategy.start()
        self.known = 0

    def step(self, step: int, record: bool) -> Outcome:
        if not self.stage.batch:
            return Outcome(share=0.0)
        if min(step + self.reach[step], self.steps - 1) >= self.known:
            self.play("look_ahead")
            self.known = step + self.stage.ahead
        return self.strategy.go(step, self.play, record)

    def play(self, part: str) -> None:
        if self.graphs:
            self.graphs[part].replay()
        else:
            getattr(self.strategy, part)()


def _captured(strategy: Strategy) -> dict[str, torch.cuda.CUDAGraph]:
    """A strategy's parts as CUDA graphs, by name."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles kernels and makes handles, which cannot be captured
        for name in strategy.parts:
            strategy.stage.rewind()
            getattr(strategy, name)()
    torch.cuda.current_stream().wait_stream(side)
    graphs, pool = {}, None
    for name in strategy.parts:
        graphs[name] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[name], pool=pool):
            getattr(strategy, name)()
        pool = graphs[name].pool()  # parts run one after the other, and leave nothing behind but the stage
    return graphs


def _addresses(model: DiT) -> tuple[int, ...]:
    """Where every weight of the model lies. By hand: ``model.parameters()`` takes six times as long."""
    found, modules = [], [model]
    while modules:
        module = modules.pop()
        modules.extend(module._modules.values())
        found.extend(each.data_ptr() for each in (*module._parameters.values(), *module._buffers.values()))
    return tuple(found)


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _options(caching: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a caching method, defaults included. Raises ``ValueError`` for what is not allowed."""
    if caching not in strategies():
        raise ValueError(f"caching = {caching!r} is not allowed: choose {', '.join(strategies())}.")
    if caching == "none":
        if options:
            raise ValueError(f"Without a cache there is nothing to set: {', '.join(options)} means nothing.")
        return {}
    method = catalog.method(caching)
    if unknown := set(options) - set(method.knobs):
        raise ValueError(f"{caching} has no option {', '.join(sorted(unknown))}: it has {', '.join(method.knobs)}.")
    defaults = {name: knob.default for name, knob in method.knobs.items()}
    return controls.validate(method.reference, {**defaults, **options})


# --- the samplers ----------------------------------------------------------------------------------------------------


def euler(steps: int) -> tuple[Tensor, Tensor]:
    """Rectified flow, Euler's way: x - (t_s - t_{s+1}) v with t_s = 1 - s / S.

    Returns times (steps,) for the network and (steps, 2): what multiplies the image and the network's output. float64.
    """
    when = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return TIME_SCALE * when[:-1], torch.stack((torch.ones(steps, dtype=torch.float64), when.diff()), dim=1)


def ddim(steps: int) -> tuple[Tensor, Tensor]:
    """DDIM without noise, on ``steps`` evenly spaced of 1000 steps with linear betas from 0.0001 to 0.02.

    With a the cumulative product of 1 - beta and a' the next one (1 at the end): x_0 = (x - sqrt(1 - a) e) / sqrt(a),
    x' = sqrt(a') x_0 + sqrt(1 - a') e, which is one factor for x and one for e. Returns as ``euler``.
    """
    betas = torch.linspace(1e-4, 0.02, NOISE_STEPS, dtype=torch.float64)
    kept = (1 - betas).cumprod(0)
    stride = (NOISE_STEPS - 1) / (steps - 1) if steps > 1 else 0
    chosen = torch.tensor([round(stride * step) for step in range(steps)])
    now = kept[chosen].flip(0)
    after = torch.cat((now[1:], torch.ones(1, dtype=torch.float64)))
    ratio = (after / now).sqrt()
    factors = torch.stack((ratio, (1 - after).sqrt() - ratio * (1 - now).sqrt()), dim=1)
    return chosen.flip(0).double(), factors


# --- what a run looks like from inside -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """The features of an uncached run, step by step, as the methods of the chapter take them.

    modules  (batch, modules, steps, tokens, width): every module's output before its gate
    blocks   (batch, 2, steps, tokens, width): what leaves the first block and the last
    tokens   (batch, steps, tokens, width): what enters the first block
    sample   the images at the end
    """

    modules: Tensor
    blocks: Tensor
    tokens: Tensor
    sample: Tensor


@torch.no_grad()
def record(
    model: DiT, noise: Tensor, labels: Tensor, *, steps: int = 50, guidance: float = 1.0, sampler: Solver = "euler"
) -> Recorded:
    """Sample without a cache and keep every feature: steps * modules tensors like the tokens, so for few samples."""
    run = Sampler(model, steps=steps, guidance=guidance, sampler=sampler, cuda_graphs=False)._prepared(noise, labels)
    modules, ends, entering = [], [], []

    def add(module: int, tokens: Tensor, output: Tensor, gate: Tensor) -> Tensor:
        if module == 0:
            entering.append(tokens)
        modules.append(output)
        tokens = plain(module, tokens, output, gate)
        if module in (1, model.config.modules - 1):
            ends.append(tokens)
        return tokens

    def full() -> None:
        run.stage.finish(run.stage.model.run(run.stage.tokens(), run.stage.modulation, add=add))

    run.strategy.full = full  # in place of the strategy's own
    with run.autocast():
        for step in range(steps):
            run.step(step, record=False)
    if model.config.depth == 1:  # one block is the first and the last
        ends = list(itertools.chain.from_iterable(zip(ends, ends, strict=True)))
    stacked, ends = torch.stack(modules, dim=1), torch.stack(ends, dim=1)
    return Recorded(
        modules=stacked.unflatten(1, (steps, -1)).transpose(1, 2),
        blocks=ends.unflatten(1, (steps, 2)).transpose(1, 2),
        tokens=torch.stack(entering, dim=1),
        sample=run.stage.images.clone(),
    )
