from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from counterpoise.nets.prompted import Inverted, Read, Spoken, TextToImage
from counterpoise.nets.told import Told


class Tower(nn.Module):
    """Reads a text as the running mean of its tokens' embeddings, and counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(10, 4)
        self.turn = nn.Linear(4, 4, bias=False)
        self.asked = []

    @property
    def vocabularies(self):
        return [self.token_embedding]

    def forward(self, ids):
        self.asked.append(len(ids))
        x = self.token_embedding(ids).cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        return Told(self.turn(x))


class Net(nn.Module):
    """Adds what the last token says to every pixel."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, x, step, told, return_dict=True):
        return (x + self.mix(told[:, -1])[:, :, None, None] * step[:, None, None, None],)


TOKENS = torch.tensor([[1, 10, 2], [1, 11, 2], [1, 2, 2]])  # two classes, and none


@pytest.fixture
def inverted():
    torch.manual_seed(0)
    return Inverted(Tower(), TOKENS, first=10, words=torch.randn(2, 4))


def test_an_encoded_prompt_belongs_to_its_label_and_the_last_one_to_none():
    said = torch.randn(3, 5, 4)
    net = Spoken(Told(said), read=None)
    assert torch.equal(net(torch.tensor([1, -1, 0])).words, said[[1, 2, 0]])
    assert not net.state_dict()
    assert not list(net.parameters())


def test_rows_may_be_told_texts_of_their_own_each_of_which_is_read_once():
    """By a model that reads while it learns, and by one that has read its prompts long before."""
    torch.manual_seed(0)
    tower, later = Tower(), Tower()
    later.load_state_dict(tower.state_dict())
    tokens = torch.tensor([[1, 3, 2], [1, 9, 2], [1, 2, 2]])
    own = torch.tensor([[4, 5, 2], [6, 7, 2], [4, 5, 2], [8, 8, 2]])
    label = torch.tensor([0, 1, 1, -1])
    with torch.no_grad():
        expected = copy.deepcopy(tower)(torch.cat([own[:3], tokens[-1:]])).words
        read = Read(tower, tokens, {})
        spoken = Spoken(copy.deepcopy(later)(tokens), lambda texts: later(texts))
        for net in (read, spoken, copy.deepcopy(spoken)):
            for _ in range(20):  # steps of a sampler
                torch.testing.assert_close(net(label, own).words, expected)
            twice = net(torch.cat([label, torch.full_like(label, -1)]), torch.cat([own, own])).words
            torch.testing.assert_close(twice[4:], expected[3:].expand(4, -1, -1))
            torch.testing.assert_close(net(label[:1], own[:1]).words, expected[:1])
            torch.testing.assert_close(net(label).words, copy.deepcopy(tower)(tokens[label]).words)
    assert tower.asked == [3, 1, 3]  # two texts and the empty one, to which guidance adds none; one; prompts
    assert later.asked == 2 * [3, 1]  # all three texts, for it knows the empty one


def test_words_of_several_towers_lie_beside_one_another_and_each_tower_knows_its_own():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.towers = nn.ModuleList([nn.Embedding(10, 4), nn.Embedding(10, 3), nn.Embedding(10, 3)])
            self.towers[2].weight = self.towers[1].weight  # a vocabulary twice over

        @property
        def vocabularies(self):
            return [self.towers[0], self.towers[1]]

        def forward(self, tokens):
            return Told(
                torch.cat([self.towers[0](tokens), self.towers[1](tokens), self.towers[2](tokens)], -1)
            )

    words = torch.randn(2, 7)
    net = Inverted(Two(), TOKENS, first=10, words=words)
    found = net(torch.tensor([1])).words[0, 1]
    torch.testing.assert_close(found, torch.cat([words[1, :4], words[1, 4:], words[1, 4:]]))
    net(torch.tensor([1])).words.sum().backward()
    assert net.words.grad[1].tolist() == [1, 1, 1, 1, 2, 2, 2]


def test_a_word_is_learnt_and_the_embedding_stands_still(inverted):
    tower = inverted.frozen.net
    inverted(torch.tensor([0, 0, -1])).words.sum().backward()
    assert inverted.words.grad[0].abs().min() > 0
    assert inverted.words.grad[1].abs().max() == 0  # nobody asked for it
    assert all(weight.grad is None for weight in tower.parameters())
    assert list(inverted.state_dict()) == ["words"]


def test_words_that_begin_as_known_ones_are_read_as_those():
    tower = Tower()
    known = tower.token_embedding.weight[[7, 3]].detach().clone()
    plain = copy.deepcopy(tower)
    found = Inverted(tower, TOKENS, first=10, words=known)(torch.tensor([0, 1, -1])).words
    expected = plain(torch.tensor([[1, 7, 2], [1, 3, 2], [1, 2, 2]])).words
    torch.testing.assert_close(found, expected)


def test_the_tower_is_asked_once_for_a_batch_of_labels_while_sampling_and_again_when_words_change(inverted):
    tower, label = inverted.frozen.net, torch.tensor([1, 0, 1, -1])
    with torch.no_grad():
        first = inverted(label).words
        assert torch.equal(inverted(label).words, first)
        assert tower.asked == [3]
        torch._foreach_lerp_([inverted.words], [torch.zeros(2, 4)], 0.5)  # as averaged weights are kept
        assert not torch.equal(inverted(label).words, first)
        inverted.load_state_dict({"words": torch.ones(2, 4)})
        assert torch.equal(inverted(label).words[0], inverted(label).words[1])
        assert tower.asked == [3, 3, 3]
    inverted(label).words.sum().backward()  # with a gradient nothing is kept
    inverted(label).words.sum().backward()
    assert tower.asked == [3] * 5


def test_weights_of_a_tower_are_learnt_beside_words():
    torch.manual_seed(0)
    tower = Tower()
    before, label = tower.turn.weight.clone(), torch.tensor([1, -1])
    named = TOKENS.where(TOKENS < 10, 3)
    for net in (
        Inverted(tower, TOKENS, 10, torch.randn(2, 4), {"turn.weight": before}),
        Read(Tower(), named, {"turn.weight": before}),
    ):
        assert set(net.state_dict()) - {"words"} == {"learnt.turn/weight"}
        twin = copy.deepcopy(net)
        with torch.no_grad():
            first = net(label).words
            net.learnt["turn/weight"].mul_(2)
            torch.testing.assert_close(net(label).words, 2 * first)
            torch.testing.assert_close(twin(label).words, first)
            own = net.tokens[[0, 0]]
            torch.testing.assert_close(net(label, own).words, net(torch.tensor([0, -1])).words)
        net(label).words.sum().backward()
        assert all(weight.grad is not None for weight in net.parameters())
    assert torch.equal(tower.turn.weight, before)


def test_what_is_learnt_stands_in_for_the_weight_of_its_name_in_copies_of_one_base(inverted):
    base = Net()
    before = base.mix.weight.clone()
    net = TextToImage(base, inverted, {"mix.weight": base.mix.weight})
    assert set(net.state_dict()) == {"prompts.words", "learnt.mix/weight"}
    twin = copy.deepcopy(net)
    assert twin.frozen.net is base
    with torch.no_grad():
        twin.learnt["mix/weight"].zero_()
    x, step, cond = (
        torch.randn(2, 4, 3, 3),
        torch.ones(2),
        SimpleNamespace(label=torch.tensor([0, -1]), text=None),
    )
    torch.testing.assert_close(twin(x, step, cond), x + base.mix.bias[:, None, None])
    assert not torch.allclose(net(x, step, cond), twin(x, step, cond))
    assert torch.equal(base.mix.weight, before)
    assert torch.equal(net(x, step, SimpleNamespace(label=None, text=None))[1], net(x, step, cond)[1])


def test_the_base_moves_with_the_network(inverted):
    net = TextToImage(Net(), inverted, {}).to(torch.float64)
    assert {weight.dtype for weight in net.frozen.net.parameters()} == {torch.float64}
    assert inverted.frozen.net.turn.weight.dtype == torch.float64
