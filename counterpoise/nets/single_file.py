"""Text-to-image models as one file of safetensors, in the layout of the first code (Rombach et al. 2022).

Such a file holds weights alone. Settings and tokenizers are those of a folder in diffusers' layout: of the same name beside
it, or of the model that its layers are known to be of, on the hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from counterpoise.nets.folders import download, need, refusing
from counterpoise.types import Refusal

NETWORK = "model.diffusion_model."  # begins the names of what denoises


def layout_of(file: Path, wanted: Sequence[str]) -> Path:
    """The folder of its settings; on the hub only files like those `wanted` are looked at."""
    if file.suffix != ".safetensors":
        raise Refusal(
            f"{file} is one file, and those that are no safetensors can run code when they are opened: name a file that ends "
            "in .safetensors, or a folder"
        )
    unreadable = refusing(f"{file} is no safetensors file, whatever its name", (SafetensorError, OSError))
    with unreadable, safe_open(file, "pt") as found:
        shapes = {name: found.get_slice(name).get_shape() for name in found.keys()}  # noqa: SIM118
    if not any(name.startswith(NETWORK) for name in shapes):
        raise Refusal(
            f"{file} is no whole text-to-image model: of its {len(shapes)} weights none begins with {NETWORK}, "
            f"the first is {min(shapes, default='none')!r}; name the model that it belongs to"
        )
    beside = file.with_suffix("")
    if (beside / "model_index.json").is_file():
        return beside
    known = need("diffusers.loaders.single_file_utils", "generative").fetch_diffusers_config(
        {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    )
    name = known["pretrained_model_name_or_path"]
    try:
        return _settings(name, tuple(wanted))
    except Refusal as why:
        raise Refusal(
            f"{file} holds weights alone, and the settings and tokenizers of {name} are not to be had: {why}. Or put them, "
            f"from any model of its shape in diffusers' layout, into a folder {beside.name} beside it"
        ) from None


@lru_cache  # the hub is asked once
def _settings(name: str, wanted: tuple[str, ...]) -> Path:
    return download(name, None, wanted)


def open_part(file: Path, layout: Path, cls: Any, part: str) -> nn.Module:
    """One of its networks, in float32; of a text tower a weight that the file lacks is left on the device "meta"."""
    if hasattr(cls, "from_single_file"):
        try:
            return cls.from_single_file(str(file), config=str(layout), subfolder=part, local_files_only=True)
        except NotImplementedError:  # for there is nothing to copy
            raise ValueError("the file has no weights for some of its layers") from None
    theirs: Any = need("diffusers.loaders.single_file_utils", "generative")
    makes = (
        theirs.create_diffusers_t5_model_from_checkpoint
        if cls.__name__.startswith("T5")
        else theirs.create_diffusers_clip_model_from_ldm
    )
    weights = theirs.load_single_file_checkpoint(str(file), local_files_only=True)
    net = makes(cls, weights, part, str(layout), torch.float32, local_files_only=True)
    net.set_attn_implementation("eager")  # as other towers are opened
    return net
