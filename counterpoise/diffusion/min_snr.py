"""Fewer efforts at noise levels that are easy: Min-SNR weighting (Hang et al. 2023, arXiv 2303.09556)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from counterpoise.diffusion.denoisers import Eps, Velocity
from counterpoise.diffusion.losses import UniformTime
from counterpoise.types import part


@part
class MinSNR:
    """Steps as `UniformTime` draws them; an error of the clean x costs min(SNR, gamma) (their Equation 8).

    That is min(1, gamma sigma^2) for the error of the noise, whatever the network predicts, as SNR = 1 / sigma^2.
    """

    parametrisation: Eps | Velocity = Eps()
    gamma: Annotated[float, Field(gt=0)] = 5.0

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        return UniformTime(self.parametrisation).draw(n, rng)

    def weight(self, sigma: Tensor) -> Tensor:
        return (self.gamma * sigma**2).clamp(max=1)
