import pytest
import torch
from torch import nn
from torch.func import functional_call

from counterpoise.nets.lora import changed, fresh_adapters, merged, put_adapters

pytest.importorskip("peft")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_out = nn.Linear(6, 6), nn.ModuleList([nn.Linear(6, 6), nn.Dropout(0.0)])
        self.conv1 = nn.Conv2d(2, 2, 3, padding=1)
        self.other = nn.Linear(6, 6)

    def forward(self, x):
        x = self.to_out[0](self.to_q(self.other(x)))
        return self.conv1(x.reshape(-1, 2, 1, 3)).flatten(1)


def test_adapters_lie_where_they_were_asked_for_and_change_nothing_at_first():
    torch.manual_seed(0)
    net, x = Block(), torch.randn(3, 6)
    before, state = net(x), torch.get_rng_state()
    found = put_adapters(net, 2, ("attention",), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name.split(".lora")[0] for name in found} == {"to_q", "to_out.0"}
    assert sum(value.numel() for value in found.values()) == 2 * (2 * 6 + 6 * 2)
    assert torch.equal(net(x), before)
    again = put_adapters(Block(), 2, ("attention",), seed=1)
    assert all(torch.equal(found[name], value) for name, value in again.items())
    other = put_adapters(Block(), 2, ("attention",), seed=2)
    assert any(not torch.equal(found[name], value) for name, value in other.items())


def test_convolutions_are_adapted_too():
    found = put_adapters(Block(), 1, ("convolutions",), seed=1)
    assert {name.split(".lora")[0] for name in found} == {"conv1"}


def test_an_adapter_adds_its_low_rank_product():
    net, x = Block(), torch.randn(3, 6)
    plain = net.to_q(x)
    put_adapters(net, 2, ("attention",), seed=1)
    up, down = net.to_q.lora_B["default"].weight, net.to_q.lora_A["default"].weight
    with torch.no_grad():
        up.normal_()
    torch.testing.assert_close(net.to_q(x), plain + x @ (up @ down).T)  # alpha = rank: a scale of 1


def test_merged_into_their_layers_adapters_say_the_same():
    torch.manual_seed(0)
    plain, net, x = Block(), Block(), torch.randn(3, 6)
    net.load_state_dict(plain.state_dict())
    adapters = put_adapters(net, 2, ("attention", "convolutions"), seed=1)
    for weight in adapters.values():  # those of the net itself
        weight.normal_()
    found = merged(plain, adapters)
    assert set(found) == {"to_q.weight", "to_out.0.weight", "conv1.weight"}
    expected = net(x)
    assert (expected - plain(x)).abs().max() > 1
    torch.testing.assert_close(functional_call(plain, found, x), expected, atol=1e-4, rtol=1e-4)


def test_adapters_that_stay_outside_are_those_that_are_put_in():
    torch.manual_seed(0)
    plain, net, x = Block(), Block(), torch.randn(3, 6)
    net.load_state_dict(plain.state_dict())
    state = torch.get_rng_state()
    fresh = fresh_adapters(plain, r"\bto_(q|out\.0)", rank=2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    inside = put_adapters(net, 2, ("attention",), seed=1)
    assert {name: value.shape for name, value in fresh.items()} == {
        name: value.shape for name, value in inside.items()
    }
    for name, value in inside.items():  # of the same size at first
        assert fresh[name].abs().max() <= 6**-0.5
        assert bool(fresh[name].any()) == bool(value.any())
    assert torch.equal(functional_call(plain, changed(plain, fresh), x), plain(x))
    learnt = {name: torch.randn_like(value).requires_grad_() for name, value in fresh.items()}
    with torch.no_grad():
        for name, value in learnt.items():
            inside[name].copy_(value)
    found = functional_call(plain, changed(plain, learnt), x)
    torch.testing.assert_close(found, net(x), atol=1e-4, rtol=1e-4)
    slopes = torch.autograd.grad(found.sum(), list(learnt.values()))
    theirs = torch.autograd.grad(net(x).sum(), [net.get_parameter(name) for name in learnt])
    for mine, their in zip(slopes, theirs, strict=True):
        torch.testing.assert_close(mine, their, atol=1e-4, rtol=1e-4)


def test_which_layers_and_which_seed():
    net = Block()
    assert not fresh_adapters(net, "conv1", 2, 0), "only linear layers"
    assert {name.split(".lora")[0] for name in fresh_adapters(net, "other", 2, 0)} == {"other"}
    assert not fresh_adapters(net, "to_out", 2, 0), "a name ends like this, it does not begin so"
    one, same, other = (fresh_adapters(net, "to_q", 2, seed) for seed in (1, 1, 2))
    down = "to_q.lora_A.default.weight"
    assert torch.equal(one[down], same[down])
    assert not torch.equal(one[down], other[down])
