"""Class-conditional diffusion on feature vectors, from noise or from a row that is moved to the class wanted.

A rebuild: what is published of TDFA does not say how it translates, so the translation is that of feature transfer
learning (Yin et al. 2019), followed by SDEdit (Meng et al. 2022). With `balance` the training is class-balancing
diffusion's (Qin et al. 2023).

What is diffused is what a row has of its own: its distance from the mean of its class, whitened by the covariance that
all classes share. A network that says nothing (its output begins at zero) then already samples the shared-covariance
Gaussian of `transfer.ClassGaussian`, rare classes included, and all that is learnt is what that Gaussian misses. On
rows that were standardised only, 1,000 steps of 256 rows ended far behind that Gaussian (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoise.diffusion.denoisers import EDM
from counterpoise.diffusion.losses import ClassBalancing, LogNormal
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.diffusing import Diffusing
from counterpoise.generators.generator import Context, Lesson, Row
from counterpoise.generators.moments import Moments, feature_width
from counterpoise.nets.mlp import MLP
from counterpoise.types import Refusal, part


@dataclass(frozen=True)
class Vectors:
    """float32 features (d,) as x (d, 1, 1): mean 0 and covariance 1 in every class, so that to relabel is to translate."""

    moments: Moments
    energy: float | None
    guides: tuple[Any, ...] = ()  # features have no limits to keep
    spread: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.moments.mean), 1, 1)

    def into(self, rows: np.ndarray, labels: np.ndarray) -> Tensor:
        return torch.from_numpy(self.moments.whiten(rows, labels))[:, :, None, None]

    def back(self, x: Tensor, labels: np.ndarray) -> np.ndarray:
        return self.moments.colour(x.flatten(1).numpy(), labels)

    def look(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.moments.coloured(x.flatten(1), labels)

    def sources(self, rows: Sequence[Row], ctx: Context) -> Tensor:
        labels = np.array([row["label"] for row in rows])
        return self.into(self.moments.moved(rows, ctx, self.energy), labels)


@part
class FeatureDiffusion(Diffusing):
    """Settings of a feature diffusion model: what is trained, how, and how samples are drawn from it.

    A row without a source comes from noise. One with a source begins at that row, translated to the class wanted
    (`energy`: in the directions that hold this share of the within-class variance; None: in all) and noised to the
    row's strength. Guidance narrows a class; by default there is none. Six of Heun's steps, being
    coarse, keep the spread of real classes; more of them, or DPM-Solver++, draw samples that lie too close together.
    """

    network: Any = MLP(width=256, depth=2)
    objective: Any = LogNormal(EDM(sigma_data=1.0, sigma_min=0.05, sigma_max=10.0), mean=-0.4)
    schooling: Schooling = Schooling(steps=400, batch=1024, lr=2e-3)
    balance: ClassBalancing | None = None
    energy: Annotated[float, Field(gt=0, le=1)] | None = None
    sampler: Literal["dpmpp_2m", "heun", "euler", "ddim", "ancestral"] = "heun"
    steps: Annotated[int, Field(ge=1, le=1000)] = 6
    guides: tuple[Any, ...] = ()
    spaces: ClassVar[tuple[str, ...]] = ("features",)
    learning: ClassVar[tuple[str, ...]] = ("network", "objective", "schooling", "balance")

    def __post_init__(self) -> None:
        if self.schooling.pretrain or self.schooling.pool_share:
            raise Refusal(
                "feature diffusion learns from labelled rows only, for it sees a row beside the mean of its class: "
                "leave pretrain and pool_share at 0"
            )

    def config(self, lesson: Lesson) -> dict[str, Any]:
        return {"channels": feature_width(lesson.rows), "size": 1, "classes": list(lesson.classes)}

    def network_for(self, config: dict[str, Any], seed: int) -> nn.Module:
        return self.network(config["channels"], len(config["classes"]), config["size"], seed)

    def learn_space(self, lesson: Lesson) -> dict[str, np.ndarray]:
        return Moments.of(lesson.rows, lesson.labels, len(lesson.classes)).arrays()

    def space(self, config: dict[str, Any], learnt: Mapping[str, np.ndarray]) -> Vectors:
        return Vectors(Moments.from_arrays(learnt), self.energy)
