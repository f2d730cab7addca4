"""Text-to-image models with random weights in the layout of Stable Diffusion, of any size, and two ways to translate with them.

No cost depends on weights. The tokenizer is that of the miniature: what a text says does not matter either.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.guides import CFG
from counterpoise.diffusion.ranks import Ranks
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.asking import answers
from counterpoise.generators.generator import Context, Row, Sampler
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets.stable_diffusion import open_base
from counterpoise.proposals.pairings import FromAny, TrainRows
from counterpoise.seeding import generator
from counterpoise.spaces.latents import taught

STEPS, STRENGTH, SCALE = 25, 0.7, 7.5  # as published (Wang et al. 2024)
LENGTH = 77
CLASSES = [f"kind {number}" for number in range(10)]
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FOLD = 8  # pixels to a side of a latent


@dataclass(frozen=True)
class Shape:
    """How wide the networks are, and the side of their latents."""

    side: int
    unet: tuple[int, ...]
    vae: tuple[int, int, int, int]
    text: int
    layers: int
    groups: int = 32
    heads: int = 8

    @property
    def size(self) -> int:
        return FOLD * self.side


SD15 = Shape(64, (320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12)


def nets(shape: Shape) -> dict[str, Any]:
    """U-Net, autoencoder and text tower as their configs make them."""
    import diffusers
    import transformers

    crossed = len(shape.unet) - 1  # the coarsest level has no attention to texts
    return {
        "unet": lambda: diffusers.UNet2DConditionModel(
            sample_size=shape.side,
            block_out_channels=shape.unet,
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * crossed + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * crossed,
            attention_head_dim=shape.heads,  # the number of heads, whatever diffusers calls it
            cross_attention_dim=shape.text,
            norm_num_groups=shape.groups,
        ),
        "vae": lambda: diffusers.AutoencoderKL(
            sample_size=shape.size,
            block_out_channels=shape.vae,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=shape.groups,
        ),
        "text_encoder": lambda: transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=49408,
                hidden_size=shape.text,
                intermediate_size=4 * shape.text,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.text // 64,
                max_position_embeddings=LENGTH,
            )
        ),
    }


def saved(shape: Shape, out: Path) -> Path:
    """A folder that this package opens and diffusers reads."""
    import diffusers

    torch.manual_seed(0)
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None]}
    for name, make in nets(shape).items():
        net = make()
        net.save_pretrained(out / name)
        index[name] = [type(net).__module__.split(".")[0], type(net).__name__]
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "DDIMScheduler"]}
    shutil.copytree(open_base("miniature").path / "tokenizer", out / "tokenizer")
    diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False).save_pretrained(out / "scheduler")
    (out / "model_index.json").write_text(json.dumps(index))
    return out


# --- theirs --------------------------------------------------------------------------------------------------


def theirs(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """diffusers' image-to-image pipeline over such a folder, with the solver of the published code."""
    import diffusers
    import transformers

    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(
            folder / "tokenizer", model_max_length=LENGTH, local_files_only=True
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device, dtype)


def translating(pipe: Any, pixels: np.ndarray, size: int, out: Path) -> Callable[[dict[str, Any], str], None]:
    """One picture per call, to the size of the model and back, as the published code does it."""

    def translate(row: dict[str, Any], prompt: str, **more: Any) -> None:
        source = Image.fromarray(pixels[int(row["source_id"])])
        made = pipe(
            **({} if more else {"prompt": prompt}),
            image=source.resize((size, size)),
            strength=STRENGTH,
            guidance_scale=SCALE,
            num_inference_steps=STEPS,
            **more,
        ).images[0]
        made.resize(source.size).save(out / f"{row['request_id']}.png")

    return translate


def pictures(n: int, size: int) -> np.ndarray:
    """Smooth ones with some grain (n, size, size, 3)."""
    coarse = generator("bench.translation", size).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    smooth = [Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC) for one in coarse]
    grain = generator("bench.translation.grain").normal(0, 4, (n, size, size, 3))
    return np.clip(np.stack([np.asarray(one) for one in smooth]) + grain, 0, 255).astype(np.uint8)


def planned(pixels: np.ndarray, n: int) -> list[Row]:
    labels = np.arange(len(pixels)) % len(CLASSES)
    vectors = pixels.reshape(len(pixels), -1)[:, ::997].astype(np.float32)
    train = TrainRows(np.arange(len(pixels)).astype(str), labels, None, vectors)
    wanted = np.bincount(np.arange(n) % len(CLASSES), minlength=len(CLASSES))
    return FromAny(strength=STRENGTH)(wanted, train, seed=0).to_pylist()


# --- ours -----------------------------------------------------------------------------------------------------


def sampler(
    folder: Path, pixels: np.ndarray, bf16: bool, ctx: Context | None = None, looks: bool = False
) -> Sampler:
    """Of the model in such a folder, where tensors are computed here; with a preview, if guides look at samples."""
    model = StableDiffusion(
        base=str(folder), steps=STEPS, guides=(CFG(SCALE),), schooling=Schooling(bf16=bf16)
    )
    config = model.supposed(3, pixels.shape[1], CLASSES)
    net = model.network_for(config, seed=0).requires_grad_(False).to(Ranks.alone().device)
    learnt = taught(model.space(config, {}), Rows.of(pixels)) if looks else {}
    return model.sampled(net, None, model.space(config, learnt), ctx or context(pixels))


def context(pixels: np.ndarray) -> Context:
    return Context(lambda ids: np.stack([pixels[int(name)] for name in ids]))


def written(sample: Sampler, rows: Sequence[Row], batch: int, out: Path) -> None:
    for row, answer in zip(rows, answers(sample, rows, batch), strict=True):
        assert answer.x is not None, answer.reason
        Image.fromarray(answer.x).save(out / f"{row['request_id']}.png")


def forgetting(folder: Path) -> None:
    """Where latents are kept from here on."""
    os.environ["COUNTERPOISE_CACHE"] = str(folder)
