"""Ladders: the noise levels that a sample comes down. (steps + 1,) float64, falling, the last rung is 0.

A sampler takes one step from each rung to the next. Nothing here knows networks or samples.
"""

from __future__ import annotations

import math

import numpy as np
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


def cut(ladder: Tensor, strength: float, least: int = 0) -> Tensor:
    """The last `strength` of the steps (SDEdit, Meng et al. 2022): 1 is all of them, 0 leaves only the final 0.

    As many steps as diffusers and the code of the papers take, int(steps * strength), or else `least`. A strength between
    two rungs begins exactly there, evenly spaced from then on; theirs begin at the rung below.
    """
    steps = len(ladder) - 1
    # A plan keeps strengths as float32: 0.7 of 20 steps reads 13.9999998 and means 14.
    place = round(strength * steps, ROUNDED)
    taken = max(math.floor(place), least) if place else 0
    if taken in (0, place):
        return ladder[steps - taken :]
    times = np.interp(np.linspace(place, 0, taken + 1), np.arange(steps + 1), _times(ladder))
    return torch.from_numpy(times / (1 - times))


def strength_of(ladder: Tensor, sigma: float) -> float:
    """The strength that begins at this noise level; 1 where the ladder begins with less."""
    return float(np.interp(sigma / (1 + sigma), _times(ladder), np.linspace(0, 1, len(ladder))))


def _times(ladder: Tensor) -> np.ndarray:
    """The rungs from 0 up as a flow counts them, sigma / (1 + sigma): between rungs of any ladder, even in these."""
    return (ladder / (1 + ladder)).flip(0).numpy()


def from_sigma(ladder: Tensor, sigma: float) -> Tensor:
    """The ladder that begins at exactly `sigma` and goes on with the lower rungs.

    A rung within 1 % of sigma is left out: it would be a wasted call, and DPM-Solver++ divides by a step's length.
    """
    return torch.cat([ladder.new_tensor([sigma]), ladder[ladder < 0.99 * sigma]])
