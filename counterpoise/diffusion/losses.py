"""What a denoiser is trained on: a target with its law of noise levels, and the class-balancing regulariser.

All errors are measured in units of the noise, ||x0 - D||^2 / sigma^2 = ||eps - h||^2, whatever the network predicts,
so that one regulariser serves every parametrisation; an objective then weighs noise levels as its paper does.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from counterpoise.diffusion.denoisers import (
    EDM,
    NO_LABEL,
    Cond,
    Denoiser,
    Eps,
    Flow,
    Parametrisation,
    Schedule,
    Velocity,
    wide,
)
from counterpoise.types import part


class Objective(Protocol):
    """A parametrisation, the noise levels it is trained at, and what an error at each of them costs."""

    @property
    def parametrisation(self) -> Parametrisation: ...
    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """Noise levels (n,)."""
        ...

    def weight(self, sigma: Tensor) -> Tensor:
        """The factor on ||eps - h||^2 (b,)."""
        ...


@part
class LogNormal:
    """EDM's training (Karras et al. 2022, Table 1): ln sigma ~ N(mean, std), lambda = 1 / c_out^2."""

    parametrisation: EDM = EDM()
    mean: float = -1.2
    std: Annotated[float, Field(gt=0)] = 1.2

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        return (torch.randn(n, generator=rng) * self.std + self.mean).exp()

    def weight(self, sigma: Tensor) -> Tensor:
        data = self.parametrisation.sigma_data
        return (sigma**2 + data**2) / data**2  # lambda sigma^2


@part
class UniformTime:
    """DDPM's simple loss (Ho et al. 2020, Equation 14): t ~ U{0..T-1}; plain errors of eps, or of v."""

    parametrisation: Eps | Velocity = Eps()

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        sigmas = self.parametrisation.schedule.sigmas
        return sigmas[torch.randint(len(sigmas), (n,), generator=rng)].float()

    def weight(self, sigma: Tensor) -> Tensor:
        # ||v - v'||^2 = (1 + 1 / sigma^2) ||x0 - D||^2 = (1 + sigma^2) ||eps - h||^2
        return 1 + sigma**2 if isinstance(self.parametrisation, Velocity) else torch.ones_like(sigma)


@part
class LogitNormal:
    """Flow matching with logit-normal times (Esser et al. 2024, Equation 19); plain errors of n - x0."""

    parametrisation: Flow = Flow()
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        odds = torch.randn(n, generator=rng) * self.std + self.mean  # logit t, and sigma = t / (1 - t)
        return odds.exp().clamp(self.parametrisation.sigma_min, self.parametrisation.sigma_max)

    def weight(self, sigma: Tensor) -> Tensor:
        return (1 + sigma) ** 2  # ||(x_t - D) / t - v||^2 = ||x0 - D||^2 / t^2


@part
class ClassBalancing:
    """The regulariser of class-balancing diffusion (Qin et al. 2023, CBDM, Equation 4; arXiv 2305.00562).

    With h = eps(x_t, t, y), h' = eps(x_t, t, y') and y' drawn anew for each row, it adds
    w_t (||h - sg(h')||^2 + gamma ||sg(h) - h'||^2), w_t = tau t / T. Tail predictions are pulled towards what is
    predicted for the labels y' at high noise. y' follows the *training* frequencies when training from scratch and
    is uniform when fine-tuning (`law`); sampling it uniformly from scratch is the usual mistake.
    """

    tau: Annotated[float, Field(ge=0)] = 1.0
    gamma: Annotated[float, Field(ge=0)] = 0.25
    law: Literal["train", "sqrt", "uniform"] = "train"

    def draw(self, counts: Tensor, n: int, rng: torch.Generator) -> Tensor:
        """Labels y' (n,)."""
        mass = {"train": counts, "sqrt": counts.sqrt(), "uniform": torch.ones_like(counts)}[self.law]
        return torch.multinomial(mass, n, replacement=True, generator=rng)

    def weight(self, sigma: Tensor, schedule: Schedule = Schedule()) -> Tensor:
        return self.tau * schedule.time(sigma) / schedule.steps

    def __call__(self, one: Tensor, other: Tensor, sigma: Tensor) -> Tensor:
        """Per row (b,), from the two estimates of the clean x under y and y': h - h' = (D' - D) / sigma."""
        towards = _mean_square((one - other.detach()) / wide(sigma, one))
        back = _mean_square((one.detach() - other) / wide(sigma, one))
        return self.weight(sigma) * (towards + self.gamma * back)


def denoising_loss(
    denoise: Denoiser,
    objective: Objective,
    x0: Tensor,
    sigma: Tensor,
    noise: Tensor,
    cond: Cond,
    balance: ClassBalancing | None = None,
    other: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Per row: the weighted denoising error, and the weighted regulariser (zeros without one).

    With a regulariser both labels go through the network as one doubled batch, so that one backward serves both
    halves. Rows that were made unconditional are not regularised.
    """
    x = x0 + wide(sigma, x0) * noise
    weight = objective.weight(sigma)
    if balance is None or other is None or cond.label is None:
        error = _mean_square((denoise(x, sigma, cond) - x0) / wide(sigma, x0))
        return weight * error, torch.zeros_like(error)
    labelled = cond.label != NO_LABEL
    twin = cond.relabelled(torch.where(labelled, other, cond.label))
    one, two = denoise(torch.cat([x, x]), torch.cat([sigma, sigma]), Cond.cat(cond, twin)).chunk(2)
    error = _mean_square((one - x0) / wide(sigma, x0))
    pull = torch.where(labelled, balance(one, two, sigma), 0.0)
    return weight * error, weight * pull


def _mean_square(x: Tensor) -> Tensor:
    return x.square().flatten(1).mean(1)
