"""How the miniatures are trained: captions, tokenizer, and a loop that can be stopped at any step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import captions, grammar, language, learning, words
from miniatures.learning import Muon, Place, Timetable, averaged, orthogonal, train
from miniatures.pictures import batch
from torch import nn

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import CLIPTokenizer

    out = tmp_path_factory.mktemp("words")
    words.train(out)
    return CLIPTokenizer.from_pretrained(out)


def test_every_caption_is_true_of_its_label():
    names = sorted(captions.KIND_OF)
    told = captions.Captions(names, of_kind=0.5)
    labels = np.random.default_rng(0).integers(len(names), size=2000)
    texts = told.draw(labels, np.random.default_rng(1))
    assert told.true_of[texts, labels].all()
    by_kind = told.true_of[texts].sum(1) > 1
    assert 0.45 < by_kind.mean() < 0.55
    for text, label in zip(texts[~by_kind], labels[~by_kind], strict=True):
        assert names[label].replace("_", " ") in told.texts[text]


def test_superclasses_are_twenty_of_five():
    assert len(captions.KIND_OF) == 100
    assert {len(names.split()) for names in captions.KINDS.values()} == {5}


def test_no_class_of_cifar10_is_a_class_that_was_trained_on():
    """What the models are adapted to later is new to them under these names."""
    later = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert not set(later) & set(captions.KIND_OF)


@pytest.mark.parametrize(
    "text", ["a photo of a dolphin", "pneumoconiosis", "don't stop", "x-ray 42", "zürich", "犬", "🦊"]
)
def test_any_word_can_be_spelt(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_common_words_are_short(tokenizer):
    assert len(tokenizer) == words.VOCABULARY
    pieces = [len(tokenizer(name.replace("_", " ")).input_ids) - 2 for name in captions.KIND_OF]
    assert np.mean(pieces) < 1.6


def test_a_scene_has_its_class_in_it():
    rng = np.random.default_rng(0)
    texts = [grammar.sentence("palm tree", rng) for _ in range(200)]
    assert all("palm tree" in text for text in texts)
    assert len(set(texts)) > 190


def test_made_up_words_differ():
    rng = np.random.default_rng(0)
    assert len({language.made_up(rng) for _ in range(100)}) > 80


def test_orthogonal_evens_the_singular_values():
    g = torch.randn(3, 20, 60, generator=torch.Generator().manual_seed(0))
    before = torch.linalg.svdvals(g)
    after = torch.linalg.svdvals(orthogonal(g).float())
    assert (before[:, 0] / before[:, -1] > 2.5).all()
    assert after.min() > 0.6
    assert after.max() < 1.3
    torch.testing.assert_close(orthogonal(g.mT).mT, orthogonal(g), atol=0.05, rtol=0.05)


def test_a_pass_sees_every_row_once():
    seen = np.concatenate([batch(50, 16, "x", step) for step in range(25)])  # eight passes
    assert (np.bincount(seen, minlength=50) == 8).all()
    assert (seen[:50] != seen[50:100]).any()


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 2))


def loss_on(net: nn.Module):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((64, 6), dtype=np.float32))
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs()], 1)

    def loss_of(step: int, place: Place) -> torch.Tensor:
        rows = place.mine(batch(64, 16, "rows", step))
        return (net(x[rows]) - y[rows]).square().mean()

    return loss_of


def test_it_learns(tmp_path):
    net = small()
    loss_of = loss_on(net)
    before = np.mean([loss_of(step, Place()).item() for step in range(4)])
    train(net, loss_of, Timetable(400, 1e-2, warm=10, cool=200, ema=0.9), tmp_path, Place())
    assert np.mean([loss_of(step, Place()).item() for step in range(4)]) < before / 4


def test_stopped_and_gone_on_is_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "SAVE_EVERY_S", 0)
    whole, pieces = small(), small()
    times = Timetable(20, 1e-2, warm=5, cool=10)
    train(whole, loss_on(whole), times, tmp_path / "whole", Place())
    for _ in range(40):
        if train(pieces, loss_on(pieces), times, tmp_path / "pieces", Place(), minutes=0) is not None:
            break
        pieces = small()
    for a, b in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_more_steps_go_on_from_the_same_state(tmp_path):
    net = small()
    train(net, loss_on(net), Timetable(10, 1e-2, warm=5, cool=1), tmp_path, Place())
    assert averaged(small(), tmp_path)[1] == 10
    train(net, loss_on(net), Timetable(15, 1e-2, warm=5, cool=1), tmp_path, Place())
    assert averaged(small(), tmp_path)[1] == 15


def test_what_is_frozen_does_not_move():
    net = small()
    muon = Muon(net, Timetable(10, 1e-2))
    loss_on(net)(0, Place()).backward()
    muon(1e-2)
    net[0].requires_grad_(False)
    kept = [w.clone() for w in net[0].parameters()]
    loss_on(net)(1, Place()).backward()
    muon(1e-2)
    for now, before in zip(net[0].parameters(), kept, strict=True):
        torch.testing.assert_close(now, before, atol=0, rtol=0)


@pytest.mark.skipif(words.prose() != words.PROSE, reason="this Python's language reference reads differently")
def test_the_tokenizer_that_is_shipped_is_the_one_that_is_made(tmp_path):
    words.train(tmp_path)
    shipped = Path(words.__file__).parents[2] / "assets" / "miniatures" / "tokenizer"
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes()
