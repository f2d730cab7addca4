from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from counterpoise.diffusion.denoisers import Cond
from counterpoise.nets.adam import Adam
from counterpoise.nets.unet import UNet
from counterpoise.types import Refusal

SMALL = UNet(width=8)


def stirred(net):
    """The network with no weight at zero: as built, its output is zero whatever it is asked."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [8, 9, 14, 28, 30, 31, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("levels", [(1,), (1, 2), (1, 2, 2)])
def test_any_size_comes_back_and_starts_at_zero(size, channels, levels):
    net = UNet(width=8, levels=levels)(channels, 5, size, seed=0)
    x = torch.randn(2, channels, size, size)
    out = net(x, torch.tensor([0.3, 999.0]), Cond(torch.tensor([4, -1])))
    assert out.shape == x.shape
    assert not out.any()
    assert stirred(net)(x, torch.tensor([0.3, 999.0]), Cond()).std() > 0.01


def test_small_pictures_keep_their_pixels_and_large_ones_are_folded():
    assert [SMALL(3, 2, size, 0).unshuffle for size in (8, 27, 28, 64)] == [1, 1, 2, 2]
    assert UNet(width=8, unshuffle=4)(3, 2, 8, 0).conv_in.in_channels == 48


def test_the_default_for_digits_is_small():
    size = sum(weight.numel() for weight in UNet()(1, 10, 8, 0).parameters())
    assert 250_000 < size < 450_000


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_rows_do_not_see_each_other(unshuffle):
    net = stirred(UNet(width=8, attention=(0,), unshuffle=unshuffle)(3, 4, 12, 0, augment=2))
    x, noise = torch.randn(5, 3, 12, 12), torch.linspace(-1, 1, 5)
    label, augment = torch.tensor([0, 3, -1, 1, 2]), torch.randn(5, 2)
    whole = net(x, noise, Cond(label, augment))
    for rows in (slice(0, 1), slice(1, 5)):
        part = net(x[rows], noise[rows], Cond(label[rows], augment[rows]))
        torch.testing.assert_close(part, whole[rows], atol=1e-5, rtol=1e-5)


def test_what_is_asked_matters_and_no_label_is_the_null_token():
    net = stirred(SMALL(1, 3, 8, 0, augment=2))
    x, noise = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1), torch.zeros(4)
    out = net(x, noise, Cond(torch.tensor([0, 1, 2, -1])))
    assert torch.pdist(out.flatten(1)).min() > 1e-3
    nothing = net(x, noise, Cond())
    torch.testing.assert_close(nothing[:1], out[3:], atol=1e-6, rtol=1e-5)
    net.conditioning.class_embedding.weight[3] += 1  # the null token, and only it
    assert (net(x, noise, Cond()) - nothing).abs().max() > 1e-3
    torch.testing.assert_close(net(x, noise, Cond(torch.tensor([0, 1, 2, 2])))[:3], out[:3])


def test_noise_of_both_units_matters():
    net = stirred(SMALL(1, 3, 8, 0))
    x, label = torch.randn(1, 1, 8, 8).expand(6, -1, -1, -1), torch.zeros(6, dtype=torch.long)
    out = net(x, torch.tensor([-1.5, 0.0, 1.0, 10.0, 500.0, 999.0]), Cond(label))
    assert torch.pdist(out.flatten(1)).min() > 1e-3


def test_zeros_mean_not_augmented():
    net = stirred(SMALL(1, 3, 8, 0, augment=2))
    x, noise, label = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.long)
    plain = net(x, noise, Cond(label))
    assert torch.equal(net(x, noise, Cond(label, torch.zeros(2, 2))), plain)
    assert (net(x, noise, Cond(label, torch.ones(2, 2))) - plain).abs().max() > 1e-3


def test_the_seed_is_the_initialisation_and_leaves_global_randomness_alone():
    before = torch.get_rng_state()
    a, b, c = (SMALL(1, 3, 8, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv_in.weight"], c["conv_in.weight"])


def test_dropout_is_for_training_only():
    net = stirred(UNet(width=8, dropout=0.5)(1, 3, 8, 0))
    x, noise = torch.randn(2, 1, 8, 8), torch.zeros(2)
    assert torch.equal(net(x, noise, Cond()), net(x, noise, Cond()))
    net.train()
    assert not torch.equal(net(x, noise, Cond()), net(x, noise, Cond()))


def test_it_learns_in_float32_and_bf16():
    for bf16 in (False, True):
        net = SMALL(1, 2, 8, 0)
        weights = list(net.parameters())
        adam = Adam(weights)
        generator = torch.Generator().manual_seed(0)
        label, noise = torch.arange(16) % 2, torch.linspace(-1, 1, 16)
        x = torch.randn(16, 1, 8, 8, generator=generator)
        target = x * (2 * label - 1).reshape(-1, 1, 1, 1)  # the sign is the class's
        losses = []
        for _ in range(40):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = (net(x, noise, Cond(label)).float() - target).square().mean()
            adam(torch.autograd.grad(loss, weights), 3e-3)
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.5 * losses[0]


def test_every_weight_is_reached():
    net = stirred(UNet(width=8, attention=(0, 1))(1, 3, 8, 0, augment=2)).requires_grad_(True)
    x, label = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, -1])
    net(x, torch.zeros(4), Cond(label, torch.ones(4, 2))).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in net.parameters())


@pytest.mark.parametrize(
    "settings", [{"heads": 3}, {"levels": (1, 3), "attention": (0,)}, {"attention": (2,)}], ids=str
)
def test_heads_that_do_not_fit_are_refused(settings):
    with pytest.raises(Refusal, match=r"UNet\.heads"):
        UNet(**{"width": 8, "heads": 1} | settings)(1, 3, 8, 0)


@pytest.mark.parametrize("settings", [{"width": 12}, {"levels": ()}, {"dropout": 1.0}], ids=str)
def test_settings_are_validated(settings):
    with pytest.raises(ValidationError):
        UNet(**settings)
