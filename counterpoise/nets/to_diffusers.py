"""A trained U-Net as a diffusers pipeline: a folder that samples with diffusers alone, without this package.

`pixel_pipeline.py.txt` goes into it as `pipeline.py`. It is the same for every model (diffusers keeps one copy of each
name), so what differs stands in model_index.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from counterpoise.nets.export import put_folder
from counterpoise.nets.unet import GROUPS, UNetModel


def unet_config(net: UNetModel, size: int) -> dict[str, Any]:
    """The arguments of the `UNet2DModel` that computes what `net` does in its folded space."""
    settings, fold = net.settings, net.unshuffle
    attended = [level in settings.attention for level in range(len(settings.levels))]
    step = fold * 2 ** (len(settings.levels) - 1)
    return {
        "sample_size": (size + -size % step) // fold,
        "in_channels": net.conv_in.in_channels,
        "out_channels": net.conv_out.out_channels,
        "time_embedding_type": "positional",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "block_out_channels": settings.widths,
        "layers_per_block": settings.blocks,
        "down_block_types": ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attended],
        "up_block_types": ["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attended)],
        "attention_head_dim": settings.head_width,
        "dropout": settings.dropout,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": net.conditioning.null + 1,
    }


RENAMED = {  # in this order
    "conditioning.class_embedding": "class_embedding",
    "conditioning": "time_embedding",
    ".to_out": ".to_out.0",
    ".resample.conv": ".upsamplers.0.conv",
    ".resample": ".downsamplers.0.conv",
}


def unet_weights(net: UNetModel) -> dict[str, Tensor]:
    """`net`'s weights under the names that `UNet2DModel` gives them, without the term for augmentations."""
    found: dict[str, Tensor] = {}
    for name, value in net.state_dict().items():
        where, _, kind = name.rpartition(".")  # a layer, and "weight" or "bias"
        if where == "ask":
            blocks = [f"{block}.time_emb_proj" for block in net.blocks()]
            found |= _divided(blocks, kind, value.split(net.shares))
        elif where.endswith(".qkv"):
            found |= _divided(
                [where.removesuffix("qkv") + to for to in ("to_q", "to_k", "to_v")], kind, value.chunk(3)
            )
        elif where != "conditioning.augment":
            for ours, theirs in RENAMED.items():
                where = where.replace(ours, theirs)
            found[f"{where}.{kind}"] = value
    return found


def _divided(layers: Sequence[str], kind: str, values: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"{layer}.{kind}": value.clone() for layer, value in zip(layers, values, strict=True)}


def export_pipeline(
    net: UNetModel,
    out: Path,
    *,
    kind: Literal["edm", "eps"],
    classes: Sequence[str],
    size: int,
    channels: int,
    sigma_data: float = 0.5,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    beta_first: float = 1e-4,
    beta_last: float = 0.02,
    train_steps: int = 1000,
    steps: int = 20,
    scale: float = 1.0,
) -> None:
    """Write the folder, whole or not at all; one that is there already is left as it is.

    `kind` says which of `diffusion.denoisers` the network was trained as: EDM, which has the sigmas, or Eps, which has
    the betas. Pictures are expected to lie in [-1, 1]. `steps` and `scale` are what the pipeline does when not told.
    """
    import diffusers

    unet: Any = diffusers.UNet2DModel(**unet_config(net, size))
    unet.load_state_dict(unet_weights(net))
    scheduler: Any
    if kind == "edm":
        scheduler = diffusers.EDMDPMSolverMultistepScheduler(
            sigma_data=sigma_data, sigma_min=sigma_min, sigma_max=sigma_max, final_sigmas_type="zero"
        )
    else:
        scheduler = diffusers.DPMSolverMultistepScheduler(
            num_train_timesteps=train_steps,
            beta_start=beta_first,
            beta_end=beta_last,
            timestep_spacing="trailing",
            final_sigmas_type="zero",
        )
    index = {
        "_class_name": ["pipeline", "PixelPipeline"],
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusers", type(unet).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "classes": list(classes),
        "size": size,
        "channels": channels,
        "unshuffle": net.unshuffle,
        "num_inference_steps": steps,
        "guidance_scale": scale,
    }
    texts = {
        "model_index.json": json.dumps(index, indent=2) + "\n",
        "pipeline.py": files("counterpoise.nets").joinpath("pixel_pipeline.py.txt").read_text("utf-8"),
        "README.md": _readme(classes, size, channels, steps, scale),
    }

    def write(folder: Path) -> None:
        unet.save_pretrained(folder / "unet")
        scheduler.save_pretrained(folder / "scheduler")
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")

    put_folder(out, write)


def _readme(classes: Sequence[str], size: int, channels: int, steps: int, scale: float) -> str:
    named = "\n".join(f"{number}. {name}" for number, name in enumerate(classes))
    return f"""# A class-conditional diffusion model of pictures

{size} x {size} pixels, {channels} channel{"s" if channels > 1 else ""}; made with Counterpoise. It needs torch and
diffusers:

```python
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("THIS_FOLDER", trust_remote_code=True)
pictures = pipe([{json.dumps(classes[0])}, {len(classes) - 1}, None], generator=torch.Generator().manual_seed(0)).images
```

Labels are class names, their numbers, or None for no class in particular. By default {steps} steps with a guidance
scale of {scale:g}. The code that runs is `pipeline.py` in this folder; read it before you trust it.

## Classes

{named}
"""
