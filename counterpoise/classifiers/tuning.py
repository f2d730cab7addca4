"""Heads that begin as what class names say, and are tuned on a few real rows, on synthetic ones, or on both.

Classifier tuning of He et al. (ICLR 2023, "Is synthetic data from generative models ready for image recognition?",
Sections 3.1 and 3.2), on features of a text-image pair that are there already. Every step sees one batch of each kind, with
sizes and weights of their own; a synthetic row is taught half as its label, half as what the names alone say of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from counterpoise.classifiers.batched import HeadJob, Slopes
from counterpoise.classifiers.heads import LinearHead
from counterpoise.nets.words import prompts
from counterpoise.types import Refusal, part

BETAS, EPS = (0.9, 0.999), 1e-8
CLIP = 1.0  # of the norm of a job's gradient
BOTH, ONE = 1e-3, 2e-3  # published rates: where a step sees both kinds of rows, and where it sees one

Positive = Annotated[float, Field(gt=0)]
ORDERS = {
    "mix": (("real", "synthetic"),),
    "synthetic_first": (("synthetic",), ("real",)),
    "real_first": (("real",), ("synthetic",)),
}


@dataclass(frozen=True, eq=False)
class Taught:
    """What one trial sees; there may be no rows of one kind."""

    real: HeadJob | None
    synthetic: HeadJob | None


def from_names(said: np.ndarray, scale: float) -> LinearHead:
    """The classifier that class names are: unit rows (C, D) as the text model has them => scale times cosines."""
    return LinearHead.on_raw(said * np.float32(scale), np.zeros(len(said), np.float32), normalise=True)


def half_believed(labels: np.ndarray, said: np.ndarray, share: float, temperature: float) -> np.ndarray:
    """(1 - share) labels + share softmax(said / temperature), (n, C) each.

    L = (1 - share) CE + share SCE with SCE = -sum q log p (He et al., C.4) is cross-entropy towards this mixture, as
    both are linear in what they aim at. Only the teacher is tempered, and nothing is multiplied by its square.
    """
    taught = torch.softmax(torch.from_numpy(said) / temperature, 1).numpy()
    return ((1 - share) * labels + share * taught).astype(np.float32)


@part
class Tuning:
    """How such a head is trained; 0 steps are the zero-shot classifier itself. Rows are cached, so no row looks different twice.

    The published 30 epochs are 30 n / `synthetic_batch` steps for n synthetic rows: 480 for ten classes of 800. In an order
    other than "mix" each phase has all the `steps`: as many rows of each kind are seen, in twice as many updates. `rates`,
    `decays` and `weights` (of the real batch, of the synthetic one) are all tried, and validation chooses. Weights
    decay towards zero, or towards those of the names.
    """

    templates: Annotated[tuple[str, ...], Field(min_length=1)] = ("a photo of {a}",)  # of several, the mean
    steps: Annotated[int, Field(ge=0)] = 500
    batch: Annotated[int, Field(ge=1)] = 32
    synthetic_batch: Annotated[int, Field(ge=1)] = 512
    order: Literal["mix", "synthetic_first", "real_first"] = "mix"
    rates: tuple[Positive, ...] = ()  # none: the published one
    decays: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (0.1,)
    weights: Annotated[tuple[tuple[Positive, Positive], ...], Field(min_length=1)] = ((1.0, 1.0),)
    towards: Literal["zero", "names"] = "zero"
    share: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the teacher in what synthetic rows are taught as
    temperature: Positive = 2.0  # of the teacher

    def __post_init__(self) -> None:
        for template in self.templates:
            prompts(template, [])
        rate, decay = max(self.rates or (ONE,)), max(self.decays)
        if rate * decay > 1:
            raise Refusal(
                f"Tuning: a step takes rate x decay of the way to where weights decay to, at most all of it, found {rate:g} x "
                f"{decay:g}: lower rates or decays"
            )

    def phases(self, taught: Taught) -> list[tuple[str, ...]]:
        """The kinds of rows that each phase sees, of those that are there."""
        there = [
            tuple(kind for kind in kinds if getattr(taught, kind) is not None) for kinds in ORDERS[self.order]
        ]
        return [kinds for kinds in there if kinds]

    def rate(self, step: int) -> float:
        """Half a cosine, from 1 at the first step to exactly 0 at the last."""
        return 0.5 * (1 + math.cos(math.pi * step / (self.steps - 1))) if self.steps > 1 else 1.0

    @torch.no_grad()
    def __call__(
        self, features: np.ndarray, trials: Sequence[Taught], start: LinearHead
    ) -> list[tuple[dict[str, Any], list[LinearHead]]]:
        """Every choice with the head of each trial, all trained at once: each is what it would have been alone."""
        kinds = [] if self.steps == 0 else self.phases(trials[0])
        rates = self.rates or (BOTH if len(kinds) == 1 and len(kinds[0]) == 2 else ONE,)
        grid = list(itertools.product(rates, self.decays, self.weights))
        x = F.normalize(torch.as_tensor(features, dtype=torch.float32), dim=1)
        begin = torch.from_numpy(np.vstack([start.weight.T, start.bias]))  # (D + 1, C), biases below
        begin = begin[None, :, None].expand(len(trials), -1, len(grid), -1)  # (S, D + 1, A, C)
        theta = begin.clone(memory_format=torch.contiguous_format)
        for seen in kinds:
            shares = [torch.tensor([weights[kind == "synthetic"] for *_, weights in grid]) for kind in seen]
            jobs = [[getattr(trial, kind) for trial in trials for _ in grid] for kind in seen]
            slopes = [Slopes(x, some, len(grid)) for some in jobs]
            update = _AdamW(theta, begin if self.towards == "names" else None, grid)
            for step in range(self.steps):
                update(self._gradient(theta, step, slopes, shares), self.rate(step))
        if not torch.isfinite(theta).all():
            raise Refusal(f"tuning of linear heads diverged: lower tuning.rates (they are {rates})")
        names = ("lr", "weight_decay", "weights")
        return [
            (dict(zip(names, choice, strict=True)), [_head(one[:, at]) for one in theta])
            for at, choice in enumerate(grid)
        ]

    def _gradient(
        self, theta: Tensor, step: int, slopes: Sequence[Slopes], shares: Sequence[Tensor]
    ) -> Tensor:
        """Of the weighted sum of what the batches of this step are taught (S, D + 1, A, C)."""
        flat = theta.flatten(2)  # (S, D + 1, A C)
        total = torch.zeros_like(theta)
        for slope, share in zip(slopes, shares, strict=True):
            found = torch.cat(slope(step, flat[:, :-1], flat[:, -1:]), 1).view_as(theta)
            total.addcmul_(found, share[:, None])
        return total


class _AdamW:
    """Adam with decoupled decay (Loshchilov & Hutter 2019, Algorithm 2) towards 0 or given weights; all jobs in place.

    A column of `grid` has a rate, a decay, and its own norm to be clipped by.
    """

    def __init__(
        self, theta: Tensor, towards: Tensor | None, grid: Sequence[tuple[float, float, Any]]
    ) -> None:
        self.theta, self.towards, self.step = theta, towards, 0
        self.rate = torch.tensor([rate for rate, *_ in grid])[:, None]  # (A, 1)
        self.decay = torch.tensor([decay for _, decay, _ in grid])[:, None]
        self.mean, self.square = torch.zeros_like(theta), torch.zeros_like(theta)

    def __call__(self, slope: Tensor, share: float) -> None:
        """One step down `slope` (S, D + 1, A, C), with this share of the rates; `slope` is used up."""
        self.step += 1
        slope.mul_(CLIP / (torch.linalg.vector_norm(slope, dim=(1, 3), keepdim=True) + 1e-6).clamp(min=CLIP))
        self.mean.lerp_(slope, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
        rate = share * self.rate
        away = self.theta if self.towards is None else self.theta - self.towards
        self.theta.sub_(away * (rate * self.decay))
        root = self.square.div(1 - BETAS[1] ** self.step).sqrt_().add_(EPS)
        self.theta.sub_(torch.div(self.mean, root, out=root).mul_(rate / (1 - BETAS[0] ** self.step)))


def _head(theta: Tensor) -> LinearHead:
    """(D + 1, C) => a head on the directions of features."""
    weight, bias = theta[:-1].T.contiguous().numpy(), theta[-1].contiguous().numpy()
    return LinearHead.on_raw(weight, bias, normalise=True)
