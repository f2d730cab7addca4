"""The folder of a text-to-image model in the layout of Stable Diffusion: fetching it, checking it, what its files say.

Only settings are read here; no network is opened and nothing of diffusers is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoise.nets.folders import folder_of, read_json
from counterpoise.nets.tokens import FILES, VOCABULARIES, has_vocabulary
from counterpoise.types import Refusal

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")  # of the same parts
CLASSES = {
    "unet": ["UNet2DConditionModel"],
    "vae": ["AutoencoderKL"],
    "text_encoder": ["CLIPTextModel"],
    "tokenizer": ["CLIPTokenizer", "CLIPTokenizerFast"],
}
STEMS = {  # of the weight files: safetensors, pickle
    "unet": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "vae": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "text_encoder": ("model", "pytorch_model"),
}
SUFFIXES = ("safetensors", "bin")
SCHEDULER = "scheduler/scheduler_config.json"
SETTINGS = ["model_index.json", SCHEDULER, *(f"{part}/config.json" for part in STEMS)]
TOKENIZER = [f"tokenizer/{file}" for file in FILES]
BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}
MORE = ("class_embed_type", "addition_embed_type", "time_cond_proj_dim", "encoder_hid_dim")
OTHERS = ("FlowMatch", "EDM")  # begin the names of schedulers that have no betas
SHAPES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}


@dataclass(frozen=True)
class Folder:
    """A model on disk, by its settings."""

    name: str
    path: Path

    def settings(self, part: str) -> dict[str, Any]:
        return read_json(self.path / part / "config.json")

    def weights(self, part: str) -> list[Path]:
        """The weight files of a part that will be read: safetensors before pickle."""
        folder = self.path / part
        for stem, suffix in zip(STEMS[part], SUFFIXES, strict=True):
            if found := sorted([*folder.glob(f"{stem}.{suffix}"), *folder.glob(f"{stem}-*-of-*.{suffix}")]):
                return found
        return []

    def files(self) -> list[Path]:
        """All that is read."""
        named = [self.path / file for file in [*SETTINGS, *TOKENIZER] if (self.path / file).is_file()]
        return [*named, *(path for part in STEMS for path in self.weights(part))]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the latents of a picture."""
        unet = self.settings("unet")
        return (unet["in_channels"], unet["sample_size"], unet["sample_size"])

    @property
    def size(self) -> int:
        """Of the pictures that it makes, pixels."""
        return self.shape[1] * 2 ** (len(self.settings("vae")["block_out_channels"]) - 1)

    @property
    def schedule(self) -> dict[str, Any]:
        """Settings of `diffusion.denoisers.Schedule`, and as `kind` whether "eps" or "v" is predicted."""
        found = read_json(self.path / SCHEDULER)
        # What a file does not say is DDPM's, as in all schedulers of diffusers.
        scheduler = str(found.get("_class_name"))
        if scheduler.startswith(OTHERS):
            raise Refusal(
                f"{self.name} was made for the noise of {scheduler}, and that of DDPM is understood (betas): name another model"
            )
        betas, kind = found.get("beta_schedule", "linear"), found.get("prediction_type", "epsilon")
        betas = betas if found.get("trained_betas") is None else "trained_betas"
        kinds = {"epsilon": "eps", "v_prediction": "v"}
        if betas not in SHAPES or kind not in kinds:
            raise Refusal(
                f"{self.name}: models that predict {' or '.join(kinds)} on betas that are {', '.join(SHAPES)} are understood, "
                f"found {kind} on {betas} ({scheduler}): name another model"
            )
        zero = bool(found.get("rescale_betas_zero_snr", False))
        if zero and kind == "epsilon":
            raise Refusal(
                f"{self.name} begins at noise alone, and predicts noise: nothing can be had from that; its {SCHEDULER} should "
                "say v_prediction, or no rescale_betas_zero_snr"
            )
        return {
            "kind": kinds[kind],
            "steps": found.get("num_train_timesteps", 1000),
            "beta_first": found.get("beta_start", 1e-4),
            "beta_last": found.get("beta_end", 0.02),
            "shape": SHAPES[betas],
            "zero_terminal": zero,
        }


def checked_folder(name: str, revision: str | None = None, allow_pickle: bool = False) -> Folder:
    """The folder of this name, downloaded if it is a hub name, with only the files that are needed; a sound one."""
    files = (_wanted(0), _wanted(1))
    path = folder_of(
        name, "text_to_image", "text-to-image model", revision, files, _has_weights, allow_pickle
    )
    found = Folder(name, path)
    _check_index(found)
    _check_weights(found, allow_pickle)
    _check_architecture(found)
    return found


def _wanted(kind: int) -> list[str]:
    """What is fetched of a model, with its weights as safetensors (0) or pickle (1)."""
    ends = (".{}", "-*-of-*.{}", ".{}.index.json")
    weights = [
        f"{part}/{stems[kind]}{end.format(SUFFIXES[kind])}" for part, stems in STEMS.items() for end in ends
    ]
    return [*SETTINGS, *TOKENIZER, *weights]


def _has_weights(path: Path) -> bool:
    return all(Folder("", path).weights(part) for part in STEMS)


def _check_index(folder: Folder) -> None:
    """model_index.json, and every part that it has to name."""
    name, path = folder.name, folder.path
    if not (path / "model_index.json").is_file():
        raise Refusal(f"{name} has no model_index.json: it is not a text-to-image model in diffusers' layout")
    index = read_json(path / "model_index.json")
    if (kind := index.get("_class_name")) not in PIPELINES:
        raise Refusal(
            f"{name} is a {kind} by its model_index.json, and only U-Nets that are told a text by one CLIP are understood "
            f"({PIPELINES[0]}: Stable Diffusion 1 and 2, and what is made from them): name such a model"
        )
    for part, classes in CLASSES.items():
        found = (index.get(part) or [None, None])[1]
        if found not in classes:
            raise Refusal(
                f"{name} has {'no ' + part if found is None else f'a {found} as {part}'} by its model_index.json, and a "
                f"{classes[0]} is needed: name a whole {PIPELINES[0]}"
            )
    if missing := [file for file in SETTINGS if not (path / file).is_file()]:
        raise Refusal(f"{name} has no {missing[0]}: fetch it anew, or name another model")
    if not has_vocabulary(path / "tokenizer", VOCABULARIES[:2]):
        raise Refusal(
            f"{name} has no tokenizer: tokenizer.json, or vocab.json and merges.txt, should be in its folder tokenizer"
        )


def _check_weights(folder: Folder, allow_pickle: bool) -> None:
    for part in STEMS:
        found = folder.weights(part)
        if not found or (found[0].suffix != ".safetensors" and not allow_pickle):
            raise Refusal(
                f"{folder.name} has no safetensors weights for its {part}, found {found[0].name if found else 'none'}: choose "
                "another revision, or --allow-pickle if you trust its maker"
            )


def _check_architecture(folder: Folder) -> None:
    """A U-Net that sees nothing but noised latents and a text, parts that fit each other, and a schedule that is known."""
    unet, vae, tower = (folder.settings(part) for part in STEMS)
    seen, latents = unet.get("in_channels"), vae.get("latent_channels")
    heard, told = unet.get("cross_attention_dim"), tower.get("hidden_size")
    others = {*unet.get("down_block_types", ()), *unet.get("up_block_types", ())} - BLOCKS
    more = [key for key in MORE if unet.get(key)]
    wrong = {
        f"sees {seen} channels, and latents have {latents}": seen != latents,
        f"hears {heard} numbers a word, and is told {told}": heard != told,
        f"works at size {unet.get('sample_size')}, and squares are understood": not isinstance(unet.get("sample_size"), int),
        f"has {', '.join(sorted(others))} in it": bool(others),
        f"wants to be told more than a text ({', '.join(more)})": bool(more),
    }  # fmt: skip
    for found, is_wrong in wrong.items():
        if is_wrong:
            raise Refusal(
                f"{folder.name}: a plain Stable Diffusion is needed, and its U-Net {found}: name another model"
            )
    assert folder.schedule  # refuses what it does not know
