"""Shards without a single sound sample: the run goes on, and an arm that got no samples trains on its real rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from studies import fill, small

from counterpoise import run
from counterpoise.gathering import flat, rows_of, samples_in
from counterpoise.generators.asking import seed_of
from counterpoise.generators.generator import Failed, Row
from counterpoise.generators.simple import Copies, Interpolate, Oversample
from counterpoise.lots import Lot
from counterpoise.study import Study

CLASSES = {"a": 16, "b": 8, "c": 5}
NOTHING, BLANK, SOME = "copies", "oversample", "smote"


@pytest.fixture(name="study", scope="module")
def _study(tmp_path_factory) -> Study:
    """Copies all fail, oversampled images are all blank, SMOTE fails for every class but b, there with every other seed."""

    def fail(rows: Sequence[Row]) -> list[Failed]:
        return [Failed("not finite") for _ in rows]

    def blank(rows: Sequence[Row]) -> list[np.ndarray]:
        return [np.zeros((12, 12, 3), np.uint8) for _ in rows]

    folder = fill(tmp_path_factory.mktemp("failures") / "photos", CLASSES, size=12)
    recipe = replace(small(folder, trials=1), rows_per_shard=4)
    smote = Interpolate.load

    def b_alone(self, out, ctx):
        sample = smote(self, out, ctx)

        def some(rows: Sequence[Row]) -> list:
            fine = [row["label"] == 1 and row["seed"] % 2 == 0 for row in rows]
            return [
                sample([row])[0] if ok else Failed("not finite") for row, ok in zip(rows, fine, strict=True)
            ]

        return some

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Copies, "load", lambda self, out, ctx: fail)
        patch.setattr(Oversample, "load", lambda self, out, ctx: blank)
        patch.setattr(Interpolate, "load", b_alone)
        return Study.open(run(recipe, tmp_path_factory.mktemp("runs") / "run").path)


def test_the_run_reaches_its_report_and_says_what_failed(study):
    assert (study.run / "report.html").exists()
    funnels = {row["arm"]: row for row in study.run.json("report.json")["funnel"]}
    assert funnels[NOTHING]["asked"] == funnels[NOTHING]["failed"] > 0 == funnels[NOTHING]["kept"]
    assert funnels[BLANK]["asked"] == funnels[BLANK]["failed"] > 0 == funnels[BLANK]["kept"]
    assert 0 < funnels[SOME]["kept"] <= funnels[SOME]["made"] < funnels[SOME]["asked"]
    reasons = study.run.table(Lot(BLANK, 0).selected)["drop"].to_pylist()
    assert set(reasons) == {"failed: blank image"}


def test_what_failed_is_asked_for_again_and_the_report_says_so(study):
    lot = Lot(SOME, 0)
    plan = {row["request_id"]: row for row in study.run.table(lot.plan).to_pylist()}
    samples = [row for shard in study.shards(lot) for row in study.run.table(lot.samples(shard)).to_pylist()]
    assert list(plan) == [row["request_id"] for row in samples], "in the order of the plan"
    made = [row for row in samples if row["status"] == "made"]
    assert all(seed_of(plan[row["request_id"]]["seed"], row["attempt"]) % 2 == 0 for row in made)
    retried, failed = sum(row["attempt"] > 0 for row in samples), len(samples) - len(made)
    assert any(row["attempt"] for row in made)
    notes = {row["arm"]: row["notes"] for row in study.run.json("report.json")["funnel"]}[SOME]
    assert notes == [
        f"{retried} samples came out as none and were asked for again with another seed; {failed} failed even so"
    ]


@pytest.mark.parametrize("name", [NOTHING, BLANK, SOME])
def test_a_shard_where_all_failed_has_rows_of_the_same_kind_as_the_others(study, name):
    lot, kind = Lot(name, 0), study.vectors("train")
    shards = [samples_in(study.run, lot.samples(shard)) for shard in study.shards(lot)]
    assert len(shards) > 1
    assert any(len(x) == 0 for x, _ in shards)
    for x, ids in shards:
        assert (x.shape[1:], x.dtype) == (kind.shape[1:], kind.dtype)
        assert len(x) == len(ids)
        assert flat(x).shape == (len(x), 12 * 12 * 3)
    kept, selection = study.kept(lot)
    assert (kept.shape, kept.dtype) == ((len(selection), 12, 12, 3), np.uint8)


def test_an_arm_without_samples_trains_on_its_real_rows(study):
    for name in (NOTHING, BLANK):
        rows, labels, _, synthetic = rows_of(study, 0, name)
        assert len(rows) == len(labels) == len(study.draw_rows(0))
        assert not synthetic.any()
    arms = study.run.json("metrics.json")["arms"]
    assert arms[NOTHING]["prior"] == arms["ce"]["prior"]
    assert arms[NOTHING]["validation"] == arms["balanced_softmax"]["validation"], (
        "the same rows and the same loss"
    )
