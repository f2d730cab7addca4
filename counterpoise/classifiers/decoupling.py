"""Second stages: what is done to a trained linear head afterwards, on the same frozen features.

All have one signature, ``(head, fit, val, prior, seed) -> (head, what was chosen)``. Whatever is chosen is chosen
on validation rows, by balanced accuracy; ties go to the smaller value. cRT, LWS, tau-normalisation and NCM are of
Kang et al. 2020 (Decoupling Representation and Classifier), post-hoc logit adjustment of Menon et al. 2021, the
interpolation of weights of Wortsman et al. 2022 (WiSE-FT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from counterpoise.classifiers.batched import HeadJob
from counterpoise.classifiers.heads import LinearHead, train_heads
from counterpoise.classifiers.losses import CE, log_prior
from counterpoise.seeding import generator
from counterpoise.types import Refusal, part

Chosen = TypeVar("Chosen")


@dataclass(frozen=True, eq=False)
class Rows:
    """Features with what is known of them."""

    features: np.ndarray  # (N, D) raw, as the backbone gave them
    labels: np.ndarray  # (N,)
    groups: np.ndarray | None = None  # (N,)
    real: np.ndarray | None = None  # (N,) which rows are; None: all of them


class After(Protocol):
    """A second stage."""

    def __call__(
        self, head: LinearHead, fit: Rows, val: Rows, prior: np.ndarray, seed: int
    ) -> tuple[LinearHead, dict[str, Any]]: ...


def balanced_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean recall over the classes that are there."""
    right = logits.argmax(1) == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def grid(top: float, step: float = 0.1) -> list[float]:
    """
    >>> grid(0.3)
    [0.0, 0.1, 0.2, 0.3]
    """
    return [round(step * index, 6) for index in range(round(top / step) + 1)]


def best(candidates: Iterable[tuple[Chosen, LinearHead]], val: Rows) -> tuple[Chosen, LinearHead]:
    """The candidate with the highest balanced accuracy on validation; the first of equals."""
    return max(candidates, key=lambda one: balanced_accuracy(one[1].logits(val.features), val.labels))


def balanced_rows(labels: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(steps, batch) row numbers, every class equally often."""
    present, size = np.unique(labels, return_counts=True)
    order = np.argsort(labels, kind="stable")
    start = np.cumsum(size) - size
    drawn = rng.integers(0, len(present), shape)
    return order[start[drawn] + (rng.random(shape) * size[drawn]).astype(np.int64)]


@part
class CRT:
    """Classifier re-training: a fresh classifier, class-balanced sampling."""

    steps: Annotated[int, Field(ge=1)] = 300
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4

    def __call__(
        self, head: LinearHead, fit: Rows, val: Rows, prior: np.ndarray, seed: int
    ) -> tuple[LinearHead, dict[str, Any]]:
        rows = balanced_rows(fit.labels, (self.steps, self.batch), generator("crt", seed))
        job = HeadJob(rows, fit.labels, CE(), np.ones(len(prior)), seed)
        x = head.transform(torch.from_numpy(np.asarray(fit.features, np.float32)))
        (fresh,) = train_heads(x, [job], standardise=False, lr=self.lr, weight_decay=self.weight_decay)
        return replace(head, weight=fresh.weight, bias=fresh.bias), {"views": self.steps * self.batch}


@part
class LWS:
    """Learnable weight scaling: one factor per class on the frozen logits, class-balanced sampling."""

    steps: Annotated[int, Field(ge=1)] = 300
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 0.05

    def __call__(
        self, head: LinearHead, fit: Rows, val: Rows, prior: np.ndarray, seed: int
    ) -> tuple[LinearHead, dict[str, Any]]:
        rows = torch.from_numpy(balanced_rows(fit.labels, (self.steps, self.batch), generator("lws", seed)))
        logits = torch.from_numpy(head.logits(np.asarray(fit.features, np.float32)))
        labels = torch.from_numpy(np.asarray(fit.labels, np.int64))
        factors = torch.ones(logits.shape[1], requires_grad=True)
        optimiser = torch.optim.Adam([factors], lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for batch in rows:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(factors * logits[batch], labels[batch]).backward()
            optimiser.step()
            schedule.step()
        g = factors.detach().numpy()
        chosen = {"factors": [round(float(factor), 4) for factor in g], "views": self.steps * self.batch}
        return replace(head, weight=head.weight * g[:, None], bias=head.bias * g), chosen


@part
class TauNorm:
    """w_c / ||w_c||^tau without bias; tau from 0 to `top` on validation."""

    top: Annotated[float, Field(gt=0)] = 2.0

    def __call__(
        self, head: LinearHead, fit: Rows, val: Rows, prior: np.ndarray, seed: int
    ) -> tuple[LinearHead, dict[str, Any]]:
        length = np.linalg.norm(head.weight, axis=1, keepdims=True).clip(1e-12)
        zero = np.zeros_like(head.bias)
        tau, found = best(
            ((t, replace(head, weight=head.weight / length**t, bias=zero)) for t in grid(self.top)), val
        )
        return found, {"tau": tau}


@part
class NCM:
    """The nearest class mean of centred features of unit length ("cl2n"), written as a linear head.

    ||f - m||^2 is smallest where 2 f.m - ||m||^2 is largest. A class without rows is never the nearest.
    """

    def __call__(
        self, head: LinearHead, fit: Rows, val: Rows, prior: np.ndarray, seed: int
    ) -> tuple[LinearHead, dict[str, Any]]:
        center = fit.features.mean(0, dtype=np.float64).astype(np.float32)
        classes, dim = head.weight.shape
        blank = LinearHead(head.weight, head.bias, center, np.ones(dim, np.float32), normalise=True)
        unit = blank.transform(torch.from_numpy(np.asarray(fit.features, np.float32))).numpy()
        mean, bias = np.zeros((classes, dim), np.float32), np.full(classes, -1e4, np.float32)
        for label in np.unique(fit.labels):
            mean[label] = unit[fit.labels == label].mean(0)
            bias[label] = -np.square(mean[label]).sum()
        return replace(blank, weight=2 * mean, bias=bias), {}


@part
class PosthocLA:
    """Predict with z_c - tau log pi_c (Menon et al. 2021, Equation 9); tau from 0 to `top` on validation.

    `of` says whose prior pi is: of what the loader yielded, or of the real rows. Rows that were made or drawn again flatten
    the first, but know no more than the few real ones that they come from: there the second takes off what is left.
    """

    top: Annotated[float, Field(gt=0)] = 2.5
    of: Literal["yielded", "real"] = "yielded"

    def __call__(
        self, head: LinearHead, fit: Rows, val: Rows, prior: np.ndarray, seed: int
    ) -> tuple[LinearHead, dict[str, Any]]:
        if self.of == "real":
            real = fit.labels if fit.real is None else fit.labels[fit.real]
            if not len(real):
                raise Refusal(
                    "PosthocLA(of='real') takes off how often classes are among the real rows, and there is no real row: "
                    "take of='yielded', or leave the arm out"
                )
            prior = np.bincount(real, minlength=len(prior)).astype(float)
        tau, found = best(((t, adjusted(head, prior, t)) for t in grid(self.top)), val)
        return found, {"tau": tau}


def adjusted(head: LinearHead, prior: np.ndarray, tau: float) -> LinearHead:
    """The head with -tau log pi in its bias."""
    shift = tau * log_prior(torch.as_tensor(prior)).numpy()
    return replace(head, bias=(head.bias - shift).astype(np.float32))


def probe(features: np.ndarray, job: HeadJob) -> tuple[np.ndarray, np.ndarray]:
    """(weight, bias) of a head on raw features that a whole network can be trained on from.

    Features are centred, but scaled by one number for all: per feature, an almost constant one would end with a huge
    weight, and through that the first gradients would tear the backbone.
    """
    center = features.mean(0, dtype=np.float64).astype(np.float32)
    moved = features - center
    spread = np.full_like(center, max(float(moved.std()), 1e-6))
    (head,) = train_heads(moved / spread, [job], standardise=False)
    plain = replace(head, center=center, scale=spread).plain()
    assert plain is not None, "cosine heads are not affine"
    return plain


def wise(theta0: Mapping[str, Tensor], theta1: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) theta0 + alpha theta1 (Wortsman et al. 2022, Equation 1). Counters are taken from theta1.

    Running statistics of BatchNorm are interpolated as well; where training moved them, re-estimate them afterwards.
    """
    assert theta0.keys() == theta1.keys(), (
        f"not the same network: {sorted(theta0.keys() ^ theta1.keys())[:4]}"
    )
    return {
        name: torch.lerp(theta0[name], theta1[name], alpha) if value.is_floating_point() else value
        for name, value in theta1.items()
    }


def choose_wise(
    theta0: Mapping[str, Tensor], theta1: Mapping[str, Tensor], score: Callable[[dict[str, Tensor]], float]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The interpolation, alpha in 0, .1, ..., 1, with the highest `score` on validation; ties to the smaller."""
    scored = [(score(wise(theta0, theta1, alpha)), -alpha) for alpha in grid(1.0)]
    alpha = -max(scored)[1]
    return wise(theta0, theta1, alpha), {"alpha": alpha}
