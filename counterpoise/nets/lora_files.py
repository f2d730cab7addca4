"""Adapters and learnt words as files, in the layouts that others read and write: that of diffusers and peft, and kohya's.

    unet.mid_block.attentions.0.proj_in.lora_A.weight      diffusers and peft; older ones say lora.down
    lora_unet_mid_block_attentions_0_proj_in.lora_down.weight      kohya, with .alpha beside it

Which layers there are is asked of the networks: a key that none of them has is refused, as is a shape that does not fit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from counterpoise.nets.ldm_names import ldm_names
from counterpoise.nets.lora import LowRank
from counterpoise.rundir import commit
from counterpoise.types import Refusal, part

Network = str  # one of these
KOHYA: dict[Network, tuple[str, ...]] = {  # how layers of a network begin; the first is what we write
    "unet": ("lora_unet",),
    "transformer": ("lora_transformer", "lora_unet"),
    "text_encoder": ("lora_te", "lora_te1"),
    "text_encoder_2": ("lora_te2",),
    "text_encoder_3": ("lora_te3",),
}
ENDS = {  # of keys, after the name of a layer
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}
TOLD = "lora_adapter_metadata"  # where diffusers writes what peft was set to
SHOWN = 3  # of the keys that are refused


@part
class Adapter:
    """A file of somebody's adapters, of which `scale` is added to the weights of a model: `FILE`, or `FILE:0.8`."""

    file: str
    scale: Annotated[float, Field(gt=0)] = 1.0

    @classmethod
    def named(cls, text: str) -> Adapter:
        """
        >>> Adapter.named("lcm.safetensors:0.8"), Adapter.named("lcm.safetensors").scale
        (Adapter(file='lcm.safetensors', scale=0.8), 1.0)
        """
        found = re.fullmatch(r"(.+):([0-9]*\.?[0-9]+)", text)
        return cls(found[1], float(found[2])) if found else cls(text)

    @property
    def path(self) -> Path:
        return Path(self.file).expanduser()

    def ready(self) -> None:
        """Refuses what can be refused before anything is opened."""
        if self.path.suffix != ".safetensors" or not self.path.is_file():
            raise Refusal(
                f"adapters are read from a .safetensors file, and {self.file} is {'none' if self.path.exists() else 'not there'}: "
                "name another, or convert it"
            )

    @torch.no_grad()
    def __call__(self, networks: Mapping[Network, nn.Module | None]) -> None:
        """Change the weights of these networks; those that are None belong to the model as well, and are left alone."""
        for network, layers in read_adapters(self.path, networks).items():
            for layer, low in layers.items():
                weight = _weight(networks[network], layer)
                weight += self.scale * low.change(weight)


# --- reading -----------------------------------------------------------------------------------------------


def read_adapters(
    path: Path, networks: Mapping[Network, nn.Module | None]
) -> dict[Network, dict[str, LowRank]]:
    """By network and layer. Keys of networks that are None are not looked at."""
    Adapter(str(path)).ready()
    tensors, told = _read(path)
    names = {name: (n, layer) for n, net in networks.items() if net for name, layer in _names(n, net)}
    passed = tuple(start for n, net in networks.items() if not net for start in _starts(n))
    found: dict[tuple[Network, str], dict[str, Tensor]] = {}
    unknown = []
    for key, value in tensors.items():
        name, role = _split(key)
        if name in names:
            found.setdefault(names[name], {})[role] = value
        elif not key.startswith(passed):
            unknown.append(key)
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise Refusal(
            f"{path}: {len(unknown)} of {len(tensors)} keys belong to no layer of this model, {', '.join(unknown[:SHOWN])}"
            f"{more}: adapters (LoRA) made for it are needed, without anything else in their file"
        )
    alphas = {n: _alphas(told, n) for n in networks}
    made: dict[Network, dict[str, LowRank]] = {n: {} for n, net in networks.items() if net}
    for (network, layer), factors in found.items():
        low = _whole(path, f"{network}.{layer}", factors, partial(alphas[network], layer))
        _check_shape(path, f"{network}.{layer}", low, _weight(networks[network], layer))
        made[network][layer] = low
    return made


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise Refusal(f"{path} cannot be read as safetensors: {error}") from None


def _split(key: str) -> tuple[str, str]:
    """The name of a layer and what of it a key is."""
    for end, role in ENDS.items():
        if key.endswith(end):
            return key.removesuffix(end), role
    return "", ""


def _starts(network: Network) -> list[str]:
    return [f"{network}.", *(f"{start}_" for start in KOHYA[network])]


def _names(network: Network, net: nn.Module) -> Iterator[tuple[str, str]]:
    """All that a file may call a layer of a network, and what the network calls it."""
    theirs = ldm_names(net)
    for layer, module in net.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            continue
        # Towers were wrapped in a module of this name once, and files still say so.
        towers = [f"text_model.{layer}"] if network.startswith("text") else []
        block, _, last = layer.removesuffix(".0").rpartition(".")
        for name in [layer, *towers]:
            yield f"{network}.{name}", layer
            for start in KOHYA[network]:
                yield f"{start}_{name.replace('.', '_')}", layer
        if not towers:
            yield f"{network}.{block}.processor.{last}", layer  # as diffusers wrote it in 2023
        if layer in theirs:
            yield f"lora_unet_{theirs[layer].replace('.', '_')}", layer


def _alphas(said: Mapping[str, str], network: Network) -> Callable[[str, int], float]:
    """What a file that diffusers wrote says of alphas, for layers without one of their own."""
    told = {key.removeprefix(f"{network}."): value for key, value in json.loads(said.get(TOLD, "{}")).items()}

    def alpha(layer: str, rank: int) -> float:
        pattern = told.get("alpha_pattern", {})
        own = [value for key, value in pattern.items() if re.fullmatch(rf"(.*\.)?({key})", layer)]
        found = own[0] if own else told.get("lora_alpha", rank)
        return found * math.sqrt(rank) if told.get("use_rslora") else found

    return alpha


def _whole(path: Path, name: str, factors: Mapping[str, Tensor], alpha: Callable[[int], float]) -> LowRank:
    if lacking := {"down", "up"} - set(factors):
        raise Refusal(
            f"{path}: {name} has no {min(lacking)} factor beside its other one: fetch the file anew"
        )
    down, up = factors["down"].float(), factors["up"].float()
    return LowRank(down, up, float(factors["alpha"]) if "alpha" in factors else alpha(len(down)))


def _check_shape(path: Path, name: str, low: LowRank, weight: Tensor) -> None:
    if not low.fits(weight):
        raise Refusal(
            f"{path}: {name} is {tuple(weight.shape)} in this model, and its adapter {tuple(low.up.shape)} x "
            f"{tuple(low.down.shape)}: it was made for another model"
        )


def _weight(net: nn.Module | None, layer: str) -> Tensor:
    assert net is not None
    return net.get_parameter(f"{layer}.weight")


# --- writing -----------------------------------------------------------------------------------------------

Adapters = Mapping[Network, Mapping[str, LowRank]]


def write_diffusers(path: Path, adapters: Adapters, told: Mapping[str, Any]) -> None:
    """`pipe.load_lora_weights` reads it. Factors are scaled, so that alpha is the rank and need not be said."""
    tensors: dict[str, Tensor] = {}
    for network, layers in adapters.items():
        for layer, low in layers.items():
            name = f"{network}.{_wrapped(layer)}"
            tensors |= {f"{name}.lora_A.weight": low.down, f"{name}.lora_B.weight": low.scaled.up}
    _write(path, tensors, header(adapters, told))


def write_kohya(path: Path, adapters: Adapters, told: Mapping[str, Any]) -> None:
    """What most other programs read, diffusers among them."""
    tensors: dict[str, Tensor] = {}
    for network, layers in adapters.items():
        start = (
            "lora_te1" if network == "text_encoder" and "text_encoder_2" in adapters else KOHYA[network][0]
        )
        for layer, low in layers.items():
            name = f"{start}_{_wrapped(layer).replace('.', '_')}"
            tensors |= {f"{name}.lora_down.weight": low.down, f"{name}.lora_up.weight": low.up}
            tensors[f"{name}.alpha"] = torch.tensor(float(low.alpha))
    _write(path, tensors, header(adapters, told))


def write_words(path: Path, words: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Embeddings (width,) by their tokens: each one is what `pipe.load_textual_inversion` takes."""
    _write(path, words, header({}, told))


def header(adapters: Adapters, told: Mapping[str, Any]) -> dict[str, str]:
    """What there is to know of a file, all as strings: as kohya's scripts write it, and as JSON under our name."""
    lows = [low for layers in adapters.values() for low in layers.values()]
    found = {"format": "pt", "counterpoise": json.dumps(dict(told), ensure_ascii=False)}
    if lows:
        found |= {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(max(low.rank for low in lows)),
            "ss_network_alpha": str(max(low.alpha for low in lows)),
            "ss_base_model_version": _version(adapters) or str(told.get("base", "")),
        }
    return found


#: By how many numbers a U-Net is told for each word.
VERSIONS = {768: "sd_v1", 1024: "sd_v2", 2048: "sdxl_base_v1-0"}


def _version(adapters: Adapters) -> str | None:
    told = [low for layer, low in adapters.get("unet", {}).items() if layer.endswith("attn2.to_k")]
    return VERSIONS.get(told[0].down.shape[1]) if told else None


def _wrapped(layer: str) -> str:
    """A layer as files say it: those of a CLIP as if they were still wrapped."""
    return f"text_model.{layer}" if layer.startswith("encoder.layers.") else layer


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    plain = {key: value.detach().cpu().float().clone() for key, value in tensors.items()}
    commit(path, lambda file: file.write(save(plain, header)))
