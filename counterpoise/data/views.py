"""Views that a picture is known again by, for learning without labels (Chen et al. 2020, Appendix A).

Parts of it and other colours: what `augment` has is for learning with labels, and RandAugment teaches nothing here (docs/log.md).
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from counterpoise.data import operations
from counterpoise.data.augment import Batch, Share
from counterpoise.data.pixels import as_float
from counterpoise.types import part

STRETCH = math.log(4 / 3)  # at most, of the sides of a part against each other
COLOURLESS = -1 / 0.9  # the strength at which `saturation` leaves no colour


@part
class Zoom:
    """A random part of each image, of `least` to all of its area, as large as the whole."""

    least: Annotated[float, Field(gt=0, le=1)] = 0.2

    def __call__(self, x: Tensor, targets: Tensor, rng: torch.Generator, **aid: Any) -> Batch:
        x = as_float(x)
        area, stretch, *place = torch.rand((4, len(x)), generator=rng, device=rng.device).to(x)
        side = (self.least + (1 - self.least) * area).sqrt()
        bend = ((stretch - 0.5) * STRETCH).exp()
        sides = (side * bend).clamp(max=1), (side / bend).clamp(max=1)  # width and height, as shares
        # From -1 to 1 is the image; a part of this side has room to move for what is left.
        across, down = ((2 * at - 1) * (1 - length) for at, length in zip(place, sides, strict=True))
        nothing = torch.zeros_like(side)
        rows = [torch.stack([sides[0], nothing, across], 1), torch.stack([nothing, sides[1], down], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        made = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        return made.contiguous(memory_format=torch.channels_last), targets


@part
class Tint:
    """Brightness, contrast and saturation by up to `strength` in four of five images; one of five loses its colours."""

    strength: Share = 0.4
    p: Share = 0.8
    grey: Share = 0.2

    def __call__(self, x: Tensor, targets: Tensor, rng: torch.Generator, **aid: Any) -> Batch:
        x = as_float(x)
        *drawn, chosen, faded = torch.rand((5, len(x)), generator=rng, device=rng.device).to(x)
        amounts = [(2 * share - 1) * self.strength * (chosen < self.p) for share in drawn]
        amounts[2] = torch.where(faded < self.grey, COLOURLESS, amounts[2])
        changes = (operations.brightness, operations.contrast, operations.saturation)
        for change, amount in zip(changes, amounts, strict=True):
            x = change(x, amount.view(-1, 1, 1, 1)).clamp(0, 1)
        return x.contiguous(memory_format=torch.channels_last), targets
