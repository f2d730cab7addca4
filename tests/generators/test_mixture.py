"""The Gaussian mixture prior against scipy, against the plain autoencoder's divergence, and against exponentials."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import multivariate_normal, norm
from torch import nn
from torch.nn import functional as F

from counterpoise.generators.mixture import GaussianMixture, LatentModel
from counterpoise.generators.moments import Moments
from counterpoise.nets.adam import Adam
from counterpoise.nets.vae import VectorVAE


def mixture(classes: int, latent: int, variances: str = "diagonal", spread: float = 1.0) -> GaussianMixture:
    """With parameters of its own, in double precision."""
    rng = torch.Generator().manual_seed(classes * latent)
    log_weight = torch.rand(classes, generator=rng, dtype=torch.float64).log_softmax(0)
    made = GaussianMixture(log_weight, latent, variances).double()
    for weight in made.parameters():
        nn.init.normal_(weight, std=spread, generator=rng)
    return made.requires_grad_(False)


def posterior(n: int, latent: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(n)
    mu, log_variance = torch.randn(2, n, latent, generator=rng, dtype=torch.float64)
    return mu, log_variance


@pytest.mark.parametrize("latent", [2, 64, 2048])
def test_at_its_start_every_divergence_is_the_plain_autoencoders(latent):
    """m = 0 and v = 1 are N(0, 1): KL = 1/2 sum_d (mu^2 + s^2 - 1 - log s^2) (Kingma & Welling 2014, Appendix B)."""
    mu, log_variance = posterior(5, latent)
    plain = 0.5 * (mu**2 + log_variance.exp() - 1 - log_variance).sum(1)
    fresh = GaussianMixture(torch.full((3,), 1 / 3, dtype=torch.float64).log(), latent).double()
    torch.testing.assert_close(
        fresh.kl(mu, log_variance, torch.tensor([0, 1, 2, 0, 1])), plain, rtol=1e-6, atol=0
    )
    torch.testing.assert_close(fresh.soft_kl(mu, log_variance, mu), plain, rtol=1e-6, atol=0)


@pytest.mark.parametrize("variances", ["tied", "diagonal"])
@pytest.mark.parametrize("latent", [2, 64, 2048])
def test_responsibilities_are_scipys(latent, variances):
    prior = mixture(4, latent, variances, spread=1 / np.sqrt(latent))  # near enough that several have a share
    z = posterior(6, latent)[0]
    densities = np.stack(
        [norm.logpdf(z, m, v**0.5).sum(1) for m, v in zip(prior.mean, prior.variance, strict=True)], 1
    )
    np.testing.assert_allclose(prior.log_density(z), densities, rtol=1e-9)
    found = prior.log_responsibility(z)
    np.testing.assert_allclose(found, log_softmax(prior.log_weight.numpy() + densities, axis=1), atol=1e-7)
    assert (found.exp().max(1).values < 0.9999).any()
    single = prior.float().log_responsibility(z.float())
    np.testing.assert_allclose(single, found, atol=1e-2)  # float32, where exponentials have long underflowed
    assert float(densities.max()) < -80 or latent == 2


def test_a_constant_added_to_all_densities_changes_no_responsibility():
    prior, z = mixture(4, 2), posterior(6, 2)[0]
    before = prior.log_responsibility(z)
    prior.log_weight += 500.0
    torch.testing.assert_close(prior.log_responsibility(z), before)


def test_the_divergence_of_a_label_is_that_of_two_gaussians():
    """By a million draws of log q - log p."""
    prior, (mu, log_variance) = mixture(3, 2), posterior(1, 2)
    q = multivariate_normal(mu[0], np.diag(log_variance[0].exp()))
    p = multivariate_normal(prior.mean[2], np.diag(prior.variance[2]))
    z = q.rvs(1_000_000, random_state=0)
    drawn = q.logpdf(z) - p.logpdf(z)
    found = float(prior.kl(mu, log_variance, torch.tensor([2])))
    assert abs(found - drawn.mean()) < 4 * drawn.std() / 1000


def test_the_soft_divergence_weighs_that_of_every_class():
    prior, (mu, log_variance) = mixture(3, 4), posterior(5, 4)
    gamma = prior.log_responsibility(mu).exp()
    each = torch.stack([prior.kl(mu, log_variance, torch.full((5,), c)) for c in range(3)], 1)
    whole = (gamma * (each + gamma.log() - prior.log_weight)).sum(1)
    torch.testing.assert_close(prior.soft_kl(mu, log_variance, mu), whole)


@pytest.mark.parametrize("variances", ["tied", "diagonal"])
def test_the_mixture_is_trained_and_saved_with_the_network(variances):
    def fresh() -> LatentModel:
        vae = VectorVAE(width=8, latent=3)((5,), 4, seed=0)
        return LatentModel(vae, GaussianMixture(torch.zeros(4).log_softmax(0), 3, variances))

    model, rng = fresh(), torch.Generator().manual_seed(0)
    x, noise = torch.randn(8, 5, generator=rng), torch.randn(8, 3, generator=rng)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = list(model.parameters())
    model.terms(x, torch.arange(8) % 4, noise, "label")["kl"].backward()
    assert model.prior.mean.grad.abs().min() > 0
    assert model.prior.rise.grad.abs().min() > 0
    Adam(weights)([torch.zeros_like(w) if w.grad is None else w.grad for w in weights], 1e-2)
    after = model.state_dict()
    assert not torch.equal(after["prior.mean"], before["prior.mean"])
    assert not torch.equal(after["prior.rise"], before["prior.rise"])
    assert torch.equal(after["prior.log_weight"], before["prior.log_weight"])  # pi is fixed
    other = fresh()
    other.load_state_dict(after)
    torch.testing.assert_close(other.prior.log_density(noise), model.prior.log_density(noise))
    assert model.prior.variance.shape == (4, 3)


def test_components_can_begin_where_their_classes_are():
    codes = np.random.default_rng(0).normal(size=(400, 2)) * [0.5, 2] + np.repeat([[0, 0], [3, 1]], 200, 0)
    moments = Moments.of(codes, np.repeat([0, 1], 200), 3)
    prior = GaussianMixture(torch.zeros(3).log_softmax(0), 2).double()
    prior.begin_at(moments, np.array([0.1, 0.2]))
    np.testing.assert_allclose(prior.mean.detach(), moments.means)
    wanted = np.diag(moments.within) + np.array([0.1, 0.2])
    np.testing.assert_allclose(prior.variance.detach(), np.tile(wanted, (3, 1)), rtol=1e-6)


def test_without_prior_decoder_and_noise_it_is_a_linear_head_on_a_network():
    """The limit s -> 0 and no other weights: the same steps lead to the same weights."""
    rng = torch.Generator().manual_seed(0)
    x, label = torch.randn(32, 5, generator=rng), torch.arange(32) % 4
    model, plain = (VectorVAE(width=8, latent=3, dropout=0)((5,), 4, seed=0) for _ in range(2))
    with torch.no_grad():
        for vae in (model, plain):
            vae.encoder[-1].bias[3:] = -100.0
    both = LatentModel(model, GaussianMixture(torch.zeros(4).log_softmax(0), 3))
    ours, theirs = list(both.parameters()), list(plain.parameters())
    steps = Adam(ours), Adam(theirs)
    for _ in range(30):
        noise = torch.randn(32, 3, generator=rng)
        both.terms(x, label, noise, "label")["classification"].backward()
        F.cross_entropy(plain.head(plain.encoder(x)[:, :3]), label).backward()
        for adam, weights in zip(steps, (ours, theirs), strict=True):
            adam([torch.zeros_like(w) if w.grad is None else w.grad for w in weights], 1e-2)
            for weight in weights:
                weight.grad = None
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)
