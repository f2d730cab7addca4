"""Ladders: the noise levels that a sample comes down. (steps + 1,) float64, falling, the last rung is 0.

A sampler takes one step from each rung to the next. Nothing here knows networks or samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from counterpoise.diffusion.denoisers import Schedule
from counterpoise.types import Refusal

LARGEST_FLOW = 2.0**20  # instead of infinite noise: a millionth of the clean x is in it

ROUNDED = 4  # digits of a number of steps that count


def _grounded(sigmas: Tensor) -> Tensor:
    """The same rungs, and 0 below them."""
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Rungs evenly spaced in sigma^(1/rho): short steps where there is little noise (Karras et al. 2022, Equation 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return _grounded((top + ramp * (bottom - top)) ** rho)


def discrete(schedule: Schedule, steps: int) -> Tensor:
    """Rungs at evenly spaced steps of a discrete schedule, the noisiest first; all of them when steps == T.

    Spaced so that the last step, to clean data, is as long as the others ("trailing" in Lin et al. 2024, Table 2).
    """
    if steps > schedule.steps:
        raise Refusal(
            f"a ladder has at most one rung per step of its schedule, {schedule.steps}, found {steps}"
        )
    passed = torch.linspace(schedule.steps, 0, steps + 1, dtype=torch.float64)[:-1].round().long()
    return _grounded(schedule.sigmas[passed - 1])


def flow(steps: int, shift: float = 1.0, last: float | None = None) -> Tensor:
    """Rungs of a flow, sigma = t / (1 - t): t evenly from 1 to `last`, by default 1 / steps, then shifted to more noise.

    t' = shift t / (1 + (shift - 1) t) (Esser et al. 2024, Equation 23). The first is noise alone, or all but: sigma is finite.
    """
    even = torch.linspace(1, last or 1 / steps, steps, dtype=torch.float64)
    t = shift * even / (1 + (shift - 1) * even)
    return _grounded((t / (1 - t)).clamp(max=LARGEST_FLOW))


def cut(ladder: Tensor, strength: float) -> Tensor:
    """The last `strength` of the steps (SDEdit, Meng et al. 2022): 1 is all of them, 0 leaves only the final 0.

    Whole steps below that share, int(steps * strength), as diffusers and the code of the papers have it.
    """
    steps = len(ladder) - 1
    # A plan keeps strengths as float32: 0.7 of 20 steps reads 13.9999998 and means 14.
    return ladder[steps - math.floor(round(strength * steps, ROUNDED)) :]


def from_sigma(ladder: Tensor, sigma: float) -> Tensor:
    """The ladder that begins at exactly `sigma` and goes on with the lower rungs.

    A rung within 1 % of sigma is left out: it would be a wasted call, and DPM-Solver++ divides by a step's length.
    """
    return torch.cat([ladder.new_tensor([sigma]), ladder[ladder < 0.99 * sigma]])
