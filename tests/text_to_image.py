"""A text-to-image model with random weights, as small as they come, in the layout of Stable Diffusion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 40
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tokenizer(folder: Path) -> None:
    """CLIP's, without any merges: a token per byte."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    named = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"tokenizer_class": "CLIPTokenizer"}))


def save(out: Path, channels: int = 4, seed: int = 0, **schedule) -> Path:
    """Pictures of 32 pixels, latents of 8 x 8; `schedule` are settings of a scheduler of diffusers."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=(2, 4),
            cross_attention_dim=24,
            norm_num_groups=8,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=channels,
            layers_per_block=1,
            norm_num_groups=8,
            sample_size=32,
            scaling_factor=2.5,
        )
        tower = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=514,
                hidden_size=24,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=LENGTH,
                bos_token_id=512,
                eos_token_id=513,
                pad_token_id=513,
            )
        )
        for net in (unet, vae, tower):  # so that a text, a step and a latent each make a difference
            for weight in net.parameters():
                weight.data += 0.05 * torch.randn_like(weight)
    tokenizer(out / "tokenizer")
    names = {"unet": unet, "vae": vae, "text_encoder": tower}
    for name, net in names.items():
        net.save_pretrained(out / name)
    diffusers.DDIMScheduler(**SCHEDULE | {"clip_sample": False} | schedule).save_pretrained(out / "scheduler")
    index = {name: ["theirs", type(net).__name__] for name, net in names.items()}
    index |= {"_class_name": "StableDiffusionPipeline", "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"scheduler": ["diffusers", "DDIMScheduler"], "safety_checker": [None, None]}
    (out / "model_index.json").write_text(json.dumps(index))
    return out


def theirs(folder: Path, cls: str = "StableDiffusionPipeline"):
    """diffusers' own pipeline over such a folder."""
    import diffusers
    import transformers

    pipe = getattr(diffusers, cls)(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(
            folder / "tokenizer", model_max_length=LENGTH, local_files_only=True
        ),
        scheduler=diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
