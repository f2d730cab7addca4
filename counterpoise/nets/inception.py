"""Inception-v3 as the Frechet inception distance uses it (Szegedy et al. 2016; weights of the 2015 TensorFlow graph).

Only the architecture: names and shapes are those of the weights that are passed around as its PyTorch port. It
differs from the textbook in its pooling: averages leave the border out, and the last block takes the maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 1008
SIZE = 299

#: A convolution: channels out, kernel, stride. Padding keeps the size at stride 1 and is none at stride 2.
Shape = tuple[int, int | tuple[int, int], int]
#: One path: convolutions by name, one after the other; a path may end in several that all read what came before.
Path = tuple[Mapping[str, Shape], ...]
Pool = Callable[[Tensor], Tensor]


def average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def shrink(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


class Conv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self, before: int, after: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = True
    ) -> None:
        super().__init__()
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (high // 2, wide // 2) if same else (0, 0)
        self.conv = nn.Conv2d(before, after, (high, wide), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Paths side by side, joined along the channels; after them the pooled input, through a convolution or as it is."""

    def __init__(self, before: int, paths: tuple[Path, ...], pool: Pool, pooled: int = 0) -> None:
        super().__init__()
        self.paths, self.pool = [[list(step) for step in path] for path in paths], pool
        self.width = before
        for path in paths:
            width = before
            for step in path:
                for name, (after, kernel, stride) in step.items():
                    self.add_module(name, Conv(width, after, kernel, stride, same=stride == 1))
                width = sum(after for after, _, _ in step.values())
            self.width += width
        if pooled:
            self.branch_pool = Conv(before, pooled, 1)
            self.width += pooled - before
        self.has_projection = bool(pooled)

    def forward(self, x: Tensor) -> Tensor:
        made = []
        for path in self.paths:
            y = x
            for step in path:
                y = torch.cat([self.get_submodule(name)(y) for name in step], 1)
            made.append(y)
        pooled = self.pool(x)
        return torch.cat([*made, self.branch_pool(pooled) if self.has_projection else pooled], 1)


def chain(prefix: str, *shapes: Shape) -> Path:
    return tuple({f"{prefix}_{i}": shape} for i, shape in enumerate(shapes, start=1))


def block_a(before: int, pooled: int) -> Mixed:
    paths = (
        ({"branch1x1": (64, 1, 1)},),
        chain("branch5x5", (48, 1, 1), (64, 5, 1)),
        chain("branch3x3dbl", (64, 1, 1), (96, 3, 1), (96, 3, 1)),
    )
    return Mixed(before, paths, average, pooled)


def block_b(before: int) -> Mixed:
    paths = (({"branch3x3": (384, 3, 2)},), chain("branch3x3dbl", (64, 1, 1), (96, 3, 1), (96, 3, 2)))
    return Mixed(before, paths, shrink)


def block_c(before: int, inner: int) -> Mixed:
    flat, tall = (1, 7), (7, 1)
    twice = ((inner, 1, 1), (inner, tall, 1), (inner, flat, 1), (inner, tall, 1), (192, flat, 1))
    paths = (
        ({"branch1x1": (192, 1, 1)},),
        chain("branch7x7", (inner, 1, 1), (inner, flat, 1), (192, tall, 1)),
        chain("branch7x7dbl", *twice),
    )
    return Mixed(before, paths, average, 192)


def block_d(before: int) -> Mixed:
    paths = (
        chain("branch3x3", (192, 1, 1), (320, 3, 2)),
        chain("branch7x7x3", (192, 1, 1), (192, (1, 7), 1), (192, (7, 1), 1), (192, 3, 2)),
    )
    return Mixed(before, paths, shrink)


def block_e(before: int, pool: Pool) -> Mixed:
    def fork(name: str) -> dict[str, Shape]:
        return {name + "a": (384, (1, 3), 1), name + "b": (384, (3, 1), 1)}

    paths: tuple[Path, ...] = (
        ({"branch1x1": (320, 1, 1)},),
        (*chain("branch3x3", (384, 1, 1)), fork("branch3x3_2")),
        (*chain("branch3x3dbl", (448, 1, 1), (384, 3, 1)), fork("branch3x3dbl_3")),
    )
    return Mixed(before, paths, pool, 192)


class Inception(nn.Module):
    """(B, 3, H, W) in [0, 1] => features (B, 2048) after the last pooling; `fc` turns them into 1008 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, same=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_a(192, 32), block_a(256, 64), block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b, self.Mixed_6c = block_c(768, 128), block_c(768, 160)
        self.Mixed_6d, self.Mixed_6e = block_c(768, 160), block_c(768, 192)
        self.Mixed_7a = block_d(768)
        self.Mixed_7b, self.Mixed_7c = block_e(1280, average), block_e(2048, largest)
        self.fc = nn.Linear(2048, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False) - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(shrink(x))))
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule("Mixed_" + name)(x)
        return x.mean((2, 3))
