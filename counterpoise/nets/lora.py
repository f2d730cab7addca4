"""Low-rank adapters (Hu et al. 2022, arXiv 2106.09685) beside layers of a network; the only file that imports peft.

Either they are put into it as layers (`put_adapters`), or they stay outside and change its weights (`fresh_adapters`, `changed`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from counterpoise.nets.folders import need

Place = Literal["attention", "feedforward", "convolutions", "text"]
LAYERS: dict[Place, tuple[str, ...]] = {  # as diffusers and transformers name them
    "attention": ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    "feedforward": ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    "convolutions": ("conv1", "conv2", "conv_shortcut"),
    "text": ("q_proj", "k_proj", "v_proj", "out_proj"),  # of CLIPs; no file of adapters knows a T5
}


@dataclass(frozen=True)
class LowRank:
    """What lies beside one layer: it adds alpha / rank B A to the weights."""

    down: Tensor  # A: (rank, in) or (rank, in, height, width)
    up: Tensor  # B: (out, rank) or (out, rank, 1, 1)
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def scaled(self) -> LowRank:
        """The same change with alpha = rank."""
        return LowRank(self.down, self.up * (self.alpha / self.rank), self.rank)

    def fits(self, weight: Tensor) -> bool:
        seen = self.down.flatten(1).shape[1]  # in * everything a kernel sees
        return self.up.flatten(1).shape == (len(weight), self.rank) and weight[0].numel() == seen

    def change(self, weight: Tensor) -> Tensor:
        up = self.scaled.up.flatten(1).to(weight)
        return (up @ self.down.flatten(1).to(weight)).view_as(weight)


def put_adapters(net: nn.Module, rank: int, places: Sequence[Place], seed: int) -> dict[str, Tensor]:
    """Put them in, and return their first weights by name: at first they change nothing."""
    peft = need("peft", "generative")
    layers = [layer for place in places for layer in LAYERS[place]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), net)
    return {name: weight.detach() for name, weight in net.named_parameters() if ".lora_" in name}


def put_text_adapters(towers: nn.Module, tokens: Tensor, rank: int, seed: int) -> dict[str, Tensor]:
    """The same for text towers, beside those of their layers that decide what is made of a text.

    SDXL does not hear the last layer of its first tower, and nothing would be learnt there.
    """
    found = put_adapters(towers, rank, ("text",), seed)
    heard = sum(value.sum() for value in towers(tokens).tensors.values())
    weights = [towers.get_parameter(name) for name in found]
    slopes = torch.autograd.grad(heard, weights, allow_unused=True)
    return {name: found[name] for name, slope in zip(found, slopes, strict=True) if slope is not None}


def fresh_adapters(net: nn.Module, layers: str, rank: int, seed: int) -> dict[str, Tensor]:
    """The same weights, though nothing is put in: beside the linear layers of which this expression is the end of the name."""
    rng = torch.Generator().manual_seed(seed)
    found = {}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear) and re.search(f"{layers}$", name):
            bound = layer.in_features**-0.5  # as peft draws A, and as torch draws W
            found[f"{name}.lora_A.default.weight"] = bound * (
                2 * torch.rand(rank, layer.in_features, generator=rng) - 1
            )
            found[f"{name}.lora_B.default.weight"] = torch.zeros(layer.out_features, rank)
    return found


def by_layer(adapters: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """The same weights by the layers that they lie beside."""
    found = {}
    for name, down in adapters.items():
        layer, is_down, rest = name.partition(".lora_A.")
        if is_down:
            found[layer] = LowRank(down, adapters[f"{layer}.lora_B.{rest}"], len(down))
    return found


def changed(net: nn.Module, adapters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W + B A by the name of W in a network without adapters."""
    weights = {f"{layer}.weight": low for layer, low in by_layer(adapters).items()}
    return {
        name: weight + low.change(weight)
        for name, low in weights.items()
        for weight in [net.get_parameter(name)]
    }


@torch.no_grad()
def merged(unet: nn.Module, adapters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, for as long as nothing is learnt."""
    return changed(unet, adapters)
