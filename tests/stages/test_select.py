"""What is dropped, by stages of a run: by class, with reasons, and to the last sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pairs import saved_pair
from studies import fill, small

from counterpoise import run
from counterpoise.gathering import rows_of
from counterpoise.lots import Lot
from counterpoise.nets import clip as towers
from counterpoise.recipe import Recipe
from counterpoise.scores.among import AmongReal
from counterpoise.scores.clip import Clip, Contrast, Margin
from counterpoise.scores.duplicates import NearestReal
from counterpoise.scores.real import Clearance
from counterpoise.scores.select import AtLeast, BestCount, BestShare, Every
from counterpoise.study import Study

LOT = Lot("smote", 0)
NAMES = {"oak_tree": 40, "crane": 20, "x-ray": 8}


def filtered(root, **changes) -> Recipe:
    """One arm with samples, and one without."""
    recipe = small(fill(root / "photos", NAMES), trials=1)
    (item,) = (item for item in recipe.synthesis if item.name == "smote")
    return replace(
        recipe,
        fits=tuple(fit for fit in recipe.fits if fit.name in ("ce", "smote")),
        arms=tuple(arm for arm in recipe.arms if arm.name in ("ce", "smote")),
        synthesis=(replace(item, **changes),),
    )


@pytest.fixture(name="nothing_kept", scope="module")
def _nothing_kept(tmp_path_factory) -> Study:
    select = Every((AtLeast("nearest_real", 1e9), BestShare("nearest_real", 0.5)))
    root = tmp_path_factory.mktemp("nothing")
    return Study.open(run(filtered(root, select=select), root / "run").path)


def test_a_filter_that_rejects_everything_ends_with_its_counts(nothing_kept):
    study = nothing_kept
    funnel = study.run.meta(LOT.selected)["funnel"]
    assert funnel["asked"] == funnel["made"] > 0 == funnel["kept"]
    assert funnel["dropped"] == {"nearest_real below 1e+09": funnel["made"]}
    kept, rows = study.kept(LOT)
    assert kept.shape == (0, 16, 16, 3)
    assert len(rows) == 0
    assert (study.run / "report.html").exists()


def test_an_arm_without_samples_sees_its_real_rows(nothing_kept):
    *_, synthetic = rows_of(nothing_kept, 0, "smote")
    assert len(synthetic) > 0 == synthetic.sum()


def test_rules_are_by_class_and_in_turn(tmp_path):
    select = Every((AtLeast("nearest_real", 0.5), BestCount("nearest_real", 3)))
    study = Study.open(run(filtered(tmp_path, select=select), tmp_path / "run", until="select").path)
    rows = study.run.table(LOT.selected).to_pylist()
    score = {
        row["request_id"]: row["score"]
        for shard in study.shards(LOT)
        for row in study.run.table(LOT.scores("nearest_real", shard)).to_pylist()
    }
    for label in {row["label"] for row in rows}:
        mine = [row for row in rows if row["label"] == label]
        good = sorted(
            (score[row["request_id"]] for row in mine if score[row["request_id"]] >= 0.5), reverse=True
        )
        assert (
            sorted((score[row["request_id"]] for row in mine if row["drop"] is None), reverse=True)
            == good[:3]
        )
        reasons = Counter(row["drop"] for row in mine)
        assert reasons["nearest_real below 0.5"] == len(mine) - len(good)
        assert reasons["nearest_real not in the best 3 of its class"] == max(0, len(good) - 3)


@pytest.mark.filterwarnings("ignore:Clip", "ignore:Margin", "ignore:Contrast")
def test_text_models_are_told_what_the_glossary_says_and_look_once(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the hf extra is not installed")
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    model, said, looked = str(saved_pair(tmp_path / "clip")), [], []
    texts, look = towers.ClipPair.texts, towers.ClipPair.pictures
    monkeypatch.setattr(towers.ClipPair, "texts", lambda self, one: said.extend(one) or texts(self, one))
    monkeypatch.setattr(towers.ClipPair, "pictures", lambda self, x: looked.append(len(x)) or look(self, x))
    scores = {
        "clip": Clip(model),
        "margin": Margin(model),
        "contrast": Contrast(model),
        "among_real": AmongReal(Clip(model)),
        "clear": Clearance(model),
        "nearest_real": NearestReal(),
    }
    select = Every((*(AtLeast(name, -99.0) for name in scores), BestShare("margin", 0.5)))
    recipe = filtered(tmp_path, scores=tuple(scores.items()), select=select)
    recipe = replace(recipe, data=replace(recipe.data, glossary=(("crane", "crane, a bird"),)))
    study = Study.open(run(recipe, tmp_path / "run", until="select").path)
    assert "a photo of a crane, a bird" in said
    assert "a photo of a crane" not in said
    assert set(study.run.json(LOT.calibration("clip"))["real_kept"]) == set(study.called)
    made, real = study.run.meta(LOT.selected)["funnel"]["made"], len(study.draw_rows(0))
    assert len(looked) == 2, "six scores, and the real pictures and those of the shard are looked at once"
    assert sum(looked) <= made + real
    among, clear = (study.run.json(LOT.calibration(name))["threshold"] for name in ("among_real", "clear"))
    assert sum(map(len, among)) == real
    assert 0 < clear["tau"] <= 1
    for label, (made, kept) in enumerate(zip(*_counts(study), strict=True)):
        assert kept == np.ceil(made / 2), label


def _counts(study: Study) -> tuple[list[int], list[int]]:
    rows = study.run.table(LOT.selected).to_pylist()
    return tuple(
        np.bincount([row["label"] for row in rows if row["drop"] is None or every], minlength=3).tolist()
        for every in (True, False)
    )
