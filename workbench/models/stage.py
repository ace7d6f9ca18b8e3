"""A sampling run's state, where every step of it happens: on tensors that stay where they are, so that a step can be a
CUDA graph, and without a number that the host would have to send.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.models.dit import EPSILON, DiT, Modulation
from workbench_kernels.forecast import step as kernels

HEAD_COLUMNS = 2  # of the stage's numbers: what multiplies image and network output in the sampler's update
AHEAD_BYTES = 64 * 2**20  # how much of the modulation is computed ahead


class Stage:
    """The network and one run's state.

    ``images`` (batch, channels, side, side) in float32 or float64. ``batch`` is that of the network, twice as many rows
    with guidance. Time and labels of all steps are known before the walk begins, so everything that depends on them
    alone is computed for many steps in one matrix product (``look_ahead``): ``table``, the modulation, (steps, batch,
    ...). ``numbers`` (steps, columns) are the steps' factors: two of the sampler's update, then those that the strategy
    asked for. ``at`` (1,) is the row of the present step in both; it moves on by itself when a step is finished.
    """

    def __init__(self, model: DiT, images: Tensor, guidance: float, times: Tensor, numbers: Tensor, reach: int) -> None:
        """``times`` (steps,) and ``numbers`` (steps, columns) of all steps; ``reach``: how many steps beyond the
        present one a strategy looks."""
        self.model, self.images, self.guidance = model, images, guidance
        self.dtype, self.device = model.label.weight.dtype, images.device
        self.copies = 2 if guidance != 1 else 1
        self.batch = len(images) * self.copies
        self.times, self.all_numbers = times.to(images), numbers.to(images)
        steps, rows = len(times), model.modulate.out_features
        one = max(1, self.batch) * rows * model.label.weight.itemsize
        self.ahead = min(steps, max(1 + reach, AHEAD_BYTES // one))
        self.rows = torch.zeros(self.ahead, self.batch, rows, dtype=self.dtype, device=self.device)
        self.table = model.split(self.rows)
        self.numbers = torch.zeros_like(self.all_numbers[: self.ahead])
        self.labels = torch.zeros(steps, self.batch, dtype=torch.int64, device=self.device)
        self.places = torch.zeros(2, 1, dtype=torch.int64, device=self.device)
        self.at, self.begun = self.places
        self.arrived = torch.zeros(1, dtype=torch.int32, device=self.device)  # programs of a kernel that are through
        self.fused = kernels.has_kernels(images, model.last.weight, images.shape[1] * model.config.patch**2)

    def start(self, noise: Tensor, labels: Tensor) -> None:
        """Begin a walk. labels (batch of the images,) or (steps, batch of the images)."""
        self.images.copy_(noise)
        self.labels[:, : len(noise)] = labels
        self.labels[:, len(noise) :] = self.model.config.classes  # with guidance: no label
        self.rewind()

    def rewind(self) -> None:
        """To the first step, of which nothing is known yet."""
        self.places.zero_()

    def look_ahead(self) -> None:
        """Fill ``table`` and ``numbers`` from the present step on. The largest matrix of the network is read once for
        all of them. Every sampler here does it, cached or not."""
        self.begun += self.at
        self.at.zero_()
        steps = torch.arange(self.ahead, device=self.device) + self.begun
        steps.clamp_(max=len(self.times) - 1)
        times = self.times[steps, None].expand(-1, self.batch)
        condition = self.model.condition(times.flatten(), self.labels[steps].flatten())
        self.model.modulation_rows(condition, out=self.rows.view(len(condition), -1))
        torch.index_select(self.all_numbers, 0, steps, out=self.numbers)

    @property
    def modulation(self) -> Modulation:
        """The present step's: a copy."""
        return self.model.split(self.rows.index_select(0, self.at)[0])

    @property
    def own(self) -> Tensor:
        """The strategy's numbers of the present step: a copy."""
        return self.numbers.index_select(0, self.at)[0, HEAD_COLUMNS:]

    def empty(self, *shape: int) -> Tensor:
        """Zeros for each row of the batch, in the network's type: a cache (one that is not filled has to be finite)."""
        return torch.zeros(self.batch, *shape, dtype=self.dtype, device=self.device)

    def tokens(self, added: Tensor | None = None) -> Tensor:
        """The images as tokens, for every row of the batch; with ``added`` (places, batch, tokens, width), its sum for
        the present step, at place ``at % places``, comes on top."""
        model = self.model
        if self.fused:
            layer = model.patches
            place = None if added is None else self.at
            return kernels.embed_patches(
                self.images, layer.weight, layer.bias, model.position, added, place, copies=self.copies
            )
        tokens = model.embed(self.images.to(self.dtype).repeat(self.copies, 1, 1, 1))
        return tokens if added is None else (tokens + added.index_select(0, self.at % len(added))[0]).to(self.dtype)

    def finish(self, tokens: Tensor) -> None:
        """Head, guidance and the sampler's update, in place; the next step is the present one afterwards."""
        if self.fused:
            layer, numbers = self.model.last, self.numbers
            kernels.update_images_(
                self.images, tokens, self.table.head, layer.weight, layer.bias, numbers, self.at,
                self.arrived, guidance=self.guidance, epsilon=EPSILON,
            )  # fmt: skip
        else:
            output = self.model.head(tokens, self.modulation)[:, : self.images.shape[1]].to(self.images.dtype)
            if self.guidance != 1:
                conditional, free = output.chunk(2)
                output = torch.lerp(free, conditional, self.guidance)
            keep, take = self.numbers.index_select(0, self.at)[0, :HEAD_COLUMNS]
            self.images.mul_(keep).addcmul_(output, take)
            self.at += 1
