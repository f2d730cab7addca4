"""The diffusion transformer (Peebles & Xie 2023, arXiv 2212.09748), with their adaLN-Zero blocks."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.nets.attention import attend
from counterpoise.nets.conditioning import Asked, Conditioning, sinusoids
from counterpoise.types import Refusal, part


class Block(nn.Module):
    """Attention, then a small network per token. What was asked scales, shifts and gates both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, asked: Tensor) -> Tensor:  # (b, n, d), (b, 1, 6 d)
        scale, shift, gate, scale_2, shift_2, gate_2 = asked.chunk(6, 2)
        x = x + gate * self.across(modulated(x, scale, shift))
        inner = F.gelu(self.widen(modulated(x, scale_2, shift_2)), approximate="tanh")
        return x + gate_2 * self.narrow(inner)

    def across(self, x: Tensor) -> Tensor:  # (b, n, d)
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.to_out(attend(q, k, v).transpose(1, 2).flatten(2))


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalised tokens, scaled and shifted as was asked."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


class DiTModel(nn.Module):
    """`settings` unrolled for one kind of picture."""

    places: Tensor

    def __init__(
        self, settings: DiT, channels: int, classes: int, size: int, patch: int, augment: int
    ) -> None:
        super().__init__()
        width, self.patch = settings.width, patch
        self.conditioning = Conditioning(width, width, classes, augment)
        self.stem = nn.Linear(channels * patch**2, width)
        self.blocks = nn.ModuleList(Block(width, settings.heads) for _ in range(settings.depth))
        self.shares = [6 * width] * settings.depth + [2 * width]
        self.ask = nn.Linear(width, sum(self.shares))  # one product for all blocks
        self.out = nn.Linear(width, channels * patch**2)
        side = -(-size // patch)
        axis = sinusoids(torch.arange(side), width // 2)
        places = torch.cat([axis.repeat_interleave(side, 0), axis.repeat(side, 1)], 1)
        self.register_buffer("places", places, persistent=False)  # (tokens, width)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.ask.weight)  # adaLN-Zero: every block begins as the identity
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, noise: Tensor, cond: Asked) -> Tensor:  # (b, c, h, w), (b,)
        height, width = x.shape[-2:]
        x = F.pixel_unshuffle(F.pad(x, (0, -width % self.patch, 0, -height % self.patch)), self.patch)
        rows = x.shape[2]
        *shares, last = self.ask(F.silu(self.conditioning(noise, cond)))[:, None].split(self.shares, 2)
        tokens = self.stem(x.flatten(2).transpose(1, 2)) + self.places
        for block, share in zip(self.blocks, shares, strict=True):
            tokens = block(tokens, share)
        tokens = self.out(modulated(tokens, *last.chunk(2, 2)))
        out = tokens.transpose(1, 2).unflatten(2, (rows, -1))
        return F.pixel_shuffle(out, self.patch)[..., :height, :width]


@part
class DiT:
    """Settings of the transformer. `patch` None: 1 below 14 px, 2 up to 28 px, 4 above: some 50 to 200 tokens."""

    width: Annotated[int, Field(ge=16, multiple_of=4)] = 128
    depth: Annotated[int, Field(ge=1)] = 4
    heads: Annotated[int, Field(ge=1)] = 4
    patch: Annotated[int, Field(ge=1)] | None = None

    def __call__(self, channels: int, classes: int, size: int, seed: int, augment: int = 0) -> DiTModel:
        if self.width % self.heads:
            raise Refusal(
                f"DiT.heads must divide DiT.width, found {self.heads} and {self.width}: change one of them"
            )
        patch = self.patch or (1 if size < 14 else 2 if size <= 28 else 4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return DiTModel(self, channels, classes, size, patch, augment)
