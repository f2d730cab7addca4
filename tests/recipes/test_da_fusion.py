"""CPU twin of DA-Fusion on the miniature: words alone, every picture edited, from a folder to a verdict."""

import numpy as np
import pytest
from studies import fill

from counterpoise import Data, Holdout, Refusal, Run, Trials, open_source, run
from counterpoise.classifiers.claims import ByStrength
from counterpoise.classifiers.mixing import Replace
from counterpoise.generators.adapting import Adapt
from counterpoise.lots import Lot
from counterpoise.pupils import Pupil
from counterpoise.recipes.da_fusion import da_fusion
from counterpoise.study import Study
from counterpoise.types import describe, load

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

CLASSES = {"apple": 14, "rose": 9}


def recipe(photos, **flags):
    data = Data(open_source(str(photos)), size=16, holdout=Holdout(val=0.2, test=0.25))
    return da_fusion(data, Trials(2), base="miniature", **({"backbone": "none"} | flags))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("two") / "photos", CLASSES)


@pytest.fixture(scope="module")
def edited(photos, tmp_path_factory):
    asked = recipe(photos, fit_steps=3, times=4.0, steps=6, width=4, smoke=True)
    return run(asked, tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.timeout(600)
def test_it_reaches_a_verdict_against_the_cheap_arms(edited):
    assert isinstance(edited, Run)
    roles = {name: arm["role"] for name, arm in edited.metrics["arms"].items()}
    assert roles["da_fusion"] == "candidate"
    assert sum(role == "baseline" for role in roles.values()) > 6
    assert edited.verdict["headline"]


def test_every_picture_is_edited_as_often_into_its_own_class_at_each_strength(edited):
    study = Study.open(edited.path)
    plan = study.run.table(Lot("da_fusion", 0).plan).to_pydict()
    assert plan["label"] == plan["source_label"]
    times = np.unique(plan["source_id"], return_counts=True)
    assert sorted(times[0]) == sorted(study.manifest("train")["id"].to_pylist())
    assert set(times[1]) == {4}
    for label, count in enumerate(study.counts()):
        far = [s for s, own in zip(plan["strength"], plan["label"], strict=True) if own == label]
        assert np.unique(far, return_counts=True)[0].tolist() == [0.25, 0.5, 0.75, 1.0]
        assert set(np.unique(far, return_counts=True)[1]) == {count}


def test_half_of_the_views_are_edited_with_hard_labels_and_classes_stay_as_rare(edited):
    study = Study.open(edited.path)
    taught = Pupil.of(study, study.recipe.fit("da_fusion"), 0)
    assert taught.labels.ndim == 1
    assert taught.weights[taught.synthetic].sum() / taught.weights.sum() == pytest.approx(0.5)
    prior, counts = taught.prior(), study.counts()
    assert prior / prior.sum() == pytest.approx(counts / counts.sum(), abs=1e-6)


def test_the_published_numbers(photos):
    asked = recipe(photos)
    (item,) = asked.synthesis
    assert item.generator.adapt == Adapt(kind="words", words=1, flip=False)
    assert item.generator.guides[0].scale == 7.5
    schooling = item.generator.schooling
    assert (schooling.steps, schooling.batch, schooling.lr, schooling.decay) == (2000, 4, 2e-3, "none")
    assert item.budget(np.array([5, 2])).tolist() == [50, 20]
    assert asked.fit("da_fusion").mix == Replace(p=0.5, claims=ByStrength(gamma=0.0))
    assert load(describe(asked)) == asked


def test_what_a_flag_says_stands_and_a_model_is_needed(photos):
    (item,) = recipe(photos, guidance=2.0, fit_steps=7, flip=False).synthesis
    assert item.generator.guides[0].scale == 2.0
    assert item.generator.schooling.steps == 7
    (few,) = recipe(photos, few_steps=4).synthesis
    assert (few.generator.sampler, few.generator.steps, few.generator.guides) == ("lcm", 4, ())
    data = Data(open_source(str(photos)), size=16)
    with pytest.raises(Refusal, match="name one with --base"):
        da_fusion(data, Trials(2), base="")
