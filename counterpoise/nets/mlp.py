"""A residual MLP as a denoising network: for feature vectors, and for pictures so small that convolutions do not pay."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.nets.conditioning import Asked, Conditioning
from counterpoise.types import part


class Block(nn.Module):
    """Normalise, scale and shift by what was asked, widen, bend, narrow, gate (Peebles & Xie 2023, without attention)."""

    def __init__(self, width: int, widen: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.up, self.down = nn.Linear(width, widen * width), nn.Linear(widen * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor, asked: Tensor) -> Tensor:  # (b, width), (b, 3 width)
        shift, scale, gate = asked.chunk(3, 1)
        inner = F.silu(self.up(torch.addcmul(shift, self.norm(x), 1 + scale)))
        return torch.addcmul(x, gate, self.down(F.dropout(inner, self.dropout, self.training)))


class MLPModel(nn.Module):
    """Works on anything with `dim` numbers a row, whatever its shape."""

    def __init__(self, settings: MLP, dim: int, classes: int, augment: int) -> None:
        super().__init__()
        width = settings.width
        self.conditioning = Conditioning(width, width, classes, augment)
        self.into, self.out = nn.Linear(dim, width), nn.Linear(width, dim)
        self.blocks = nn.ModuleList(
            Block(width, settings.widen, settings.dropout) for _ in range(settings.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width * settings.depth)  # every block's share in one product
        for layer in (self.ask, self.out):  # at first every block is the identity and the output zero
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, noise: Tensor, cond: Asked) -> Tensor:
        shares = self.ask(F.silu(self.conditioning(noise, cond))).chunk(len(self.blocks), 1)
        h = self.into(x.flatten(1))
        for block, share in zip(self.blocks, shares, strict=True):
            h = block(h, share)
        return self.out(self.norm(h)).reshape(x.shape)


@part
class MLP:
    """Settings of the network."""

    width: Annotated[int, Field(ge=8, multiple_of=2)] = 256
    depth: Annotated[int, Field(ge=1)] = 4
    widen: Annotated[int, Field(ge=1)] = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __call__(self, channels: int, classes: int, size: int, seed: int, augment: int = 0) -> MLPModel:
        """For pictures; a vector of d numbers is a picture of d channels and one pixel."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MLPModel(self, channels * size**2, classes, augment)
