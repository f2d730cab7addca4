"""Samplers: from x at the first rung of a ladder down to a clean sample, one network call per step (Heun: two).

Each is one function of the same signature, in the space of `denoisers`, x = x0 + sigma n. None calls the denoiser at
sigma 0, none knows guides, and their randomness belongs to the row: only the ancestral ones and lcm read the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from counterpoise.diffusion.denoisers import Cond, Denoiser
from counterpoise.diffusion.start import row_noise

Seeds = Sequence[int]
Sampler = Callable[[Denoiser, Tensor, Tensor, Cond, Seeds], Tensor]  # (denoise, x, ladder, cond, seeds) => x0


def _steps(ladder: Tensor) -> Iterator[tuple[float, float]]:
    """(sigma, the next lower one), step by step."""
    return pairwise(ladder.tolist())


def _level(sigma: float, x: Tensor) -> Tensor:
    """One noise level for every row."""
    return torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)


def euler(denoise: Denoiser, x: Tensor, ladder: Tensor, cond: Cond, seeds: Seeds) -> Tensor:
    """Euler's method for dx/dsigma = (x - D(x)) / sigma: keep the direction of the noise, shrink it to the next rung."""
    for sigma, lower in _steps(ladder):
        clean = denoise(x, _level(sigma, x), cond)
        x = clean + (lower / sigma) * (x - clean)
    return x


#: Song et al. 2021, Equation 12 with eta = 0, divided by sqrt(abar), is Euler's step; on `ladder.discrete` it is DDIM.
ddim = euler


def heun(denoise: Denoiser, x: Tensor, ladder: Tensor, cond: Cond, seeds: Seeds) -> Tensor:
    """Karras et al. 2022, Algorithm 1: the mean of the slopes at both ends of a step; Euler where sigma ends at 0."""
    for sigma, lower in _steps(ladder):
        slope = (x - denoise(x, _level(sigma, x), cond)) / sigma
        ahead = x + (lower - sigma) * slope
        if lower > 0:
            slope_ahead = (ahead - denoise(ahead, _level(lower, x), cond)) / lower
            ahead = x + (lower - sigma) * (slope + slope_ahead) / 2
        x = ahead
    return x


def dpmpp_2m(denoise: Denoiser, x: Tensor, ladder: Tensor, cond: Cond, seeds: Seeds) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2): first order in the first and the last step.

    With lambda = -log sigma, h the length of this step in lambda and h' that of the one before, r = h' / h.
    """
    before, h_before = x, math.inf  # no step before: 1 / r = 0
    for sigma, lower in _steps(ladder):
        clean = denoise(x, _level(sigma, x), cond)
        h = math.log(sigma / lower) if lower > 0 else 0.0  # the last step is infinite: first order
        middle = clean + h / (2 * h_before) * (clean - before)  # the estimate there, extrapolated
        x = (lower / sigma) * x + (1 - lower / sigma) * middle
        before, h_before = clean, h
    return x


def ancestral(denoise: Denoiser, x: Tensor, ladder: Tensor, cond: Cond, seeds: Seeds) -> Tensor:
    """Ho et al. 2020, Algorithm 2, with the larger of its two variances, beta_t ("fixed large").

    beta_t = 1 - abar_t / abar_(t-1) is meant for their x, sqrt(abar) times ours, so here it is divided by abar_(t-1).
    """
    return _ancestral(denoise, x, ladder, cond, seeds, lambda s, r: (s**2 - r**2) * (1 + r**2) / (1 + s**2))


def ancestral_small(denoise: Denoiser, x: Tensor, ladder: Tensor, cond: Cond, seeds: Seeds) -> Tensor:
    """Ho et al. 2020, Algorithm 2, with the variance of the posterior q(x_(t-1) | x_t, x0) (their Equation 7)."""
    return _ancestral(denoise, x, ladder, cond, seeds, lambda s, r: (s**2 - r**2) * r**2 / s**2)


def _ancestral(
    denoise: Denoiser,
    x: Tensor,
    ladder: Tensor,
    cond: Cond,
    seeds: Seeds,
    variance: Callable[[float, float], float],  # (sigma, the next lower one) => of x there
) -> Tensor:
    """To the posterior mean given the estimate (Ho et al. 2020, Equation 7), then fresh noise, but not at the end.

    Noise stream 0 made the start; step k, counted from 0, draws from stream k + 1.
    """
    for k, (sigma, lower) in enumerate(_steps(ladder)):
        clean = denoise(x, _level(sigma, x), cond)
        x = clean + (lower / sigma) ** 2 * (x - clean)
        if lower > 0:
            x = x + math.sqrt(variance(sigma, lower)) * row_noise(seeds, x.shape[1:], stream=k + 1).to(x)
    return x


def lcm(denoise: Denoiser, x: Tensor, ladder: Tensor, cond: Cond, seeds: Seeds) -> Tensor:
    """Luo et al. 2023 (arXiv 2310.04378), Algorithm 3, for networks that were distilled to it: an estimate, noised anew.

    Of their boundary conditions c_skip is 0 and c_out 1 but for the very lowest noise. Streams of noise as in `ancestral`.
    """
    for k, (sigma, lower) in enumerate(_steps(ladder)):
        x = denoise(x, _level(sigma, x), cond)
        if lower > 0:
            x = x + lower * row_noise(seeds, x.shape[1:], stream=k + 1).to(x)
    return x


SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "ancestral_small": ancestral_small,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "lcm": lcm,
}


def calls(name: str, steps: int) -> int:
    """Network calls that a sampler makes on a ladder of so many steps."""
    return steps + max(steps - 1, 0) if name == "heun" else steps
