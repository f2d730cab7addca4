"""The U-Net of pixel diffusion (Ho et al. 2020, with the adaptive normalisation of Dhariwal & Nichol 2021).

Every layer has its counterpart in diffusers' `UNet2DModel`, so trained weights can leave (to_diffusers.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.nets.attention import attend
from counterpoise.nets.conditioning import Asked, Conditioning
from counterpoise.types import Refusal, part

Layer = TypeVar("Layer", bound=nn.Module)
GROUPS = 8  # of every normalisation


def zeroed(layer: Layer) -> Layer:
    """A layer that begins by saying nothing: what it is added to passes through."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


class Block(nn.Module):
    """Normalise, bend, convolve; twice. What was asked scales and shifts the second normalisation."""

    def __init__(self, before: int, after: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, before), nn.GroupNorm(GROUPS, after)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, 1, 1), zeroed(nn.Conv2d(after, after, 3, 1, 1))
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else None
        self.dropout = dropout

    def forward(self, x: Tensor, asked: Tensor) -> Tensor:  # (b, before, h, w), (b, 2 after, 1, 1)
        scale, shift = asked.chunk(2, 1)
        inner = self.conv1(F.silu(self.norm1(x)))
        inner = F.silu(torch.addcmul(shift, self.norm2(inner), 1 + scale))
        inner = self.conv2(F.dropout(inner, self.dropout, self.training))
        return inner + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Every pixel looks at every other one."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(GROUPS, width)
        self.qkv, self.to_out = nn.Linear(width, 3 * width), zeroed(nn.Linear(width, width))
        self.head_width = head_width

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (b, h w, c)
        q, k, v = self.qkv(tokens).reshape(b, h * w, 3, -1, self.head_width).permute(2, 0, 3, 1, 4)
        seen = attend(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.to_out(seen).transpose(1, 2).reshape(b, c, h, w)


class Upsample(nn.Module):
    """Every pixel four times, then smoothed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


class Stage(nn.Module):
    """The blocks of one resolution, attention behind those with a head width, and the way to the next resolution."""

    def __init__(
        self,
        before: Sequence[int],
        after: int,
        head_widths: Sequence[int],
        dropout: float,
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Block(width, after, dropout) for width in before)
        self.attentions = nn.ModuleList(
            Attention(after, width) if width else nn.Identity() for width in head_widths
        )
        self.resample = resample

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        return zip(self.resnets, self.attentions, strict=True)


class UNetModel(nn.Module):
    """`settings` unrolled for one kind of picture."""

    def __init__(self, settings: UNet, channels: int, classes: int, unshuffle: int, augment: int) -> None:
        super().__init__()
        self.settings, self.unshuffle = settings, unshuffle
        widths, head_width = settings.widths, settings.head_width
        first, last, deepest = widths[0], widths[-1], len(widths) - 1
        blocks, dropout = settings.blocks, settings.dropout
        self.conditioning = Conditioning(first, 4 * first, classes, augment)
        self.conv_in = nn.Conv2d(channels * unshuffle**2, first, 3, 1, 1)
        self.down_blocks = cast(list[Stage], nn.ModuleList())
        skips, before = [first], first
        for level, after in enumerate(widths):
            down = nn.Conv2d(after, after, 3, 2, 1) if level < deepest else None
            heads = [head_width if level in settings.attention else 0] * blocks
            inputs = [before, *[after] * (blocks - 1)]
            self.down_blocks.append(Stage(inputs, after, heads, dropout, down))
            skips += [after] * (blocks + (down is not None))
            before = after
        self.mid_block = Stage([last, last], last, [head_width, 0], dropout, None)
        self.up_blocks = cast(list[Stage], nn.ModuleList())
        for level, after in reversed(list(enumerate(widths))):
            up = Upsample(after) if level else None
            heads = [head_width if level in settings.attention else 0] * (blocks + 1)
            inputs = [width + skips.pop() for width in [before, *[after] * blocks]]
            self.up_blocks.append(Stage(inputs, after, heads, dropout, up))
            before = after
        self.conv_norm_out = nn.GroupNorm(GROUPS, first)
        self.conv_out = zeroed(nn.Conv2d(first, channels * unshuffle**2, 3, 1, 1))
        # One product gives every block its scale and shift.
        self.shares = [2 * block.conv2.out_channels for block in self.blocks().values()]
        self.ask = nn.Linear(4 * first, sum(self.shares))

    def blocks(self) -> dict[str, Block]:
        """By name, in the order in which they run and in which `ask` serves them."""
        return {name: layer for name, layer in self.named_modules() if isinstance(layer, Block)}

    def forward(self, x: Tensor, noise: Tensor, cond: Asked) -> Tensor:  # (b, c, h, w), (b,)
        height, width = x.shape[-2:]
        step = self.unshuffle * 2 ** (len(self.down_blocks) - 1)
        x = F.pad(x, (0, -width % step, 0, -height % step))
        x = self.pyramid(F.pixel_unshuffle(x, self.unshuffle), self.conditioning(noise, cond))
        return F.pixel_shuffle(x, self.unshuffle)[..., :height, :width]

    def pyramid(self, x: Tensor, asked: Tensor) -> Tensor:  # (b, c s^2, h / s, w / s), (b, 4 width)
        shares = iter(self.ask(F.silu(asked))[:, :, None, None].split(self.shares, 1))
        x = self.conv_in(x)
        skips = [x]
        for stage in self.down_blocks:
            for block, attention in stage.pairs():
                x = attention(block(x, next(shares)))
                skips.append(x)
            if stage.resample is not None:
                x = stage.resample(x)
                skips.append(x)
        for block, attention in self.mid_block.pairs():
            x = attention(block(x, next(shares)))
        for stage in self.up_blocks:
            for block, attention in stage.pairs():
                x = attention(block(torch.cat([x, skips.pop()], 1), next(shares)))
            if stage.resample is not None:
                x = stage.resample(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


@part
class UNet:
    """Settings of the network.

    `levels` are the widths in units of `width`, from the full resolution down, each half as large as the one before;
    the middle always has attention, of `heads` heads, and so have the levels named by `attention`. `unshuffle` folds
    squares of so many pixels into channels first; None: 2 from 28 px on, else 1. Any size works: pictures are padded
    on their right and lower sides to what the levels need, and cut back.

    The defaults are for 8 to 16 px (0.3 M weights). At 28 and 32 px `width=64` (1.2 M) is the fast choice and
    `width=64, levels=(1, 1, 2)` (3.3 M) the larger one; at 64 px the latter with `unshuffle=4`.
    """

    width: Annotated[int, Field(ge=8, multiple_of=GROUPS)] = 32
    levels: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 1)
    blocks: Annotated[int, Field(ge=1)] = 1
    heads: Annotated[int, Field(ge=1)] = 1
    attention: tuple[Annotated[int, Field(ge=0)], ...] = ()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    unshuffle: Annotated[int, Field(ge=1, le=4)] | None = None

    @property
    def widths(self) -> list[int]:
        return [self.width * level for level in self.levels]

    @property
    def head_width(self) -> int:
        """The same at every level: diffusers knows one number."""
        return self.widths[-1] // self.heads

    def __call__(self, channels: int, classes: int, size: int, seed: int, augment: int = 0) -> UNetModel:
        last = len(self.levels) - 1
        for level in {*self.attention, last}:
            if level > last or self.widths[level] % self.head_width or self.widths[last] % self.heads:
                raise Refusal(
                    f"UNet.heads must cut every level with attention into heads of one width; found {self.heads} "
                    f"heads, widths {self.widths} and attention at level {level}: change heads, levels or attention"
                )
        unshuffle = self.unshuffle or (1 if size < 28 else 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UNetModel(self, channels, classes, unshuffle, augment)
