"""Previews of latents: about what the decoder would show, a thousand times cheaper, for guides that look at every step.

A latent of 4 x 64 x 64 numbers is nearly a small picture already. Both previews are torch modules that gradients pass;
their state is plain tensors. Pictures are (n, 3, H, W) in the range that the decoder has, and previews are not clamped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.nets.adam import Adam
from counterpoise.nets.unet import zeroed
from counterpoise.types import part

Decoder = Callable[[Tensor], Tensor]  # latents (n, c, h, w) => pictures (n, 3, H, W)


def fit_linear(latents: Tensor, images: Tensor) -> nn.Conv2d:
    """The linear map from latent to colour, the same at every place, that errs least; as large as the latents."""
    channels = latents.shape[1]
    x = latents.double().movedim(1, -1).reshape(-1, channels)  # (n h w, c)
    y = _shrunk(images, latents.shape[2]).double().movedim(1, -1).reshape(-1, 3)
    mean_x, mean_y = x.mean(0), y.mean(0)
    away = x - mean_x
    slope = torch.linalg.pinv(away.T @ away, hermitian=True) @ away.T @ (y - mean_y)  # (c, 3)
    made = nn.Conv2d(channels, 3, 1, device=latents.device).requires_grad_(False)
    made.weight.copy_(slope.T[:, :, None, None])
    assert made.bias is not None
    made.bias.copy_(mean_y - mean_x @ slope)
    return made


class Sketch(nn.Module):
    """The linear map, and what a few convolutions know better. All work is done at the size of the latent."""

    def __init__(self, channels: int, width: int, blocks: int, doublings: int) -> None:
        super().__init__()
        self.linear, self.into = nn.Conv2d(channels, 3, 1), nn.Conv2d(channels, width, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1), nn.SiLU(), nn.Conv2d(width, width, 1))
            for _ in range(blocks)
        )
        self.out = zeroed(nn.Conv2d(width, 3 * 4**doublings, 3, 1, 1))  # at first the linear map alone
        self.times = 2**doublings

    def forward(self, latents: Tensor) -> Tensor:  # (n, c, h, w) => (n, 3, times h, times w)
        h = self.into(latents)
        for block in self.blocks:
            h = h + block(h)
        plain = F.interpolate(self.linear(latents), scale_factor=float(self.times), mode="bilinear")
        return plain + F.pixel_shuffle(self.out(F.silu(h)), self.times)


@part
class SmallDecoder:
    """Settings of the preview that learns from a decoder: pictures `doublings` times twice as large as the latent."""

    width: Annotated[int, Field(ge=4)] = 32
    blocks: Annotated[int, Field(ge=0)] = 2
    doublings: Annotated[int, Field(ge=0)] = 1
    steps: Annotated[int, Field(ge=1)] = 300
    batch: Annotated[int, Field(ge=1)] = 16
    rate: Annotated[float, Field(gt=0)] = 4e-3

    def net(self, channels: int) -> Sketch:
        """Untaught: to load a state into."""
        return Sketch(channels, self.width, self.blocks, self.doublings)

    def __call__(self, latents: Tensor, decode: Decoder, seed: int) -> Sketch:
        """Every latent is decoded once; then least squares, by Adam with a rate that falls to nothing."""
        with torch.no_grad():
            side = latents.shape[2] * 2**self.doublings
            images = torch.cat([_shrunk(decode(some), side) for some in latents.split(self.batch)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self.net(latents.shape[1]).to(latents.device)
        net.linear.load_state_dict(fit_linear(latents, images).state_dict())
        weights = list(net.parameters())
        adam, rng = Adam(weights), torch.Generator().manual_seed(seed)
        for step in range(self.steps):
            some = torch.randint(len(latents), (self.batch,), generator=rng).to(latents.device)
            loss = (net(latents[some]) - images[some]).square().mean()
            adam(torch.autograd.grad(loss, weights), self.rate * (1 - step / self.steps))
        return net.eval().requires_grad_(False)


def _shrunk(images: Tensor, side: int) -> Tensor:
    """Means of squares of pixels, so that side is that of the preview."""
    return F.interpolate(images, (side, images.shape[3] * side // images.shape[2]), mode="area")
