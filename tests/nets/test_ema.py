from __future__ import annotations

import torch
from torch import nn

from counterpoise.nets.ema import EMA


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def train(net, ema, steps, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for value in [*net.parameters(), *net.buffers()]:
                value.copy_(torch.randn(value.shape, generator=generator) * 100)
        ema.update()


def test_the_mean_is_that_of_a_plain_loop_and_buffers_are_the_last():
    net = network()
    ema = EMA(net, decay=0.8)
    expected = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    for step in range(60):
        train(net, ema, 1, step)
        decay = min(0.8, (1 + step) / (10 + step))
        for name, weight in net.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * weight.detach()
    for name, weight in ema.net.named_parameters():
        torch.testing.assert_close(weight, expected[name])
        assert not weight.requires_grad
    for kept, now in zip(ema.net.buffers(), net.buffers(), strict=True):
        assert torch.equal(kept, now)
    assert not ema.net.training
    assert net.training


def test_the_first_weights_are_soon_forgotten():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    ema = EMA(net, decay=0.9999)
    nn.init.ones_(net.weight)
    for _ in range(30):
        ema.update()
    assert ema.net.weight > 0.99  # without the warm-up it would be 0.003


def test_a_stopped_mean_goes_on_exactly():
    net = network()
    whole = EMA(net, decay=0.9)
    train(net, whole, 20)
    net = network()
    first = EMA(net, decay=0.9)
    train(net, first, 7)
    state = {name: value.clone() for name, value in first.state().items()}
    second = EMA(network(), decay=0.9)
    second.source, second._now = net, list(net.parameters())
    second.load(state)
    train(net, second, 13, start=7)
    for a, b in zip(whole.net.state_dict().values(), second.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
