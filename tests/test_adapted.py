"""A study whose classifiers are a CLIP with adapters: told what its classes are called, from folder to delivered classifier."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from pairs import SIZE, saved_pair
from safetensors.numpy import load_file
from scipy.special import softmax
from studies import fill

from counterpoise import Data, Holdout, Predictor, Refusal, Trials, open_source, run
from counterpoise.classifiers.decoupling import CRT, PosthocLA
from counterpoise.classifiers.losses import LDAM, BalancedSoftmax
from counterpoise.classifiers.mixing import Concatenate, Instance
from counterpoise.classifiers.training import Training, features_of
from counterpoise.data.augment import Flip
from counterpoise.data.pixels import Rows
from counterpoise.generators.simple import Copies
from counterpoise.nets.clip import open_clip_pair
from counterpoise.nets.clip_tuned import Adapted
from counterpoise.proposals.budgets import FillUp
from counterpoise.proposals.pairings import SameClass
from counterpoise.recipe import Arm, Fit, Recipe, Synthesis
from counterpoise.scores.select import KeepAll
from counterpoise.study import Study
from counterpoise.trialfiles import build_network, file_of

pytest.importorskip("transformers", reason="the hf extra is not installed")


@pytest.fixture(scope="module", params=[True, False], ids=["text", "image"])
def made(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapted")
    photos = fill(root / "photos", {"oak_tree": 24, "n0123": 12}, SIZE)
    look, loss = (Flip(),), BalancedSoftmax()
    data = Data(open_source(str(photos)), holdout=Holdout(val=0.25, test=0.25), glossary=(("n0123", "rose"),))
    recipe = Recipe(
        name="adapted",
        data=data,
        network=Adapted(str(saved_pair(root / "pair")), rank=2, text=request.param),
        training=Training(steps=6, batch=8, lr=0.03),
        trials=Trials(2),
        fits=(
            Fit("plain", loss, Instance(), look),
            Fit("cosines", LDAM(), Instance(), look),
            Fit("copies", loss, Instance(), look, "copies", Concatenate()),
        ),
        arms=(
            Arm("plain", "plain"),
            Arm("retrained", "plain", CRT(steps=5)),
            Arm("cosines", "cosines"),
            Arm("copies", "copies", PosthocLA(), role="candidate"),
        ),
        synthesis=(Synthesis("copies", Copies(), FillUp(), SameClass(), select=KeepAll()),),
    )
    return run(recipe, root / "run", until="report" if request.param else "deliver")


def test_a_network_is_told_what_its_classes_are_called(made):
    study = Study.open(made.path)
    assert sorted(study.called) == ["oak_tree", "rose"]
    net = build_network(study, study.recipe.fits[0], seed=0)
    pair = open_clip_pair(study.recipe.network.backbone)
    said = pair.scale * pair.classes(("a photo of {a}",), study.called)
    np.testing.assert_allclose(net.head.weight.detach(), said, atol=1e-4)


def test_a_trial_holds_what_was_learnt_and_says_the_same_again(made):
    study = Study.open(made.path)
    size = (made.path.parent / "pair" / "model.safetensors").stat().st_size
    for arm in ("plain", "cosines", "copies"):
        file = file_of(study, arm, 1)
        assert (made / file.unit).stat().st_size < size / 3
        net = file.network(study, 1)
        features = features_of(net, Rows.of(study.pixels("val"))).numpy()
        np.testing.assert_allclose(
            file.head(1, arm).logits(features), file.val_logits(1, arm), atol=1e-4, rtol=1e-4
        )


def test_the_delivered_classifier_needs_no_run(made, tmp_path):
    shutil.copytree(made / "classifier", tmp_path / "taken")
    taken, study = Predictor.open(tmp_path / "taken"), Study.open(made.path)
    card = taken.card
    assert (card["called"], card["transformers"]) == (study.called, False)
    assert set(card["labels"]) == {"oak_tree", "n0123"}
    logits = file_of(study, card["arm"], card["trial"]).val_logits(card["trial"], card["arm"])
    p = taken.probabilities(np.asarray(study.pixels("val")))
    np.testing.assert_allclose(p, softmax(logits / card["temperature"], 1), atol=1e-4)
    arrays = load_file(tmp_path / "taken" / "model.safetensors")
    assert any(name.startswith("net/tower.learnt") for name in arrays)


def test_between_the_given_and_the_trained_weights_is_not_between_adapters(made):
    recipe = Study.open(made.path).recipe
    with pytest.raises(Refusal, match=r"WiSE-FT goes back towards given weights, and Adapted"):
        replace(recipe, fits=(replace(recipe.fits[0], wise=True), *recipe.fits[1:]))
