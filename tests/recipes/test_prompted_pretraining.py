"""CPU twin of pre-training on drawn pictures: from a folder, or a few of its pictures, to a verdict; and from given weights."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from counterpoise import Data, Holdout, Refusal, Trials, open_source, parse_cut, run
from counterpoise.data.augment import Flip
from counterpoise.firstweights import first_units, material
from counterpoise.lots import Lot
from counterpoise.nets.finetuned import Finetuned
from counterpoise.proposals.prompts import Grammar, Language, Templates
from counterpoise.pupils import Pupil
from counterpoise.recipes.prompted_pretraining import DRAWN, prompted_pretraining
from counterpoise.study import Study
from counterpoise.types import describe, load

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

STARTED = ["pretrained", "pretrained_contrastive", "contrastive_real", "longer"]


def recipe(photos, cut="none", **flags):
    data = Data(open_source(str(photos)), size=16, holdout=Holdout(val=0.2, test=0.25), cut=parse_cut(cut))
    return prompted_pretraining(data, Trials(2), **({"base": "miniature"} | flags))


def quick(whole):
    """Its samples drawn in three steps."""
    items = [
        dataclasses.replace(item, generator=dataclasses.replace(item.generator, steps=3))
        for item in whole.synthesis
    ]
    return dataclasses.replace(whole, synthesis=tuple(items))


@pytest.fixture(scope="module")
def done(photos, tmp_path_factory):
    asked = recipe(
        photos, cut="few:3", steps=3, first_steps=4, width=4, batch=8, smoke=True, clip="miniature"
    )
    return run(quick(asked), tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.timeout(600)
def test_it_reaches_a_verdict_from_three_pictures_of_a_class(done):
    roles = {name: arm["role"] for name, arm in done.metrics["arms"].items()}
    assert [roles[name] for name in STARTED] == ["candidate", "candidate", "control", "control"]
    assert sum(role == "baseline" for role in roles.values()) > 6
    assert done.verdict["headline"]
    assert Study.open(done.path).counts().tolist() == [3, 3, 3]


def test_two_arms_learn_from_the_same_drawn_pictures_first_and_two_from_the_real_ones(done):
    study = Study.open(done.path)
    kept = len(study.kept(Lot(DRAWN, 0))[0])
    rows = {name: len(material(study, study.recipe.fit(name), 0)[0]) for name in STARTED}
    assert rows == dict(zip(STARTED, [kept, kept, 9, 9], strict=True))
    plan = study.run.table(Lot(DRAWN, 0).plan).to_pydict()
    assert np.bincount(plan["label"]).tolist() == [4, 4, 4]
    assert len(set(plan["prompt"])) > 6
    assert all("{a}" in text or "{name}" in text for text in plan["prompt"])
    for name in STARTED:
        fit = study.recipe.fit(name)
        assert len(Pupil.of(study, fit, 1).labels) == 9
        assert study.run.has(first_units(study, [fit])[0])


def test_all_four_are_taught_alike_and_as_cutmix_is(done):
    recipe_ = Study.open(done.path).recipe
    cutmix = recipe_.fit("cutmix")
    for name in STARTED:
        fit = recipe_.fit(name)
        assert dataclasses.replace(fit, name="cutmix", synthesis=None, start=None) == cutmix
        assert dataclasses.replace(fit.start.training, steps=recipe_.training.steps) == recipe_.training
    one, other = (recipe_.fit(name).start for name in ("pretrained", "longer"))
    assert one == other
    one, other = (recipe_.fit(name).start for name in ("pretrained_contrastive", "contrastive_real"))
    assert one == other


@pytest.mark.timeout(600)
def test_given_weights_are_trained_on_by_both_methods(photos, tiny, tmp_path):
    asked = recipe(photos, backbone=str(tiny), backbone_size=24, smoke=True, first_steps=2, steps=2, batch=8)
    keep = {"balanced_softmax", *STARTED[:2]}
    brief = dataclasses.replace(
        quick(asked),
        trials=Trials(1),
        fits=tuple(fit for fit in asked.fits if fit.name in keep),
        arms=tuple(arm for arm in asked.arms if arm.fit in keep),
    )
    assert isinstance(brief.network, Finetuned)
    study = Study.open(run(brief, tmp_path / "run", until="train").path)
    given = brief.network(3, 3, 16, seed=0).state_dict()
    for name in STARTED[:2]:
        file = study.run / first_units(study, [study.recipe.fit(name)])[0]
        learnt = load_file(file)
        assert sum(not np.array_equal(value, given[key].numpy()) for key, value in learnt.items()) > 5


def test_what_flags_say(photos):
    asked = recipe(photos)
    assert asked.training.steps == 250
    assert asked.fit("pretrained").start.training.steps == 1000
    (item,) = asked.synthesis
    assert isinstance(item.prompts, Grammar)
    assert item.generator.adapt is None
    assert item.budget(np.array([5, 0])).tolist() == [100, 100]
    assert load(describe(asked)) == asked
    asked = recipe(photos, first_steps=7, each=3, language="miniature", flip=False, guidance=2.0)
    (item,) = asked.synthesis
    assert isinstance(item.prompts, Language)
    assert item.generator.guides[0].scale == 2.0
    for name in STARTED:
        start = asked.fit(name).start
        assert start.training.steps == 7
        assert not any(isinstance(change, Flip) for change in start.augment)
    assert isinstance(recipe(photos, prompts="template", domain="satellite").synthesis[0].prompts, Templates)


def test_it_needs_a_model_and_says_what_belongs_together(photos):
    with pytest.raises(Refusal, match="name one with --base"):
        recipe(photos, base="")
    with pytest.raises(Refusal, match="name them with --backbone"):
        recipe(photos, backbone_size=64)
