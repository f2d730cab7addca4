from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from counterpoise.classifiers.training import features_of
from counterpoise.data.pixels import Rows
from counterpoise.lots import Lot
from counterpoise.metrics.fidelity import matched
from counterpoise.metrics.frechet import Statistics, frechet
from counterpoise.stages import measure
from counterpoise.study import Study
from counterpoise.trialfiles import file_of


@pytest.fixture(name="study")
def _study(finished) -> Study:
    return Study.open(finished.path)


def test_every_lot_that_a_trial_uses_is_measured_once(study):
    names = measure.units(study)
    assert names == [f"fidelity/{lot.place}.json" for lot in study.lots()]
    assert all(study.run.has(name) for name in names)
    assert all(Lot.of(name) in study.lots() for name in names)


def test_draws_that_no_trial_uses_and_recipes_without_samples_have_no_unit(study):
    recipe = study.recipe
    fewer = dataclasses.replace(recipe, trials=dataclasses.replace(recipe.trials, n=1))
    assert {Lot.of(name).draw for name in measure.units(Study(study.run, fewer))} == {0}
    real = [fit for fit in recipe.fits if fit.synthesis is None]
    arms = [arm for arm in recipe.arms if arm.fit in {fit.name for fit in real}]
    none = dataclasses.replace(recipe, synthesis=(), fits=tuple(real), arms=tuple(arms))
    assert measure.units(Study(study.run, none)) == []


def test_it_is_the_distance_in_the_features_of_the_plain_classifier_of_that_draw(study):
    lot = Lot("smote", 1)
    found = study.run.json(f"fidelity/{lot.place}.json")
    net = file_of(study, "ce", 1).network(study, 1)
    samples, selection = study.kept(lot)
    fake, real = (features_of(net, Rows.of(x)).numpy() for x in (samples, study.vectors("val")))
    made = selection["label"].to_numpy()
    here, there = matched(made, study.labels("val"), range(4), study.seed("measure", lot.place))
    whole = found["val"]["all"]
    assert (found["space"], found["kept"], whole["dim"]) == ("ce", len(samples), fake.shape[1])
    assert whole["n_fake"] == whole["n_real"] == len(here)
    expected = frechet(Statistics.of(fake[here]), Statistics.of(real[there]))
    assert whole["fd"] == pytest.approx(expected, rel=1e-3)


def test_copies_of_training_images_show_against_these(study):
    for draw in range(study.recipe.trials.draws):
        found = study.run.json(f"fidelity/round_0/copies/draw_{draw}.json")
        copies, real = found["train"]["all"], found["train_against_val"]["all"]
        assert copies["precision"] == 1
        assert copies["fd"] < real["fd"]
        assert copies["kid"] < 0, "rows that lie in both sets"


def test_bands_are_those_of_the_real_counts_and_small_ones_say_so(study):
    found = study.run.json("fidelity/round_0/smote/draw_0.json")["val"]
    bins = {row["bin"] for row in study.run.table("classes.parquet").to_pylist()}
    assert set(found) == {"all"} | bins
    for measured in found.values():
        assert measured["warnings"] or measured["undefined"], "this run is tiny"
        assert (measured["fd"] is None) == ("fd" in measured["undefined"])


def test_the_same_again(study, monkeypatch):
    kept = {}
    monkeypatch.setattr(type(study.run), "put_json", lambda run, name, value: kept.__setitem__(name, value))
    unit = measure.units(study)[0]
    measure.work(study, unit)
    assert json.loads(json.dumps(kept[unit])) == study.run.json(unit)


def test_of_many_rows_an_even_share_is_looked_at(study, monkeypatch):
    monkeypatch.setattr(measure, "MOST", 12)
    kept = {}
    monkeypatch.setattr(type(study.run), "put_json", lambda run, name, value: kept.__setitem__(name, value))
    measure.work(study, unit := "fidelity/round_0/copies/draw_0.json")
    assert 0 < kept[unit]["val"]["all"]["n_fake"] <= 12


@pytest.mark.parametrize(("frozen", "own"), [(True, False), (False, True)], ids=["features", "codes"])
def test_rows_that_are_vectors_are_measured_as_they_are(frozen, own):
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    bare = SimpleNamespace(frozen=frozen, own_space=lambda synthesis: own)
    encode = measure._encoder(bare, Lot("mix", 0))
    np.testing.assert_array_equal(encode(Rows.of(x, order=np.array([3, 1]))), x[[3, 1]])


def test_codes_are_a_space_of_their_own_named_after_the_generator_that_was_fitted(study):
    class Coded(Study):
        def own_space(self, synthesis):
            return synthesis == "smote"

        def generator_of(self, lot):
            return "generators/round_0/copies/draw_0"

    coded = Coded(study.run, study.recipe)
    assert measure._space(coded, Lot("smote", 0)) == "codes of copies"
    assert measure._space(coded, Lot("copies", 0)) == "ce"


def test_the_first_draw_is_laid_out_flat_with_one_set_of_real_rows(study):
    laid = {
        lot: study.run.json(f"fidelity/{lot.place}.json").get("map") for lot in study.lots() if lot.draw < 2
    }
    assert all((found is not None) == (lot.draw == 0) for lot, found in laid.items())
    first = [found for found in laid.values() if found is not None]
    counts = study.counts(0)
    for found in first:
        assert found["real"] == first[0]["real"], "panels of one space show the same real images"
        assert found["rarest"] == np.argsort(counts, kind="stable").tolist()
        for side in ("real", "samples"):
            assert len(found[side]["xy"]) == len(found[side]["label"]) <= 300
    there = np.bincount(study.labels("val"), minlength=4) + counts
    assert np.bincount(first[0]["real"]["label"]).tolist() == there.tolist(), "few enough to show all"


def test_a_copy_lies_on_the_image_it_copies(study):
    found = study.run.json("fidelity/round_0/copies/draw_0.json")["map"]
    real = {(*xy, label) for xy, label in zip(found["real"]["xy"], found["real"]["label"], strict=True)}
    near = np.array([xy[:2] for xy in real])
    for xy in found["samples"]["xy"]:
        assert np.abs(near - xy).max(1).min() <= 0.0021


def test_the_page_has_the_section(study):
    page = (study.run / "report.html").read_text(encoding="utf-8")
    assert "Are the samples any good?" in page
    assert "What these numbers are too small for" in page
    assert "Where the samples lie" in page
    assert 'id="mixture"' not in page, "no latent mixture was fitted"
    (told,) = study.run.json("report.json")["quality"]
    assert {row["synthesis"] for row in told["tables"][0]["rows"]} == {
        item.name for item in study.recipe.synthesis
    }
