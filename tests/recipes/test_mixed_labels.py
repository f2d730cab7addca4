"""Rows that start in other classes, and what they are taught as: from the plan to the classifiers, on pictures and on features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from counterpoise import Data, Holdout, Refusal, Trials, open_source, run
from counterpoise.classifiers.claims import ByStrength, Confident
from counterpoise.classifiers.losses import CE, BalancedSoftmax
from counterpoise.classifiers.mixing import Instance, Replace
from counterpoise.classifiers.pseudo import PseudoLabels
from counterpoise.classifiers.training import Training
from counterpoise.classifiers.tutor import Tutor
from counterpoise.generators.simple import Copies
from counterpoise.nets.resnet import SmallResNet
from counterpoise.proposals.budgets import Fixed
from counterpoise.proposals.pairings import FromAny, SameClass
from counterpoise.pupils import Pupil
from counterpoise.recipe import Arm, Fit, Recipe, Synthesis
from counterpoise.scores.feedback import Fidelity
from counterpoise.scores.select import AtLeast
from counterpoise.spaces.features import Frozen
from counterpoise.stages.plan import _confusion
from counterpoise.study import Study
from counterpoise.trialfiles import file_of

STRENGTHS = (0.3, 0.7)
SOURCE = ByStrength(gamma=60.0)  # .7^60: all of the label is the source's
MIXES = {
    "target": Replace(1.0),
    "source": Replace(1.0, claims=SOURCE),
    "half": Replace(0.4, rare=True, claims=ByStrength(gamma=0.5)),
    "sure": Replace(0.4, claims=Confident(least=0.03, otherwise=SOURCE)),
}


def recipe(photos, network, training: Training) -> Recipe:
    """Copies of images of any class in the place of translations: what they show is their source's class."""
    plain = Fit("plain", BalancedSoftmax(), Instance())
    fits = [Fit(name, CE(), Instance(), synthesis="any", mix=mix) for name, mix in MIXES.items()]
    fits.append(Fit("own", CE(), Instance(), synthesis="same", mix=Replace(0.4, claims=SOURCE)))
    label, tutor = ("label", Fidelity()), Tutor("plain", members=1)
    few = AtLeast("label", -6.0)  # drops some, so that rows and labels can come apart
    return Recipe(
        "mixed",
        Data(open_source(str(photos)), holdout=Holdout(val=0.3, test=0.2)),
        network,
        training,
        Trials(1),
        (plain, *fits),
        tuple(Arm(fit.name, fit.name) for fit in (plain, *fits)),
        (
            Synthesis(
                "any",
                Copies(),
                Fixed(40),
                FromAny("confusion", strength=STRENGTHS),
                (label,),
                few,
                tutor=tutor,
            ),
            Synthesis("same", Copies(), Fixed(20), SameClass(strength=0.5)),
        ),
        rows_per_shard=50,
    )


@pytest.fixture(scope="module", params=["pixels", "features"])
def study(request, photos, tiny, tmp_path_factory) -> Study:
    network, training = SmallResNet(width=4), Training(steps=80, batch=32)
    if request.param == "features":
        network, training = (
            Frozen(backbone=str(tiny)),
            Training(steps=200, batch=64, lr=1.0, weight_decay=1e-4),
        )
    made = run(recipe(photos, network, training), tmp_path_factory.mktemp("mixed") / "run", until="train")
    return Study.open(made.path)


def pupil(study: Study, name: str) -> Pupil:
    return Pupil.of(study, study.recipe.fit(name), 0)


def asked(study: Study, synthesis: str) -> list[dict]:
    """What the plan says of each kept sample, by its name."""
    lot = next(lot for lot in study.lots() if lot.synthesis == synthesis)
    plan = {row["request_id"]: row for row in study.run.table(lot.plan).to_pylist()}
    return [plan[name] for name in study.kept(lot)[1]["request_id"].to_pylist()]


def test_every_synthetic_row_is_taught_as_its_plan_says(study):
    rows, taught = asked(study, "any"), pupil(study, "half")
    assert 60 < len(rows) < 120, "some were dropped"
    assert {row["strength"] for row in rows} == {float(np.float32(s)) for s in STRENGTHS}
    expected = np.zeros((len(rows), 3))
    for at, row in enumerate(rows):
        assert row["source_label"] != row["label"]
        expected[at, row["label"]] = row["strength"] ** 0.5
        expected[at, row["source_label"]] = 1 - row["strength"] ** 0.5
    np.testing.assert_allclose(taught.targets[taught.synthetic], expected, atol=1e-6)
    real = ~taught.synthetic
    assert (taught.targets[real] == np.eye(3)[pupil(study, "plain").labels]).all()


def test_labels_stay_hard_where_nothing_is_mixed(study):
    for name in ("target", "own"):
        assert pupil(study, name).labels.ndim == 1
    assert pupil(study, "target").labels[-1] == asked(study, "any")[-1]["label"]


def test_the_prior_is_the_label_mass_that_the_stream_yields(study):
    """Evidence rule 4, with soft labels, a share of replaced views and the rarest classes first."""
    taught = pupil(study, "half")
    stated = taught.prior() / taught.prior().sum()
    views = taught.stream(2000, 50, seed=3).ravel()
    assert taught.targets[views].mean(0) == pytest.approx(stated, abs=0.006)
    assert taught.synthetic[views].mean() == pytest.approx(0.4, abs=0.01)
    counts = study.counts()
    wanted = np.bincount(taught.wanted[views[taught.synthetic[views]] - counts.sum()], minlength=3)
    assert wanted / wanted.sum() == pytest.approx((1 / (counts + 1)) / (1 / (counts + 1)).sum(), abs=0.02)
    assert file_of(study, "half", 0).notes["prior"]["0"] == pytest.approx(stated, abs=1e-5)


def test_classifiers_learn_the_labels_that_are_claimed(study):
    """Copies of other classes' images: who believes the source learns the classes, who believes the plan does not."""
    labels = study.labels("val")

    def nats(arm: str) -> float:
        logits = file_of(study, arm, 0).val_logits(0, arm).astype(np.float64)
        log_p = logits - np.logaddexp.reduce(logits, 1)[:, None]
        return float(-np.mean([log_p[labels == c, c].mean() for c in range(3)]))

    assert nats("source") < 0.6 < np.log(3) < nats("target")


def test_who_is_sure_by_the_score_claims_all(study):
    taught = pupil(study, "sure")
    lot = study.lots()[0]
    files = [study.run.table(lot.scores("label", shard)).to_pylist() for shard in study.shards(lot)]
    said = {row["request_id"]: row["score"] for file in files for row in file}
    rows = asked(study, "any")
    sure = np.array([said[row["request_id"]] >= np.log(0.03) for row in rows])
    shares = taught.targets[taught.synthetic][np.arange(len(rows)), [row["label"] for row in rows]]
    assert (shares[sure] == 1).all()
    assert (shares[~sure] < 1e-6).all()
    assert 0 < sure.sum() < len(sure)


def test_a_label_by_a_score_that_is_not_made_is_refused(study):
    fit = replace(study.recipe.fit("own"), mix=Replace(claims=Confident(score="clip")))
    with pytest.raises(Refusal, match=r"a label of same goes by the score 'clip', and its scores are none"):
        Pupil.of(study, fit, 0)


def test_pseudo_labels_of_either_kind_join_mixed_ones(study):
    taught, n = pupil(study, "half"), len(study.counts())
    pool, kept = np.zeros((4, *study.row_shape()[0]), study.row_shape()[1]), np.array([0, 2])
    hard, soft = np.array([1, 2]), np.array([[0.1, 0.9, 0], [0, 0.2, 0.8]], np.float32)
    for guessed in (hard, soft):
        more = replace(taught, fit=replace(taught.fit, pool=PseudoLabels("plain")))._and(
            pool, kept, guessed, None
        )
        real = int((~taught.synthetic).sum())
        assert more.labels.shape == (len(taught.labels) + 2, n)
        assert more.labels[real : real + 2] == pytest.approx(
            np.eye(n)[guessed] if guessed.ndim == 1 else guessed
        )
        assert (more.labels[real + 2 :] == taught.labels[real:]).all()
        assert more.weights.shape == (len(more.labels),)


def test_confusion_is_what_the_tutor_says_of_validation(study, monkeypatch):
    """Which classes lend their rows: over a whole plan, as the teachers' probabilities say."""
    lot = study.lots()[0]
    plan = study.run.table(lot.plan)
    found = _confusion(study, lot)
    assert found.sum(1) == pytest.approx(1)
    for label in range(3):
        share = found[label] + found[:, label]
        share[label] = 0
        mine = plan["source_label"].to_numpy()[plan["label"].to_numpy() == label]
        assert np.bincount(mine, minlength=3) == pytest.approx(40 * share / share.sum(), abs=2)
    monkeypatch.setattr(Study, "cell_count", lambda study, name: 6)
    cells = _confusion(study, lot)
    assert (cells[2:4, 4:6] == found[1, 2]).all(), "a cell is confused as its class is"
    assert cells.shape == (6, 6)
