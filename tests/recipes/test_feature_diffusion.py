"""CPU twins of the recipes that make features and codes: to their end, delivered, and taken away."""

import dataclasses
import json
import shutil
from typing import get_args

import numpy as np
import pytest
from typer.testing import CliRunner

from counterpoise import Data, Holdout, Predictor, Refusal, Run, Trials, open_source, parse_cut, run
from counterpoise.arms import LOSSES, LossName
from counterpoise.cli import app
from counterpoise.gathering import real_of, rows_of
from counterpoise.lots import Lot
from counterpoise.nets.vae import ImageVAE, VectorVAE
from counterpoise.recipes.baselines import baselines
from counterpoise.recipes.feature_diffusion import feature_diffusion
from counterpoise.recipes.latent_mixture import latent_mixture
from counterpoise.stages.deliver import deliver
from counterpoise.study import Study
from counterpoise.trialfiles import TrialFile, file_of

pytest.importorskip("transformers", reason="the hf extra is not installed")


def study(function, source, **flags):
    data = Data(open_source(str(source)), cut=parse_cut("exp:4:top=12"), holdout=Holdout(val=0.2, test=0.25))
    return function(data, Trials(3), smoke=True, **flags)


@pytest.fixture(scope="session", params=["diffusion", "mixture on features", "mixture on pixels"])
def done(request, photos, tiny, tmp_path_factory) -> Run:
    to = tmp_path_factory.mktemp("runs") / "run"
    if request.param == "mixture on pixels":
        return run(study(latent_mixture, photos, width=4, steps=6), to)
    function = feature_diffusion if request.param == "diffusion" else latent_mixture
    return run(study(function, photos, backbone=str(tiny), components=5, steps=30), to)


def delivered(done: Run, arm: str, to):
    shutil.copytree(done.path, to / "run")
    shutil.rmtree(to / "run/classifier")
    verdict = done.verdict | {"recommendation": done.verdict["recommendation"] | {"arm": arm}}
    (to / "run/verdict.json").write_text(json.dumps(verdict))
    deliver(Study.open(to / "run"), "classifier/counterpoise.json")
    (to / "run/classifier").rename(to / "taken")
    (to / "run").rename(to / "away")
    return to / "taken"


def test_every_arm_of_the_table_is_measured(done):
    study, arms = Study.open(done.path), done.metrics["arms"]
    cheap = {"ce", "logit_adjustment", "crt", "tau_norm", "balanced_softmax", "balanced_sampling"}
    assert cheap <= set(arms)
    if study.recipe.name == "feature_diffusion":
        made = {"smote", "gaussian", "translation", "feature_diffusion", "translated", "varied"}
        assert made | {f"{name}_adjusted" for name in made} <= set(arms)
        roles = {name: arms[name]["role"] for name in made}
        controls = {name for name, role in roles.items() if role == "control"}
        assert controls == {"smote", "gaussian", "translation"}
    else:
        own = {"encoder", "encoder_adjusted", "mixture_softmax", "mixture_softmax_adjusted", "mixture_rule"}
        assert own | {"component", "transfer", "posterior"} <= set(arms)
        assert arms["encoder"]["role"] == "control", (
            "the same network without its generative terms is no candidate"
        )
    for arm in arms.values():
        assert all(0 <= trial["balanced_accuracy"] <= 1 for trial in arm["trials"])


def test_classes_are_filled_up_and_syntheses_of_one_generator_share_its_weights(done):
    study = Study.open(done.path)
    for lot in study.lots():
        _, labels, _, synthetic = rows_of(study, lot.draw, lot.synthesis)
        counts = np.bincount(labels, minlength=3)
        if lot.synthesis != "encoder":
            kept = study.run.meta(lot.selected)["funnel"]
            assert counts.sum() == study.counts(lot.draw).sum() + kept["kept"]
            assert kept["made"] == kept["asked"]
            if not kept["dropped"]:
                assert counts.min() == counts.max()
        else:
            assert not synthetic.any()
    folders = {study.generator_of(lot) for lot in study.lots() if lot.draw == 0}
    weights = {
        path.relative_to(study.run.path).parent.as_posix()
        for path in (study.run / "generators").rglob("weights.safetensors")
    }
    learning = {
        study.generator_of(lot) for lot in study.lots() if study.synthesis(lot.synthesis).generator.learns
    }
    assert weights == learning
    assert len(folders) < len(study.recipe.synthesis)


def test_samples_lie_where_their_classifier_works(done):
    study = Study.open(done.path)
    for lot in study.lots():
        samples, _ = study.kept(lot)
        like = study.vectors("train", lot.draw, lot.synthesis)
        assert samples.shape[1:] == like.shape[1:]
        assert samples.dtype == like.dtype
        if study.own_space(lot.synthesis):
            assert like.ndim == 2, "codes"


def test_own_predictions_follow_the_generator_that_was_fitted(done):
    study = Study.open(done.path)
    if study.recipe.name != "latent_mixture":
        pytest.skip("no predictions of its own")
    for kind in ("softmax", "rule"):
        fit = study.recipe.fit(f"mixture_{kind}")
        lot = Lot(fit.synthesis, 0)
        generator = study.synthesis(fit.synthesis).generator
        told = generator.head(study.run / study.generator_of(lot), fit.own)
        codes = generator.encoder(study.run / study.generator_of(lot))(study.vectors("val", 0))
        expected = codes @ told["weight"].T + told["bias"]
        if "square" in told:
            expected = expected + codes**2 @ told["square"].T
        (unit,) = study.trial_units(fit)
        np.testing.assert_allclose(TrialFile(study.run, unit).val_logits(0, fit.name), expected, atol=1e-3)


ARMS = {
    "feature_diffusion": ["logit_adjustment", "feature_diffusion"],
    "latent_mixture": ["ce", "mixture_rule", "transfer"],
}


def test_what_is_delivered_predicts_as_it_did_without_the_run(done, tmp_path):
    study = Study.open(done.path)
    for arm in ARMS[study.recipe.name]:
        (tmp_path / arm).mkdir()
        taken = Predictor.open(delivered(done, arm, tmp_path / arm))
        trial = taken.card["trial"]
        stored = file_of(study, arm, trial).val_logits(trial, arm) / taken.card["temperature"]
        expected = np.exp(stored - stored.max(1, keepdims=True))
        found = taken.probabilities(np.asarray(study.pixels("val")))
        np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=2e-3)


def test_components_are_those_of_the_rows_that_the_cut_left(photos, tiny, tmp_path):
    made = run(
        study(baselines, photos, backbone=str(tiny), steps=6, draws=2), tmp_path / "run", until="teach"
    )
    assert not (made.path / "features/projection").exists()
    made = run(
        study(feature_diffusion, photos, backbone=str(tiny), components=4, steps=6, draws=2),
        tmp_path / "few",
        until="teach",
    )
    found = Study.open(made.path)
    for draw in (0, 1):
        rows, _, _ = real_of(found, draw)
        seen = rows.raw(np.arange(len(rows)))
        assert seen.shape[1] == 4
        np.testing.assert_allclose(seen.mean(0), 0, atol=1e-4)
    assert not np.allclose(found.projection(0).basis, found.projection(1).basis)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_heads_on_made_rows_take_every_loss(photos, tiny, loss):
    assert set(LOSSES) == set(get_args(LossName))
    for function in (feature_diffusion, latent_mixture):
        made = study(function, photos, backbone=str(tiny), loss=loss)
        heads = [fit for fit in made.fits if fit.synthesis and not fit.own]
        assert heads
        assert {fit.loss for fit in heads} == {LOSSES[loss]}


def test_what_cannot_go_together_is_refused_at_once(photos, tiny):
    with pytest.raises(Refusal, match="--backbone NAME"):
        study(feature_diffusion, photos)
    with pytest.raises(Refusal, match="--published settles"):
        study(latent_mixture, photos, published=True, kl=0.1)


def test_a_generator_of_features_is_no_generator_of_pixels(photos, tiny):
    pixels = study(latent_mixture, photos)
    features = study(feature_diffusion, photos, backbone=str(tiny))
    with pytest.raises(Refusal, match="works on features, and this study's rows are pixels"):
        dataclasses.replace(features, network=pixels.network)
    fit = dataclasses.replace(features.fits[-1], own="mixture")
    with pytest.raises(Refusal, match="makes no predictions of its own"):
        dataclasses.replace(features, fits=(*features.fits[:-1], fit))


def test_the_published_mixture_takes_features_as_well(photos, tiny):
    for flags, network in (({"backbone": str(tiny)}, VectorVAE), ({}, ImageVAE)):
        made = study(latent_mixture, photos, published=True, **flags)
        assert {type(item.generator.network) for item in made.synthesis} == {network}
        assert {item.generator.network.latent for item in made.synthesis} == {2048}


def test_own_predictions_claim_only_where_every_trial_has_a_fit_of_its_own(photos):
    """With one fit for all trials its luck would be counted as often as there are trials."""
    for draws, role in ((None, "control"), (2, "control"), (3, "candidate")):
        roles = {arm.name: arm.role for arm in study(latent_mixture, photos, draws=draws).arms}
        assert roles["mixture_softmax_adjusted"] == roles["mixture_rule"] == role
        assert roles["transfer"] == "candidate"


def test_a_mixture_that_would_learn_for_another_time_is_refused_and_named(photos, tmp_path):
    run(study(latent_mixture, photos, width=4, steps=2, fit_steps=3), tmp_path / "run", until="plan")
    with pytest.raises(Refusal, match=r"generator\.fit_steps was 3, the recipe now says 4.*--redo fit"):
        run(study(latent_mixture, photos, width=4, steps=2, fit_steps=4), tmp_path / "run")


def test_settings_out_of_range_are_refused_by_name(photos, tiny, tmp_path):
    for flag, value, field in (
        ("strength", "2", "FromLarger.strength"),
        ("components", "-1", "Frozen.components"),
    ):
        command = ["run", str(photos), "--recipe", "feature_diffusion", "--backbone", str(tiny), "--smoke"]
        answer = CliRunner().invoke(app, [*command, f"--{flag}", value, "--to", str(tmp_path / flag)])
        assert isinstance(answer.exception, Refusal), answer.output
        assert str(answer.exception).startswith(field)
    with pytest.raises(Refusal, match="--kl is the weight of the mixture"):
        study(latent_mixture, photos, kl=0.0)
