from __future__ import annotations

import pytest
import torch

from counterpoise.diffusion.denoisers import Cond
from counterpoise.nets.adam import Adam
from counterpoise.nets.dit import DiT
from counterpoise.types import Refusal

SMALL = DiT(width=16, depth=2, heads=2)


def stirred(net):
    """The network with no weight at zero: as built, its output is zero whatever it is asked."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [8, 9, 14, 28, 30, 31, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_comes_back_and_starts_at_zero(size, channels):
    net = SMALL(channels, 5, size, seed=0)
    x = torch.randn(2, channels, size, size)
    out = net(x, torch.tensor([0.3, 999.0]), Cond(torch.tensor([4, -1])))
    assert out.shape == x.shape
    assert not out.any()
    assert stirred(net)(x, torch.tensor([0.3, 999.0]), Cond()).std() > 0.01


def test_larger_pictures_have_larger_patches():
    assert [SMALL(1, 2, size, 0).patch for size in (8, 13, 14, 28, 29, 64)] == [1, 1, 2, 2, 4, 4]
    assert DiT(width=16, patch=4)(1, 2, 8, 0).patch == 4


def test_rows_do_not_see_each_other():
    net = stirred(SMALL(3, 4, 12, 0, augment=2))
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
    torch.testing.assert_close(net(x, noise, Cond())[:1], out[3:], atol=1e-6, rtol=1e-5)
    told = net(x, noise, Cond(torch.tensor([0, 1, 2, -1]), torch.zeros(4, 2)))
    assert torch.equal(told, out)
    told = net(x, noise, Cond(torch.tensor([0, 1, 2, -1]), torch.ones(4, 2)))
    assert (told - out).abs().max() > 1e-3


def test_it_knows_where_a_patch_is():
    """Without places, a picture whose halves are swapped would give swapped halves."""
    net = stirred(SMALL(1, 3, 8, 0))
    x, noise = torch.randn(1, 1, 8, 8), torch.zeros(1)
    for axis in (2, 3):
        swapped = net(x.roll(4, axis), noise, Cond()).roll(4, axis)
        assert (swapped - net(x, noise, Cond())).abs().max() > 1e-3


def test_the_seed_is_the_initialisation_and_leaves_global_randomness_alone():
    before = torch.get_rng_state()
    a, b, c = (SMALL(1, 3, 8, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["stem.weight"], c["stem.weight"])


def test_it_learns():
    net = SMALL(1, 2, 8, 0)
    weights = list(net.parameters())
    adam = Adam(weights)
    label, noise = torch.arange(16) % 2, torch.linspace(-1, 1, 16)
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    target = x * (2 * label - 1).reshape(-1, 1, 1, 1)  # the sign is the class's
    losses = []
    for _ in range(60):
        loss = (net(x, noise, Cond(label)) - target).square().mean()
        adam(torch.autograd.grad(loss, weights), 3e-3)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(Refusal, match=r"DiT\.heads"):
        DiT(width=16, heads=3)(1, 2, 8, 0)
