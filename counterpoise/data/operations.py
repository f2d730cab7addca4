"""Image operations on batches, each image with its own strength. Pure functions: what is random is decided elsewhere.

Images are (B, C, H, W) floats in [0, 1], grey or RGB; a strength is in [-1, 1] and 0 changes nothing (except for
`autocontrast`, which has no strength). Ranges at strength 1 are those of RandAugment (Cubuk et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Operation = Callable[
    [Tensor, Tensor], Tensor
]  # images (b, c, h, w), strengths (b, 1, 1, 1) => images, not yet clamped

#: What `warp` does to an image at strength 1: radians, slopes, shares of the width or height.
GEOMETRY = {
    "rotate": math.radians(30),
    "shear_x": 0.3,
    "shear_y": 0.3,
    "shift_x": 150 / 331,
    "shift_y": 150 / 331,
}


def warp(
    x: Tensor, rotate: Tensor, shear_x: Tensor, shear_y: Tensor, shift_x: Tensor, shift_y: Tensor
) -> Tensor:
    """All five geometric operations in one resampling; amounts (b,) as in `GEOMETRY`. What comes from outside is black."""
    h, w = x.shape[2:]
    cos, sin = rotate.cos(), rotate.sin()
    # grid coordinates run from -1 to 1 in both directions, so slopes need the aspect ratio
    across = torch.stack([cos, (shear_x - sin) * (h / w), 2 * shift_x], -1)
    down = torch.stack([(shear_y + sin) * (w / h), cos, 2 * shift_y], -1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _grey(x: Tensor) -> Tensor:
    """(b, c, h, w) => (b, 1, h, w), by the luma of ITU-R 601."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def brightness(x: Tensor, strength: Tensor) -> Tensor:
    return x * (1 + 0.9 * strength)


def contrast(x: Tensor, strength: Tensor) -> Tensor:
    return x + 0.9 * strength * (x - _grey(x).mean((2, 3), keepdim=True))


def saturation(x: Tensor, strength: Tensor) -> Tensor:
    return x + 0.9 * strength * (x - _grey(x))


def sharpness(x: Tensor, strength: Tensor) -> Tensor:
    """Away from (or towards) a 3 x 3 smoothing; the outermost pixels stay."""
    kernel = x.new_tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]).div(13).expand(x.shape[1], 1, 3, 3)
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(x, kernel, groups=x.shape[1])
    return x + 0.9 * strength * (x - smooth)


def posterize(x: Tensor, strength: Tensor) -> Tensor:
    """8 bits down to 4."""
    step = 2.0 ** (4 * strength.abs()).round()
    return torch.where(step == 1, x, ((x * 255).round() / step).floor() * step / 255)


def solarize(x: Tensor, strength: Tensor) -> Tensor:
    return torch.where(x > 1 - strength.abs(), 1 - x, x)


def autocontrast(x: Tensor, strength: Tensor) -> Tensor:
    """Each channel stretched to [0, 1]; an empty one stays."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp_min(1e-6), x)


#: `saturation` is the last one: grey images have none.
COLOURS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (brightness, contrast, sharpness, posterize, solarize, autocontrast, saturation)
}
NAMES = ("identity", *GEOMETRY, *COLOURS)


def apply(x: Tensor, which: Tensor, strength: Tensor) -> Tensor:
    """Image i changed by operation ``NAMES[which[i]]`` at ``strength[i]``."""
    out = x.clone()
    moved = torch.nonzero((which >= 1) & (which <= len(GEOMETRY)))[:, 0]
    if len(moved):
        amounts = {
            name: torch.where(which[moved] == NAMES.index(name), strength[moved] * range_, 0.0)
            for name, range_ in GEOMETRY.items()
        }
        out[moved] = warp(x[moved], **amounts)
    for name, operation in COLOURS.items():
        mine = torch.nonzero(which == NAMES.index(name))[:, 0]
        if len(mine):
            out[mine] = operation(x[mine], strength[mine].view(-1, 1, 1, 1))
    return out.clamp_(0, 1)
