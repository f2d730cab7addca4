"""The waist: what a network must look like to be sampled from, and how each training target becomes that.

Everything below works in one space, x = x0 + sigma n with n ~ N(0, 1) per element ("variance exploding"). A denoiser
estimates the clean x0 from x and sigma; the parametrisations differ in what their network is asked for and in how its
input is scaled, and hide both. Nothing here knows ladders, guides or training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from counterpoise.types import part

NO_LABEL = -1
LEAST_ABAR = 2.0**-24


@dataclass(frozen=True)
class Cond:
    """What a sample is asked to be, row by row. A row whose label is NO_LABEL is asked for nothing."""

    label: Tensor | None = None  # (b,) int64
    augment: Tensor | None = None  # (b, k): how the training image was changed; None or zeros: not at all
    text: Tensor | None = None  # (b, tokens) int64: the words that say so; None: those of the label
    image: Tensor | None = None  # (b, d): what is told of a real picture; None or zeros: of none

    def null(self) -> Cond:
        """The same rows, asked for nothing: the other branch of classifier-free guidance."""
        label = None if self.label is None else torch.full_like(self.label, NO_LABEL)
        image = None if self.image is None else torch.zeros_like(self.image)
        return replace(self, label=label, image=image)

    def relabelled(self, label: Tensor) -> Cond:
        return replace(self, label=label)

    @staticmethod
    def cat(first: Cond, second: Cond) -> Cond:
        """Both batches, one behind the other, for one doubled network call."""

        def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            assert (a is None) == (b is None), "one half is asked for something, the other is not"
            return None if a is None or b is None else torch.cat([a, b])

        return Cond(
            both(first.label, second.label),
            both(first.augment, second.augment),
            both(first.text, second.text),
            both(first.image, second.image),
        )


class Denoiser(Protocol):
    """(x, sigma, cond) => an estimate of the clean x."""

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:  # sigma (b,)
        ...


#: A raw network: (scaled x, noise level in the network's own units (b,), cond) => raw output.
Network = Callable[[Tensor, Tensor, Cond], Tensor]


class Parametrisation(Protocol):
    """How a raw network is read as a denoiser, and between which noise levels it can be."""

    @property
    def sigma_min(self) -> float: ...
    @property
    def sigma_max(self) -> float: ...
    def denoiser(self, net: Network) -> Denoiser: ...


def wide(value: Tensor, x: Tensor) -> Tensor:
    """A number per row, shaped to multiply x."""
    return value.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


@part
class EDM:
    """Karras et al. 2022 (arXiv 2206.00364), Table 1, last column: input and target have unit variance at every sigma."""

    sigma_data: Annotated[float, Field(gt=0)] = 0.5
    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    sigma_max: Annotated[float, Field(gt=0)] = 80.0

    def denoiser(self, net: Network) -> Denoiser:
        def denoise(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            total = sigma**2 + self.sigma_data**2
            c_skip, c_out = self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()
            raw = net(x * wide(total.rsqrt(), x), sigma.log() / 4, cond)
            return wide(c_skip, x) * x + wide(c_out, x) * raw

        return denoise


@part
class Schedule:
    """A discrete variance-preserving schedule (Ho et al. 2020) of T steps, as noise levels.

    x_t = sqrt(abar_t) (x0 + sigma_t n), with sigma_t = sqrt((1 - abar_t) / abar_t).
    Of `shape` "linear" beta rises evenly, of "scaled_linear" its root does (Rombach et al. 2022); "cosine" is Nichol &
    Dhariwal 2021, Equation 17, and has no betas to be told. With `zero_terminal` the last step is noise alone (Lin et al.
    2024, Algorithm 1), or all but: its noise level would be infinite, so that abar ends at 2^-24.
    """

    steps: Annotated[int, Field(ge=2)] = 1000
    beta_first: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    beta_last: Annotated[float, Field(gt=0, lt=1)] = 0.02
    shape: Literal["linear", "scaled_linear", "cosine"] = "linear"
    zero_terminal: bool = False

    @property
    def sigmas(self) -> Tensor:
        """(T,) float64, rising."""
        return _sigmas(self)

    def time(self, sigma: Tensor) -> Tensor:
        """The (fractional) step t in 0..T-1 of a noise level; linear in log sigma between two steps."""
        known = self.sigmas.log().to(sigma.device)
        log = sigma.double().log().clamp(known[0], known[-1])
        above = torch.searchsorted(known, log).clamp(1, len(known) - 1)
        low, high = known[above - 1], known[above]
        return (above - 1 + (log - low) / (high - low)).to(sigma.dtype)


@lru_cache(maxsize=8)
def _sigmas(schedule: Schedule) -> Tensor:
    log_abar = torch.log1p(-_betas(schedule)).cumsum(0)
    if not schedule.zero_terminal:
        return torch.expm1(-log_abar).sqrt()  # (1 - abar) / abar = 1 / abar - 1
    root = (log_abar / 2).exp()  # shifted until it ends at 0, stretched until it begins where it did
    abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square().clamp(min=LEAST_ABAR)
    return (1 / abar - 1).sqrt()


def _betas(schedule: Schedule) -> Tensor:
    first, last, steps = schedule.beta_first, schedule.beta_last, schedule.steps
    if schedule.shape == "linear":
        return torch.linspace(first, last, steps, dtype=torch.float64)
    if schedule.shape == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64).square()
    ends = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    abar = ((ends + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)


class _Discrete:
    """Shared by the targets that are read on a discrete schedule: network input sqrt(abar) x, network time t."""

    schedule: Schedule

    @property
    def sigma_min(self) -> float:
        return float(self.schedule.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.schedule.sigmas[-1])

    def raw(self, net: Network, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return net(x * wide((1 + sigma**2).rsqrt(), x), self.schedule.time(sigma), cond)


@part
class Eps(_Discrete):
    """The network predicts the noise n (Ho et al. 2020): x0 = x - sigma n."""

    schedule: Schedule = Schedule()

    def denoiser(self, net: Network) -> Denoiser:
        return lambda x, sigma, cond: x - wide(sigma, x) * self.raw(net, x, sigma, cond)


@part
class Velocity(_Discrete):
    """The network predicts v = sqrt(abar) n - sqrt(1 - abar) x0 (Salimans & Ho 2022, Appendix D)."""

    schedule: Schedule = Schedule()

    def denoiser(self, net: Network) -> Denoiser:
        def denoise(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            root = (1 + sigma**2).rsqrt()  # sqrt(abar)
            return wide(root**2, x) * x - wide(sigma * root, x) * self.raw(net, x, sigma, cond)

        return denoise


@part
class Flow:
    """The network predicts n - x0 on straight lines x_t = (1 - t) x0 + t n (Lipman et al. 2023); sigma = t / (1 - t)."""

    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    sigma_max: Annotated[float, Field(gt=0)] = 80.0

    def denoiser(self, net: Network) -> Denoiser:
        def denoise(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            t = sigma / (1 + sigma)
            line = x * wide(1 / (1 + sigma), x)  # x_t; 1 - t would be lost where t is all but 1
            return line - wide(t, x) * net(line, t, cond)

        return denoise


def snr_to_sigma(snr: float) -> float:
    """The noise level at which data of unit variance have this signal-to-noise ratio, snr = 1 / sigma^2."""
    return 1 / math.sqrt(snr)
