"""The weights that trials start from: who they learn from, who starts from them, and that a kill between the two is nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from studies import fill, outcome

from counterpoise import Data, Holdout, Trials, open_source, parse_cut, run
from counterpoise.classifiers.losses import LDAM, BalancedSoftmax
from counterpoise.classifiers.mixing import Instance
from counterpoise.classifiers.pretraining import Pretraining
from counterpoise.classifiers.training import Training
from counterpoise.data.augment import Flip
from counterpoise.data.views import Zoom
from counterpoise.firstweights import HEAD, NOBODY, begin, first_units, make_first, material
from counterpoise.generators.simple import Oversample
from counterpoise.lots import Lot
from counterpoise.nets.resnet import SmallResNet
from counterpoise.proposals.budgets import Fixed
from counterpoise.proposals.pairings import SameClass
from counterpoise.pupils import Pupil
from counterpoise.recipe import Arm, Fit, Recipe, Synthesis
from counterpoise.rundir import Run
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.select import AtLeast, KeepAll
from counterpoise.stages import teach, train
from counterpoise.study import Study
from counterpoise.trialfiles import TrialFile, build_network
from counterpoise.types import describe, load

BRIEF = Training(steps=3, batch=8)
LABELS, TWINS = Pretraining("supervised", BRIEF, (Flip(),)), Pretraining("contrastive", BRIEF, (Zoom(),))
STARTS = {  # what each fit learns from, and how
    "pretrained": ("views", LABELS),
    "twins": ("views", TWINS),
    "empty": ("nothing", LABELS),
    "real_twins": (None, TWINS),
    "again": (None, LABELS),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    folder = fill(tmp_path_factory.mktemp("starts") / "photos", {"a": 40, "b": 24}, size=12)
    loss, look, made = BalancedSoftmax(), (Flip(),), Oversample(augment=(Flip(),))
    plain = Fit("plain", loss, Instance(), look)
    fits = [replace(plain, name=name, synthesis=of, start=start) for name, (of, start) in STARTS.items()]
    cosine = replace(fits[0], name="cosine", loss=LDAM())
    synthesis = Synthesis("views", made, Fixed(5), SameClass(), select=KeepAll())
    nothing = replace(
        synthesis,
        name="nothing",
        scores=(("nearest_real", NearestReal()),),
        select=AtLeast("nearest_real", 1e9),
    )
    return Recipe(
        "starts",
        Data(open_source(str(folder)), cut=parse_cut("exp:2"), holdout=Holdout(val=0.2, test=0.2, pool=0.2)),
        SmallResNet(width=4),
        Training(steps=2, batch=8),
        Trials(2, 2),
        (plain, *fits, cosine),
        tuple(Arm(fit.name, fit.name) for fit in (plain, *fits, cosine)),
        (synthesis, nothing),
    )


@pytest.fixture(scope="module")
def study(recipe, tmp_path_factory) -> Study:
    return Study.open(run(recipe, tmp_path_factory.mktemp("runs") / "run").path)


def file_of(study, name, draw):
    return load_file(
        study.run / f"{'teach' if STARTS[name][0] is None else 'train'}/{name}/draw_{draw}.safetensors"
    )


def test_there_is_a_file_for_each_fit_that_starts_and_each_draw_beside_its_trials(study):
    found = [unit for stage in (teach, train) for unit in stage.first(study)]
    assert sorted(found) == sorted(
        f"{stage}/{name}/draw_{draw}.safetensors"
        for stage, name in [("teach", "real_twins"), ("teach", "again")]
        + [("train", name) for name in ("pretrained", "twins", "empty", "cosine")]
        for draw in range(2)
    )
    assert all(study.run.has(unit) for unit in found)
    assert first_units(study, [study.recipe.fit("plain")]) == []


def test_what_it_learns_from_is_the_samples_alone_or_else_the_real_rows_and_for_twins_the_pool(study):
    kept = study.kept_vectors(Lot("views", 1))
    for name in ("pretrained", "twins"):
        rows, labels = material(study, study.recipe.fit(name), 1)
        assert np.array_equal(rows.raw(np.arange(len(rows))), kept)
        assert np.bincount(labels).tolist() == [5, 5]
    real = study.pixels("train")[study.draw_rows(1)]
    rows, labels = material(study, study.recipe.fit("again"), 1)
    assert np.array_equal(rows.raw(np.arange(len(rows))), real)
    rows, labels = material(study, study.recipe.fit("real_twins"), 1)
    everything = np.concatenate([real, study.pixels("pool")])
    assert len(study.pixels("pool")) > 0
    assert np.array_equal(rows.raw(np.arange(len(rows))), everything)
    assert (labels == NOBODY).sum() == len(study.pixels("pool"))


@pytest.mark.parametrize("name", ["pretrained", "real_twins", "cosine"])
def test_a_trial_begins_with_them_and_a_head_of_its_own(study, name):
    fit = study.recipe.fit(name)
    for trial in range(2):
        seed = study.seed("trial", trial)
        plain, net = (build_network(study, fit, seed) for _ in range(2))
        told = begin(study, fit, trial, net)
        first = load_file(study.run / first_units(study, [fit])[trial])
        state = net.state_dict()
        assert {name for name in state if not name.startswith(HEAD)} == set(first)
        assert all(np.array_equal(state[key].numpy().ravel(), value.ravel()) for key, value in first.items())
        assert torch.equal(net.head.weight, plain.head.weight)
        assert not torch.equal(net.stem.weight, plain.stem.weight)
        times = 2 if fit.start.method == "contrastive" else 1
        assert told["first_views"] == BRIEF.steps * BRIEF.batch * times
        file = TrialFile(study.run, study.trial_units(fit)[trial])
        assert file.notes["chosen"][f"{trial}/{name}"]["first_rows"] == told["first_rows"] > 0


def test_its_training_then_sees_the_real_rows_alone(study):
    one, other = (Pupil.of(study, study.recipe.fit(name), 0) for name in ("pretrained", "plain"))
    assert not one.synthetic.any()
    assert np.array_equal(one.rows.order, other.rows.order)
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.stream(5, 8, 3), other.stream(5, 8, 3))
    assert len(one.rows) == study.counts(0).sum()


def test_fits_of_a_draw_share_their_luck_and_draws_do_not(study, recipe, tmp_path):
    still = replace(LABELS, training=replace(BRIEF, lr=1e-9, weight_decay=0.0))
    fits = tuple(replace(fit, start=still) if fit.start else fit for fit in recipe.fits)
    other = Study.open(run(replace(recipe, fits=fits), tmp_path / "run", until="train").path)
    stems = {
        (name, draw): file_of(other, name, draw)["stem.weight"]
        for name in ("pretrained", "again")
        for draw in (0, 1)
    }
    assert np.allclose(stems["pretrained", 0], stems["again", 0], atol=1e-6)
    assert not np.allclose(stems["pretrained", 0], stems["pretrained", 1], atol=1e-3)


def test_without_a_sample_there_is_nothing_to_start_from_and_the_trial_is_the_plain_one(study):
    assert file_of(study, "empty", 0) == {}
    empty, plain = (
        TrialFile(study.run, study.trial_units(study.recipe.fit(name))[0]) for name in ("empty", "plain")
    )
    assert np.array_equal(empty.val_logits(0, "empty"), plain.val_logits(0, "plain"))
    assert empty.notes["chosen"]["0/empty"]["first_views"] == 0


def test_killed_between_the_first_weights_and_the_trials_the_result_is_the_same(
    study, recipe, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def kill(study, unit):
        raise Killed

    steps = train.STEPS
    monkeypatch.setattr(train, "STEPS", (steps[0], replace(steps[1], work=kill)))
    with pytest.raises(Killed):
        run(recipe, tmp_path / "run")
    assert (tmp_path / "run/train/pretrained/draw_0.safetensors").exists()
    assert not list((tmp_path / "run/train").glob("*/trial_*"))
    monkeypatch.undo()
    again = outcome(run(recipe, tmp_path / "run").path)
    expected = outcome(study.run.path)
    assert sorted(again) == sorted(expected)
    assert not [name for name in expected if again[name] != expected[name]]


def test_whoever_waits_is_told_how_far_it_is(study, monkeypatch):
    told = []
    monkeypatch.setattr(Run, "tell", lambda self, unit, share: told.append((unit, share)))
    unit = "train/twins/draw_1.safetensors"
    make_first(study, unit)  # what is there stays
    assert told == [(unit, pytest.approx(step / BRIEF.steps)) for step in (1, 2, 3)]


def test_the_recipe_is_loaded_back(recipe):
    fits = tuple(load(describe(fit)) for fit in recipe.fits)
    assert fits == recipe.fits
