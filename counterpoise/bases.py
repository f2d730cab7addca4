"""Which text-to-image model flags mean, what of it is learnt, and who its opponent is."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Literal

from counterpoise.diffusion.guides import CFG
from counterpoise.generators.adapting import Adapt
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets.folders import download
from counterpoise.nets.lora_files import Adapter
from counterpoise.types import Refusal

LARGE = (
    "stable-diffusion-v1-5/stable-diffusion-v1-5"  # on the hub: what `--base auto` means where it can be had
)
MINIATURE_STEPS = 150  # 400 are no better on a few pictures of a class, docs/log.md
Adaptation = Literal["lora", "full", "words", "none"]  # what of it is learnt


@dataclass(frozen=True)
class TextToImage:
    """What flags say of a model that knows classes by their names, and learns what they look like here."""

    base: str
    adapt: Adaptation
    adapters: tuple[str, ...]
    few_steps: int | None
    guidance: float | None
    fit_steps: int | None
    flip: bool

    def generator(self) -> StableDiffusion:
        found = StableDiffusion(
            base=at_hand() if self.base == "auto" else self.base,
            adapt=None if self.adapt == "none" else Adapt(kind=self.adapt, flip=self.flip),
            adapters=tuple(map(Adapter.named, self.adapters)),
        )
        if self.few_steps is not None:
            # Adapters for few steps have learnt the guidance as well (Luo et al. 2023, Section 4.2).
            found = dataclasses.replace(found, sampler="lcm", steps=self.few_steps, guides=())
        if self.guidance is not None:
            found = dataclasses.replace(found, guides=(CFG(scale=self.guidance),))
        steps = MINIATURE_STEPS if self.fit_steps is None and found.base == "miniature" else self.fit_steps
        if steps is not None:
            schooling = dataclasses.replace(found.schooling, steps=steps)
            found = dataclasses.replace(found, schooling=schooling)
        return found


def opposite(base: str, backbone: str) -> tuple[str, str]:
    """The model and the backbone that are meant. Who knows what a model knows is its opponent: of the miniature, its own eyes."""
    base = at_hand() if base == "auto" else base
    if backbone == "auto":
        return base, "miniature" if base == "miniature" else ""
    return base, "" if backbone == "none" else backbone


def at_hand() -> str:
    """The usual large model where it can be had, else the small one that comes with the package, which is said."""
    try:
        download(LARGE, None, ["model_index.json"])
    except Refusal:
        warnings.warn(
            f"{LARGE} cannot be had from the hub, so --base auto is the miniature: 32 pixels, and it knows CIFAR-100's classes only",
            stacklevel=2,
        )
        return "miniature"
    return LARGE
