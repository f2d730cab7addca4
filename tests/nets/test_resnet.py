import pytest
import torch

from counterpoise.nets.resnet import SmallResNet


@pytest.mark.parametrize("size", [8, 16, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_gives_features_and_logits(size, channels):
    net = SmallResNet(width=4)(channels, 7, size, seed=0)
    x = torch.rand(2, channels, size, size)
    assert net(x).shape == (2, 7)
    assert net.features(x).shape == (2, net.head.in_features)


def test_the_seed_is_the_initialisation_and_leaves_global_randomness_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (SmallResNet(width=4)(1, 3, 8, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )
    assert not torch.equal(a.stem.weight, c.stem.weight)


def test_cosine_logits_are_cosines():
    net = SmallResNet(width=4)(1, 3, 8, seed=0, cosine=True).eval()
    assert net(torch.rand(9, 1, 8, 8)).abs().max() <= 1 + 1e-6
