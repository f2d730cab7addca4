"""One training loop for every denoiser: pixels, latents or features; it is given rows by number and knows no files.

All randomness of a step comes from a generator named after the step, and the order of rows from one named after the
pass over them. So the whole state of a training is its step, its weights, their average and the optimiser's moments,
and a training that was stopped goes on exactly as if it had not been.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoise.diffusion.batches import Augment, Batches, Material
from counterpoise.diffusion.denoisers import Denoiser
from counterpoise.diffusion.losses import ClassBalancing, Objective, denoising_loss
from counterpoise.diffusion.precision import autocast
from counterpoise.diffusion.ranks import Ranks
from counterpoise.diffusion.stopping import Looks
from counterpoise.diffusion.tally import Tally
from counterpoise.nets.adam import Adam
from counterpoise.nets.ema import EMA
from counterpoise.seeding import derive
from counterpoise.types import Refusal, part

LOG_EVERY = 100  # steps
LOOKED_AT = 256  # views of the rows that are put aside
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
        looks = None if material.stop is None else Looks(material.stop, ema.net)
        if (found := keeper.resume()) is not None:
            first, state = found
            _restore(net, ema, adam, looks, state)
        batches = Batches(material, settings, seed, augment, balance)
        read = objective.parametrisation
        denoise = read.denoiser(autocast(ranks.wrap(net), ranks.device, settings.bf16))
        averaged = read.denoiser(autocast(ema.net, ranks.device, settings.bf16))
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
            if looks is not None and (done % looks.settings.every == 0 or done == settings.steps):
                error = ranks.mean(_aside(averaged, objective, batches, ranks.device))
                enough = looks(error)
                if ranks.leads:
                    keeper.log({"step": done, "of": done if enough else settings.steps, "aside": error})
                if enough:
                    break
            if done < settings.steps and ranks.leads and keeper.due():
                _refuse_nan(_size(weights), step, keeper, settings)
                keeper.save(done, _state(net, ema, adam, looks))
                keeper.preview(done, ema.net)
        _refuse_nan(_size(weights), settings.steps, keeper, settings)
        if looks is not None:
            looks.finish()
        return ema.net


@torch.no_grad()
def _aside(denoise: Denoiser, objective: Objective, batches: Batches, device: torch.device) -> Tensor:
    """The mean error on the rows put aside: the same views, noise levels and noise every time."""
    assert batches.material.aside is not None
    settings = dataclasses.replace(batches.settings, unlabelled=0.0)
    aside = dataclasses.replace(batches, material=batches.material.aside, settings=settings, balance=None)
    errors = []
    for number in range(-(-LOOKED_AT // settings.batch)):
        batch = aside(number, objective).to(device)
        found, _ = denoising_loss(denoise, objective, batch.x0, batch.sigma, batch.noise, batch.cond)
        errors.append(found.mean())
    return torch.stack(errors).mean()


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


def _state(net: nn.Module, ema: EMA, adam: Adam, looks: Looks | None) -> dict[str, Tensor]:
    parts = {"net": net.state_dict(), "ema": ema.state(), "adam": adam.state()}
    if looks is not None:
        parts["looks"] = looks.state()
    return {f"{name}/{key}": value for name, part_ in parts.items() for key, value in part_.items()}


def _restore(net: nn.Module, ema: EMA, adam: Adam, looks: Looks | None, state: dict[str, Tensor]) -> None:
    def of(name: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")
        }

    net.load_state_dict(of("net"))
    ema.load(of("ema"))
    adam.load(of("adam"))
    if looks is not None:
        looks.load(of("looks"))
