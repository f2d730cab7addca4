"""Heads that begin as class names, from a folder of pictures to the classifier that is taken home."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from studies import fill

from counterpoise import Data, Holdout, Predictor, Refusal, Trials, open_source
from counterpoise.classifiers.batched import HeadJob
from counterpoise.classifiers.decoupling import CRT, LWS, NCM, PosthocLA, Rows, TauNorm
from counterpoise.classifiers.losses import CE, BalancedSoftmax
from counterpoise.classifiers.mixing import Concatenate, Instance, Progressive
from counterpoise.classifiers.training import Training
from counterpoise.classifiers.tuning import Taught, Tuning, from_names
from counterpoise.gathering import rows_of
from counterpoise.generators.simple import Oversample
from counterpoise.pipeline import execute
from counterpoise.proposals.budgets import FillUp
from counterpoise.proposals.pairings import SameClass
from counterpoise.pupils import Pupil
from counterpoise.recipe import Arm, Fit, Recipe, Synthesis
from counterpoise.spaces.features import Frozen
from counterpoise.study import Study
from counterpoise.trialfiles import file_of
from counterpoise.tuned import _aims, _taught, tuned_heads

pytest.importorskip("transformers")

NAMES = {"apple": 24, "rose": 12, "dolphin": 8}
TEMPLATES = ("a photo of {a}", "a picture of {a}")
SHORT = Tuning(TEMPLATES, steps=12, batch=8, synthetic_batch=16)
WIDE = replace(SHORT, rates=(1e-3, 1e-2), towards="names", decays=(1.0,))
MIX = {"synthesis": "copies", "mix": Concatenate()}
FITS = (
    Fit("names", CE(), Instance(), tuning=replace(SHORT, steps=0)),
    Fit("tuned", CE(), Instance(), tuning=WIDE),
    Fit("mixed", BalancedSoftmax(), Progressive(), tuning=SHORT, **MIX),
    Fit("made_first", CE(), Instance(), tuning=replace(SHORT, order="synthetic_first"), **MIX),
)
AFTER = {
    "crt": CRT(steps=5),
    "lws": LWS(steps=5),
    "tau": TauNorm(),
    "ncm": NCM(),
    "adjusted": PosthocLA(of="real"),
}


def recipe(photos, fits=FITS, arms=(), **more):
    return Recipe(
        name="from_names",
        data=Data(open_source(str(photos)), size=32, holdout=Holdout(val=4, test=4)),
        network=Frozen("miniature"),
        training=Training(),
        trials=Trials(2),
        fits=fits,
        arms=(*(Arm(fit.name, fit.name) for fit in fits), *arms),
        synthesis=(Synthesis("copies", Oversample(), FillUp(), SameClass()),),
        **more,
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("data") / "photos", NAMES, 32)


@pytest.fixture(scope="module")
def done(photos, tmp_path_factory):
    """With features of its own: those that another test has left came from other batches, and differ in the last bit."""
    arms = [Arm(name, "mixed", after) for name, after in AFTER.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COUNTERPOISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return execute(recipe(photos, arms=arms), tmp_path_factory.mktemp("runs") / "run", until="evaluate")


def test_before_any_step_it_is_the_zero_shot_classifier_of_the_pair_bit_for_bit(done):
    """V2: the same logits and answers as the pair gives to the pictures themselves."""
    from counterpoise.nets.clip import open_clip_pair

    study, pair = Study.open(done.path), open_clip_pair("miniature")
    said = pair.classes(TEMPLATES, study.called)
    head = file_of(study, "names", 1).head(1, "names")
    for role in ("val", "test"):
        logits = pair.pictures(study.pixels(role)) @ (pair.scale * said).T
        assert np.array_equal(head.logits(study.vectors(role)), logits.numpy())
    right = (logits.argmax(1).numpy() == study.labels("test")).mean()
    assert done.json("metrics.json")["arms"]["names"]["trials"][1]["accuracy"] == right
    assert np.array_equal(
        file_of(study, "names", 1).val_logits(1, "names"), head.logits(study.vectors("val"))
    )
    assert done.json("metrics.json")["arms"]["names"]["prior"] == pytest.approx([1 / 3] * 3, abs=1e-5)


def test_every_arm_is_measured_and_says_what_validation_chose(done):
    arms = done.json("metrics.json")["arms"]
    assert set(arms) == {fit.name for fit in FITS} | set(AFTER)
    assert all(set(one) == {"lr"} for one in arms["tuned"]["chosen"]), (
        "of what there was one of, none was chosen"
    )
    assert arms["mixed"]["chosen"] == [{}, {}]
    assert set(arms["tau"]["chosen"][0]) == {"tau"}


def test_a_trial_is_the_tuning_of_its_own_rows(done):
    """Alone and by hand: the real rows as other arms see them, trials apart, validation's choice."""
    study = Study.open(done.path)
    fit, trial = study.recipe.fit("tuned"), 1
    rows, labels, _, _ = rows_of(study, 0, None)
    pupil = Pupil.of(study, fit, trial)
    stream = pupil.stream(WIDE.steps, WIDE.batch, study.seed("trial", trial))
    job = HeadJob(rows.order[stream], labels, CE(), np.ones(3), 0)
    start = from_names(*study.recipe.network.said(TEMPLATES, study.called))
    (chosen,) = [done.json("metrics.json")["arms"]["tuned"]["chosen"][trial]["lr"]]
    tried = WIDE(study.vectors("train"), [Taught(job, None)], start)
    (head,) = next(heads for choice, heads in tried if choice["lr"] == chosen)
    np.testing.assert_allclose(
        file_of(study, "tuned", trial).head(trial, "tuned").weight, head.weight, atol=1e-5
    )


def test_each_stream_has_the_prior_of_what_it_yields_and_what_it_is_taught_as(done):
    study = Study.open(done.path)
    fit = study.recipe.fit("mixed")
    pupil = Pupil.of(study, fit, 0)
    start = from_names(*study.recipe.network.said(TEMPLATES, study.called))
    aims = _aims(pupil, SHORT, pupil.matrix, start)
    seen = _taught(pupil, SHORT, aims, seed=5)
    real, made = study.counts() / study.counts().sum(), aims[pupil.rows.order[pupil.synthetic]]
    np.testing.assert_allclose(_shares(seen.real.prior(0.0)), real, atol=1e-6)
    np.testing.assert_allclose(_shares(seen.synthetic.prior(0.0)), made.mean(0), atol=1e-6)
    np.testing.assert_allclose(_shares(seen.real.prior(1.0)), 1 / 3, atol=1e-6)
    assert not pupil.synthetic[np.isin(pupil.rows.order, seen.real.rows)].any()
    assert pupil.synthetic[np.isin(pupil.rows.order, seen.synthetic.rows)].all()
    half = np.eye(3)[pupil.labels[pupil.synthetic]] / 2
    assert (made >= half).all(), "half of it is the label"
    assert (made > half).all(), "and half what the names say"

    (one, _) = tuned_heads(study, fit, [0, 1])
    np.testing.assert_allclose(one.prior, 1 / 3 + _shares(seen.synthetic.prior(1.0)), atol=1e-6)
    (last,) = tuned_heads(study, study.recipe.fit("made_first"), [0])
    np.testing.assert_allclose(last.prior, real)


def _shares(masses):
    return masses / masses.sum()


def test_wise_goes_back_to_the_names_where_validation_likes_them_better(done):
    study = Study.open(done.path)
    fit = replace(study.recipe.fit("tuned"), wise=True, tuning=replace(WIDE, rates=(5.0,), decays=(0.1,)))
    start = from_names(*study.recipe.network.said(TEMPLATES, study.called))
    (far,) = tuned_heads(study, replace(fit, wise=False), [0])
    (one,) = tuned_heads(study, fit, [0])
    alpha = one.chosen["alpha"]
    assert 0 <= alpha <= 1
    np.testing.assert_allclose(
        one.head.weight, (1 - alpha) * start.weight + alpha * far.head.weight, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("wanted", ["real", "none"])
def test_without_real_rows_it_is_tuned_on_synthetic_ones_or_not_at_all(done, monkeypatch, wanted):
    """A study from class names alone."""
    study = Study.open(done.path)
    monkeypatch.setattr(Study, "draw_rows", lambda self, draw: np.zeros(0, np.int64))
    whole = Study.vectors
    nothing = lambda self, role, *more: whole(self, role, *more)[: 0 if role == "train" else None]  # noqa: E731
    monkeypatch.setattr(Study, "vectors", nothing)
    if wanted == "real":
        (one,) = tuned_heads(study, study.recipe.fit("made_first"), [0])
        assert len(one.train.labels) > 0
        assert not one.train.real.any()
        with pytest.raises(Refusal, match="no real row"):
            PosthocLA(of="real")(one.head, one.train, Rows(np.zeros((0, 1)), np.zeros(0)), one.prior, 0)
        return
    (one,) = tuned_heads(study, study.recipe.fit("names"), [0])
    assert len(one.train.labels) == 0
    # A filter may have let nothing pass: then the names stay what is known.
    (untaught,) = tuned_heads(study, study.recipe.fit("tuned"), [0])
    np.testing.assert_array_equal(untaught.head.weight, one.head.weight)


def test_it_is_taken_home(photos, tmp_path):
    """A head on directions has no affine form, so that the backbone is named in the card, and features go through it."""
    made = execute(recipe(photos, FITS[1:2]), tmp_path / "run", until="deliver")
    taken, study = Predictor.open(made.path), Study.open(made.path)
    arm, trial = taken.card["arm"], taken.card["trial"]
    logits = file_of(study, arm, trial).val_logits(trial, arm)
    assert taken.head.normalise
    assert not taken.card["transformers"]
    said = taken.probabilities(np.asarray(study.pixels("val")))
    np.testing.assert_allclose(said, softmax(logits / taken.card["temperature"], 1), atol=1e-5)


def test_weights_that_changed_since_the_features_were_made_are_refused(done, monkeypatch):
    """V6, of the words: that of the features is in test_encoding.py."""
    study = Study.open(done.path)
    monkeypatch.setattr(Frozen, "digest", lambda self: "of others")
    with pytest.raises(Refusal, match="changed since this run was begun"):
        next(tuned_heads(study, study.recipe.fit("names"), [0]))


def test_features_of_another_width_are_refused(done, monkeypatch):
    study = Study.open(done.path)
    monkeypatch.setattr(Frozen, "said", lambda self, templates, names: (np.eye(3, 7, dtype=np.float32), 10.0))
    with pytest.raises(Refusal, match="features have 192 numbers and class names 7"):
        next(tuned_heads(study, study.recipe.fit("tuned"), [0]))
