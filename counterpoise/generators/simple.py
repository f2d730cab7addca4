"""The generators every neural one must beat: copies, augmented copies, and interpolation between neighbours.

They work in whatever space the classifier sees: uint8 pixels (h, w, c) or float feature vectors (d,). Sample i
depends on row i of the plan alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from counterpoise.generators.generator import Context, Failed, Lesson, Row, Sampler, one_by_one
from counterpoise.types import part


class _NothingToLearn:
    """These generators are their settings: there are no weights, and no denoiser to guide."""

    learns: ClassVar[bool] = False
    takes_guides: ClassVar[bool] = False
    reads_prompts: ClassVar[bool] = False
    spaces: ClassVar[tuple[str, ...]] = ("pixels", "features")
    own_space: ClassVar[bool] = False

    def fit(self, lesson: Lesson, out: Path, seed: int) -> None:
        raise AssertionError("there is nothing to fit")


@part
class Copies(_NothingToLearn):
    """The source image itself: the control that changes nothing but the counts."""

    def load(self, out: Path, ctx: Context) -> Sampler:
        return one_by_one(lambda row: ctx.real([row["source_id"]])[0])


@part
class Oversample(_NothingToLearn):
    """The source image, augmented once by the row's own seed: classical oversampling to the same counts."""

    augment: tuple[Any, ...] = ()

    @property
    def spaces(self) -> tuple[str, ...]:  # type: ignore[override]
        """With something to change it makes pictures, also where the classifier sees features."""
        return ("pixels",) if self.augment else ("pixels", "features")

    def load(self, out: Path, ctx: Context) -> Sampler:
        def sample(row: Row) -> np.ndarray:
            image = ctx.real([row["source_id"]])[0]
            if not self.augment:
                return image
            x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
            rng = torch.Generator().manual_seed(row["seed"])
            for change in self.augment:
                x, _ = change(x, torch.ones(1, 1), rng)
            if x.is_floating_point():
                x = (x * 255).round().clamp(0, 255).to(torch.uint8)
            return x[0].permute(1, 2, 0).numpy()

        return one_by_one(sample)


@part
class Interpolate(_NothingToLearn):
    """A point on the line from the source to its partner: SMOTE's and ADASYN's sample, x + u (partner - x), u ~ U(0, 1)."""

    def load(self, out: Path, ctx: Context) -> Sampler:
        def sample(row: Row) -> np.ndarray:
            if row["partner_id"] is None:
                raise Failed("its class has one training image: there is nothing to interpolate with")
            start, end = ctx.real([row["source_id"], row["partner_id"]])
            gap = np.random.default_rng(row["seed"]).random()
            made = start + gap * (end.astype(np.float64) - start)
            return np.rint(made).astype(np.uint8) if start.dtype == np.uint8 else made.astype(start.dtype)

        return one_by_one(sample)
