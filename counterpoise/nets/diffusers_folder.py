"""The folder of a text-to-image model in the layout of diffusers: fetching it, checking it, what its files say.

Only settings are read here; no network is opened and nothing of diffusers is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterpoise.nets import noise_schedules
from counterpoise.nets.families import FAMILIES, IMAGE_NOISE, Family, family_of, tokenizer_of
from counterpoise.nets.folders import folder_of, local_folder, read_json
from counterpoise.nets.single_file import layout_of
from counterpoise.nets.tokens import FILES, VOCABULARIES, has_vocabulary
from counterpoise.types import Refusal

INDEX = "model_index.json"
PARTS = list(dict.fromkeys(part for family in FAMILIES for part in family.classes))
NETS = [part for part in PARTS if not part.startswith("tokenizer")]
STEMS = {  # of the weight files: safetensors, pickle
    part: ("model", "pytorch_model") if "_encoder" in part else ("diffusion_pytorch_model",) * 2
    for part in NETS
}
SUFFIXES = ("safetensors", "bin")
ALSO = [file for family in FAMILIES for file in family.also]
SETTINGS = [INDEX, noise_schedules.FILE, *ALSO, *(f"{part}/config.json" for part in NETS)]
TOKENIZERS = [f"{part}/{file}" for part in PARTS if part not in NETS for file in FILES]


@dataclass(frozen=True)
class Folder:
    """A model on disk, by its settings."""

    name: str
    path: Path
    file: Path | None = field(
        default=None, kw_only=True
    )  # of all of its weights; else they lie in the folder

    @property
    def family(self) -> Family:
        found = family_of(self.settings("index").get("_class_name"))
        assert found is not None, "a folder is checked before it is used"
        return found

    @property
    def parts(self) -> dict[str, str]:
        """Its parts, by the classes that they are of; one that may be missing and is, is none."""
        index = self.settings("index")
        return {part: index[part][1] for part in self.family.classes if (index.get(part) or [None])[0]}

    @property
    def nets(self) -> list[str]:
        return [part for part in self.parts if part in NETS]

    @property
    def towers(self) -> list[str]:
        return [part for part in self.nets if part in self.family.tower_parts]

    @property
    def texts(self) -> list[str]:
        """Its network and its towers: what others' adapters may be for."""
        return [part for part in self.nets if part in (self.family.network, *self.family.tower_parts)]

    def settings(self, part: str) -> dict[str, Any]:
        """Of one of its parts, or as "index" which these are."""
        return read_json(self.path / INDEX if part == "index" else self.path / part / "config.json")

    def weights(self, part: str) -> list[Path]:
        """The weight files of a part that will be read: safetensors before pickle."""
        if self.file is not None:
            return [self.file]
        folder = self.path / part
        for stem, suffix in zip(STEMS[part], SUFFIXES, strict=True):
            if found := sorted([*folder.glob(f"{stem}.{suffix}"), *folder.glob(f"{stem}-*-of-*.{suffix}")]):
                return found
        return []

    def files(self) -> list[Path]:
        """All that is read."""
        named = [self.path / file for file in [*SETTINGS, *TOKENIZERS] if (self.path / file).is_file()]
        return list(dict.fromkeys([*named, *(path for part in self.nets for path in self.weights(part))]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the latents of a picture."""
        return self.family.shape(self.settings)

    @property
    def size(self) -> int:
        """Of the pictures that it makes, pixels."""
        return self.shape[1] * 2 ** (len(self.settings("vae")["block_out_channels"]) - 1)

    @property
    def schedule(self) -> dict[str, Any]:
        """As `kind` what is predicted, "eps", "v" or "flow", and settings of the noise: see `nets.noise_schedules`."""
        found = read_json(self.path / noise_schedules.FILE)
        if not self.family.flow:
            return noise_schedules.betas(self.name, found)
        patches = (self.shape[1] // 2) ** 2
        return noise_schedules.flow(self.name, found, patches, self.family.ends_at_step)

    @property
    def image_schedule(self) -> dict[str, Any]:
        """The same of the noise on what it is told of a picture, if there is any."""
        found = read_json(self.path / IMAGE_NOISE)
        return noise_schedules.betas(self.name, found | {"prediction_type": "epsilon"})  # nothing is


def checked_folder(name: str, revision: str | None = None, allow_pickle: bool = False) -> Folder:
    """The folder of this name, downloaded if it is a hub name, with only the files that are needed; a sound one."""
    file = local_folder(name, "text_to_image")
    if file.is_file():
        found = Folder(name, layout_of(file, [*SETTINGS, *TOKENIZERS]), file=file)
    else:
        files = (_wanted(0), _wanted(1))
        what = "text-to-image model"
        path = folder_of(name, "text_to_image", what, revision, files, _has_weights, allow_pickle)
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
    return [*SETTINGS, *TOKENIZERS, *weights]


def _has_weights(path: Path) -> bool:
    found = Folder("", path)
    if family_of(found.settings("index").get("_class_name")) is None:
        return True  # no such model: more of it is no help
    return all(found.weights(part) for part in found.nets)


def _check_index(folder: Folder) -> None:
    """model_index.json, and every part that it has to name."""
    name, path, index = folder.name, folder.path, folder.settings("index")
    if not index:
        raise Refusal(f"{name} has no {INDEX}: it is not a text-to-image model in diffusers' layout")
    if (family := family_of(kind := index.get("_class_name"))) is None:
        known = ", ".join(family.pipeline for family in FAMILIES)
        raise Refusal(
            f"{name} is a {kind} by its {INDEX}, and these are understood: {known}; name such a model"
        )
    for part, classes in family.classes.items():
        found = (index.get(part) or [None, None])[1]
        if found not in classes and not (found is None and part in family.may_lack):
            raise Refusal(
                f"{name} has {'no ' + part if found is None else f'a {found} as {part}'} by its {INDEX}, and a "
                f"{classes[0]} is needed: name a whole {family.pipeline}"
            )
    needed = [noise_schedules.FILE, *family.also, *(f"{part}/config.json" for part in folder.nets)]
    if missing := [file for file in needed if not (path / file).is_file()]:
        raise Refusal(f"{name} has no {missing[0]}: fetch it anew, or name another model")
    for part in map(tokenizer_of, folder.towers):
        clips = folder.parts.get(part, "CLIP").startswith("CLIP")
        if not has_vocabulary(path / part, VOCABULARIES[:2] if clips else VOCABULARIES[:3]):
            raise Refusal(
                f"{name} has no {part}: tokenizer.json, or {'vocab.json and merges.txt' if clips else 'spiece.model'}, should "
                f"be in its folder {part}"
            )


def _check_weights(folder: Folder, allow_pickle: bool) -> None:
    for part in folder.nets:
        found = folder.weights(part)
        if not found or (found[0].suffix != ".safetensors" and not allow_pickle):
            raise Refusal(
                f"{folder.name} has no safetensors weights for its {part}, found {found[0].name if found else 'none'}: choose "
                "another revision, or --allow-pickle if you trust its maker"
            )


def _check_architecture(folder: Folder) -> None:
    """A network that sees nothing but noised latents and a text, parts that fit each other, and a schedule that is known."""
    family = folder.family
    for found, is_wrong in family.misfits(folder.settings).items():
        if is_wrong:
            raise Refusal(
                f"{folder.name}: a plain {family.pipeline} is needed, and its {family.network} {found}: name another model"
            )
    assert folder.schedule  # refuses what it does not know
    if IMAGE_NOISE in family.also:
        assert folder.image_schedule
        if folder.file is not None:
            raise Refusal(
                f"{folder.name} is one file, and of a {family.pipeline} that does not hold all parts: name a folder"
            )
