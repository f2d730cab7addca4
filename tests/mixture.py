"""A Gaussian mixture with classes, whose best denoiser, samples and moments are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoise.diffusion.denoisers import NO_LABEL, Cond


@dataclass(frozen=True)
class Mixture:
    """Diagonal Gaussians over the last dimension of x; every dimension between the first and the last is more points.

    Each component belongs to a class. NO_LABEL, or no label at all, asks for the whole mixture.
    """

    means: Tensor  # (k, d) float64
    stds: Tensor  # (k, d)
    weights: Tensor  # (k,), sum 1
    classes: Tensor  # (k,) int64

    def weights_of(self, label: Tensor) -> Tensor:
        """(b, k): the weights of the components, given the class."""
        mine = (label[:, None] == NO_LABEL) | (label[:, None] == self.classes)
        return mine * self.weights / (mine * self.weights).sum(1, keepdim=True)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        """E[x0 | x], the Denoiser that perfect training would give."""
        label = torch.full((len(x),), NO_LABEL) if cond.label is None else cond.label
        ones = [1] * (x.ndim - 2)
        x = x.movedim(
            -1, 0
        ).contiguous()  # points last: many times faster than reductions over 2 or 4 numbers
        means = self.means.to(x).reshape(*self.means.shape, 1, *ones)  # (k, d, 1, 1..)
        variances = (self.stds**2).to(x).reshape(means.shape)
        total = variances + sigma.to(x).reshape(-1, *ones) ** 2  # (k, d, b, 1..)
        away = x - means  # (k, d, b, ..)
        prior = self.weights_of(label).to(x).log().T.reshape(len(means), -1, *ones)  # (k, b, 1..)
        share = (prior - (away**2 / total + total.log()).sum(1) / 2).softmax(0)
        return (share[:, None] * (means + variances / total * away)).sum(0).movedim(0, -1)

    def sample(self, label: Tensor, points: int, seed: int) -> Tensor:
        """(b, points, d) float64"""
        rng = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(self.weights_of(label), points, replacement=True, generator=rng)
        noise = torch.randn(*chosen.shape, self.means.shape[1], generator=rng, dtype=torch.float64)
        return self.means[chosen] + self.stds[chosen] * noise

    def moments(self, label: int) -> tuple[Tensor, Tensor]:
        """Mean (d,) and covariance (d, d) of a class."""
        weights = self.weights_of(torch.tensor([label]))[0]
        mean = weights @ self.means
        away = self.means - mean
        return mean, torch.diag(weights @ self.stds**2) + (weights[:, None] * away).T @ away

    def component(self, x: Tensor) -> Tensor:
        """The most likely component of a clean x; sensible where the components are well apart."""
        away = (x[..., None, :] - self.means.to(x.dtype)) / self.stds.to(x.dtype)
        return (self.weights.log() - self.stds.log().sum(1) - (away**2).sum(-1) / 2).argmax(-1)


#: Two classes of two components each, well apart, with an uneven share.
MIXTURE = Mixture(
    means=torch.tensor([[1.5, 0.5], [-0.5, 1.5], [-1.5, -1.0], [0.8, -1.2]], dtype=torch.float64),
    stds=torch.tensor([[0.2, 0.3], [0.25, 0.15], [0.3, 0.2], [0.2, 0.2]], dtype=torch.float64),
    weights=torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64),
    classes=torch.tensor([0, 0, 1, 1]),
)
