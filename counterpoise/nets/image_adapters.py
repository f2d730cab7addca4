"""Adapters of others that let a model see a picture beside its text: IP-Adapter (Ye et al. 2023, arXiv 2308.06721).

    image_proj.proj.weight, image_proj.norm.weight     make words of a picture's embedding
    ip_adapter.1.to_k_ip.weight, ip_adapter.1.to_v_ip.weight     keys and values of these, by the place of an attention

Every attention that hears words hears those of the picture as well, apart from them, and both are added (their Equation 5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from counterpoise.nets.diffusers_folder import Folder
from counterpoise.nets.folders import refusing
from counterpoise.nets.hearing import AttendBoth
from counterpoise.types import Refusal, part

SHOWN = 3  # of the keys that are refused


class AsWords(nn.Module):
    """The embedding of a picture (b, d) => words (b, few, width)."""

    def __init__(self, proj: nn.Linear, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.proj, self.norm = proj, norm

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.proj(image).unflatten(1, (-1, *self.norm.normalized_shape)))


@part
class ImageAdapter:
    """`file` is an IP-Adapter, `encoder` the network that sees pictures for it: a folder, or a name on the hub.

    `scale` is how loud the picture is beside the text.
    """

    file: str
    encoder: str
    scale: Annotated[float, Field(gt=0)] = 1.0

    @property
    def path(self) -> Path:
        return Path(self.file).expanduser()

    def ready(self, base: Folder) -> None:
        """Refuses what can be refused before anything is opened."""
        if base.family.network != "unet" or base.family.seen(base.settings):
            raise Refusal(
                f"an IP-Adapter is for the U-Net of Stable Diffusion 1, 2 or XL, and {base.name} is a {base.family.pipeline}: "
                "name such a model, or leave the adapter out"
            )
        if self.path.suffix != ".safetensors" or not self.path.is_file():
            raise Refusal(
                f"adapters are read from a .safetensors file, and {self.file} is {'none' if self.path.exists() else 'not there'}: "
                "name another, or convert it"
            )

    def __call__(self, unet: nn.Module, seen: int) -> None:
        """Put it into a U-Net that is to hear of pictures in so many numbers."""
        net: Any = unet
        hearing = {
            f"ip_adapter.{place}": name
            for place, name in enumerate(net.attn_processors)
            if name.endswith("attn2.processor")
        }
        found = self._read(unet, seen, hearing)
        width = len(found["image_proj.norm.weight"])
        norm = nn.LayerNorm(width)
        norm.load_state_dict(_below(found, "image_proj.norm."))
        proj = nn.Linear(seen, len(found["image_proj.proj.bias"]))
        proj.load_state_dict(_below(found, "image_proj.proj."))
        put = {
            name: AttendBoth(found[f"{key}.to_k_ip.weight"], found[f"{key}.to_v_ip.weight"], self.scale)
            for key, name in hearing.items()
        }
        net.set_attn_processor({name: put.get(name, old) for name, old in net.attn_processors.items()})
        net.encoder_hid_proj = AsWords(proj, norm)
        net.register_to_config(encoder_hid_dim_type="ip_image_proj")

    def _read(self, unet: nn.Module, seen: int, hearing: dict[str, str]) -> dict[str, Tensor]:
        """Its weights, all of which have a place."""
        with refusing(f"{self.file} is no safetensors file, whatever its name", (SafetensorError, OSError)):
            found = {name: value.float() for name, value in load_file(self.path).items()}
        wanted = {}
        for key, name in hearing.items():
            beside = unet.get_submodule(name.removesuffix(".processor"))
            for to in ("to_k", "to_v"):
                wanted[f"{key}.{to}_ip.weight"] = tuple(beside.get_parameter(f"{to}.weight").shape)
        width = next(iter(wanted.values()))[1]
        rows = len(found.get("image_proj.proj.weight", ()))  # as many words as it has room for
        wanted |= {"image_proj.proj.weight": (rows - rows % width, seen), "image_proj.proj.bias": (rows,)}
        wanted |= {f"image_proj.norm.{name}": (width,) for name in ("weight", "bias")}
        wrong = sorted(
            name
            for name in wanted.keys() | found.keys()
            if name not in found or wanted.get(name) != tuple(found[name].shape)
        )
        if wrong:
            shown = [f"{name} {tuple(found[name].shape) if name in found else '(none)'}" for name in wrong]
            raise Refusal(
                f"{self.file}: {len(wrong)} of its weights do not fit this model and its {self.encoder}, {', '.join(shown[:SHOWN])}"
                f"{' and more' if len(wrong) > SHOWN else ''}: a plain IP-Adapter (image_proj.proj, ip_adapter) is needed that was "
                "made for both"
            )
        return found


def _below(found: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)}
