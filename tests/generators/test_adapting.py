from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import text_to_image
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.checkpoints import Folder
from counterpoise.diffusion.losses import ClassBalancing
from counterpoise.diffusion.stopping import EarlyStop
from counterpoise.diffusion.training import Schooling, train_denoiser
from counterpoise.generators.adapting import Adapt, balanced, draw
from counterpoise.generators.generator import Lesson
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets.stable_diffusion import open_base, open_tokens
from counterpoise.spaces import latents
from counterpoise.spaces.latents import Latents
from counterpoise.spaces.preview import SmallDecoder
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
    lesson = Lesson(Rows.of(rows), labels, None, ["a", "b", "c"])
    found = Adapt(flip=True).material(lesson, space, base, "a photo of {a}")
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
    with pytest.raises(Refusal, match="templates and captions, and there are 0 words"):
        Adapt(words=0, captioned=0.5)
    with pytest.raises(Refusal, match="a template says"):
        Adapt(templates=("a photo",))


def test_rows_hear_all_templates_and_their_captions_behind_the_word_of_their_class(base):
    rows = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1])
    captions = ["by day", None, "by day", "so far away " * 20, None, "x"]
    adapt = Adapt(templates=("my {name}", "{a}!"), captioned=0.5)
    lesson = Lesson(Rows.of(rows), labels, None, ["oak", "fox"], captions=captions)
    space = Latents(base.autoencoder, None, base.shape, base.size, (3, 32))
    texts = adapt.material(lesson, space, base, "a photo of {a}").texts
    order = balanced(labels, adapt.balanced)
    tokens = open_tokens(base)
    adapt.asked(tokens, "a photo of {a}", ["oak", "fox"])

    def heard(text):
        return tokens.tokenizer.decode(text, skip_special_tokens=True).replace(" ", "")

    rng, seen = torch.Generator().manual_seed(0), {}
    for _ in range(200):
        for place, text in enumerate(texts(np.arange(len(order)), rng)):
            seen.setdefault(int(order[place]), []).append(heard(text))
    for row, found in seen.items():
        own = f"<class{labels[row]}-0>"
        sentences = {f"aphotoofa{own}", f"my{own}", f"a{own}!"}
        assert all(own in text for text in found)
        assert sentences <= set(found)
        others = [text for text in found if text not in sentences]
        if captions[row] is None:
            assert not others
        else:
            assert len(others) / len(found) == pytest.approx(0.5, abs=0.1)
            said = f"aphotoofa{own},{captions[row].replace(' ', '')}"
            assert set(others) <= {said, said[: len(others[0])]}  # as much of it as is read
        shares = [found.count(sentence) / (len(found) - len(others)) for sentence in sentences]
        assert shares == pytest.approx([1 / 3] * 3, abs=0.1)
    again = texts(np.arange(6), torch.Generator().manual_seed(3))
    assert torch.equal(again, texts(np.arange(6), torch.Generator().manual_seed(3)))


def test_a_text_of_a_row_of_no_class_is_not_heard(base):
    net = Adapt().network(base, "a photo of {a}", ["oak", "fox"], seed=0)
    text = net.prompts.tokens[[1, 0, 1]]
    label = torch.tensor([0, -1, 1])
    found = net.prompts(label, text)
    expected = net.prompts(torch.tensor([1, -1, 1]))
    torch.testing.assert_close(found.words, expected.words)


@settings(max_examples=5, deadline=None)
@given(
    kind=st.sampled_from(["lora", "full", "words"]),
    words=st.integers(1, 3),
    templates=st.sampled_from([(), ("my {name}", "{a}!")]),
    bf16=st.booleans(),
    seed=st.integers(0, 3),
)
def test_no_row_of_the_embeddings_moves_but_the_words_that_are_learnt(
    base, kind, words, templates, bf16, seed
):
    adapt = Adapt(kind=kind, rank=2, words=words, templates=templates, captioned=0.5)
    rows = np.random.default_rng(seed).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    lesson = Lesson(
        Rows.of(rows), np.arange(6) % 2, None, ["oak", "fox"], captions=["by day", None, "dim"] * 2
    )
    schooling = Schooling(steps=3, batch=4, lr=1e-2, warmup=0.0, bf16=bf16)
    model = StableDiffusion(base=base.name, adapt=adapt, schooling=schooling)
    config = model.config(lesson)
    net, space = model.network_for(config, seed), model.space(config, {})
    prompts = net.prompts
    before = {name: value.clone() for name, value in prompts.frozen.net.state_dict().items()}
    first = prompts.words.detach().clone()
    assert any("token_embedding.known" in name for name in before), "the table is among them"
    with TemporaryDirectory() as out:
        material = model.material(lesson, space, schooling)
        train_denoiser(net, model.objective, material, schooling, seed, Folder(Path(out), "x"), augment=draw)
    for name, value in prompts.frozen.net.state_dict().items():
        assert torch.equal(value, before[name])
    assert (prompts.words != first).any(1).all()


def test_rows_put_aside_are_looked_at_and_never_learnt_from(base):
    rows = np.random.default_rng(0).integers(0, 256, (17, 32, 32, 3), dtype=np.uint8)
    labels = np.array([0] * 10 + [1] * 4 + [2] * 3)
    lesson = Lesson(Rows.of(rows), labels, None, ["oak", "fox", "8"])
    space = Latents(base.autoencoder, None, base.shape, base.size, (3, 32))

    def views(material):
        return {view.numpy().tobytes() for view in material.rows(np.arange(len(material.labels)))}

    whole = Adapt().material(lesson, space, base, "a photo of {a}")
    split = Adapt(stop=EarlyStop(share=0.2)).material(lesson, space, base, "a photo of {a}")
    assert whole.aside is whole.stop is None
    assert set(split.aside.labels) == {0}
    assert len(views(split.aside)) == 2
    assert views(split).isdisjoint(views(split.aside))
    assert views(split) | views(split.aside) == views(whole)
    assert (split.counts == split.counts[0]).all()  # classes stay balanced
    small = dataclasses.replace(lesson, rows=Rows.of(rows[10:]), labels=labels[10:])
    assert (
        Adapt(stop=EarlyStop()).material(small, space, base, "{a}").stop is None
    )  # no class can spare a row


def test_a_sheet_of_samples_is_drawn_of_what_is_learnt(base, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "PREVIEW", SmallDecoder(steps=20))
    rows = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    lesson = Lesson(Rows.of(rows), np.arange(6) % 2, None, ["oak", "fox"])
    schooling = Schooling(steps=2, batch=4)
    model = StableDiffusion(
        base=base.name, steps=2, adapt=Adapt(rank=2, stop=EarlyStop()), schooling=schooling
    )
    model.fit(lesson, tmp_path / "adapted", seed=1)
    with Image.open(next((tmp_path / "adapted").glob("grid-*.png"))) as sheet:
        assert sheet.size == (4 * 33, 2 * 33)
    dataclasses.replace(model, adapt=None).fit(lesson, tmp_path / "as it is", seed=1)
    assert not list((tmp_path / "as it is").glob("grid-*.png"))
    with pytest.raises(Refusal, match="in the same words"):
        dataclasses.replace(model, adapt=Adapt(templates=("{a}",)), balance=ClassBalancing())
