"""Variational autoencoders with a linear classifier on the code: the network of the deep generative mixture model (DGCMM).

Two encoders, for feature vectors and for small pictures, make the same kind of module. The decoder is not told the
class, so the code has to carry it. Kingma & Welling 2014 for the autoencoder; the classifier on z is Wang et al. 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.nets.resnet import ResNet, SmallResNet
from counterpoise.types import part

LOG_VARIANCE = 20.0  # a posterior variance stays within exp(-20) and exp(20)
GRID = 4  # pixels a side, where pictures become vectors and come back


class VAE(nn.Module):
    """`encode` and `decode` speak of scaled rows, `scaled` makes them from raw ones; `head` classifies codes."""

    center: Tensor  # () or (d,)
    scale: Tensor

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, latent: int, classes: int, center: Tensor, scale: Tensor
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, nn.Linear(latent, classes)
        self.register_buffer("center", center)
        self.register_buffer("scale", scale)

    def scaled(self, rows: Tensor) -> Tensor:
        """Raw rows => standardised features, or pixels in [0, 1]."""
        return (rows.float() - self.center) / self.scale

    def restored(self, x: Tensor) -> Tensor:
        """And back."""
        return x * self.scale + self.center

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's mean and log-variance, (b, latent) each."""
        mu, log_variance = self.encoder(x).chunk(2, 1)
        return mu, log_variance.clamp(-LOG_VARIANCE, LOG_VARIANCE)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


# --- vectors -------------------------------------------------------------------------------------------------


class _Residual(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.inner, self.dropout = nn.LayerNorm(width), nn.Linear(width, width), dropout

    def forward(self, x: Tensor) -> Tensor:
        return x + F.dropout(F.silu(self.inner(self.norm(x))), self.dropout, self.training)


def _mlp(before: int, after: int, width: int, depth: int, dropout: float) -> nn.Sequential:
    blocks = [_Residual(width, dropout) for _ in range(depth)]
    return nn.Sequential(nn.Linear(before, width), *blocks, nn.LayerNorm(width), nn.Linear(width, after))


@part
class VectorVAE:
    """For feature vectors: residual layers on both sides, and `dropout` in them."""

    width: Annotated[int, Field(ge=8)] = 256
    depth: Annotated[int, Field(ge=0)] = 1
    latent: Annotated[int, Field(ge=1)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def __call__(self, shape: Sequence[int], classes: int, seed: int) -> VAE:
        (dim,) = shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = _mlp(dim, 2 * self.latent, self.width, self.depth, self.dropout)
            decoder = _mlp(self.latent, dim, self.width, self.depth, self.dropout)
            return VAE(encoder, decoder, self.latent, classes, torch.zeros(dim), torch.ones(dim))


# --- pictures ------------------------------------------------------------------------------------------------


class _Encoder(nn.Module):
    """The trunk of a small residual network, kept as a grid of `GRID` x `GRID` places: where things are is a part of the code."""

    def __init__(self, trunk: ResNet, latent: int) -> None:
        super().__init__()
        channels = trunk.head.in_features
        self.stem, self.stages, self.norm = trunk.stem, trunk.stages, trunk.norm
        self.out = nn.Linear(channels * GRID**2, 2 * latent)

    def forward(self, x: Tensor) -> Tensor:  # (b, c, h, w) in [0, 1] => (b, 2 latent)
        h = F.relu(self.norm(self.stages(self.stem((x - 0.5) * 4))))
        return self.out(F.adaptive_avg_pool2d(h, GRID).flatten(1))


class _Decoder(nn.Module):
    """From the grid to the picture, twice as large at every stage, half as wide."""

    def __init__(self, latent: int, channels: int, size: int, width: int) -> None:
        super().__init__()
        doublings = math.ceil(math.log2(size / GRID))
        self.sizes = [math.ceil(size / 2**i) for i in reversed(range(doublings))]  # 30 => 8, 15, 30
        widths = [width * 2**i for i in reversed(range(doublings + 1))]
        self.into = nn.Linear(latent, widths[0] * GRID**2)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 3, 1, 1)) for a, b in pairwise(widths)
        )
        self.out = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, channels, 3, 1, 1))

    def forward(self, z: Tensor) -> Tensor:  # (b, latent) => (b, c, h, w) in [0, 1]
        h = self.into(z).unflatten(1, (-1, GRID, GRID))
        for size, stage in zip(self.sizes, self.stages, strict=True):
            h = F.interpolate(stage(h), size=size)  # convolved while it is small: three times as fast
        return self.out(h).sigmoid()


@part
class ImageVAE:
    """For pictures of 8 to 64 pixels: a small residual encoder, and a decoder to the same range [0, 1]."""

    width: Annotated[int, Field(ge=4)] = 16
    blocks: Annotated[int, Field(ge=1)] = 1
    latent: Annotated[int, Field(ge=1)] = 64

    def __call__(self, shape: Sequence[int], classes: int, seed: int) -> VAE:
        size, _, channels = shape
        trunk = SmallResNet(width=self.width, blocks=self.blocks)(channels, classes, size, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = _Encoder(trunk, self.latent)
            decoder = _Decoder(self.latent, channels, size, self.width)
            return VAE(encoder, decoder, self.latent, classes, torch.zeros(()), torch.tensor(255.0))
