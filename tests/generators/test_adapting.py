from __future__ import annotations

import numpy as np
import pytest
import text_to_image
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoise.data.pixels import Rows
from counterpoise.generators.adapting import Adapt, balanced, draw
from counterpoise.generators.generator import Lesson
from counterpoise.nets.stable_diffusion import open_base
from counterpoise.spaces.latents import Latents
from counterpoise.types import Refusal


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any), share=st.floats(0, 1))
def test_a_pass_sees_classes_evenly_by_its_share_and_every_row(counts, share):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    order = balanced(labels, share)
    seen = np.bincount(labels[order], minlength=len(counts)) / len(order)
    present = np.array(counts) > 0
    expected = share * present / present.sum() + (1 - share) * np.array(counts) / len(labels)
    assert np.abs(seen - expected).max() <= 3 / len(order) + 1e-9
    times = np.bincount(order, minlength=len(labels))
    assert times.min() > 0
    if share == 1:
        assert all(np.ptp(times[labels == c]) <= 1 for c in np.flatnonzero(present))


def test_draws_are_of_the_posterior_of_a_view_and_follow_the_generator():
    mean = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1, 1).expand(4000, 2, 1, 2, 2)
    deviation = torch.full_like(mean, 0.1)
    x = torch.stack([mean, deviation], 2).flatten(3, 3)
    made, told = draw(x, torch.Generator().manual_seed(0))
    assert told is None
    assert made.shape == (4000, 1, 2, 2)
    upper = made[made[:, 0, 0, 0] > 0]
    assert len(upper) == pytest.approx(2000, abs=150)
    assert upper.mean().item() == pytest.approx(1.0, abs=0.01)
    assert upper.std().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(made, draw(x, torch.Generator().manual_seed(0))[0])
    alone = x[:, :1]  # no mirrored view
    assert (draw(alone, torch.Generator().manual_seed(0))[0] > 0).all()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return open_base(str(text_to_image.save(tmp_path_factory.mktemp("base") / "tiny")))


def test_rows_are_encoded_once_with_their_mirror_image(base, monkeypatch):
    rows = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    labels = np.array([0, 0, 0, 0, 2, 2, 2])
    space = Latents(base.autoencoder, None, base.shape, base.size, (3, 32))
    found = Adapt(flip=True).material(Lesson(Rows.of(rows), labels, None, ["a", "b", "c"]), space)
    monkeypatch.setattr(type(base.autoencoder), "encode", None)
    assert found.labels.tolist() == [0, 2] * 7 + [0]
    assert found.counts.tolist() == [8, 0, 7]
    views = found.rows(np.array([3, 0]))  # the second row of the second class, and the first of all
    assert views.shape == (2, 2, 2, 4, 8, 8)
    monkeypatch.undo()
    for row, number in enumerate((5, 0)):
        for view, picture in enumerate((rows[number], rows[number, :, ::-1])):
            mean, deviation = space.posterior(picture[None].copy())
            torch.testing.assert_close(views[row, view, 0], mean[0], atol=3e-3, rtol=2e-3)
            torch.testing.assert_close(views[row, view, 1], deviation[0], atol=3e-3, rtol=2e-3)


def test_words_begin_as_the_mean_of_the_names(base):
    net = Adapt(words=2).network(base, "a photo of {a}", ["oak_tree", "fox"], seed=0)
    reader = base.reader()
    assert net.prompts.words.shape == (4, 24)
    torch.testing.assert_close(net.prompts.words[1].detach(), reader.meaning("oak tree"))
    torch.testing.assert_close(net.prompts.words[2].detach(), reader.meaning("fox"))
    assert ((net.prompts.tokens >= 514).sum(1) == torch.tensor([2, 2, 0])).all()


def test_a_class_may_be_called_as_one_of_our_words_is(base):
    net = Adapt(words=1).network(base, "a photo of {a}", ["<class0-0>", "fox"], seed=0)
    torch.testing.assert_close(net.prompts.words[0].detach(), base.reader().meaning("<class0-0>"))


def test_where_nothing_would_be_learnt_it_is_refused():
    with pytest.raises(Refusal, match="nothing to learn"):
        Adapt(kind="words", words=0)
    with pytest.raises(Refusal, match="places is empty"):
        Adapt(places=())
