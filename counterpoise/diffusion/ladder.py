"""Ladders: the noise levels that a sample comes down. (steps + 1,) float64, falling, the last rung is 0.

A sampler takes one step from each rung to the next. Nothing here knows networks or samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoise.diffusion.denoisers import Schedule
from counterpoise.types import Refusal


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


def cut(ladder: Tensor, strength: float) -> Tensor:
    """The last `strength` of the steps (SDEdit, Meng et al. 2022): 1 is all of them, 0 leaves only the final 0."""
    steps = len(ladder) - 1
    return ladder[steps - round(strength * steps) :]


def from_sigma(ladder: Tensor, sigma: float) -> Tensor:
    """The ladder that begins at exactly `sigma` and goes on with the lower rungs.

    A rung within 1 % of sigma is left out: it would be a wasted call, and DPM-Solver++ divides by a step's length.
    """
    return torch.cat([ladder.new_tensor([sigma]), ladder[ladder < 0.99 * sigma]])
