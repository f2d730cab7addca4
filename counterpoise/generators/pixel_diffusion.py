"""Class-conditional diffusion on pixels, 8 to 64 px, trained on the uneven data itself.

With `balance` it is class-balancing diffusion (Qin et al. 2023, CBDM), without it plain conditional diffusion. The
folder of a fitted one also holds grids of samples that were drawn while it learnt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoise.diffusion.batches import Augment
from counterpoise.diffusion.denoisers import EDM, Eps
from counterpoise.diffusion.guides import CFG, Clamp
from counterpoise.diffusion.losses import ClassBalancing, LogNormal
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.diffusing import Diffusing, opened
from counterpoise.generators.fitted import begin_from, read_config
from counterpoise.generators.generator import Context, Lesson, Row
from counterpoise.generators.sheet import Grid
from counterpoise.nets.dit import DiT
from counterpoise.nets.mlp import MLP
from counterpoise.nets.unet import UNet, UNetModel
from counterpoise.types import Refusal, describe, part

SMALLEST, LARGEST = 8, 64  # pixels
GRID, GRID_STEPS = Grid(classes=12, columns=8), 20


@dataclass(frozen=True)
class Pixels:
    """uint8 pictures (h, w, c) as x (c, h, w) in [-1, 1]."""

    shape: tuple[int, ...]
    guides: tuple[Any, ...] = (Clamp(),)
    spread: float = 0.5

    def into(self, rows: np.ndarray, labels: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 127.5 - 1

    def back(self, x: Tensor, labels: np.ndarray) -> np.ndarray:
        bytes_ = ((x.nan_to_num() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return bytes_.permute(0, 2, 3, 1).contiguous().numpy()

    def look(self, x: Tensor, labels: Tensor) -> Tensor:
        """(b, c, h, w) in [0, 1]"""
        return ((x + 1) / 2).clamp(0, 1)

    def sources(self, rows: Sequence[Row], ctx: Context) -> Tensor:
        return self.into(ctx.real([row["source_id"] for row in rows]), np.empty(0))


@part
class PixelDiffusion(Diffusing):
    """Settings of a pixel diffusion model: what is trained, how, and how samples are drawn from it.

    `network` is a part, or one of "mlp", "unet", "dit" for the one of that kind that suits the size; None chooses the
    kind. `augment` is `NonLeaky` or `Mirror`. `init` names the folder of an earlier one to go on from (fine-tuning).
    """

    network: Any = None
    objective: Any = LogNormal()
    schooling: Schooling = Schooling()
    balance: ClassBalancing | None = None
    augment: Any = None
    init: str | None = None
    sampler: Literal["dpmpp_2m", "heun", "euler", "ddim", "ancestral"] = "dpmpp_2m"
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guides: tuple[Any, ...] = (CFG(scale=1.5),)
    spaces: ClassVar[tuple[str, ...]] = ("pixels",)
    learning: ClassVar[tuple[str, ...]] = ("network", "objective", "schooling", "balance", "augment", "init")

    def config(self, lesson: Lesson) -> dict[str, Any]:
        shape = lesson.rows.raw(np.arange(1))[0].shape
        if len(shape) != 3:
            raise Refusal(
                f"pixel diffusion makes pictures, and these rows are feature vectors of {shape[0]} numbers"
            )
        if not SMALLEST <= shape[0] <= LARGEST:
            raise Refusal(
                f"pixel diffusion works on {SMALLEST} to {LARGEST} pixels, found {shape[0]} x {shape[1]}: "
                "choose another --size, or a generator that works in a latent space"
            )
        return {"channels": shape[2], "size": shape[0], "classes": list(lesson.classes)}

    def network_for(self, config: dict[str, Any], seed: int) -> nn.Module:
        network = (
            network_for(config["size"], self.network)
            if isinstance(self.network, str | None)
            else self.network
        )
        told = 0 if self.augment is None else self.augment.dim
        return network(config["channels"], len(config["classes"]), config["size"], seed, told)

    def space(self, config: dict[str, Any], learnt: Mapping[str, np.ndarray]) -> Pixels:
        return Pixels((config["channels"], config["size"], config["size"]))

    def settled(self, config: dict[str, Any]) -> Schooling:
        return dataclasses.replace(self.schooling, lr=self.schooling.lr or rate_for(config["size"]))

    def begin(self, net: nn.Module, config: dict[str, Any]) -> None:
        if self.init is not None:
            agree = {name: config[name] for name in ("channels", "size")}
            agree |= {name: describe(getattr(self, name)) for name in ("network", "augment")}
            begin_from(Path(self.init), net, agree, config["classes"])

    @property
    def changes(self) -> Augment | None:
        return self.augment

    def preview(self, config: dict[str, Any], seed: int) -> Callable[[int, nn.Module], bytes]:
        quick = dataclasses.replace(self, sampler="dpmpp_2m", steps=min(self.steps, GRID_STEPS))
        return GRID(quick, self.space(config, {}), config, seed)

    def export(self, fitted: Path, out: Path) -> None:
        """A fitted model as a folder that diffusers samples from."""
        from counterpoise.nets.to_diffusers import export_pipeline

        config = read_config(fitted)
        net, read = opened(self, fitted, config, torch.device("cpu"))[0], self.objective.parametrisation
        if not isinstance(net, UNetModel) or not isinstance(read, EDM | Eps):
            raise Refusal(
                f"diffusers has no pipeline for {type(net).__name__} trained as {type(read).__name__}: only U-Nets "
                "trained as EDM or DDPM can be exported (--network unet trains one)"
            )
        if any(not isinstance(guide, CFG) for guide in self.guides):
            raise Refusal(
                "a diffusers pipeline knows classifier-free guidance at all noise levels only, found "
                f"{', '.join(type(guide).__name__ for guide in self.guides)}: sample with this package, or without them"
            )
        if isinstance(read, EDM):
            more: dict[str, Any] = {"kind": "edm"} | {
                name: getattr(read, name) for name in ("sigma_data", "sigma_min", "sigma_max")
            }
        else:
            schedule = read.schedule
            more = {"kind": "eps", "train_steps": schedule.steps}
            more |= {"beta_first": schedule.beta_first, "beta_last": schedule.beta_last}
        export_pipeline(
            net,
            out,
            classes=config["classes"],
            size=config["size"],
            channels=config["channels"],
            steps=self.steps,
            scale=self.guides[0].scale if self.guides else 1.0,
            **more,
        )


def network_for(size: int, kind: str | None = None) -> Any:
    """The network of a kind that suits a size. After equal time they were close (docs/results.md)."""
    unet = UNet() if size < 28 else UNet(width=64, levels=(1, 1, 2))
    return {"unet": unet, "mlp": MLP(), "dit": DiT()}[kind or "unet"]


def rate_for(size: int) -> float:
    """At 32 pixels the balanced U-Net stops learning at the rate that is best at 8 (docs/log.md)."""
    return 4e-3 if size < 28 else 1e-3
