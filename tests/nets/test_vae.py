"""The autoencoders: shapes and ranges at every size, seeds, and that what they learn can be read back."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from counterpoise.nets.adam import Adam
from counterpoise.nets.vae import ImageVAE, VectorVAE


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (VectorVAE(width=16, depth=0, latent=3), (7,)),
        (VectorVAE(width=16, depth=2, latent=3, dropout=0.5), (1,)),
        *[
            (ImageVAE(width=4, latent=3), (size, size, channels))
            for size, channels in [(8, 1), (9, 3), (30, 1), (64, 3)]
        ],
    ],
    ids=str,
)
def test_a_row_becomes_a_code_and_a_row_again(network, shape):
    vae = network(shape, 5, seed=1).eval()
    raw = torch.randint(0, 256, (4, *((shape[2], *shape[:2]) if len(shape) == 3 else shape)))
    x = vae.scaled(raw)
    mu, log_variance = vae.encode(x)
    again = vae.decode(mu)
    assert mu.shape == log_variance.shape == (4, 3)
    assert again.shape == x.shape
    assert vae.head(mu).shape == (4, 5)
    torch.testing.assert_close(vae.restored(x), raw.float())
    if len(shape) == 3:  # the decoder can reach every value of its target, and nothing else
        assert x.min() >= 0
        assert x.max() <= 1
        assert again.min() > 0
        assert again.max() < 1
    torch.testing.assert_close(vae.encode(x[2:3])[0], mu[2:3])  # a row alone


@pytest.mark.parametrize(
    ("network", "shape"),
    [(VectorVAE(width=16), (7,)), (ImageVAE(width=4), (8, 8, 1))],
    ids=["vector", "image"],
)
def test_weights_come_from_the_seed_and_nobody_elses_luck_is_changed(network, shape):
    torch.manual_seed(5)
    one = network(shape, 3, seed=1).state_dict()
    left = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(left, torch.rand(3))
    same, other = (network(shape, 3, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_the_published_code_of_2048_numbers_can_be_asked_for():
    vae = ImageVAE(width=64, blocks=2, latent=2048)((32, 32, 3), 10, seed=0)
    mu, _ = vae.eval().encode(torch.rand(2, 3, 32, 32))
    assert mu.shape == (2, 2048)


def test_a_picture_survives_its_code():
    """Bars at one of eight places: three bits, which eight numbers hold once they are learnt."""
    x = torch.zeros(16, 1, 8, 8)
    for i in range(16):
        x[i, 0, :, i % 8] = 1
    vae = ImageVAE(width=8, latent=8)((8, 8, 1), 2, seed=0).train()
    weights = list(vae.parameters())
    adam = Adam(weights)
    for _ in range(150):
        error = (vae.decode(vae.encode(x)[0]) - x).square().mean()
        error.backward()
        adam([torch.zeros_like(w) if w.grad is None else w.grad for w in weights], 5e-3)
        for weight in weights:
            weight.grad = None
    assert error < 0.1 * x.var()
    assert F.mse_loss(vae.eval().decode(vae.encode(x)[0]), x) < 0.3 * x.var()
