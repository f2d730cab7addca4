"""The autoencoder: 32 x 32 pictures to 8 x 8 latents of six channels and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from miniatures.learning import Place, Timetable, draws, train
from miniatures.pictures import Pictures, batch

CHANNELS = 6
BATCH = 64
KL = 2e-4


def build() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=32,
        mid_block_add_attention=False,
    )


def fit(
    real: Pictures, held: Pictures, work: Path, place: Place, steps: int, minutes: float | None
) -> nn.Module | None:
    net = build()

    def loss_of(step: int, place: Place) -> Tensor:
        rows = place.mine(batch(len(real.labels), BATCH, "autoencoder", step))
        x = real.seen(rows)
        flip = torch.from_numpy(draws("flip", step).random(len(x)) < 0.5)
        x[flip] = x[flip].flip(-1)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = net.encode(x).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
            back = net.decode(z).sample.float()
        error = back - x
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return error.square().mean() + 0.05 * error.abs().mean() + KL * kl

    def look(net: nn.Module, step: int) -> dict[str, float]:
        return {"psnr": psnr(net, held.seen(np.arange(1000)))}

    return train(net, loss_of, Timetable(steps, 1.5e-3, cool=max(1, steps // 3)), work, place, minutes, look)


@torch.no_grad()
def psnr(net: nn.Module, x: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio, dB, after rounding to bytes."""
    out = []
    for part in x.split(250):
        back = net.decode(net.encode(part).latent_dist.mode()).sample.float()  # type: ignore[operator, union-attr]
        back, part = (((v.clamp(-1, 1) + 1) * 127.5).round() for v in (back, part))
        out.append(20 * np.log10(255) - 10 * torch.log10((back - part).square().mean((1, 2, 3))))
    return float(torch.cat(out).mean())


@torch.no_grad()
def latents(net: nn.Module, pictures: Pictures, flipped: bool) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every picture's posterior."""
    means, deviations = [], []
    for rows in np.array_split(np.arange(len(pictures.labels)), max(1, len(pictures.labels) // 250)):
        x = pictures.seen(rows)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = net.encode(x.flip(-1) if flipped else x).latent_dist  # type: ignore[operator]
        means.append(posterior.mean.float())
        deviations.append(posterior.std.float())
    return torch.cat(means), torch.cat(deviations)
