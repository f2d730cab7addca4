"""The tutor: a classifier that synthesis listens to. Teachers steer and say where need is; a judge watches labels.

Nothing here knows images, generators or the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from sklearn.covariance import ledoit_wolf
from torch import Tensor
from torch.nn import functional as F

from counterpoise.classifiers.heads import LinearHead
from counterpoise.types import part

NEVER = 1e4  # nats: less likely than any temperature makes up for


@part
class Tutor:
    """How it is trained: as the recipe's `fit` is, from seeds of its own, on the real rows of a draw.

    `members` teachers speak as one. In a later round they go on from where they were, for `warm` of the steps, and see
    what was kept before as well. The judge is one more network, which never sees a sample; on features, where a convex problem has one solution
    whatever the seed, it is the Gaussian classifier of those features instead.
    """

    fit: str
    members: Annotated[int, Field(ge=1)] = 2
    warm: Annotated[float, Field(gt=0, le=1)] = 0.5


@dataclass(frozen=True, eq=False)
class Cloud:
    """Features of real rows as Gaussians with means of their own and one shrunk covariance (Ledoit & Wolf 2004)."""

    means: np.ndarray  # (C, k); of all rows for a class without any
    whitening: np.ndarray  # (k, k): W W^T = the inverse of the covariance

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray, classes: int) -> Cloud:
        x = features.astype(np.float64)
        rows = (x[labels == label] for label in range(classes))
        means = np.stack([mine.mean(0) if len(mine) else x.mean(0) for mine in rows])
        covariance, _ = ledoit_wolf(x - means[labels], assume_centered=True)
        values, vectors = np.linalg.eigh(covariance)
        lengths = 1 / np.sqrt(np.maximum(values, 1e-6 * max(values[-1], 1e-12)))
        return cls(means.astype(np.float32), (vectors * lengths).astype(np.float32))

    def classifier(self, known: np.ndarray) -> LinearHead:
        """Linear discriminant analysis: all `known` (C,) classes equally likely, the others not at all."""
        weight = self.means @ self.whitening @ self.whitening.T
        bias = -(weight * self.means).sum(1) / 2
        return LinearHead.on_raw(weight, np.where(known, bias, bias - NEVER).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Member:
    """One classifier as a tutor hears it."""

    features: Callable[[Tensor], Tensor]  # rows as classifiers see them => penultimate features (b, k)
    head: LinearHead
    temperature: float
    cloud: Cloud


class Ensemble:
    """Several members as one `diffusion.guides.Teacher`: the mean of their calibrated probabilities, all their features."""

    def __init__(self, members: Sequence[Member], device: torch.device) -> None:
        self.members = [
            (
                one.features,
                _calibrated(one, device),
                torch.from_numpy(one.cloud.means).to(device),
                torch.from_numpy(one.cloud.whitening).to(device),
            )
            for one in members
        ]

    def __call__(self, seen: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        said, features = [], [seen.new_zeros(len(seen), 0)]
        for look, logits, means, whitening in self.members:
            found = look(seen)
            said.append(logits(found))
            if label is not None:
                features.append((found - means[label]) @ whitening)
        if len(said) == 1:
            return said[0], features[-1]
        together = torch.stack([one.log_softmax(1) for one in said]).logsumexp(0) - np.log(len(said))
        return together, torch.cat(features, 1) * len(said) ** -0.5


def _calibrated(member: Member, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Features => logits over the temperature; in one product where the head is affine."""
    plain, temperature = member.head.plain(), member.temperature
    if plain is None:
        return lambda features: member.head.logits(features) / temperature
    weight, bias = (torch.from_numpy(array / np.float32(temperature)).to(device) for array in plain)
    return lambda features: F.linear(features, weight, bias)
