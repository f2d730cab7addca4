"""Pictures from a text-to-image model of others: every class is a prompt, which is made of its name or learnt.

Samples come from noise, or from a real row of any class that is noised and edited towards the class wanted (SDEdit, Meng
et al. 2022). Without `adapt` nothing of the model is learnt. The folder of a fitted one holds what was, and the digest of
the model that it belongs to; it does not hold the model.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoise.diffusion.batches import Augment, Material
from counterpoise.diffusion.denoisers import Eps, Flow, Schedule, Velocity
from counterpoise.diffusion.guides import CFG, AutoGuidance
from counterpoise.diffusion.ladder import LARGEST_FLOW, flow
from counterpoise.diffusion.losses import ClassBalancing, LogitNormal, UniformTime
from counterpoise.diffusion.min_snr import MinSNR
from counterpoise.diffusion.ranks import Ranks
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.adapting import Adapt, draw, spoken
from counterpoise.generators.diffusing import Diffusing, Space, inside
from counterpoise.generators.exemplars import Exemplars
from counterpoise.generators.fitted import read_config
from counterpoise.generators.generator import Context, Lesson, Row, Sampler
from counterpoise.generators.prior import PRIOR, known_before
from counterpoise.generators.sentences import Sentences, telling
from counterpoise.generators.sheet import Grid
from counterpoise.nets.diffusers_folder import Folder
from counterpoise.nets.lora_files import Adapter
from counterpoise.nets.prompted import TextToImage
from counterpoise.nets.stable_diffusion import Base, base_folder, open_base, open_tokens
from counterpoise.nets.words import prompts
from counterpoise.spaces.latents import Latents, preview_of, taught
from counterpoise.types import Refusal, part

#: Where the schooling names none: the usual one of adapters and of fine-tuning, and what so small a model needs (docs/log.md).
LR, LR_MINIATURE = 1e-4, 1e-3
GRID, GRID_STEPS = Grid(classes=4, columns=4), 12  # of large pictures few, for they take long
KINDS: dict[str, type[Eps] | type[Velocity]] = {"eps": Eps, "v": Velocity}


@part
class StableDiffusion(Diffusing):
    """Settings of a text-to-image model: which one, what it is told, what of it is learnt, and how samples are drawn.

    `base` is a name on the hub, of which `revision` picks a version, a folder, a file (with a folder of its settings beside it),
    or "miniature", the small model of this package; `nets.families` are those that are understood. FLUX is told how strongly to
    follow a text: leave its guides empty.
    In `prompt`, {a} is the class name with its article and {name} the name alone; a row of a plan may have one of its own. With `images`, a row is told of its source
    as well, from noise with a pairing of strength 1; unCLIP models can be, others need an adapter. `adapt` learns the classes of the study;
    without it nothing is learnt, and of the schooling only `bf16` counts. `adapters` are files of others' that are merged into
    the model before anything is learnt or drawn; with those of LCM, `sampler` is "lcm", `steps` 4 and CFG's scale 1.
    """

    base: str = "miniature"
    revision: str | None = None
    allow_pickle: bool = False
    adapters: tuple[Adapter, ...] = ()
    prompt: str = "a photo of {a}"
    images: Exemplars | None = None
    adapt: Adapt | None = None
    schooling: Schooling = Schooling(steps=1000, batch=32)
    balance: ClassBalancing | None = None
    sampler: Literal["dpmpp_2m", "heun", "euler", "ddim", "ancestral", "lcm"] = "dpmpp_2m"
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guides: tuple[Any, ...] = (CFG(scale=3.0),)  # of the miniature by Fréchet distance: its card
    spaces: ClassVar[tuple[str, ...]] = ("pixels",)
    reads_prompts: ClassVar[bool] = True
    # What its base holds is in its config, and decides as well.
    learning: ClassVar[tuple[str, ...]] = ("prompt", "images", "adapt", "schooling", "balance")

    def __post_init__(self) -> None:
        prompts(self.prompt, ["class"])  # refuses a prompt that names no class
        if self.schooling.pretrain or self.schooling.pool_share:
            raise Refusal(
                "a text-to-image model learns from labelled rows only, for it sees a row beside its prompt: "
                "leave pretrain and pool_share at 0"
            )
        if self.adapt is None and any(isinstance(guide, AutoGuidance) for guide in inside(self.guides)):
            raise Refusal(
                "AutoGuidance steers away from a less trained copy, and without adapt nothing is trained: "
                "set adapt, or guide by CFG"
            )
        if self.adapt is None and self.balance is not None:
            raise Refusal(
                "balance says what training costs, and without adapt nothing is trained: set adapt, or leave balance out"
            )
        if self.adapt is not None and self.adapt.prior and self.images is not None:
            raise Refusal(
                "a prior is pictures that were made for words alone, and with images a row is told of a picture as well: "
                "leave one of them out"
            )
        if self.adapt is not None and self.adapt.varies and self.balance is not None:
            raise Refusal(
                "balance tells a row by another class in the same words, and templates, captions and a prior are of its own class: "
                "leave one of them out"
            )

    @property
    def objective(self) -> UniformTime | MinSNR | LogitNormal:  # the base tells it
        told = dict(self._base.schedule)
        kind, gamma = told.pop("kind"), None if self.adapt is None else self.adapt.min_snr
        if kind == "flow":
            return LogitNormal(Flow(sigma_max=LARGEST_FLOW))
        read = KINDS[kind](Schedule(**told))
        return UniformTime(read) if gamma is None else MinSNR(read, gamma)

    def ladder(self) -> Tensor:
        told = self._base.schedule
        return flow(self.steps, told["shift"], told["last"]) if told["kind"] == "flow" else super().ladder()

    @property
    def _base(self) -> Base:
        sees = None if self.images is None else self.images.adapter
        return open_base(self.base, self.revision, self.allow_pickle, self.adapters, sees)

    def ready(self, classes: Sequence[str] | None) -> None:
        """Refuses what can be refused before anything is made; `classes` are none as long as nobody knows them."""
        folder = base_folder(self.base, self.revision, self.allow_pickle)
        self._check_suits(folder)
        if self.images is not None:
            self.images.ready(folder)
        for adapter in self.adapters:
            adapter.ready()
        if classes is not None:
            prompts(self.prompt, classes)  # refuses names that cannot be said
            tokens = open_tokens(folder)
            asked = tokens.prompts if self.adapt is None else partial(self.adapt.asked, tokens)
            tokens([*asked(self.prompt, classes), ""])

    def _check_suits(self, base: Folder) -> None:
        if self.steps > (most := base.schedule["steps"]):
            raise Refusal(
                f"{self.base} knows {most} noise levels, and {self.steps} steps are asked for: ask for fewer"
            )
        scales = {guide.scale for guide in inside(self.guides) if isinstance(guide, CFG)}
        if base.settings(base.family.network).get("guidance_embeds") and scales - {0.0, 1.0}:
            raise Refusal(
                f"{self.base} is told how strongly to follow a text, and CFG at scale {max(scales):g} would guide it a second time: "
                "leave its guides empty, or set the scale (--guidance) to 1"
            )
        if base.schedule["kind"] != "flow":
            return
        if self.adapt is not None and self.adapt.kind == "lora" and "convolutions" in self.adapt.places:
            raise Refusal(
                f"adapters are to lie beside convolutions, and {self.base}, a {base.family.pipeline}, has a transformer, which has "
                "none: leave 'convolutions' out of places"
            )
        if self.adapt is not None and self.adapt.min_snr is not None:
            raise Refusal(
                f"Min-SNR weighs the steps of a schedule, and {self.base} is a flow, which has its own weights: leave min_snr out"
            )
        if self.sampler == "heun":
            raise Refusal(
                f"heun takes the mean of the slopes at both ends of a step, and {self.base}, a flow, begins at noise alone, where "
                "there is none: sample with dpmpp_2m or euler"
            )

    def decides(self, steps: int) -> dict[str, Any]:
        found = super().decides(steps)
        return found if self.adapt else {name: found[name] for name in ("prompt", "adapt")}

    def config(self, lesson: Lesson) -> dict[str, Any]:
        shape = _shape(lesson)
        if len(shape) != 3:
            raise Refusal(
                f"a text-to-image model makes pictures, and these rows are feature vectors of {shape[0]} numbers"
            )
        if self.adapt is not None and not len(lesson.rows):
            raise Refusal(
                f"{self.base} is to learn the classes from real rows, and there are none: leave adapt out (--adapt none)"
            )
        prompts(self.prompt, lesson.classes)  # refuses names that cannot be said
        self._check_suits(self._base)
        if self.images is not None:
            self.images.ready(self._base)
        return self.supposed(shape[2], shape[0], lesson.classes)

    def supposed(self, channels: int, size: int, classes: Sequence[str]) -> dict[str, Any]:
        return super().supposed(channels, size, classes) | {"content": self._base.content}

    def _known(self, config: dict[str, Any]) -> Base:
        """The base that it was fitted with."""
        base = self._base
        if base.content != config["content"]:
            raise Refusal(
                f"{self.base} is not the model that this generator was fitted with ({config['content'][:8]} then, "
                f"{base.content[:8]} now): name the same revision, or --redo fit"
            )
        return base

    def network_for(self, config: dict[str, Any], seed: int) -> TextToImage:
        base, classes = self._known(config), config["classes"]
        if self.adapt is not None:
            return self.adapt.network(base, self.prompt, classes, seed)
        return TextToImage(base.frozen_unet, spoken(base, self.prompt, classes), {}, base.seen)

    def to_sample(self, net: nn.Module, config: dict[str, Any]) -> nn.Module:
        assert isinstance(net, TextToImage)
        return net if self.adapt is None else self.adapt.to_sample(self._known(config), net)

    def export_lora(self, fitted: Path, out: Path) -> None:
        """What a fitted one has learnt, as a folder that diffusers and others put beside the model."""
        from counterpoise.generators.lora_export import export_lora

        export_lora(self, fitted, out)

    def load(self, out: Path, ctx: Context) -> Sampler:
        classes = read_config(out)["classes"]
        return telling(super().load(out, ctx), partial(self._sentences, classes))

    def _sentences(self, classes: Sequence[str]) -> Sentences:
        tokens = open_tokens(self._base)
        names = classes if self.adapt is None else self.adapt.names(tokens, classes)
        return Sentences(tokens, self.prompt, names, classes)

    def shape(self, config: dict[str, Any]) -> tuple[int, ...]:
        return self._base.shape

    def seen(self, rows: Sequence[Row], ctx: Context) -> Tensor | None:
        return None if self.images is None else self.images(self._base, rows, ctx)

    def learn_space(self, lesson: Lesson) -> dict[str, np.ndarray]:
        if not len(lesson.rows):
            return {}  # nobody can have learnt to look at its samples
        shape = _shape(lesson)
        return taught(self._latents(self._base, (shape[2], shape[0]), None), lesson.rows)

    def space(self, config: dict[str, Any], learnt: Mapping[str, np.ndarray]) -> Latents:
        preview = preview_of(learnt, Ranks.alone().device) if learnt else None
        # The network may be open since before the base was changed: it is asked for here.
        return self._latents(self._known(config), (config["channels"], config["size"]), preview)

    def _latents(self, base: Base, own: tuple[int, int], preview: nn.Module | None) -> Latents:
        return Latents(base.autoencoder.to(Ranks.alone().device), preview, base.shape, base.size, own)

    def settled(self, config: dict[str, Any]) -> Schooling:
        usual = LR_MINIATURE if self.base == "miniature" else LR
        return dataclasses.replace(self.schooling, lr=self.schooling.lr or usual)

    def preview(self, config: dict[str, Any], seed: int) -> Callable[[int, nn.Module], bytes] | None:
        if self.adapt is None:
            return None
        quick = dataclasses.replace(self, steps=min(self.steps, GRID_STEPS))
        return GRID(quick, self.space(config, {}), config, seed)

    @property
    def changes(self) -> Augment | None:
        return None if self.adapt is None else draw

    def material(
        self, lesson: Lesson, space: Space, settings: Schooling, out: Path | None = None
    ) -> Material:
        assert self.adapt is not None
        assert isinstance(space, Latents)
        known = None
        if self.adapt.prior:
            assert out is not None
            views = math.ceil(self.adapt.prior * settings.steps * settings.batch)
            known = known_before(self, space, lesson.classes, views, out / PRIOR)
        return self.adapt.material(lesson, space, self._base, self.prompt, self.images, known)

    def seconds(self, channels: int, size: int, classes: int, batch: int = 16) -> tuple[float, float]:
        fit, sample = super().seconds(channels, size, classes, batch)
        space = self._latents(self._base, (channels, size), None)
        x, start = torch.zeros(batch, *space.shape), time.perf_counter()
        space.back(x, np.empty(0))
        return fit, sample + (time.perf_counter() - start) / batch


def _shape(lesson: Lesson) -> tuple[int, ...]:
    """Of a row, of which there may be none."""
    return lesson.rows.raw(np.arange(0)).shape[1:]
