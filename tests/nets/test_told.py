from __future__ import annotations

import torch

from counterpoise.nets.told import Told, ToldPacked, ToldSize, ToldWhole, one_behind_the_other


def test_texts_are_picked_and_joined_in_everything_that_is_told_of_them():
    told = ToldSize(torch.arange(6.0).reshape(3, 2, 1), torch.arange(3.0)[:, None], 64)
    picked = told[torch.tensor([2, 0])]
    assert (len(told), len(picked), picked.pixels) == (3, 2, 64)
    assert picked.words[0].flatten().tolist() == [4, 5]
    assert picked.whole.flatten().tolist() == [2, 0]
    again = one_behind_the_other([told[:1], told[1:]])
    assert type(again) is ToldSize
    assert torch.equal(again.words, told.words)
    assert torch.equal(again.whole, told.whole)
    assert set(Told(told.words).tensors) == {"words"}
    assert set(ToldWhole(told.words, told.whole).tensors) == {"words", "whole"}


def test_what_is_packed_for_a_network_comes_back_where_it_was():
    x, seen = torch.randn(2, 3, 4, 6), {}

    def net(**told):
        seen.update(told)
        return (told["hidden_states"],)

    told = ToldPacked(torch.zeros(2, 5, 7), torch.zeros(2, 8), 3.5)
    assert torch.equal(told.ask(net, x, torch.ones(2)), x)
    assert seen["hidden_states"].shape == (2, 6, 12)
    assert torch.equal(seen["hidden_states"][0, 4], x[0, :, 2:4, 2:4].flatten())  # second row, second column
    assert seen["img_ids"][4].tolist() == [0, 1, 1]
    assert seen["guidance"].tolist() == [3.5, 3.5]
    assert seen["txt_ids"].shape == (5, 3)
