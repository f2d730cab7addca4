"""One training loop for every pixel classifier, real rows or real and synthetic: matched in steps and views, never epochs.

It is given row numbers, not a data set; where the rows come from, and with which probability, is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoise.data.pixels import Rows, as_float
from counterpoise.seeding import derive
from counterpoise.types import Refusal, part

Augmentation = Callable[..., tuple[Tensor, Tensor]]


class Classifier(Protocol):
    """What the loop asks of a network."""

    head: nn.Linear

    def features(self, x: Tensor) -> Tensor: ...


@part
class Training:
    """Optimiser settings, the same for every arm. Linear heads try all `decays` instead, and validation chooses."""

    steps: Annotated[int, Field(ge=1)] = 400
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    decays: tuple[Annotated[float, Field(ge=0)], ...] = ()

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine to zero."""
        ramp = self.warmup * self.steps
        if step < ramp:
            return self.lr * min(1.0, (step + 1) / ramp)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(self.steps - ramp, 1)))


@dataclass(frozen=True)
class Lesson:
    """All that one trial of one arm is taught from. `stream` holds a row number per view: (steps, batch)."""

    rows: Rows
    targets: Tensor  # (n, classes) soft labels
    groups: Tensor | None  # (n,) group of each row
    stream: np.ndarray
    prior: Callable[[float], Tensor]  # progress => label masses the loader really yields
    partners: np.ndarray | None = None  # second stream, for augmentations that paste from another batch


CLIP = 5.0  # of the gradient norm


class Descent:
    """SGD with Nesterov momentum, clipped; weight decay on matrices and filters only.

    The same numbers as torch.optim.SGD, whose import brings the whole compiler along: 4 s in every process.
    """

    def __init__(self, weights: Sequence[Tensor], training: Training) -> None:
        self.weights, self.momentum = list(weights), training.momentum
        self.decay = [training.weight_decay if weight.ndim > 1 else 0.0 for weight in weights]
        self.velocity = [torch.zeros_like(weight) for weight in weights]

    @torch.no_grad()
    def __call__(self, given: Sequence[Tensor], rate: float) -> None:
        slopes = list(given)
        norm = torch.stack(torch._foreach_norm(slopes)).norm()
        slopes = list(torch._foreach_mul(slopes, (CLIP / (norm + 1e-6)).clamp(max=1.0)))
        torch._foreach_add_(slopes, torch._foreach_mul(self.weights, self.decay))
        torch._foreach_mul_(self.velocity, self.momentum)
        torch._foreach_add_(self.velocity, slopes)
        if self.momentum:
            torch._foreach_add_(
                slopes, self.velocity, alpha=self.momentum
            )  # Nesterov: look ahead along the velocity
        torch._foreach_add_(self.weights, slopes, alpha=-rate)


def train_network(
    net: nn.Module,
    lesson: Lesson,
    loss: Any,
    reduction: Any,
    augment: Sequence[Augmentation],
    training: Training,
    seed: int,
    hear: Callable[[float], None] | None = None,
) -> nn.Module:
    """The same network, trained. Same arguments, same weights: all randomness comes from `seed` and the stream.

    `hear` is told the share that is done, by trainings that somebody waits for.
    """
    # Pixels come with channels last (augment.py); so shall the weights, or every convolution reorders them.
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    descent = Descent([p for p in net.parameters() if p.requires_grad], training)
    rng = torch.Generator().manual_seed(derive("augment", seed))
    state = reduction.start(lesson.groups)
    device = next(net.parameters()).device
    net.train()
    for step in range(training.steps):
        progress = step / training.steps
        picked = lesson.stream[step]
        x, targets = lesson.rows.batch(picked), lesson.targets[picked]
        partner = None
        if lesson.partners is not None:
            other = lesson.partners[step]
            partner = (lesson.rows.batch(other), lesson.targets[other])
        prior = lesson.prior(progress).to(device)
        for change in augment:
            x, targets = change(x, targets, rng, partner=partner, progress=progress, prior=prior)
        losses = loss(net(as_float(x).to(device)), targets.to(device), prior, progress)
        total, state = reduction(losses, None if lesson.groups is None else lesson.groups[picked], state)
        if not torch.isfinite(total):
            raise Refusal(
                f"training stopped at step {step}: the loss is {float(total.detach())}. "
                f"Lower training.lr (it is {training.lr}) or raise training.warmup (it is {training.warmup})"
            )
        # A network may have weights that this loss does not reach: their slope is zero, not missing.
        slopes = torch.autograd.grad(total, descent.weights, allow_unused=True, materialize_grads=True)
        descent(slopes, training.rate(step))
        if hear is not None:
            hear((step + 1) / training.steps)
    return net.eval()


@torch.no_grad()
def features_of(net: nn.Module, rows: Rows, batch: int = 500) -> Tensor:
    """Penultimate features of every row, in order: (n, d) float32."""
    net.eval()
    device = next(net.parameters()).device
    picks = [np.arange(start, min(start + batch, len(rows))) for start in range(0, len(rows), batch)]
    found = [net.features(as_float(rows.batch(picked)).to(device)).float().cpu() for picked in picks]  # type: ignore[operator]
    return torch.cat(found) if found else torch.zeros(0, int(net.head.in_features))  # type: ignore[union-attr, arg-type]
