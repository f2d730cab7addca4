"""The generators every neural one must beat: copies, augmented copies, and interpolation between neighbours.

They work in whatever space the classifier sees: uint8 pixels (h, w, c) or float feature vectors (d,). Sample i
depends on row i of the plan alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from counterpoise.types import part


@dataclass(frozen=True)
class Context:
    """What a generator may look at while it samples: the real training rows of its own draw, by id."""

    real: Callable[[Sequence[str]], np.ndarray]


class Failed(Exception):
    """This one request cannot be met; the reason goes into its row."""


Sampler = Callable[[dict[str, Any]], np.ndarray]


class _NothingToLearn:
    """These generators are their settings: there are no weights, and no denoiser to guide."""

    learns: ClassVar[bool] = False
    takes_guides: ClassVar[bool] = False


@part
class Copies(_NothingToLearn):
    """The source image itself: the control that changes nothing but the counts."""

    def load(self, out: Path, ctx: Context) -> Sampler:
        return lambda row: ctx.real([row["source_id"]])[0]


@part
class Oversample(_NothingToLearn):
    """The source image, augmented once by the row's own seed: classical oversampling to the same counts."""

    augment: tuple[Any, ...] = ()

    def load(self, out: Path, ctx: Context) -> Sampler:
        def sample(row: dict[str, Any]) -> np.ndarray:
            image = ctx.real([row["source_id"]])[0]
            if image.ndim == 1:  # a feature vector: there is nothing to flip
                return image
            x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
            rng = torch.Generator().manual_seed(row["seed"])
            for change in self.augment:
                x, _ = change(x, torch.ones(1, 1), rng)
            if x.is_floating_point():
                x = (x * 255).round().clamp(0, 255).to(torch.uint8)
            return x[0].permute(1, 2, 0).numpy()

        return sample


@part
class Interpolate(_NothingToLearn):
    """A point on the line from the source to its partner: SMOTE's and ADASYN's sample, x + u (partner - x), u ~ U(0, 1)."""

    def load(self, out: Path, ctx: Context) -> Sampler:
        def sample(row: dict[str, Any]) -> np.ndarray:
            if row["partner_id"] is None:
                raise Failed("its class has one training image: there is nothing to interpolate with")
            start, end = ctx.real([row["source_id"], row["partner_id"]])
            gap = np.random.default_rng(row["seed"]).random()
            made = start + gap * (end.astype(np.float64) - start)
            return np.rint(made).astype(np.uint8) if start.dtype == np.uint8 else made.astype(start.dtype)

        return sample
