"""Samples until a class has as many as are wanted: rounds that ask for no more than it takes, and that end."""

from dataclasses import replace

import numpy as np
import pytest
from studies import fill, small

from counterpoise.classifiers.mixing import Concatenate
from counterpoise.generators.simple import Interpolate
from counterpoise.pipeline import execute
from counterpoise.proposals.budgets import Fixed
from counterpoise.proposals.pairings import Neighbours
from counterpoise.proposals.quotas import Quota, Tally
from counterpoise.recipe import Arm, Fit, Synthesis
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.select import AtLeast
from counterpoise.study import Study

CLASSES = {"cat": 12, "dog": 9}
WANTED = 40


def recipe_of(root, limit, budget=None, **quota):
    base = small(root, trials=1)
    made = Synthesis(
        "smote",
        Interpolate(),
        budget or Quota(Fixed(WANTED), **quota),
        Neighbours(k=3),
        (("nearest_real", NearestReal()),),
        AtLeast("nearest_real", limit),
    )
    plain = base.fits[0]
    fits = (plain, Fit("smote", plain.loss, plain.sampler, plain.augment, "smote", Concatenate()))
    return replace(
        base,
        fits=fits,
        arms=(Arm(plain.name, plain.name), Arm("smote", "smote", role="candidate")),
        synthesis=(made,),
        rows_per_shard=16,
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("quota") / "photos", CLASSES)


@pytest.fixture(scope="module")
def limit(photos, tmp_path_factory):
    """What about 40 % of samples reach."""
    run = execute(recipe_of(photos, 0.0, Fixed(200)), tmp_path_factory.mktemp("all") / "run", until="score")
    study = Study.open(run.path)
    (lot,) = study.lots()
    found = [study.run.table(lot.scores("nearest_real", shard))["score"] for shard in study.shards(lot)]
    return float(np.quantile(np.concatenate(found), 0.6))


def tallies(study):
    lots = study.lots()
    made = np.sum([study.run.meta(lot.plan)["wanted"] for lot in lots], 0)
    kept = np.bincount(study.kept_of(lots[0])[1]["label"].to_numpy(), minlength=len(CLASSES))
    return lots, made, kept


def test_a_class_stops_when_it_has_what_is_wanted(photos, limit, tmp_path):
    """At a share of 40 % nearly no sample is made that an oracle would not have needed."""
    run = execute(recipe_of(photos, limit), tmp_path / "run", until="select")
    study = Study.open(run.path)
    lots, made, kept = tallies(study)
    assert (kept == WANTED).all()
    assert 2 < len(lots) <= 12
    ends = []
    for label in range(len(CLASSES)):  # the place of the last that was needed among all that were made
        dropped = [
            row["drop"]
            for lot in lots
            for row in sorted(study.run.table(lot.selected).to_pylist(), key=lambda row: row["request_id"])
            if row["label"] == label
        ]
        ends.append(np.flatnonzero(np.cumsum([d is None for d in dropped]) >= WANTED)[0] + 1)
    assert made.sum() <= 1.1 * sum(ends) + 2
    assert made.sum() > 2 * kept.sum()  # it really had to make many more than it kept


def test_a_filter_that_rejects_everything_ends_with_the_counts(photos, tmp_path):
    run = execute(recipe_of(photos, 1e9, most=2), tmp_path / "run")
    study = Study.open(run.path)
    _, made, kept = tallies(study)
    assert kept.tolist() == [0, 0]
    assert made.tolist() == [2 * WANTED] * 2
    note = " ".join(study.run.json("report.json")["funnel"][0]["notes"])
    assert "0 of 80" in note
    assert "cat" in note


def test_rounds_do_not_depend_on_how_often_a_run_was_stopped(photos, limit, tmp_path):
    whole = execute(recipe_of(photos, limit), tmp_path / "whole", until="select")
    for stage in ("plan", "generate", "score", "select"):
        run = execute(recipe_of(photos, limit), tmp_path / "parts", until=stage)
    one, other = (tallies(Study.open(made.path)) for made in (whole, run))
    assert one[0] == other[0]
    assert np.array_equal(
        Study.open(whole.path).kept_of(one[0][0])[0], Study.open(run.path).kept_of(one[0][0])[0]
    )


@pytest.mark.parametrize("share", [0.9, 0.4, 0.1])
@pytest.mark.parametrize("wanted", [50, 400])
def test_what_a_quota_costs_over_an_oracle(share, wanted):
    """Of 200 classes; the oracle stops at the sample that fills the class."""
    quota, classes = Quota(Fixed(wanted), most=1000, rounds=40), 200
    luck = np.random.default_rng(0).random((classes, int(3 * wanted / share) + 200)) < share
    oracle = 1 + (luck.cumsum(1) >= wanted).argmax(1)
    wanted_ = ask = quota(np.ones(classes, int))
    made, rounds = np.zeros(classes, np.int64), 0
    while ask.any():
        made, rounds = made + ask, rounds + 1
        kept = np.array([row[:n].sum() for row, n in zip(luck, made, strict=True)])
        ask = quota.more(wanted_, Tally(made, kept))
    assert (kept >= wanted).all()
    assert made.sum() <= 1.1 * oracle.sum()
    assert rounds <= 15
