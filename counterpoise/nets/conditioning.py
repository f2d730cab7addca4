"""What a diffusion network is told besides the picture: the noise level, the class, how the picture was augmented."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Asked(Protocol):
    """A batch of wishes, row by row; `counterpoise.diffusion` has the class."""

    @property
    def label(self) -> Tensor | None:  # (b,) int64; negative: no label
        ...

    @property
    def augment(self) -> Tensor | None:  # (b, k); None or zeros: not augmented
        ...

    @property
    def text(self) -> Tensor | None:  # (b, tokens) int64; None: the text of the label
        ...

    @property
    def image(self) -> Tensor | None:  # (b, d); None or zeros: of no picture
        ...


def sinusoids(noise: Tensor, width: int) -> Tensor:
    """Cosines and sines of the noise level at falling frequencies (Vaswani et al. 2017): (b,) => (b, width)."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=noise.device) * (-math.log(10_000) / half))
    angle = noise.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


class Conditioning(nn.Module):
    """One vector per row. The last row of `class_embedding` is the learned null token: "of no class"."""

    def __init__(self, width: int, out: int, classes: int, augment: int) -> None:
        super().__init__()
        self.width, self.null = width, classes
        self.linear_1, self.linear_2 = nn.Linear(width, out), nn.Linear(out, out)
        self.class_embedding = nn.Embedding(classes + 1, out)
        # Not torch's 1: at first the noise level should be heard above the class.
        nn.init.normal_(self.class_embedding.weight, std=0.2)
        # No bias: for a picture as it was (zeros) the term vanishes, and with it the need to export it.
        self.augment = nn.Linear(augment, out, bias=False) if augment else None

    def forward(self, noise: Tensor, cond: Asked) -> Tensor:  # (b,) => (b, out)
        found = sinusoids(noise, self.width).to(self.linear_1.weight.dtype)
        found = self.linear_2(F.silu(self.linear_1(found)))
        label = cond.label if cond.label is not None else torch.full_like(noise, -1, dtype=torch.long)
        found = found + self.class_embedding(torch.where(label < 0, self.null, label))
        if self.augment is not None and cond.augment is not None:
            found = found + self.augment(cond.augment)
        return found
