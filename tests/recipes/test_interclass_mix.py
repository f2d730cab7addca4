"""CPU twin of inter-class mixing on the miniature: five ways of using one model, from a folder to a verdict."""

import numpy as np
import pytest
from studies import fill

from counterpoise import Data, Holdout, Refusal, Run, Trials, open_source, run
from counterpoise.classifiers.claims import ByStrength, Measured
from counterpoise.classifiers.mixing import Replace
from counterpoise.lots import Lot
from counterpoise.proposals.budgets import Even, FillUp, Piloted
from counterpoise.proposals.pairings import FromAny
from counterpoise.proposals.strengths import Enough
from counterpoise.recipes.interclass_mix import interclass_mix
from counterpoise.study import Study
from counterpoise.types import describe, load

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def study(photos, **flags):
    data = Data(open_source(str(photos)), size=16, holdout=Holdout(val=0.2, test=0.25))
    return interclass_mix(
        data, Trials(2), **({"base": "miniature", "backbone": "none", "smoke": True} | flags)
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    photos = fill(tmp_path_factory.mktemp("two") / "photos", {"apple": 20, "rose": 12})
    return run(study(photos, fit_steps=3), tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.timeout(600)
def test_it_reaches_a_verdict_with_every_way(mixed):
    assert isinstance(mixed, Run)
    told = set(mixed.metrics["arms"])
    assert {"diff-mix", "diff-gen", "diff-aug", "real-mix", "real-aug"} <= told
    assert mixed.verdict["headline"]


def test_ways_with_the_same_model_share_its_fit(mixed):
    opened = Study.open(mixed.path)
    generators = {item.name: opened.generator_of(Lot(item.name, 0)) for item in opened.recipe.synthesis}
    assert generators["diff-mix"] == generators["diff-gen"] == generators["diff-aug"]
    assert generators["real-mix"] == generators["real-aug"] != generators["diff-mix"]


def test_sources_are_where_the_names_say(mixed):
    opened = Study.open(mixed.path)

    def plan(name):
        return opened.run.table(Lot(name, 0).plan, ["label", "source_label", "strength"]).to_pydict()

    aug, gen, mix = (plan(name) for name in ("diff-aug", "diff-gen", "diff-mix"))
    assert aug["source_label"] == aug["label"]
    assert set(gen["source_label"]) == {None}
    assert set(gen["strength"]) == {1.0}
    assert set(np.unique(mix["source_label"])) == {0, 1}
    assert np.allclose(mix["strength"], 0.7)


def test_only_mixed_labels_remember_their_source(tmp_path):
    recipe = study(fill(tmp_path / "photos", {"apple": 4, "rose": 3}))
    claims = {fit.name: fit.mix.claims for fit in recipe.fits if fit.synthesis}
    assert claims["diff-mix"] == claims["real-mix"] == ByStrength(gamma=0.5)
    assert claims["diff-gen"] == claims["diff-aug"] == ByStrength(gamma=0.0)
    assert load(describe(recipe)) == recipe


def test_two_ways_of_saying_how_many_are_refused(tmp_path):
    with pytest.raises(Refusal, match="--times 2 and --fill-to 9"):
        study(fill(tmp_path / "photos", {"apple": 4, "rose": 3}), times=2.0, fill_to=9)


# --- as published ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("few") / "photos", {"apple": 4, "rose": 3})


WORDS = {"cub": "bird", "aircraft": "aircraft", "flowers": "flower", "cars": "car", "dogs": "dog"}


@pytest.mark.parametrize("preset", WORDS)
def test_a_preset_is_the_papers_numbers(few, preset):
    recipe = study(few, preset=preset, smoke=False)
    made = {item.name: item for item in recipe.synthesis}
    for item in recipe.synthesis:
        model = item.generator
        assert model.prompt == f"a photo of {{a}} {WORDS[preset]}"
        assert (model.steps, model.guides[0].scale) == (25, 7.5)
        assert item.budget == Even(times=5.0)
    model = made["diff-mix"].generator
    assert (model.adapt.kind, model.adapt.rank, model.adapt.words, model.adapt.flip) == ("lora", 10, 1, True)
    learnt = model.schooling
    assert (learnt.steps, learnt.batch, learnt.lr) == (35_000, 8, 5e-5)
    assert learnt.rate(20_000) == learnt.rate(30_000) == 5e-5, "constant"
    assert made["diff-mix"].pairing == FromAny(by="class", strength=0.7)
    mix = recipe.fit("diff-mix").mix
    assert (mix.p, mix.rare, mix.claims) == (0.1, False, ByStrength(gamma=0.5))
    assert load(describe(recipe)) == recipe


@pytest.mark.parametrize(
    ("setting", "p", "by", "rare"),
    [("full", 0.1, "class", False), ("few-shot", 0.3, "class", False), ("long-tail", 0.3, "image", True)],
)
@pytest.mark.parametrize("preset", [None, "cub"])
def test_a_setting_says_how_often_from_where_and_whether_the_tail_comes_first(
    few, setting, p, by, rare, preset
):
    recipe = study(few, setting=setting, preset=preset)
    mix = recipe.fit("diff-mix").mix
    assert (mix.p, mix.rare) == (p, rare)
    assert recipe.synthesis[0].pairing.by == by
    assert recipe.synthesis[0].budget(np.array([90, 9, 1])).tolist() == [166, 167, 167], "targets are uniform"


def test_what_a_flag_says_beside_them_stands(few):
    told = {"guidance": 2.0, "fit_steps": 7, "flip": False, "superclass": "fruit", "gamma": 0.0, "fill_to": 9}
    recipe = study(few, preset="cub", setting="few-shot", replace=0.6, source="image", **told, smoke=False)
    item = recipe.synthesis[0]
    assert item.generator.guides[0].scale == 2.0
    assert item.generator.schooling.steps == 7
    assert item.generator.prompt.endswith(" fruit")
    assert not item.generator.adapt.flip
    assert item.budget == FillUp(to=9)
    assert item.pairing.by == "image"
    assert recipe.fit("diff-mix").mix == Replace(p=0.6, rare=False, claims=ByStrength(gamma=0.0))


def test_few_steps_beside_a_preset_are_as_few_and_without_its_guidance(few):
    model = study(few, preset="cub", few_steps=4, smoke=False).synthesis[0].generator
    assert (model.sampler, model.steps, model.guides) == ("lcm", 4, ())


def test_without_them_it_is_what_it_was(few):
    recipe = study(few)
    item = recipe.synthesis[0]
    assert item.generator.prompt == "a photo of {a}"
    assert (item.budget, item.pairing) == (FillUp(), FromAny(by="image", strength=0.7))
    assert recipe.fit("diff-mix").mix == Replace(p=0.3, rare=True, claims=ByStrength(gamma=0.5))


# --- far enough, and measured -----------------------------------------------------------------------------------


def test_adaptive_strengths_are_for_what_is_mixed_and_the_others_take_all_of_them(few):
    recipe = study(few, adaptive=True, times=20.0)
    made = {item.name: item for item in recipe.synthesis}
    for name in ("diff-mix", "real-mix"):
        assert made[name].pairing.strength == Enough(among=(0.3, 0.5, 0.7, 0.9))
        assert made[name].budget == Piloted(Even(times=20.0))
        assert "turned" in dict(made[name].scores)
        assert made[name].tutor is not None
    assert made["diff-aug"].pairing.strength == (0.3, 0.5, 0.7, 0.9)
    assert made["diff-aug"].budget == made["diff-gen"].budget == Even(times=20.0)
    assert made["diff-aug"].tutor is None
    with pytest.raises(Refusal, match=r"--adaptive chooses among strengths, found 0\.5 alone"):
        study(few, adaptive=True, strength=(0.5,))


def test_measured_labels_are_for_what_is_mixed(few):
    recipe = study(few, measured=True)
    claims = {fit.name: fit.mix.claims for fit in recipe.fits if fit.synthesis}
    assert claims["diff-mix"] == claims["real-mix"] == Measured()
    assert claims["diff-aug"] == claims["diff-gen"] == ByStrength(gamma=0.0)
    assert load(describe(recipe)) == recipe
