"""The text-to-image model: a U-Net over latents that reads captions through CLIP's text tower, which stands still."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from miniatures.autoencoder import CHANNELS, latents
from miniatures.captions import Captions
from miniatures.clip import WIDTH, tokens
from miniatures.learning import Place, Timetable, draws, train
from miniatures.pictures import Pictures, batch

BATCH = 192  # over all processes
UNLABELLED = 0.1
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def build() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(96, 192),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        attention_head_dim=(3, 6),  # heads, in diffusers' old naming: 32 wide each
        cross_attention_dim=WIDTH,
        use_linear_projection=True,
    )


def scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        **SCHEDULE,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        steps_offset=1,
    )


@torch.no_grad()
def said(tower: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """(texts, tokens, width) of what the U-Net attends to."""
    return torch.cat([tower(part).last_hidden_state for part in tokens(tokenizer, texts).split(256)])


def fit(
    real: Pictures,
    vae: nn.Module,
    tower: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    work: Path,
    place: Place,
    steps: int,
    minutes: float | None,
) -> nn.Module | None:
    net, captions = build(), Captions(real.names)
    net.set_attn_processor(
        AttnProcessor()
    )  # torch's fused attention is several times slower backwards on CPUs
    prompts = said(tower, tokenizer, [*captions.texts, ""]).bfloat16()
    nothing = len(captions.texts)
    posterior = encoded(vae, real, work)
    scale = float(vae.config.scaling_factor)  # type: ignore[union-attr, arg-type]
    abar = scheduler().alphas_cumprod

    def loss_of(step: int, place: Place) -> Tensor:
        rng = draws("diffusion", step)
        rows = batch(len(real.labels), BATCH, "diffusion", step)
        text = captions.draw(real.labels[rows], rng)
        text[rng.random(BATCH) < UNLABELLED] = nothing
        flip = rng.integers(2, size=BATCH)
        t = torch.from_numpy(
            ((rng.permutation(BATCH) + rng.random(BATCH)) * 1000 / BATCH).astype(np.int64)
        )  # one in each stratum
        wobble, noise = torch.from_numpy(rng.standard_normal((2, BATCH, CHANNELS, 8, 8), dtype=np.float32))
        mean, deviation = posterior[:, flip, rows].float()
        part = torch.from_numpy(place.mine(np.arange(BATCH)))
        x0 = ((mean + deviation * wobble) * scale)[part]
        noise, t = noise[part], t[part]
        root, rest = (value[t][:, None, None, None].sqrt() for value in (abar, 1 - abar))
        with torch.autocast("cpu", torch.bfloat16):
            v = net(root * x0 + rest * noise, t, prompts[torch.from_numpy(text)[part]]).sample.float()
        return (v - (root * noise - rest * x0)).square().mean()

    return train(
        net,
        loss_of,
        Timetable(steps, 1e-3, warm=300, cool=max(1, steps // 2), ema=0.9995),
        work,
        place,
        minutes,
    )


def encoded(vae: nn.Module, real: Pictures, work: Path) -> Tensor:
    """(mean and deviation, as they are and mirrored, pictures, channels, 8, 8), made once."""
    path = work / "latents.pt"
    if not path.exists():
        both = [torch.stack(latents(vae, real, flipped)) for flipped in (False, True)]
        work.mkdir(parents=True, exist_ok=True)
        torch.save(torch.stack(both, 1).half(), path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
    return torch.load(path, weights_only=True, mmap=True)


def scaled(vae: nn.Module, real: Pictures) -> None:
    """Latents are used with unit variance, as Stable Diffusion does."""
    mean, deviation = latents(
        vae, Pictures(real.pixels[:5000], real.labels[:5000], real.names), flipped=False
    )
    spread = float((mean.square() + deviation.square()).mean().sqrt())
    vae.register_to_config(scaling_factor=1 / spread)  # type: ignore[operator]


def pipeline(
    vae: nn.Module, unet: nn.Module, tower: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=tower, tokenizer=tokenizer, scheduler=scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
