"""A small residual network for small images, trained from scratch (He et al. 2016, pre-activation).

It knows nothing of losses or data: pixels in, penultimate features out; the linear head sits beside it.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.types import part


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.skip = (
            nn.Conv2d(before, after, 1, stride, bias=False) if (before, stride) != (after, 1) else None
        )

    def forward(self, x: Tensor) -> Tensor:
        pre = F.relu(self.norm1(x))
        skip = x if self.skip is None else self.skip(pre)
        return skip + self.conv2(F.relu(self.norm2(self.conv1(pre))))


class Headed(nn.Module):
    """A network with a linear head; with `cosine` its logits are cosines of feature and class vector (LDAM)."""

    head: nn.Linear
    cosine: bool

    def features(self, x: Tensor) -> Tensor:  # (b, c, h, w) in [0, 1] => (b, d)
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        if self.cosine:
            return F.linear(F.normalize(features), F.normalize(self.head.weight))
        return self.head(features)


class ResNet(Headed):
    """Features of an image batch in [0, 1]; `head` turns them into logits."""

    def __init__(
        self, channels: int, classes: int, widths: tuple[int, ...], blocks: int, cosine: bool, stride: int = 1
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, stride, 1, bias=False)
        stages: list[nn.Module] = []
        before = widths[0]
        for index, width in enumerate(widths):
            for block in range(blocks):
                stages.append(_Block(before, width, 2 if index and block == 0 else 1))
                before = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, classes, bias=not cosine)
        self.cosine = cosine

    def features(self, x: Tensor) -> Tensor:  # (b, c, h, w) in [0, 1] => (b, d)
        x = self.stages(self.stem((x - 0.5) * 4))
        return F.relu(self.norm(x)).mean((2, 3))


@part
class SmallResNet:
    """Settings of the from-scratch classifier: the width of its first stage and the residual blocks per stage."""

    width: Annotated[int, Field(ge=4, le=256)] = 16
    blocks: Annotated[int, Field(ge=1, le=18)] = 1

    def __call__(self, channels: int, classes: int, size: int, seed: int, cosine: bool = False) -> ResNet:
        # One stage per halving down to some 4 pixels: 32 px get three, 64 px four. Tiny pictures are halved by the
        # stem at once: as accurate on digits in half the time (docs/log.md).
        tiny = size < 16
        stages = range(1, 2) if tiny else range(3 + (size >= 48))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = tuple(self.width * 2**i for i in stages)
            return ResNet(channels, classes, widths, self.blocks, cosine, stride=2 if tiny else 1)
