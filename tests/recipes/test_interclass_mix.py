"""CPU twin of inter-class mixing on the miniature: five ways of using one model, from a folder to a verdict."""

import numpy as np
import pytest
from studies import fill

from counterpoise import Data, Holdout, Refusal, Run, Trials, open_source, run
from counterpoise.classifiers.claims import ByStrength
from counterpoise.lots import Lot
from counterpoise.recipes.interclass_mix import interclass_mix
from counterpoise.study import Study
from counterpoise.types import describe, load

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def study(source, **flags):
    data = Data(open_source(str(source)), size=16, holdout=Holdout(val=0.2, test=0.25))
    return interclass_mix(data, Trials(2), base="miniature", smoke=True, **flags)


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
