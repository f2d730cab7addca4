"""Other people's text-to-image models in the layout of Stable Diffusion; the only file that imports their classes.

Weights are safetensors unless pickle is allowed by name; remote code never runs. Of a model its networks, its tokenizer
and its noise schedule are used; samples are drawn by this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from counterpoise.nets.attention import attend
from counterpoise.nets.backbones import without_bars
from counterpoise.nets.diffusers_folder import Folder, checked_folder
from counterpoise.nets.folders import hash_of, need, refusing
from counterpoise.nets.tokens import Tokens
from counterpoise.types import Refusal

TEXTS = 64  # encoded at once


@dataclass(frozen=True)
class Base(Folder):
    """A model whose networks are opened when they are asked for."""

    content: str  # changes with anything that is read of the folder

    def unet(self) -> nn.Module:
        """Untouched by whoever had it before: adapters may be put into it."""
        cls = need("diffusers", "generative").UNet2DConditionModel
        unet: Any = self._open(cls, "unet", torch_dtype=torch.float32)
        unet.set_attn_processor(Attend())
        return unet

    @cached_property
    def frozen_unet(self) -> nn.Module:
        """One for all that put nothing into it."""
        return self.unet()

    @cached_property
    def autoencoder(self) -> Autoencoder:
        cls = need("diffusers", "generative").AutoencoderKL
        return Autoencoder(self._open(cls, "vae", torch_dtype=torch.float32)).eval()

    def reader(self) -> Reader:
        # torch's own attention is slow backwards on processors (see `nets.attention`); texts are short.
        more = {"attn_implementation": "eager", "dtype": torch.float32, "weights_only": True}
        tower = self._open(need("transformers", "generative").CLIPTextModel, "text_encoder", **more)
        return Reader(open_tokens(self), tower)

    def _open(self, cls: Any, part: str, **more: Any) -> nn.Module:
        safe = any(path.suffix == ".safetensors" for path in self.weights(part))
        # A weight that the file lacks is drawn at random and refused: the global generator must not notice.
        broken = (ValueError, OSError, RuntimeError, KeyError, SafetensorError, UnpicklingError)
        refused = refusing(f"{self.name}: its {part} cannot be opened", broken)
        with refused, torch.random.fork_rng(devices=[]), without_bars(), _without_bars():
            net, told = cls.from_pretrained(
                str(self.path / part),
                local_files_only=True,
                use_safetensors=safe,
                output_loading_info=True,
                **more,
            )
        if lacking := sorted(told["missing_keys"]):
            raise Refusal(
                f"{self.name}: its {part} has no weights for {len(lacking)} of its layers, the first {lacking[0]}: "
                "fetch it anew, or name another model"
            )
        return net.eval().requires_grad_(False)


class Autoencoder(nn.Module):
    """Pictures (n, 3, H, W), about [-1, 1], as latents (n, c, h, w) of about unit variance, and back; frozen."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        config: Any = net.config
        self.net, self.scale, self.shift = net, config.scaling_factor, config.shift_factor or 0.0

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of what their latents may be."""
        found = self.net.encode(pictures).latent_dist  # type: ignore[operator]
        return (found.mean - self.shift) * self.scale, found.std * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return self.net.decode(latents / self.scale + self.shift).sample  # type: ignore[operator]


@dataclass(frozen=True)
class Reader:
    """A tokenizer and the text tower that reads its tokens."""

    tokens: Tokens
    tower: nn.Module

    def meaning(self, text: str) -> Tensor:
        """The mean of the embeddings of its tokens (width,): where a word that is to mean the same begins."""
        ids = self.tokens.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
        return self.tower.get_input_embeddings()(ids).mean(0).detach()  # type: ignore[operator]

    @torch.no_grad()
    def encoded(self, tokens: Tensor) -> Tensor:
        """(texts, length, width): what the U-Net attends to."""
        return torch.cat([self.tower(some).last_hidden_state for some in tokens.split(TEXTS)])


class Attend:
    """The attention of a U-Net's transformer blocks as `nets.attention` computes it, in the form that diffusers calls."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (b, heads, tokens, d)
            for part in (attn.to_q(hidden_states), attn.to_k(told), attn.to_v(told))
        )
        return attn.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2))


@contextmanager
def _without_bars() -> Iterator[None]:
    """diffusers draws its own."""
    bars = need("diffusers", "generative").utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def open_tokens(folder: Folder) -> Tokens:
    """What reads a model's texts: all that can be checked of class names before its networks are opened."""
    with refusing(f"{folder.name}: its tokenizer cannot be opened", (ValueError, OSError, KeyError)):
        tokenizer = need("transformers", "generative").CLIPTokenizer.from_pretrained(
            str(folder.path / "tokenizer"), local_files_only=True, trust_remote_code=False
        )
    return Tokens(folder.name, tokenizer, folder.settings("text_encoder").get("max_position_embeddings", 77))


@lru_cache(maxsize=1)  # its U-Net and its autoencoder stay open
def _base(name: str, path: Path, files: tuple[tuple[Path, int], ...]) -> Base:
    """`files` with their times: a model that was changed is opened anew."""
    return Base(name, path, hash_of(file for file, _ in files).hex()[:32])


def base_folder(name: str, revision: str | None = None, allow_pickle: bool = False) -> Folder:
    """A sound model that could be opened; it is not."""
    need("diffusers", "generative")
    return checked_folder(name, revision, allow_pickle)


def open_base(name: str, revision: str | None = None, allow_pickle: bool = False) -> Base:
    """The model of this name: ``miniature``, a folder, or a name on the hub."""
    folder = base_folder(name, revision, allow_pickle)
    return _base(name, folder.path, tuple((file, file.stat().st_mtime_ns) for file in folder.files()))
