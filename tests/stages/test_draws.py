"""A cut that draws anew which classes are rare: shot bins differ between draws, and nothing may assume otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from studies import fill, small

from counterpoise import run
from counterpoise.metrics.accuracy import SLICES, shot_bins
from counterpoise.stages.evaluate import STEPS, _means
from counterpoise.stages.report import facts_of
from counterpoise.study import Study
from counterpoise.trialfiles import file_of

CLASSES = {"a": 190, "b": 60, "c": 40}
ARMS = ("ce", "balanced_softmax", "smote")


@pytest.fixture(name="photos", scope="module")
def _photos(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("draws") / "photos", CLASSES, size=8)


def three_draws(photos: Path, to: Path, cut: str) -> Study:
    recipe = small(photos, cut=cut, trials=3)
    recipe = replace(
        recipe,
        fits=tuple(fit for fit in recipe.fits if fit.name in ARMS),
        arms=tuple(arm for arm in recipe.arms if arm.name in ARMS),
        synthesis=tuple(item for item in recipe.synthesis if item.name in ARMS),
    )
    return Study.open(run(recipe, to).path)


@pytest.fixture(name="study", scope="module")
def _study(photos, tmp_path_factory) -> Study:
    """Three draws of which only the first has a class with many images."""
    study = three_draws(photos, tmp_path_factory.mktemp("runs") / "run", "exp:3:shuffled")
    assert ["many" in shot_bins(study.counts(draw)) for draw in range(3)] == [True, False, False]
    return study


def test_a_mean_is_over_the_trials_that_have_the_measure(study):
    for found in study.run.json("metrics.json")["arms"].values():
        trials, mean = found["trials"], found["mean"]
        assert mean["many"] == trials[0]["many"]
        assert mean["medium"] == pytest.approx(np.mean([trial["medium"] for trial in trials]))
    assert _means([{"all": 1.0}, {"all": 0.5, "many": 0.25}]) == {"all": 0.75, "many": 0.25}


def test_the_verdict_is_on_the_slices_that_all_trials_have_whichever_draw_comes_first(study, monkeypatch):
    assert study.run.json("verdict.json")["family"]["slices"] == ["all", "medium", "rarest", "worst_class"]
    metrics, written = study.run.json("metrics.json"), {}
    for found in metrics["arms"].values():
        found["trials"].reverse()
    monkeypatch.setattr(type(study.run), "json", lambda run, name: metrics)
    monkeypatch.setattr(type(study.run), "put_json", lambda run, name, value: written.update(value))
    STEPS[-1].work(study, "verdict.json")
    assert written["family"]["slices"] == ["all", "medium", "rarest", "worst_class"]
    assert set(written["family"]["slices"]) < set(SLICES)


def test_samples_of_a_band_are_shown_though_other_draws_lack_it(study):
    for table in study.run.json("report.json")["quality"][0]["tables"]:
        assert [row["band"] for row in table["rows"]] == ["all", "many", "medium", "rarest"]


def test_the_page_speaks_of_one_drawing_of_the_rare_classes_and_says_so(study):
    facts = study.run.json("report.json")
    counts = study.counts(0)
    assert [row["train"] for row in facts["audit"]["classes"]] == counts.tolist()
    tested = dict(zip(study.classes, np.bincount(study.labels("test")).tolist(), strict=True))
    for arm in facts["confusion"]["arms"]:
        sums = dict(zip(facts["confusion"]["rows"], np.sum(arm["matrix"], 1), strict=True))
        assert sums == pytest.approx({name: tested[name] for name in sums}, abs=0.2), "of one trial"
        predictions = study.run.table(f"evaluate/{arm['arm']}/trial_000.parquet").to_pylist()
        for name, row in zip(facts["confusion"]["rows"], arm["matrix"], strict=True):
            mine = [
                p["predicted"]
                for p in predictions
                if p["arm"] == arm["arm"] and study.classes[p["label"]] == name
            ]
            assert row == np.bincount(mine, minlength=3).tolist()
    order = np.argsort(-counts, kind="stable")
    for arm in facts["prior"]["arms"]:
        first = file_of(study, arm["arm"], 0).notes["prior"]["0"]
        assert arm["shares"] == pytest.approx([first[c] for c in order])
    page = (study.run / "report.html").read_text(encoding="utf-8")
    assert "those of the first draw (1 of 3 trials)" in page


def test_a_cut_that_keeps_its_rare_classes_has_all_trials_in_its_tables(photos, tmp_path):
    study = three_draws(photos, tmp_path / "run", "exp:3")
    facts = facts_of(study)
    assert facts["audit"]["scope"] == ""
    (tail,) = [study.classes.index(name) for name in facts["confusion"]["rows"]]
    files = [study.run.table(f"evaluate/ce/trial_00{trial}.parquet").to_pylist() for trial in range(3)]
    said = [row["predicted"] for file in files for row in file if row["arm"] == "ce" and row["label"] == tail]
    (row,) = facts["confusion"]["arms"][0]["matrix"]
    assert row == pytest.approx(np.bincount(said, minlength=3) / 3, abs=0.051)
