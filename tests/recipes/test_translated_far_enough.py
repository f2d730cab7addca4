"""Strengths that a pilot finds, and labels that are measured by who has not seen the source: from the plan to the classifiers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from studies import outcome

from counterpoise import Data, Holdout, Refusal, Trials, open_source, run
from counterpoise.classifiers.claims import Measured
from counterpoise.classifiers.losses import CE, BalancedSoftmax
from counterpoise.classifiers.mixing import Instance, Replace
from counterpoise.classifiers.training import Training
from counterpoise.classifiers.tutor import Tutor
from counterpoise.crossfitting import FoldFile, dealt, fold_units, unseen_says
from counterpoise.encoding import as_classified
from counterpoise.gathering import origins_of, real_of, samples_in
from counterpoise.generators.generator import one_by_one
from counterpoise.generators.simple import Copies
from counterpoise.nets.resnet import SmallResNet
from counterpoise.proposals.budgets import Fixed, Piloted
from counterpoise.proposals.pairings import FromAny
from counterpoise.proposals.strengths import Enough
from counterpoise.pupils import Pupil
from counterpoise.recipe import Arm, Fit, Recipe, Synthesis
from counterpoise.scores.select import KeepAll
from counterpoise.scores.turned import Turned
from counterpoise.spaces.features import Frozen
from counterpoise.study import Study

AMONG = (0.3, 0.6, 0.9)
FOLDS = 3


TURNS = (0.2, 0.5, 0.95)  # the strength from which on a sample shows the class wanted, by that class
OF_CLASS: dict[int, str] = {}  # a training row of each class


def fades(generator, out, ctx):
    """Copies of the source, and from some strength on of a row of the class wanted, in the place of translations."""

    def sample(row):
        there = row["strength"] >= TURNS[row["label"]]
        return ctx.real([OF_CLASS[row["label"]] if there else row["source_id"]])[0]

    return one_by_one(sample)


def recipe(photos, network, training, **changed) -> Recipe:
    plain = Fit("plain", BalancedSoftmax(), Instance())
    mixed = Fit("mixed", CE(), Instance(), synthesis="far", mix=Replace(0.5, claims=Measured()))
    far = Synthesis(
        "far",
        Copies(),
        Piloted(Fixed(60), pilot=30),
        FromAny(strength=Enough(among=AMONG)),
        (("turned", Turned(folds=FOLDS)),),
        KeepAll(),
        tutor=Tutor("plain", members=1),
    )
    return Recipe(
        "far",
        Data(open_source(str(photos)), holdout=Holdout(val=0.3, test=0.2)),
        network,
        training,
        Trials(1),
        (plain, mixed),
        (Arm("plain", "plain"), Arm("mixed", "mixed")),
        (replace(far, **changed),),
        rows_per_shard=50,
    )


def asked_for(request, photos) -> Recipe:
    network, training = SmallResNet(width=4), Training(steps=80, batch=32)
    if request == "features":
        tiny = photos[1]
        network = Frozen(backbone=str(tiny))
        training = Training(steps=200, batch=64, lr=1.0, weight_decay=1e-4)
    return recipe(photos[0], network, training)


@pytest.fixture(scope="module", params=["pixels", "features"])
def study(request, photos, tiny, tmp_path_factory) -> Study:
    asked, to = asked_for(request.param, (photos, tiny)), tmp_path_factory.mktemp("far") / "run"
    begun = Study.open(run(asked, to, until="teach").path)
    manifest = begun.manifest("train").to_pylist()
    OF_CLASS.update({row["label"]: row["id"] for row in manifest})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Copies, "load", fades)
        return Study.open(run(asked, to).path)


def plans(study: Study) -> list[list[dict]]:
    return [study.run.table(lot.plan).to_pylist() for lot in study.lots()]


def test_the_pilot_tries_all_and_the_rest_takes_what_was_enough(study):
    pilot, rest = plans(study)
    for label, enough in enumerate((0.3, 0.6, 0.9)):
        tried = [row["strength"] for row in pilot if row["label"] == label]
        assert np.unique(tried, return_counts=True)[1].tolist() == [10, 10, 10]
        taken = [row["strength"] for row in rest if row["label"] == label]
        assert (len(tried), len(taken)) == (30, 30)
        assert taken == pytest.approx([enough] * 30), "the last class never turns: as far as it goes"


def test_folds_part_the_real_rows_and_each_teacher_names_its_own(study):
    lot = study.lots()[0]
    files = [FoldFile(study, unit) for unit in fold_units(study, lot, FOLDS)]
    unseen = [name for file in files for name in file.notes["unseen"]]
    assert sorted(unseen) == sorted(study.manifest("train")["id"].to_pylist())
    sizes = [len(file.notes["unseen"]) for file in files]
    assert max(sizes) - min(sizes) <= 1
    later = study.lots()[1]
    assert later.round == 1
    assert fold_units(study, later, FOLDS) == fold_units(study, lot, FOLDS), "they see real rows only"


def test_every_sample_is_heard_by_the_teacher_without_its_source(study):
    for lot in study.lots():
        plan = {row["request_id"]: row for row in study.run.table(lot.plan).to_pylist()}
        files = [FoldFile(study, unit) for unit in fold_units(study, lot, FOLDS)]
        for shard in study.shards(lot):
            x, ids = samples_in(study.run, lot.samples(shard))
            told = study.run.table(lot.scores("turned", shard)).to_pylist()
            assert [row["request_id"] for row in told] == ids
            seen = np.array(as_classified(study, lot, x))
            said = [file.logits(seen) for file in files]
            for at, name in enumerate(ids):
                row = plan[name]
                (fold,) = [k for k, file in enumerate(files) if row["source_id"] in file.notes["unseen"]]
                two = said[fold][at, [row["label"], row["source_label"]]].astype(float)
                share = 1 / (1 + np.exp(two[1] - two[0]))
                expected = 1.0 if row["label"] == row["source_label"] else share
                assert told[at]["score"] == pytest.approx(expected, abs=1e-4)


def test_labels_are_what_was_measured(study):
    taught = Pupil.of(study, study.recipe.fit("mixed"), 0)
    lots = study.lots()
    turned = np.concatenate([study.score(lot, "turned") for lot in lots])
    rows = [row for lot in lots for row in study.wishes(lot, ["label", "source_label"]).to_pylist()]
    expected = np.zeros((len(rows), 3))
    for at, row in enumerate(rows):
        expected[at, row["source_label"]] += 1 - turned[at]
        expected[at, row["label"]] += turned[at]
    assert len(rows) == 180
    np.testing.assert_allclose(taught.targets[taught.synthetic], expected, atol=1e-6)
    assert (origins_of(study, 0, "far").score("turned") == turned).all()


def test_what_was_shown_to_a_teacher_is_not_what_it_is_asked_about(study):
    """A copy of a source: who has seen the source is surer of its class than who has not, and the share is of the latter."""
    lot = study.lots()[0]
    rows, labels, _ = real_of(study, 0)
    x, ids = rows.raw(np.arange(len(rows))), study.manifest("train")["id"].to_pylist()
    files = [FoldFile(study, unit) for unit in fold_units(study, lot, FOLDS)]
    unseen = unseen_says(study, lot, x, ids, FOLDS)
    who = np.array([next(k for k, file in enumerate(files) if name in file.notes["unseen"]) for name in ids])
    for k, file in enumerate(files):
        assert np.allclose(unseen[who == k], file.logits(x[who == k]), atol=1e-5)
    everyone = np.stack([file.logits(x) for file in files])
    seen = np.stack([everyone[(k + 1) % FOLDS][at] for at, k in enumerate(who)])
    right = [float(np.mean(logits.argmax(1) == labels)) for logits in (unseen, seen)]
    assert right[0] <= right[1]


def test_the_same_run_again_makes_nothing_and_a_lost_fold_is_made_alike(study):
    before = outcome(study.run.path)
    (lost, *_) = fold_units(study, study.lots()[0], FOLDS)
    (study.run / lost).unlink()
    run(study.recipe, study.run.path, until="select")
    after = outcome(study.run.path)
    assert before.keys() == after.keys()
    assert all(
        before[name] == after[name] for name in before if name.startswith(("plan", "tutors", "scores"))
    )
    with safe_open(study.run / lost, "np") as file:
        assert all(torch.isfinite(torch.from_numpy(file.get_tensor(n))).all() for n in file.keys())  # noqa: SIM118


def test_enough_without_a_pilot_or_its_score_is_refused(photos):
    base = asked_for("pixels", (photos, None))
    for changed in ({"budget": Fixed(9)}, {"scores": ()}):
        with pytest.raises(
            Refusal, match=r"Enough is found by a pilot's score 'turned'.*give it Piloted and that score"
        ):
            recipe(photos, base.network, base.training, **changed)
    deaf = Synthesis("far", Copies(), Fixed(9), FromAny(), (("turned", Turned()),))
    with pytest.raises(Refusal, match="Turned listen to a classifier and there is none"):
        replace(base, synthesis=(deaf,))


@pytest.mark.parametrize(("sizes", "folds"), [((40, 16, 6), 5), ((7, 2, 1, 1), 3), ((2,), 4)])
def test_folds_are_dealt_by_class_and_an_only_row_is_everybodys(sizes, folds):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    found = dealt(labels, folds, seed=3)
    assert (found == dealt(labels, folds, seed=3)).all()
    for label, size in enumerate(sizes):
        mine = found[labels == label]
        assert (mine == -1).all() == (size == 1)
        if size > 1:
            times = np.bincount(mine, minlength=folds)
            assert times.max() - times.min() <= 1


def test_the_report_speaks_of_both_rounds_and_of_no_practice(study):
    facts = study.run.json("report.json")
    (row,) = facts["feedback"]["rows"]
    assert (row["asked"], row["kept"]) == (180, 180)
    assert facts["feedback"]["practices"] == [], "a pilot is no rounds that validation ends"
