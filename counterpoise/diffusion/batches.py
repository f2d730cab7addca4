"""What each step of a training looks at: rows by number, their labels, and all that is drawn for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from counterpoise.diffusion.denoisers import NO_LABEL, Cond
from counterpoise.diffusion.losses import ClassBalancing, Objective
from counterpoise.diffusion.stopping import EarlyStop
from counterpoise.seeding import derive, generator

if TYPE_CHECKING:
    from counterpoise.diffusion.training import Schooling

#: Rows => changed rows, and what was done to each of them, if the network is to be told.
Augment = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Material:
    """What is learnt from: rows as tensors of the space (about [-1, 1]), by number, with their labels."""

    rows: Callable[[np.ndarray], Tensor]
    labels: np.ndarray
    classes: int
    pool: Callable[[np.ndarray], Tensor] | None = None
    pool_size: int = 0
    texts: Callable[[np.ndarray, torch.Generator], Tensor] | None = (
        None  # said of rows instead of their label
    )
    images: Callable[[np.ndarray, torch.Generator], Tensor] | None = None  # told of the pictures themselves
    aside: Material | None = None  # rows that are only looked at, if the training may stop early
    stop: EarlyStop | None = None

    @cached_property
    def counts(self) -> Tensor:
        return torch.from_numpy(np.bincount(self.labels, minlength=self.classes)).float()


@dataclass(frozen=True)
class Batch:
    """Everything one step looks at."""

    x0: Tensor
    sigma: Tensor  # (b,)
    noise: Tensor
    cond: Cond
    other: Tensor | None  # (b,) the labels y' of the class-balancing loss

    def share(self, rank: int, world: int) -> Batch:
        """The rows of one of several processes: they draw the same batch and take their part of it."""
        mine = slice(rank * len(self.x0) // world, (rank + 1) * len(self.x0) // world)
        return self._each(lambda value: value[mine])

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda value: value.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def maybe(value: Tensor | None) -> Tensor | None:
            return None if value is None else change(value)

        asked = self.cond
        cond = Cond(maybe(asked.label), maybe(asked.augment), maybe(asked.text), maybe(asked.image))
        return Batch(change(self.x0), change(self.sigma), change(self.noise), cond, maybe(self.other))


@dataclass(frozen=True)
class Batches:
    """The batch of a step, from the step's number alone."""

    material: Material
    settings: Schooling
    seed: int
    augment: Augment | None = None
    balance: ClassBalancing | None = None

    def __call__(self, step: int, objective: Objective) -> Batch:
        settings, rng = self.settings, torch.Generator().manual_seed(derive("step", self.seed, step))
        labelled = self._labelled(step)
        picked = self._rows("rows", len(self.material.labels), step, labelled)
        label = torch.from_numpy(self.material.labels[picked])
        x0 = self.material.rows(picked)
        if labelled < settings.batch:
            assert self.material.pool is not None, "pool rows were asked for, and there is no pool"
            more = self._rows("pool", self.material.pool_size, step, settings.batch - labelled)
            x0 = torch.cat([x0, self.material.pool(more)]) if labelled else self.material.pool(more)
            label = torch.cat([label, torch.full((len(more),), NO_LABEL)])
        dropped = torch.rand(len(label), generator=rng) < settings.unlabelled
        told = None
        if self.augment is not None:
            x0, told = self.augment(x0, rng)
        text = None if self.material.texts is None else self.material.texts(picked, rng)
        image = None
        if self.material.images is not None:
            image = self.material.images(picked, rng) * ~dropped[:, None]
        other = None
        if self.balance is not None:
            other = self.balance.draw(self.material.counts, len(label), rng)
        return Batch(
            x0,
            objective.draw(len(label), rng),
            # numpy's generator takes the whole seed; torch's, 32 bits of it, would repeat a step's noise
            torch.from_numpy(generator("noise", self.seed, step).standard_normal(x0.shape, np.float32)),
            Cond(torch.where(dropped, NO_LABEL, label), told, text, image),
            other,
        )

    def _labelled(self, step: int) -> int:
        """How many rows of this step's batch carry a label at all."""
        if self.material.pool is None:
            return self.settings.batch
        if step < self.settings.pretrain * self.settings.steps:
            return 0
        return self.settings.batch - round(self.settings.pool_share * self.settings.batch)

    def _rows(self, name: str, size: int, step: int, n: int) -> np.ndarray:
        """Views n * step and on, of passes over all rows, each pass in an order of its own."""
        views = np.arange(n * step, n * (step + 1))
        order = {turn: _order(name, self.seed, turn, size) for turn in np.unique(views // size).tolist()}
        return np.array([order[view // size][view % size] for view in views.tolist()], np.int64)


@lru_cache(maxsize=16)
def _order(name: str, seed: int, turn: int, size: int) -> np.ndarray:
    return generator("pass", name, seed, turn).permutation(size)
