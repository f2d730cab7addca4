"""Guides: a denoiser in, a denoiser out. They pull the estimate of the clean x somewhere, and act by sigma alone.

A guide never counts its calls (Heun makes two per step) and takes every row of a batch to be at one noise level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from counterpoise.diffusion.denoisers import Cond, Denoiser
from counterpoise.types import Refusal, part


class Teacher(Protocol):
    """A frozen classifier as guides hear it; gradients pass. `seen` are rows as it saw them while it learnt.

    Features are its penultimate ones, less the mean of the class asked for, whitened by the covariance of all classes.
    """

    def __call__(self, seen: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """(b, ...), (b,) => logits (b, C), features (b, k); without a label nobody will look at the features."""
        ...


def _nobody(what: str, rows: Tensor) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Context:
    """What a guide may look at beside the denoiser. Everything by row is of one batch, in its order."""

    ladder: Tensor | None = None  # the rungs this batch comes down
    weak: Denoiser | None = None  # a smaller or less trained copy of the model
    model: Denoiser | None = None  # the network alone, without any guide
    spread: float = 1.0  # standard deviation of clean x, about
    label: Tensor | None = None  # (b,) the class each row claims, as the teacher counts classes
    look: Callable[[Tensor], Tensor] | None = None  # clean x => rows as classifiers see them; gradients pass
    teacher: Teacher | None = None
    judge: Teacher | None = (
        None  # another one: no guide goes where it says, but a floor may stop where it doubts
    )
    dealt: Tensor | None = None  # (b, ...) a real row of its class for each, as classifiers see them
    tell: Callable[[str, Tensor], None] = _nobody  # what befell which rows (b,) bool, at one noise level


@runtime_checkable
class Guide(Protocol):
    def __call__(self, denoise: Denoiser, ctx: Context) -> Denoiser: ...


def guided(denoise: Denoiser, guides: Iterable[Guide], ctx: Context) -> Denoiser:
    """The denoiser under all guides, the first innermost."""
    for guide in guides:
        denoise = guide(denoise, ctx)
    return denoise


@part
class CFG:
    """Classifier-free guidance (Ho & Salimans 2022): D = D_null + scale (D_cond - D_null).

    Scale 1 is no guidance, 0 is no condition. Published omegas that mean (1 + omega) D_cond - omega D_null, as
    class-balancing diffusion's do, are scale - 1.
    """

    scale: float = 1.0

    def __call__(self, denoise: Denoiser, ctx: Context) -> Denoiser:
        def null(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            return denoise(x, sigma, cond.null())

        def both(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            twice = denoise(torch.cat([x, x]), torch.cat([sigma, sigma]), Cond.cat(cond, cond.null()))
            asked, unasked = twice.chunk(2)
            return unasked + self.scale * (asked - unasked)

        return {1.0: denoise, 0.0: null}.get(self.scale, both)


@part
class AutoGuidance:
    """Away from a weaker copy of the model (Karras et al. 2024, arXiv 2406.02507): D_weak + scale (D - D_weak)."""

    scale: float = 2.0

    def __call__(self, denoise: Denoiser, ctx: Context) -> Denoiser:
        weak = ctx.weak
        if weak is None:
            raise Refusal(
                "AutoGuidance needs a smaller or less trained copy of the model, found none: train one"
            )

        def away(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            less = weak(x, sigma, cond)
            return less + self.scale * (denoise(x, sigma, cond) - less)

        return away


@part
class Interval:
    """A guide that acts only for low < sigma <= high (Kynkäänniemi et al. 2024, arXiv 2404.07724)."""

    guide: Guide
    low: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(gt=0)]

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise Refusal(f"Interval: low must be below high, found {self.low} and {self.high}")

    def __call__(self, denoise: Denoiser, ctx: Context) -> Denoiser:
        inside = self.guide(denoise, ctx)

        def within(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            # compared as tensors: a bound that is a rung was rounded to float32 as the rung was
            acts = (sigma[0] > self.low) & (sigma[0] <= self.high)
            return (inside if acts else denoise)(x, sigma, cond)

        return within


@part
class Clamp:
    """The estimate kept inside the range that the data have, for pixels; put it last, around the other guides."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise Refusal(f"Clamp: low must be below high, found {self.low} and {self.high}")

    def __call__(self, denoise: Denoiser, ctx: Context) -> Denoiser:
        return lambda x, sigma, cond: denoise(x, sigma, cond).clamp(self.low, self.high)
