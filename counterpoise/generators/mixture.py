"""A Gaussian mixture as the prior of codes, one component per class, in the log domain throughout; and with it the model.

The published code keeps the mixture outside its optimiser and exponentiates densities first, so that it is never
trained and every responsibility is 1/C. Here it is a module like any other, and nothing is exponentiated that has not
been through a softmax.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.data.pixels import Rows
from counterpoise.generators.moments import Moments
from counterpoise.nets.vae import VAE

FLOOR = 1e-3  # of a component's variance, where codes have about unit variance
ROWS_PER_CALL = 1024


class GaussianMixture(nn.Module):
    """p(z) = sum_c pi_c N(z; m_c, diag v_c). `log_weight` (classes,) is log pi, which is fixed.

    "tied": one v for all classes; "diagonal": one each.
    """

    log_weight: Tensor

    def __init__(
        self, log_weight: Tensor, latent: int, variances: Literal["tied", "diagonal"] = "tied"
    ) -> None:
        super().__init__()
        classes = len(log_weight)
        self.mean = nn.Parameter(torch.zeros(classes, latent))
        self.rise = nn.Parameter(torch.zeros(1 if variances == "tied" else classes, latent))
        self.register_buffer("log_weight", log_weight)

    @property
    def variance(self) -> Tensor:
        """(classes, latent); 1 at first, never below the floor, and with a slope everywhere."""
        return (FLOOR + (1 - FLOOR) * self.rise.exp()).expand_as(self.mean)

    @torch.no_grad()
    def begin_at(self, codes: Moments, posterior_variance: np.ndarray) -> None:
        """Put every component where its class is, so that the two mean the same from the first gradient on."""
        spread = np.maximum(np.diag(codes.within) + posterior_variance, 2 * FLOOR)  # (latent,)
        self.mean.copy_(torch.from_numpy(codes.means))
        self.rise.copy_(torch.from_numpy((spread - FLOOR) / (1 - FLOOR)).log().expand_as(self.rise))

    # --- densities -----------------------------------------------------------------------------------------

    def quadratic(self) -> tuple[Tensor, Tensor, Tensor]:
        """log N(z; m_c, v_c) as z^2 @ square.T + z @ weight.T + bias: (C, latent), (C, latent), (C,)."""
        inverse = 1 / self.variance
        bias = self.mean.square() * inverse - inverse.log() + math.log(2 * math.pi)
        return -0.5 * inverse, self.mean * inverse, -0.5 * bias.sum(1)

    def log_density(self, z: Tensor) -> Tensor:
        """(b, latent) => log N(z; m_c, v_c), (b, classes)"""
        square, weight, bias = self.quadratic()
        return z.square() @ square.T + z @ weight.T + bias

    def log_responsibility(self, z: Tensor) -> Tensor:
        """log gamma_c(z) = log p(c | z), (b, classes)"""
        return (self.log_weight + self.log_density(z)).log_softmax(1)

    # --- divergences from a posterior N(mu, diag exp(log_variance)) ----------------------------------------

    def kl(self, mu: Tensor, log_variance: Tensor, label: Tensor) -> Tensor:
        """KL(N(mu, s^2) || N(m_y, v_y)), (b,): the label is known, so it is used."""
        v = self.variance[label]
        away = (log_variance.exp() + (mu - self.mean[label]).square()) / v
        return 0.5 * (v.log() - log_variance - 1 + away).sum(1)

    def soft_kl(self, mu: Tensor, log_variance: Tensor, z: Tensor) -> Tensor:
        """KL(q(z | x) gamma(c) || p(z, c)), (b,), with the responsibilities of a draw z (Jiang et al. 2017, VaDE, Equation 11)."""
        log_gamma = self.log_responsibility(z)
        gamma, s2 = log_gamma.exp(), log_variance.exp()
        square, _, _ = self.quadratic()
        # E_q log N(z; m_c, v_c) = log N(mu; m_c, v_c) - 1/2 sum_d s_d^2 / v_cd
        expected = self.log_density(mu) + s2 @ square.T
        entropy = 0.5 * (log_variance + 1 + math.log(2 * math.pi)).sum(1)
        return (gamma * (log_gamma - self.log_weight - expected)).sum(1) - entropy


class LatentModel(nn.Module):
    """Network and prior in one module: one optimiser, one set of weights on disk."""

    def __init__(self, vae: VAE, prior: GaussianMixture) -> None:
        super().__init__()
        self.vae, self.prior = vae, prior

    @property
    def latent(self) -> int:
        return self.prior.mean.shape[1]

    @property
    def device(self) -> torch.device:
        return self.prior.mean.device

    def terms(
        self, x: Tensor, label: Tensor, noise: Tensor, posterior: Literal["label", "soft"]
    ) -> dict[str, Tensor]:
        """The negative ELBO of scaled rows in its parts, each a mean over rows; x_hat's error a mean over its numbers too."""
        mu, log_variance = self.vae.encode(x)
        z = mu + (log_variance / 2).exp() * noise
        if posterior == "label":
            kl = self.prior.kl(mu, log_variance, label)
        else:
            kl = self.prior.soft_kl(mu, log_variance, z)
        return {
            "classification": F.cross_entropy(self.vae.head(z), label),
            "reconstruction": (self.vae.decode(z) - x).square().mean(),
            "kl": kl.mean(),
        }

    @torch.no_grad()
    def posteriors(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances of the codes of raw rows, (n, latent) float32 each."""
        mus, variances = [], []
        for first in range(0, len(rows), ROWS_PER_CALL):
            raw = rows.raw(np.arange(first, min(first + ROWS_PER_CALL, len(rows))))
            mu, log_variance = self.vae.encode(self.vae.scaled(as_tensor(raw).to(self.device)))
            mus.append(mu.cpu().numpy())
            variances.append(log_variance.exp().cpu().numpy())
        return np.concatenate(mus), np.concatenate(variances)


def as_tensor(raw: np.ndarray) -> Tensor:
    """Rows of a study as networks want them: channels first."""
    x = torch.from_numpy(raw)
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x
