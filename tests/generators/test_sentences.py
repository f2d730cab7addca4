"""Rows that are told prompts of their own, by every family of text-to-image models."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import text_to_image

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.guides import CFG, AutoGuidance
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.adapting import Adapt
from counterpoise.generators.exemplars import Exemplars
from counterpoise.generators.generator import TEXT, Context, Failed, Lesson
from counterpoise.generators.sentences import Sentences, telling
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets.stable_diffusion import open_tokens
from counterpoise.nets.text_towers import Towers
from counterpoise.spaces import latents
from counterpoise.spaces.preview import SmallDecoder

CLASSES = ["oak", "fox"]
SCENES = ["{a} by day", "my {name}", None]


@pytest.fixture(autouse=True)
def quick_previews(monkeypatch):
    monkeypatch.setattr(latents, "PREVIEW", SmallDecoder(steps=20))


@pytest.fixture(scope="module", params=["sd", "unclip", "sdxl", "sd3", "sd3 without t5", "flux"])
def folder(request, tmp_path_factory):
    return text_to_image.save(tmp_path_factory.mktemp("bases") / "base", kind=request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return text_to_image.save(tmp_path_factory.mktemp("bases") / "plain")


def photos(n=6):
    rows = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return Lesson(Rows.of(rows), np.arange(n) % 2, None, CLASSES)


CONTEXT = Context(lambda ids: np.zeros((len(ids), 32, 32, 3), np.uint8))


def generator(folder, **settings):
    school = Schooling(steps=2, batch=4, lr=0.1, bf16=False)
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    images = Exemplars() if "UnCLIP" in kind else None
    guides = () if "Flux" in kind else (CFG(2.0),)
    told = {"steps": 3, "guides": guides, "images": images} | settings
    return StableDiffusion(base=str(folder), schooling=school, **told)


def asked(n=6, strength=1.0):
    return [
        {"label": i % 2, "seed": 100 + i, "strength": strength, "source_id": "a", "prompt": SCENES[i % 3]}
        for i in range(n)
    ]


def pictures(made):
    assert all(isinstance(x, np.ndarray) for x in made)
    return np.stack(made).astype(int)


ADAPTS = {"names": None, "words": Adapt(kind="words", words=2)}


@pytest.mark.parametrize("adapt", ADAPTS)
def test_a_row_is_told_its_sentence_as_if_the_model_had_no_other_and_depends_on_itself_alone(
    folder, adapt, tmp_path
):
    model = generator(folder, adapt=ADAPTS[adapt])
    model.fit(photos(), tmp_path, seed=1)
    sample = model.load(tmp_path, CONTEXT)
    rows = asked()
    together = pictures(sample(rows))
    order = [4, 0, 5, 2, 1, 3]
    assert np.abs(pictures(sample([rows[i] for i in order])) - together[order]).max() <= 1
    for i in (0, 2, 4):
        assert np.abs(pictures(sample(rows[i : i + 1]))[0] - together[i]).max() <= 1
    for scene in SCENES:  # the prompt of all rows, where none has another
        alike = dataclasses.replace(model, prompt=scene or model.prompt).load(tmp_path, CONTEXT)
        mine = [i for i, row in enumerate(rows) if row["prompt"] == scene]
        expected = pictures(alike([rows[i] | {"prompt": None} for i in mine]))
        assert np.abs(expected - together[mine]).max() <= 1
    silent = pictures(sample([row | {"prompt": None} for row in rows]))
    assert np.abs(silent - together).reshape(6, -1).max(1)[[0, 1, 3, 4]].min() > 2


def test_every_text_is_read_once_for_a_batch_and_none_where_no_row_has_one(folder, tmp_path, monkeypatch):
    model = generator(folder, steps=5)
    model.fit(photos(), tmp_path, seed=1)
    read, listen = [], Towers.__call__
    note = lambda self, tokens: read.append(len(tokens)) or listen(self, tokens)  # noqa: E731
    monkeypatch.setattr(Towers, "__call__", note)
    sample = model.load(tmp_path, CONTEXT)
    read.clear()
    sample([row | {"prompt": None} for row in asked()])
    assert not read
    rows = asked(12)  # two classes in three sentences, twice over
    sample(rows)
    assert read == [6], "the empty text was read with the prompts of the classes"
    sample(rows[:6])
    assert read == [6], "the same texts again"
    sample(rows[:1])
    assert read == [6, 1]


def test_of_no_class_nothing_is_said_whatever_a_row_is_told(plain, tmp_path):
    model = generator(plain, guides=(CFG(0.0),))
    model.fit(photos(), tmp_path, seed=1)
    sample = model.load(tmp_path, CONTEXT)
    rows = [row | {"seed": 1} for row in asked()]
    made = pictures([*sample(rows), *sample([row | {"prompt": None} for row in rows[:1]])])
    assert np.abs(made - made[0]).max() <= 1


def test_what_the_weak_copy_is_told_it_reads_with_words_and_adapters_of_its_own(plain, tmp_path):
    adapt = Adapt(rank=2, places=("attention", "text"))
    model = generator(plain, adapt=adapt, guides=(AutoGuidance(1.5), CFG(2.0)))
    model.fit(photos(), tmp_path, seed=1)
    rows = asked(3, strength=0.67)
    found = pictures(model.load(tmp_path, CONTEXT)(rows))
    alike = dataclasses.replace(model, prompt=SCENES[1]).load(tmp_path, CONTEXT)
    assert np.abs(pictures(alike([rows[1] | {"prompt": None}]))[0] - found[1]).max() <= 1


# --- what is read of a sentence ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentences(plain):
    tokens = open_tokens(generator(plain)._base)
    names = Adapt(words=2).names(tokens, CLASSES)
    return Sentences(tokens, "a photo of {a}", names, CLASSES)


def heard(sample):
    def note(rows):
        sample.append(rows)
        return [np.full((2, 2, 1), row["seed"]) for row in rows]

    return note


def test_a_sentence_is_cut_behind_its_class_and_fails_alone_where_the_class_is_not_read(sentences):
    long = "x" * text_to_image.LENGTH
    rows = [
        {"label": 0, "seed": 1, "prompt": f"{{a}} {long}"},
        {"label": 1, "seed": 2, "prompt": f"{long} {{a}}"},
        {"label": 1, "seed": 3, "prompt": f"{{a}} {long} and more"},
        {"label": 1, "seed": 4, "prompt": f"{{a}} {long}"},
    ]
    seen = []
    found = telling(heard(seen), lambda: sentences)(rows)
    assert isinstance(found[1], Failed)
    assert "up to the end of class 'fox' there are" in str(found[1])
    assert [x.flat[0] for x in (found[0], *found[2:])] == [1, 3, 4]
    texts = [row[TEXT] for row in seen[0]]
    assert all(len(text) == text_to_image.LENGTH for text in texts)
    assert not texts[0].equal(texts[2])  # another class
    assert texts[1].equal(texts[2])  # read alike, and nobody minds
    said = sentences.tokens.tokenizer.decode(texts[1])
    assert "<class1-0>" in said
    assert "<class0-0>" not in said


def test_where_no_row_can_be_told_nobody_is_asked(sentences):
    row = {"label": 0, "seed": 1, "prompt": "y" * 50 + "{a}"}
    seen = []
    assert all(isinstance(x, Failed) for x in telling(heard(seen), lambda: sentences)([row] * 2))
    assert not seen


def test_sentences_are_opened_once_and_for_rows_that_have_any(sentences):
    opened, seen = [], []
    sample = telling(heard(seen), lambda: opened.append(1) or sentences)
    sample([{"label": 0, "seed": 1, "prompt": None}, {"label": 0, "seed": 2}])
    assert not opened
    assert all(TEXT not in row for row in seen[0])
    for _ in range(2):
        sample([{"label": 0, "seed": 1, "prompt": "{a}!"}, {"label": 0, "seed": 2}])
    assert opened == [1]
    first = sentences.tokens.cut(["a photo of a <class0-0> <class0-1>"])[0]
    assert seen[1][1][TEXT].equal(first)  # it is told the prompt of the model
