"""What a network learns before it sees the rows that it is for (He et al., ICLR 2023, Section 3.3).

With labels it learns them, with the loss of its fit. Without, it learns to know a picture again in another view of it: SimCLR
(Chen et al. 2020), which asks for no second network, no queue and one number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.classifiers.losses import Loss
from counterpoise.classifiers.mixing import Instance, effective_prior, stream
from counterpoise.classifiers.robust import Mean
from counterpoise.classifiers.training import Lesson, Training, train_network
from counterpoise.data.pixels import Rows
from counterpoise.nets.resnet import Headed
from counterpoise.seeding import derive
from counterpoise.types import Refusal, part

PROJECTED = 128  # numbers, of a view, where views are compared: that of the paper, whatever the network


@part
class Pretraining:
    """How a network is trained before its fit: `supervised`, or `contrastive`, which knows no labels; every row as often as any other.

    `augment` makes what is looked at; with the second method both views of a picture, and then it decides what is learnt. What
    is kept are the features: the layers behind them, which knew the rows or the labels of this, are made anew.
    """

    method: Literal["supervised", "contrastive"] = "supervised"
    training: Training = Training(steps=1000)
    augment: tuple[Any, ...] = ()
    temperature: Annotated[float, Field(gt=0)] = 0.5  # of the second method

    def __post_init__(self) -> None:
        if self.method == "contrastive" and not self.augment:
            raise Refusal(
                "two views of a picture are to be known for one, and without augment they are one: name some"
            )
        if pasting := [change for change in self.augment if getattr(change, "partners", False)]:
            raise Refusal(
                f"{type(pasting[0]).__name__} pastes from a second batch of rare classes, and here every row counts alike: leave it out"
            )

    @property
    def views(self) -> int:
        """How many pictures the network looks at."""
        return self.training.steps * self.training.batch * (2 if self.method == "contrastive" else 1)

    def __call__(
        self,
        net: Headed,
        rows: Rows,
        labels: np.ndarray,
        classes: int,
        loss: Loss,
        seed: int,
        hear: Callable[[float], None] | None = None,
    ) -> None:
        """Trains the network where it is; the same arguments, the same weights."""
        even = np.ones(len(rows))
        views = stream(Instance(), np.zeros(len(rows), np.int64), even, *self._shape, seed)
        if self.method == "contrastive":
            places = torch.arange(len(rows), dtype=torch.float32)[:, None]  # say which row a view is of
            twice = np.concatenate([views, views], 1)  # and every view is another one
            lesson = Lesson(rows, places, None, twice, lambda progress: torch.ones(1))
            twins = Projected(net, seed)
            train_network(twins, lesson, self._known_again, Mean(), self.augment, self.training, seed, hear)
        else:
            prior = torch.from_numpy(effective_prior(labels, even / len(even), classes) * len(rows)).float()
            targets = torch.eye(classes)[torch.from_numpy(labels)]
            lesson = Lesson(rows, targets, None, views, lambda progress: prior)
            train_network(net, lesson, loss, Mean(), self.augment, self.training, seed, hear)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.training.steps, self.training.batch

    def _known_again(self, z: Tensor, places: Tensor, prior: Tensor, progress: float) -> Tensor:
        if (places != places.round()).any():
            raise Refusal(
                "a view is to be known for that of one picture, and augment mixes several: leave what mixes out"
            )
        return nt_xent(z, places, self.temperature)


class Projected(nn.Module):
    """Views where they are compared, g(h) = W2 relu(W1 h) of the features h (Section 2.1); thrown away afterwards."""

    def __init__(self, net: Headed, seed: int) -> None:
        super().__init__()
        dim = net.head.in_features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("projection", seed))
            first, last = nn.Linear(dim, dim, bias=False), nn.Linear(dim, PROJECTED)
        project = nn.Sequential(first, nn.BatchNorm1d(dim), nn.ReLU(), last)
        self.net, self.project = net, project.to(net.head.weight.device)

    def forward(self, x: Tensor) -> Tensor:  # (b, c, h, w) => (b, PROJECTED)
        return self.project(self.net.features(x))


def nt_xent(z: Tensor, places: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020, Equation 1) of z (2B, d), whose rows i and i + B are two views of one picture => (2B,).

    -log exp(s_ij) / (exp(s_ij) + sum over views k of other pictures of exp(s_ik)), s the cosines over the temperature. A small
    set is in a batch more than once: by `places` (2B, 1) further views of the picture itself count as neither.
    """
    unit = F.normalize(z)
    alike = unit @ unit.T / temperature
    partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    mine = alike.gather(1, partner[:, None])[:, 0]
    others = alike.masked_fill(places == places.T, torch.finfo(alike.dtype).min)
    return torch.logaddexp(mine, others.logsumexp(1)) - mine
