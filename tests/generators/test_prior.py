"""What a model knew of a class name stays with it, as far as it goes on seeing what it made of the name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import text_to_image
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.batches import Batches
from counterpoise.diffusion.checkpoints import Folder
from counterpoise.diffusion.denoisers import Cond
from counterpoise.diffusion.losses import ClassBalancing
from counterpoise.diffusion.stopping import EarlyStop
from counterpoise.diffusion.training import Schooling
from counterpoise.generators import prior
from counterpoise.generators.adapting import Adapt, mixed
from counterpoise.generators.generator import Lesson
from counterpoise.generators.prior import PRIOR, known_before
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets.stable_diffusion import open_tokens
from counterpoise.spaces import latents
from counterpoise.spaces.preview import SmallDecoder
from counterpoise.types import Refusal

CLASSES = ["oak_tree", "fox"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(latents, "PREVIEW", SmallDecoder(steps=5))
    monkeypatch.setattr(prior, "STEPS", 3)
    monkeypatch.setattr(prior, "PER_CLASS", 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_to_image.save(tmp_path_factory.mktemp("base") / "tiny")


def photos(n: int = 12) -> Lesson:
    coarse = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return Lesson(Rows.of(coarse.repeat(8, 1).repeat(8, 2)), np.arange(n) % 2, None, CLASSES)


def learning(folder, steps: int = 6, **adapt) -> StableDiffusion:
    schooling = Schooling(steps=steps, batch=4, lr=0.02, bf16=False, ema=0.5)
    return StableDiffusion(base=str(folder), steps=2, schooling=schooling, adapt=Adapt(rank=2, **adapt))


@given(
    rows=st.integers(1, 40),
    others=st.integers(1, 40),
    share=st.floats(0.01, 0.95),
)
def test_a_pass_has_the_share_of_others_and_all_of_both(rows, others, share):
    order = mixed(np.arange(rows), 100 + np.arange(others), share)
    assert abs((order >= 100).sum() - share * len(order)) <= 1
    times = np.bincount(order)
    assert np.ptp(times[:rows]) == 0
    assert times[:rows].min() > 0
    assert (times[100:] > 0).sum() >= others - 1  # the last one may be rounded away
    assert np.ptp(times[100:]) <= 1


def test_the_fit_sees_that_share_of_the_models_own_pictures_and_hears_plain_names_with_them(folder, tmp_path):
    adapt = {"prior": 0.25, "flip": True, "templates": ("my {name}",), "stop": EarlyStop(share=0.2)}
    model, lesson = learning(folder, steps=24, **adapt), photos()
    space = model.space(model.config(lesson), {})
    material = model.material(lesson, space, model.settled({}), tmp_path)
    known = known_before(model, space, CLASSES, 24, tmp_path / PRIOR)
    assert known.labels.tolist() == [0] * 8 + [1] * 8
    own = {
        x.half().float().numpy().tobytes(): int(label)
        for x, label in zip(*dataclasses.astuple(known), strict=True)
    }
    tokens = open_tokens(model._base)
    model.adapt.asked(tokens, "a photo of {a}", CLASSES)
    seen, batches = [], Batches(material, model.schooling, 1)
    for step in range(24):
        picked = batches._rows("rows", len(material.labels), step, 4)
        texts = material.texts(picked, torch.Generator().manual_seed(step))
        for views, row, text in zip(material.rows(picked), picked, texts, strict=True):
            heard = tokens.tokenizer.decode(text, skip_special_tokens=True).replace(" ", "")
            label = own.get(views[0, 0].numpy().tobytes())
            seen.append(label is not None)
            if label is None:
                assert f"<class{material.labels[row]}-0>" in heard
            else:
                assert material.labels[row] == label
                assert heard == ("aphotoofanoaktree", "aphotoofafox")[label]
                assert torch.equal(views[0], views[1])
                assert (views[:, 1] == 0).all()
    assert np.mean(seen) == pytest.approx(0.25, abs=0.1)
    every = {views[0, 0].numpy().tobytes() for views in material.rows(np.arange(len(material.labels)))}
    assert set(own) <= every
    aside = {
        views[0, 0].numpy().tobytes() for views in material.aside.rows(np.arange(len(material.aside.labels)))
    }
    assert not aside & set(own)


def test_they_are_samples_of_the_model_as_it_was(folder, tmp_path):
    model = learning(folder, prior=0.5)
    space = model.space(model.config(photos()), {})
    known = known_before(model, space, CLASSES, 100, tmp_path)
    assert known.x.shape == (16, 4, 8, 8)
    assert torch.equal(known.x, known_before(model, space, CLASSES, 100, tmp_path / "elsewhere").x)
    turned = known_before(model, space, CLASSES[::-1], 100, tmp_path / "turned").x
    torch.testing.assert_close(turned, known.x.roll(8, 0), atol=1e-4, rtol=1e-4)  # a class has its own seeds
    assert known.x.flatten(1).unique(dim=0).shape[0] == 16
    few = known_before(model, space, CLASSES, 5, tmp_path / "few").x
    assert len(few) == 6  # no more than are seen
    torch.testing.assert_close(few[:3], known.x[:3], atol=1e-4, rtol=1e-4)


def test_what_a_name_meant_is_kept(tmp_path):
    """By a model that was trained: of pictures of random weights others expect less error, and they ask for a change."""
    lesson, errors = photos(), {}
    for share in (0.0, 0.5):
        model, rng = learning("miniature", steps=20, prior=share), torch.Generator().manual_seed(0)
        config = model.config(lesson)
        model.fit(lesson, tmp_path / str(share), seed=1)
        net = model.network_for(config, seed=0)
        found = load_file(tmp_path / str(share) / "weights.safetensors")
        net.load_state_dict({k: v for k, v in found.items() if not k.startswith("space.")})
        plain = dataclasses.replace(model, adapt=None).network_for(config, seed=0)
        tokens = open_tokens(model._base)
        text = tokens(tokens.prompts("a photo of {a}", CLASSES)).input_ids
        known = known_before(model, model.space(config, {}), CLASSES, 16, tmp_path / "known")
        label, time = torch.from_numpy(known.labels), torch.randint(1000, (16,), generator=rng).float()
        x = (known.x + torch.randn(known.x.shape, generator=rng)) / 2**0.5
        with torch.no_grad():
            away = net(x, time, Cond(label, text=text[label])) - plain(x, time, Cond(label))
        errors[share] = away.square().mean().item()
    assert errors[0.5] < 0.6 * errors[0.0]


def test_a_fit_that_was_killed_goes_on_exactly_and_makes_no_picture_twice(folder, tmp_path, monkeypatch):
    model, drawn = learning(folder, prior=0.5), []
    sampled = StableDiffusion.sampled

    def counted(self, *args):
        sample = sampled(self, *args)
        return lambda rows: drawn.append(len(rows)) or sample(rows)

    monkeypatch.setattr(StableDiffusion, "sampled", counted)
    monkeypatch.setattr(StableDiffusion, "preview", lambda *_: None)
    model.fit(photos(), tmp_path / "whole", seed=1)
    made = sum(drawn)
    assert made == 2 * 6
    killed = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "due", lambda self: True)

        def stop(self, step, net):
            if next(killed):
                raise KeyboardInterrupt

        patch.setattr(Folder, "preview", stop)
        with pytest.raises(KeyboardInterrupt):
            model.fit(photos(), tmp_path / "halves", seed=1)
    assert sum(drawn) == 2 * made
    model.fit(photos(), tmp_path / "halves", seed=1)
    assert sum(drawn) == 2 * made
    whole, halves = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(halves[name], value) for name, value in whole.items())


def test_what_would_contradict_itself_is_refused(folder):
    with pytest.raises(Refusal, match="it is the name that is learnt"):
        Adapt(prior=0.5, words=0)
    with pytest.raises(Refusal, match="in the same words"):
        dataclasses.replace(learning(folder, prior=0.5), balance=ClassBalancing())
    with pytest.raises(Refusal, match=r"up to the end of class 'x+'"):
        learning(folder, prior=0.5).ready(["fox", "x" * 60])
