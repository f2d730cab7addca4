"""Low-rank adapters (Hu et al. 2022, arXiv 2106.09685) beside layers of a U-Net; the only file that imports peft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from counterpoise.nets.folders import need

Place = Literal["attention", "feedforward", "convolutions"]
LAYERS: dict[Place, tuple[str, ...]] = {  # as diffusers names them
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "feedforward": ("ff.net.0.proj", "ff.net.2"),
    "convolutions": ("conv1", "conv2", "conv_shortcut"),
}


def put_adapters(unet: nn.Module, rank: int, places: Sequence[Place], seed: int) -> dict[str, Tensor]:
    """Put them in, and return their first weights by name: at first they change nothing."""
    peft = need("peft", "generative")
    layers = [layer for place in places for layer in LAYERS[place]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), unet)
    return {name: weight.detach() for name, weight in unet.named_parameters() if ".lora_" in name}


@torch.no_grad()
def merged(unet: nn.Module, adapters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W + B A by the name of W in a U-Net without adapters: as they change it, for as long as nothing is learnt."""
    found = {}
    for name, down in adapters.items():
        layer, is_down, rest = name.partition(".lora_A.")
        if is_down:
            weight = unet.get_parameter(f"{layer}.weight")
            up = adapters[f"{layer}.lora_B.{rest}"]  # (out, rank) or (out, rank, 1, 1)
            change = up.flatten(1) @ down.flatten(1)  # (out, in * everything a kernel sees)
            found[f"{layer}.weight"] = weight + change.view_as(weight).to(weight.device)
    return found
