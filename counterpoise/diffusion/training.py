"""One training loop for every denoiser: pixels, latents or features; it is given rows by number and knows no files.

All randomness of a step comes from a generator named after the step, and the order of rows from one named after the
pass over them. So the whole state of a training is its step, its weights, their average and the optimiser's moments,
and a training that was stopped goes on exactly as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoise.diffusion.denoisers import NO_LABEL, Cond
from counterpoise.diffusion.losses import ClassBalancing, Objective, denoising_loss
from counterpoise.diffusion.precision import autocast
from counterpoise.diffusion.ranks import Ranks
from counterpoise.diffusion.tally import Tally
from counterpoise.nets.adam import Adam
from counterpoise.nets.ema import EMA
from counterpoise.seeding import derive, generator
from counterpoise.types import Refusal, part

#: Rows => changed rows, and what was done to each of them, if the network is to be told.
Augment = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor | None]]

LOG_EVERY = 100  # steps
LR = 1e-3


@part
class Schooling:
    """How long and how fast a denoiser learns.

    `lr` None is 1e-3, or what a generator knows to suit it. `unlabelled` is the share of rows that lose their label, each on its own (CBDM drops whole batches, which only
    adds variance). `bf16` None takes it where the chip computes in it.
    With a pool of unlabelled rows the first `pretrain` of the steps see nothing else, and after that `pool_share` of
    every batch does.
    """

    steps: Annotated[int, Field(ge=1)] = 3000
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] | None = None
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    decay: Literal["cosine", "none"] = "cosine"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    clip: Annotated[float, Field(gt=0)] = 1.0
    unlabelled: Annotated[float, Field(ge=0, le=1)] = 0.1
    bf16: bool | None = None
    pretrain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    pool_share: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def rate(self, step: int) -> float:
        """Linear warm-up from zero, then constant or half a cosine down to zero."""
        ramp, top = self.warmup * self.steps, self.lr or LR
        if step < ramp:
            return top * step / ramp
        if self.decay == "none":
            return top
        return top * 0.5 * (1 + math.cos(math.pi * (step - ramp) / (self.steps - ramp)))


@dataclass(frozen=True)
class Material:
    """What is learnt from: rows as tensors of the space (about [-1, 1]), by number, with their labels."""

    rows: Callable[[np.ndarray], Tensor]
    labels: np.ndarray
    classes: int
    pool: Callable[[np.ndarray], Tensor] | None = None
    pool_size: int = 0

    @cached_property
    def counts(self) -> Tensor:
        return torch.from_numpy(np.bincount(self.labels, minlength=self.classes)).float()


class Keeper(Protocol):
    """Where the state of a training lies, and who hears of its progress."""

    def resume(self) -> tuple[int, dict[str, Tensor]] | None: ...
    def due(self) -> bool: ...
    def save(self, step: int, state: dict[str, Tensor]) -> None: ...
    def preview(self, step: int, net: nn.Module) -> None: ...
    def log(self, row: dict[str, Any]) -> None: ...


def train_denoiser(
    net: nn.Module,
    objective: Objective,
    material: Material,
    settings: Schooling,
    seed: int,
    keeper: Keeper,
    balance: ClassBalancing | None = None,
    augment: Augment | None = None,
    ranks: Ranks | None = None,
) -> nn.Module:
    """Train, and return the network with its averaged weights."""
    ranks = ranks or Ranks.here()
    if settings.batch % ranks.world:
        raise Refusal(
            f"a batch of {settings.batch} cannot be shared evenly by {ranks.world} processes: "
            f"use {settings.batch // ranks.world * ranks.world or ranks.world}, or another number of processes"
        )
    # Dropout is the only draw that cannot be handed in: the global generator is borrowed, and put back.
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        net = net.to(ranks.device).train()
        weights = list(net.parameters())
        adam, ema, first = Adam(weights, clip=settings.clip), EMA(net, settings.ema), 0
        if (found := keeper.resume()) is not None:
            first, state = found
            _restore(net, ema, adam, state)
        batches = Batches(material, settings, seed, augment, balance)
        denoise = objective.parametrisation.denoiser(autocast(ranks.wrap(net), ranks.device, settings.bf16))
        tally = Tally()
        for step in range(first, settings.steps):
            torch.manual_seed(derive("dropout", seed, step, ranks.rank))
            batch = batches(step, objective).share(ranks.rank, ranks.world).to(ranks.device)
            errors, pulls = denoising_loss(
                denoise, objective, batch.x0, batch.sigma, batch.noise, batch.cond, balance, batch.other
            )
            total = (errors + pulls).mean()
            if ranks.device.type == "cpu" or step % LOG_EVERY == 0:  # looking at a number stalls a GPU
                _refuse_nan(total, step, keeper, settings)
            total.backward()
            # A weight no row reached (an unused label, no augmentation) has a slope of zero, not none.
            slopes = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
            adam(slopes, settings.rate(step))
            for weight in weights:
                weight.grad = None
            ema.update()
            tally.add(batch.sigma, errors.detach(), pulls.detach())
            done = step + 1
            if ranks.leads and (done % LOG_EVERY == 0 or done == settings.steps):
                keeper.log({"step": done, "of": settings.steps} | tally.told(len(errors) * ranks.world))
            if done < settings.steps and ranks.leads and keeper.due():
                _refuse_nan(_size(weights), step, keeper, settings)
                keeper.save(done, _state(net, ema, adam))
                keeper.preview(done, ema.net)
        _refuse_nan(_size(weights), settings.steps, keeper, settings)
        return ema.net


def _size(weights: Sequence[Tensor]) -> Tensor:
    """Not finite as soon as one weight is not."""
    return torch.stack(torch._foreach_norm(list(weights))).detach().sum()


def _refuse_nan(number: Tensor, step: int, keeper: Keeper, settings: Schooling) -> None:
    if not torch.isfinite(number):
        found = keeper.resume()
        kept = (
            "nothing had been saved yet"
            if found is None
            else f"the last good state (step {found[0]}) is kept"
        )
        raise Refusal(
            f"training the generator stopped at step {step}: the loss or a weight is {float(number.detach())}; {kept}. "
            f"Lower the learning rate (it is {settings.lr or LR:g}) or train longer in warm-up (it is {settings.warmup:g} "
            "of all steps), and use another directory or --redo fit"
        )


def _state(net: nn.Module, ema: EMA, adam: Adam) -> dict[str, Tensor]:
    parts = {"net": net.state_dict(), "ema": ema.state(), "adam": adam.state()}
    return {f"{name}/{key}": value for name, part_ in parts.items() for key, value in part_.items()}


def _restore(net: nn.Module, ema: EMA, adam: Adam, state: dict[str, Tensor]) -> None:
    def of(name: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")
        }

    net.load_state_dict(of("net"))
    ema.load(of("ema"))
    adam.load(of("adam"))


# --- batches -------------------------------------------------------------------------------------------------


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

        cond = Cond(maybe(self.cond.label), maybe(self.cond.augment))
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
        other = None
        if self.balance is not None:
            other = self.balance.draw(self.material.counts, len(label), rng)
        return Batch(
            x0,
            objective.draw(len(label), rng),
            # numpy's generator takes the whole seed; torch's, 32 bits of it, would repeat a step's noise
            torch.from_numpy(generator("noise", self.seed, step).standard_normal(x0.shape, np.float32)),
            Cond(torch.where(dropped, NO_LABEL, label), told),
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
