"""Other people's text-to-image models in the layout of diffusers; the only file that imports their classes.

Weights are safetensors unless pickle is allowed by name; remote code never runs. Of a model its networks, its tokenizer
and its noise schedule are used; samples are drawn by this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from counterpoise.nets.backbones import (
    Backbone,
    content_of,
    model_folder,
    open_backbone,
    pooled,
    preprocessing,
    state_of,
    without_bars,
)
from counterpoise.nets.diffusers_folder import Folder, checked_folder
from counterpoise.nets.families import EXTRACTOR, tokenizer_of
from counterpoise.nets.folders import hash_of, need, refusing
from counterpoise.nets.hearing import Attend
from counterpoise.nets.image_adapters import ImageAdapter
from counterpoise.nets.lora_files import Adapter
from counterpoise.nets.single_file import open_part
from counterpoise.nets.text_towers import Towers
from counterpoise.nets.tokens import SideBySide, Tokens
from counterpoise.nets.told import TEXTS, Told, one_behind_the_other
from counterpoise.types import Refusal, fingerprint


@dataclass(frozen=True)
class Base(Folder):
    """A model whose networks are opened when they are asked for."""

    content: str  # changes with anything that is read of the folder, and with the adapters
    adapters: tuple[Adapter, ...] = ()  # of others, merged into its networks
    image_adapter: ImageAdapter | None = None  # lets it see pictures

    def unet(self) -> nn.Module:
        """Its U-Net, or the transformer in its place, untouched by whoever had it before: adapters may be put into it."""
        part = self.family.network
        cls = getattr(need("diffusers", "generative"), self.parts[part])
        net: Any = self._open(cls, part, torch_dtype=torch.float32)
        if part == "unet":
            net.set_attn_processor(Attend())
        if self.image_adapter is not None:
            self.image_adapter(net, self.seen)
        return net

    @cached_property
    def frozen_unet(self) -> nn.Module:
        """One for all that put nothing into it."""
        return self.unet()

    @cached_property
    def autoencoder(self) -> Autoencoder:
        cls = need("diffusers", "generative").AutoencoderKL
        return Autoencoder(self._open(cls, "vae", torch_dtype=torch.float32)).eval()

    @cached_property
    def eye(self) -> Backbone:
        """Pictures (n, h, w, c) => the embeddings that it is told of."""
        if self.image_adapter is not None:
            return open_backbone(self.image_adapter.encoder)
        part, cls = "image_encoder", need("transformers", "generative").CLIPVisionModelWithProjection
        net: Any = self._open(cls, part, dtype=torch.float32, weights_only=True)
        shown = preprocessing((self.path / EXTRACTOR).parent, net.config, None)
        return Backbone(net, lambda x: pooled(net, x), self.content.encode(), *shown)

    @cached_property
    def usual(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the embeddings that unCLIP learnt from (d,)."""
        cls = need("diffusers.pipelines.stable_diffusion", "generative").StableUnCLIPImageNormalizer
        net: Any = self._open(cls, "image_normalizer", torch_dtype=torch.float32)
        return net.mean[0], net.std[0]

    @property
    def seen(self) -> int:
        """How many numbers its network is told of a picture."""
        return self.family.seen(self.settings) if self.image_adapter is None else self.eye.dim

    def reader(self) -> Reader:
        # torch's own attention is slow backwards on processors (see `nets.attention`); texts are short.
        more = {"attn_implementation": "eager", "dtype": torch.float32, "weights_only": True}
        transformers = need("transformers", "generative")
        towers = [self._open(getattr(transformers, self.parts[part]), part, **more) for part in self.towers]
        tokens = open_tokens(self)
        return Reader(tokens, self.family.reader(self.settings, self.size, towers, tokens).eval())

    def _open(self, cls: Any, part: str, **more: Any) -> nn.Module:
        # A weight that the file lacks is drawn at random and refused: the global generator must not notice.
        broken = (ValueError, OSError, RuntimeError, KeyError, SafetensorError, UnpicklingError)
        refused = refusing(f"{self.name}: its {part} cannot be opened", broken)
        with refused, torch.random.fork_rng(devices=[]), without_bars(), _without_bars():
            if self.file is not None:
                net = open_part(self.file, self.path, cls, part)
                lacking = sorted(name for name, weight in net.named_parameters() if weight.is_meta)
            else:
                safe = any(path.suffix == ".safetensors" for path in self.weights(part))
                net, told = cls.from_pretrained(
                    str(self.path / part),
                    local_files_only=True,
                    use_safetensors=safe,
                    output_loading_info=True,
                    **more,
                )
                lacking = sorted(told["missing_keys"])
        if lacking:
            raise Refusal(
                f"{self.name}: its {part} has no weights for {len(lacking)} of its layers, the first {lacking[0]}: "
                "fetch it anew, or name another model"
            )
        net = net.eval().requires_grad_(False)
        for adapter in self.adapters if part in self.texts else ():
            adapter({other: net if other == part else None for other in self.texts})
        return net


class Autoencoder(nn.Module):
    """Pictures (n, 3, H, W), about [-1, 1], as latents (n, c, h, w) of about unit variance, and back; frozen."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        config: Any = net.config
        self.net, self.scale, self.shift = net, config.scaling_factor, config.shift_factor or 0.0

    def tile(self, side: int) -> None:
        """From now on larger pictures go through in tiles of this side, which overlap by a quarter and are blended."""
        net: Any = self.net
        fold = 2 ** (len(net.config.block_out_channels) - 1)
        side -= side % (4 * fold)
        net.enable_tiling()
        net.tile_sample_min_size, net.tile_latent_min_size = side, side // fold

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of what their latents may be."""
        found = self.net.encode(pictures).latent_dist  # type: ignore[operator]
        return (found.mean - self.shift) * self.scale, found.std * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return self.net.decode(latents / self.scale + self.shift).sample  # type: ignore[operator]


@dataclass(frozen=True)
class Reader:
    """The tokenizers of a model and the text towers that read their tokens."""

    tokens: Tokens
    tower: Towers

    def meaning(self, text: str) -> Tensor:
        """The mean of the embeddings of its tokens (widths,), tower by tower: where a word that is to mean the same begins."""
        found = []
        for tokens, known in zip(self.tokens.each, self.tower.vocabularies, strict=True):
            ids = tokens.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
            found.append(known(ids).mean(0).detach())
        return torch.cat(found)

    @torch.no_grad()
    def encoded(self, tokens: Tensor) -> Told:
        """What the network is told of these texts."""
        return one_behind_the_other([self.tower(some) for some in tokens.split(TEXTS)])


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
    first, *others = [_tokens(folder, tower) for tower in folder.towers]
    return SideBySide(first.name, first.tokenizer, first.length, tuple(others)) if others else first


def _tokens(folder: Folder, tower: str) -> Tokens:
    """Those for one of its towers."""
    part, transformers = tokenizer_of(tower), need("transformers", "generative")
    clip = folder.parts[part].startswith("CLIP")
    cls = transformers.CLIPTokenizer if clip else transformers.T5Tokenizer
    broken = (ValueError, OSError, KeyError, ImportError)
    with refusing(f"{folder.name}: its {part} cannot be opened", broken):
        tokenizer = cls.from_pretrained(
            str(folder.path / part), local_files_only=True, trust_remote_code=False
        )
    if clip:
        length = folder.settings(tower).get("max_position_embeddings", 77)
    else:
        length = min(folder.family.t5_length, tokenizer.model_max_length)
    return Tokens(folder.name, tokenizer, length)


@lru_cache(maxsize=1)  # its U-Net and its autoencoder stay open
def _base(
    folder: Folder,
    files: tuple[tuple[Path, int], ...],
    adapters: tuple[tuple[Adapter, int], ...],
    image_adapter: tuple[ImageAdapter, tuple[object, ...]] | None,
) -> Base:
    """Files with their times: a model that was changed is opened anew."""
    content, merged = hash_of(file for file, _ in files).hex()[:32], tuple(adapter for adapter, _ in adapters)
    if merged:
        content = fingerprint([content, [[hash_of([one.path]).hex(), one.scale] for one in merged]])
    sees = None if image_adapter is None else image_adapter[0]
    if sees is not None:
        eye = content_of(model_folder(sees.encoder, None, False))
        content = fingerprint([content, hash_of([sees.path]).hex(), sees.scale, eye.hex()])
    return Base(folder.name, folder.path, content, merged, sees, file=folder.file)


def base_folder(name: str, revision: str | None = None, allow_pickle: bool = False) -> Folder:
    """A sound model that could be opened; it is not."""
    need("diffusers", "generative")
    return checked_folder(name, revision, allow_pickle)


def open_base(
    name: str,
    revision: str | None = None,
    allow_pickle: bool = False,
    adapters: Sequence[Adapter] = (),
    image_adapter: ImageAdapter | None = None,
) -> Base:
    """The model of this name: ``miniature``, a folder, a file, or a name on the hub; with adapters of others in it."""
    folder = base_folder(name, revision, allow_pickle)
    for adapter in adapters:
        adapter.ready()
    files = tuple((file, file.stat().st_mtime_ns) for file in folder.files())
    sees = None
    if image_adapter is not None:
        image_adapter.ready(folder)
        times = (image_adapter.path.stat().st_mtime_ns, *state_of(image_adapter.encoder))
        sees = (image_adapter, times)
    return _base(folder, files, tuple((one, one.path.stat().st_mtime_ns) for one in adapters), sees)
