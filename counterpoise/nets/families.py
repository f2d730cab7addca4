"""Families of text-to-image models: which parts a folder of each has, how these fit together, and how its texts are read.

Only settings are looked at; the networks are opened by `nets.stable_diffusion`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from counterpoise.nets.text_towers import JointTowers, PackedTowers, SeeingTowers, Towers, XLTowers
from counterpoise.nets.tokens import Tokens

Settings = Callable[[str], Mapping[str, Any]]  # what the config of a part says

BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}
MORE = ("class_embed_type", "addition_embed_type", "time_cond_proj_dim", "encoder_hid_dim")
CLIP, PROJECTED, T5 = ("CLIPTextModel",), ("CLIPTextModelWithProjection",), ("T5EncoderModel",)
CLIP_TOKENS = ("CLIPTokenizer", "CLIPTokenizerFast")
T5_TOKENS = ("T5Tokenizer", "T5TokenizerFast")
EXTRACTOR = "feature_extractor/preprocessor_config.json"
IMAGE_NOISE = "image_noising_scheduler/scheduler_config.json"
GUIDANCE = 3.5  # what FLUX was distilled to be told, as its pipeline has it


@dataclass(frozen=True)
class Family:
    """Stable Diffusion 1 and 2, and what the others share with them."""

    pipeline: str = "StableDiffusionPipeline"
    network: str = "unet"
    network_class: str = "UNet2DConditionModel"
    towers: tuple[tuple[str, ...], ...] = (
        CLIP,
    )  # text_encoder, text_encoder_2, ..., by the classes they may be of
    flow: bool = False
    ends_at_step: bool = (
        False  # its ladder: with a last rung at 1 / steps, else at the least noise that it knows
    )
    t5_length: int = 0  # tokens that its T5 reads
    may_lack: tuple[str, ...] = ()
    also: tuple[str, ...] = ()  # files of its settings beside those of its parts

    @property
    def tower_parts(self) -> list[str]:
        return ["text_encoder", *(f"text_encoder_{number}" for number in range(2, len(self.towers) + 1))]

    @property
    def classes(self) -> dict[str, Sequence[str]]:
        """By part, the first of each being the usual one."""
        found: dict[str, Sequence[str]] = {self.network: (self.network_class,), "vae": ("AutoencoderKL",)}
        for tower, kinds in zip(self.tower_parts, self.towers, strict=True):
            found |= {tower: kinds, tokenizer_of(tower): T5_TOKENS if kinds is T5 else CLIP_TOKENS}
        return found

    def shape(self, settings: Settings) -> tuple[int, int, int]:
        """Of the latents of a picture."""
        net = settings(self.network)
        return (net["in_channels"], net["sample_size"], net["sample_size"])

    def misfits(self, settings: Settings) -> dict[str, bool]:
        """By what would be wrong with its network, whether it is."""
        net, heard = settings(self.network), settings("text_encoder").get("hidden_size")
        more = [key for key in MORE if net.get(key)]
        return self._misfits_of_unet(settings, heard) | {
            f"wants to be told more than a text ({', '.join(more)})": bool(more)
        }

    def _misfits_of_unet(self, settings: Settings, told: Any) -> dict[str, bool]:
        net, latents = settings(self.network), settings("vae").get("latent_channels")
        seen, heard, size = net.get("in_channels"), net.get("cross_attention_dim"), net.get("sample_size")
        others = {*net.get("down_block_types", ()), *net.get("up_block_types", ())} - BLOCKS
        return {
            f"sees {seen} channels, and latents have {latents}": seen != latents,
            f"hears {heard} numbers a word, and is told {told}": heard != told,
            f"works at size {size}, and squares are understood": not isinstance(size, int),
            f"has {', '.join(sorted(others))} in it": bool(others),
        }

    def reader(self, settings: Settings, pixels: int, towers: Sequence[nn.Module], tokens: Tokens) -> Towers:
        """The towers as one."""
        return Towers(towers, tokens)

    def seen(self, settings: Settings) -> int:
        """How many numbers its network is told of a picture."""
        return 0


@dataclass(frozen=True)
class UnCLIP(Family):
    """Stable Diffusion 2.1 unCLIP, which is told of a picture beside the text: its embedding, and how noisy that is."""

    pipeline: str = "StableUnCLIPImg2ImgPipeline"
    also: tuple[str, ...] = (EXTRACTOR, IMAGE_NOISE)

    @property
    def classes(self) -> dict[str, Sequence[str]]:
        more = {
            "image_encoder": ("CLIPVisionModelWithProjection",),
            "image_normalizer": ("StableUnCLIPImageNormalizer",),
        }
        return {**super().classes, **more}

    def misfits(self, settings: Settings) -> dict[str, bool]:
        net, heard = settings("unet"), settings("text_encoder").get("hidden_size")
        more = [key for key in MORE if net.get(key) and key != "class_embed_type"]
        hears, told = net.get("projection_class_embeddings_input_dim"), self.seen(settings)
        normal = settings("image_normalizer").get("embedding_dim", 768)  # as diffusers has it
        return self._misfits_of_unet(settings, heard) | {
            f"is not told of pictures ({net.get('class_embed_type')})": net.get("class_embed_type")
            != "projection",
            f"hears {hears} numbers of a picture and its noise, and is told {told}": hears != told,
            f"hears of pictures in {told // 2} numbers, and its image_normalizer knows {normal}": 2 * normal
            != told,
            f"wants to be told more than a text and a picture ({', '.join(more)})": bool(more),
        }

    def reader(self, settings: Settings, pixels: int, towers: Sequence[nn.Module], tokens: Tokens) -> Towers:
        return SeeingTowers(towers, tokens)

    def seen(self, settings: Settings) -> int:
        return 2 * settings("image_encoder").get("projection_dim", 512)


@dataclass(frozen=True)
class XL(Family):
    """SDXL (Podell et al. 2024)."""

    pipeline: str = "StableDiffusionXLPipeline"
    towers: tuple[tuple[str, ...], ...] = (CLIP, PROJECTED)

    def misfits(self, settings: Settings) -> dict[str, bool]:
        net, first, second = settings("unet"), settings("text_encoder"), settings("text_encoder_2")
        more = [key for key in MORE if net.get(key) and key != "addition_embed_type"]
        told, whole = (
            first.get("hidden_size", 0) + second.get("hidden_size", 0),
            second.get("projection_dim", 0),
        )
        heard = net.get("projection_class_embeddings_input_dim")
        whole += 6 * (
            net.get("addition_time_embed_dim") or 0
        )  # a picture's size, its corner, the size wanted
        return self._misfits_of_unet(settings, told) | {
            f"is not told of sizes ({net.get('addition_embed_type')})": net.get("addition_embed_type")
            != "text_time",
            f"hears {heard} numbers of a text and its sizes, and is told {whole}": heard != whole,
            f"wants to be told more than a text ({', '.join(more)})": bool(more),
        }

    def reader(self, settings: Settings, pixels: int, towers: Sequence[nn.Module], tokens: Tokens) -> Towers:
        silent = bool(settings("index").get("force_zeros_for_empty_prompt", True))
        return XLTowers(towers, tokens, pixels, silent)


@dataclass(frozen=True)
class SD3(Family):
    """Stable Diffusion 3 and 3.5 (Esser et al. 2024)."""

    pipeline: str = "StableDiffusion3Pipeline"
    network: str = "transformer"
    network_class: str = "SD3Transformer2DModel"
    towers: tuple[tuple[str, ...], ...] = (PROJECTED, PROJECTED, T5)
    flow: bool = True
    t5_length: int = 256
    may_lack: tuple[str, ...] = ("text_encoder_3", "tokenizer_3")

    def misfits(self, settings: Settings) -> dict[str, bool]:
        net, latents = settings(self.network), settings("vae").get("latent_channels")
        seen, size, heard = net.get("in_channels"), net.get("sample_size"), net.get("joint_attention_dim", 0)
        clips = [settings(part) for part in self.tower_parts[:2]]
        told = settings("text_encoder_3").get("d_model", heard)
        side = sum(clip.get("hidden_size", 0) for clip in clips)
        whole, of_whole = (
            sum(clip.get("projection_dim", 0) for clip in clips),
            net.get("pooled_projection_dim"),
        )
        return {
            f"sees {seen} channels, and latents have {latents}": seen != latents,
            f"hears {heard} numbers a word, and is told {told}": heard != told,
            f"hears {heard} numbers a word, and is told {side}": heard < side,
            f"hears {of_whole} numbers of a text, and is told {whole}": of_whole != whole,
            f"works at size {size}, and squares are understood": not isinstance(size, int),
        }

    def reader(self, settings: Settings, pixels: int, towers: Sequence[nn.Module], tokens: Tokens) -> Towers:
        return JointTowers(towers, tokens, settings(self.network)["joint_attention_dim"], self.t5_length)


@dataclass(frozen=True)
class Flux(Family):
    """FLUX.1, whose network sees latents in patches of 2 x 2."""

    pipeline: str = "FluxPipeline"
    network: str = "transformer"
    network_class: str = "FluxTransformer2DModel"
    towers: tuple[tuple[str, ...], ...] = (CLIP, T5)
    flow: bool = True
    ends_at_step: bool = True
    t5_length: int = 512

    def shape(self, settings: Settings) -> tuple[int, int, int]:
        vae = settings("vae")
        size = vae["sample_size"] // 2 ** (len(vae["block_out_channels"]) - 1)
        return (settings(self.network)["in_channels"] // 4, size, size)

    def misfits(self, settings: Settings) -> dict[str, bool]:
        net, vae = settings(self.network), settings("vae")
        seen, latents, size = net.get("in_channels"), vae.get("latent_channels", 0), vae.get("sample_size")
        heard, told = net.get("joint_attention_dim"), settings("text_encoder_2").get("d_model")
        of_whole, whole = net.get("pooled_projection_dim"), settings("text_encoder").get("hidden_size")
        return {
            f"sees {seen} channels, and four latents have {4 * latents}": seen != 4 * latents,
            f"hears {heard} numbers a word, and is told {told}": heard != told,
            f"hears {of_whole} numbers of a text, and is told {whole}": of_whole != whole,
            f"works at size {size}, and squares are understood": not isinstance(size, int),
        }

    def reader(self, settings: Settings, pixels: int, towers: Sequence[nn.Module], tokens: Tokens) -> Towers:
        return PackedTowers(
            towers, tokens, GUIDANCE if settings(self.network).get("guidance_embeds") else None
        )


FAMILIES = (Family(), UnCLIP(), XL(), SD3(), Flux())


def tokenizer_of(tower: str) -> str:
    """The part that makes the tokens which this tower reads."""
    return tower.replace("text_encoder", "tokenizer")


def family_of(pipeline: object) -> Family | None:
    """By the pipeline that an index names; those that begin at pictures have the same parts."""
    plain = str(pipeline).replace("Img2Img", "")
    return next((family for family in FAMILIES if family.pipeline.replace("Img2Img", "") == plain), None)
