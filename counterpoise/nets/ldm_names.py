"""What the first code of Stable Diffusion (Rombach et al. 2022) calls the layers of a U-Net; kohya's files for SDXL do, too.

There everything on the way down is counted through, and everything on the way up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
INSIDE = {  # of resnets, and of what halves
    "resnets": {
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    },
    "downsamplers": {"conv": "op"},
}


def ldm_names(unet: nn.Module) -> dict[str, str]:
    """By the names of diffusers; nothing for a network that is not built like this."""
    if not all(hasattr(unet, part) for part in ("down_blocks", "mid_block", "up_blocks")):
        return {}
    found = dict(OUTSIDE)
    for place, theirs in _places(unet):
        renamed = INSIDE.get(place.split(".")[-2], {})
        for weight, _ in unet.get_submodule(place).named_parameters():
            layer = weight.rpartition(".")[0]
            found[f"{place}.{layer}"] = f"{theirs}.{renamed.get(layer, layer)}"
    return found


def _places(unet: Any) -> Iterator[tuple[str, str]]:
    """Where each resnet, each attention and each change of size lies, and where it lies there."""
    down: list[list[str]] = [[]]  # the first is conv_in
    up: list[list[str]] = []
    for b, block in enumerate(unet.down_blocks):
        down += _rows(f"down_blocks.{b}", block)
        if block.downsamplers:
            down.append([f"down_blocks.{b}.downsamplers.0"])
    for b, block in enumerate(unet.up_blocks):
        up += _rows(f"up_blocks.{b}", block)
        if block.upsamplers:
            up[-1].append(f"up_blocks.{b}.upsamplers.0")
    for start, rows in (("input_blocks", down), ("output_blocks", up)):
        for number, row in enumerate(rows):
            yield from ((place, f"{start}.{number}.{i}") for i, place in enumerate(row))
    for i, place in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"mid_block.{place}", f"middle_block.{i}"


def _rows(where: str, block: Any) -> list[list[str]]:
    """Each resnet, and the attention behind it if there is one."""
    kinds = ("resnets", "attentions") if hasattr(block, "attentions") else ("resnets",)
    return [[f"{where}.{kind}.{r}" for kind in kinds] for r in range(len(block.resnets))]
