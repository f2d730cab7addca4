"""What is told of a fitted latent mixture, against codes whose numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from counterpoise.data.pixels import Rows
from counterpoise.generators.generator import Lesson
from counterpoise.generators.latent_facts import summary
from counterpoise.generators.mixture import GaussianMixture, LatentModel
from counterpoise.generators.moments import Moments
from counterpoise.nets.vae import VAE


class Plain(torch.nn.Module):
    """The row is the code's mean, and its variance is a quarter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.full_like(x, math.log(0.25))], 1)


def told(apart: float) -> dict:
    """Three classes of 60, 30 and 10 rows, `apart` from each other in the first dimension; the third never varies."""
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    x[:, 0] += apart * labels
    x[:, 2] = 1.0
    lesson = Lesson(Rows.of(x), labels, None, ["a", "b", "c"])
    vae = VAE(Plain(), torch.nn.Identity(), 3, 3, torch.zeros(3), torch.ones(3))
    model = LatentModel(vae, GaussianMixture(torch.zeros(3).log_softmax(0), 3)).requires_grad_(False)
    codes = Moments.of(x, labels, 3)
    model.prior.begin_at(codes, np.full(3, 0.25))
    return summary(model, codes, lesson, "label", 0.95)


def test_a_mixture_in_use_and_one_that_has_collapsed_are_told_apart():
    apart, collapsed = told(20.0), told(0.0)
    assert apart["component_use_argmax"] == pytest.approx([0.6, 0.3, 0.1])
    assert apart["component_use_mean"] == pytest.approx([0.6, 0.3, 0.1], abs=1e-3)
    assert apart["responsibility_entropy_nats"] < 0.01
    assert collapsed["responsibility_entropy_share"] > 0.9
    assert collapsed["responsibility_entropy_nats"] == pytest.approx(
        collapsed["responsibility_entropy_share"] * math.log(3)
    )
    assert apart["between_within_variance"] > 50
    assert collapsed["between_within_variance"] < 0.1


def test_dimensions_variances_and_losses():
    found = told(20.0)
    assert found["active_dimensions"] == 2
    assert found["mean_posterior_variance"] == pytest.approx(0.25)
    assert found["translation_rank"] == 2
    assert found["losses"]["reconstruction"] == pytest.approx(
        0.25, rel=0.2
    )  # of the noise of the codes alone
    assert found["losses"].keys() == {"classification", "reconstruction", "kl"}
