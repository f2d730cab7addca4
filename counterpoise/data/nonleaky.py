"""Augmentation for generators: told of, it does not leak into samples (Karras et al. 2022, Appendix F.2).

Every change of `NonLeaky` is described by a vector beside the image; a network that is conditioned on it can be asked, with zeros,
for images as they are.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from counterpoise.types import part


@part
class Mirror:
    """Left and right exchanged in every second image, for things that have no hand: the network is not told."""

    dim: ClassVar[int] = 0

    def __call__(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, None]:
        chosen = torch.rand(len(x), generator=rng) < 0.5
        return torch.where(chosen[:, None, None, None], x.flip(3), x), None


@part
class NonLeaky:
    """Flips, scale, rotation, stretch and shift, each with probability `p` (the left-right flip always a fair coin).

    `flip=False` leaves the mirrored images out of it, `turn` limits rotations (in turns; 0.5 is any angle), for
    things that have a hand or an upright, such as digits.
    """

    p: Annotated[float, Field(ge=0, le=1)] = 0.12
    flip: bool = True
    turn: Annotated[float, Field(ge=0, le=0.5)] = 0.5
    dim: ClassVar[int] = 9

    def __call__(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """x (b, c, h, w) floats => changed x, and what was done to it (b, 9)."""
        b = len(x)

        def chosen(p: float) -> Tensor:
            return (torch.rand(b, generator=rng) < p).float()

        def normal() -> Tensor:
            return torch.randn(b, generator=rng) * chosen(self.p)

        mirror = chosen(0.5) if self.flip else torch.zeros(b)
        upside = chosen(self.p) if self.flip else torch.zeros(b)
        scale = normal()
        turn = (torch.rand(b, generator=rng) * 2 - 1) * 2 * math.pi * self.turn * chosen(self.p)
        along, stretch = torch.rand(b, generator=rng) * 2 * math.pi, normal()
        right, down = normal(), normal()

        # From the place in the new image to the place in the old one, in units of half an image.
        matrix = _diagonal(1 - 2 * mirror, 1 - 2 * upside)
        matrix = matrix @ _diagonal(2 ** (-0.2 * scale), 2 ** (-0.2 * scale))
        matrix = matrix @ _rotation(turn)
        matrix = (
            matrix
            @ _rotation(-along)
            @ _diagonal(2 ** (-0.2 * stretch), 2 ** (0.2 * stretch))
            @ _rotation(along)
        )
        shift = torch.stack([right, down], 1)[..., None] / 4  # an eighth of the image
        grid = F.affine_grid(
            torch.cat([matrix, -matrix @ shift], 2).to(x), list(x.shape), align_corners=False
        )
        changed = F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
        told = [mirror, upside, scale, turn.cos() - 1, turn.sin()]
        told += [stretch * along.cos(), stretch * along.sin(), right, down]
        return changed.clamp(-1, 1), torch.stack(told, 1).to(x)


def _diagonal(first: Tensor, second: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([first, second], 1))


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
