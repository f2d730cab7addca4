"""Criteria: what a sample would teach a classifier, as a number that guidance raises.

Each is a function of what a teacher says: logits (b, C), features (b, k) and the class asked for (b,) => (b,). Features are
the teacher's penultimate ones, less the mean of the class asked for, whitened by the covariance that all classes share
(shrunk), so that their squared length is a Mahalanobis distance. A criterion that says `far = False` is given none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from counterpoise.types import part

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]


@part
class Loss:
    """-log p(y | x). With `cap`, at most that many nats: the surest way over the border of a class is closed."""

    cap: Annotated[float, Field(gt=0)] | None = None
    far: ClassVar[bool] = False

    def __call__(self, logits: Tensor, features: Tensor, label: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, label, reduction="none")
        return loss if self.cap is None else loss.clamp(max=self.cap)


@part
class Entropy:
    """H(p), whatever the label. `on_label` adds that many times log p(y | x), which keeps samples in their class."""

    on_label: Annotated[float, Field(ge=0)] = 0.0
    far: ClassVar[bool] = False

    def __call__(self, logits: Tensor, features: Tensor, label: Tensor) -> Tensor:
        log = logits.log_softmax(1)
        entropy = -(log.exp() * log).sum(1)
        return entropy + self.on_label * log.gather(1, label[:, None])[:, 0] if self.on_label else entropy


@part
class Hardness:
    """-log N(h; mu_y, S) without its constants: far out in the class's Gaussian (after Sehwag et al. 2022)."""

    def __call__(self, logits: Tensor, features: Tensor, label: Tensor) -> Tensor:
        return features.square().sum(1) / 2


@part
class Margin:
    """p of the second most likely class less p of the first: 0 on a border, -1 where the teacher is sure."""

    far: ClassVar[bool] = False

    def __call__(self, logits: Tensor, features: Tensor, label: Tensor) -> Tensor:
        first, second = torch.topk(logits.softmax(1), 2, dim=1).values.unbind(1)
        return second - first
