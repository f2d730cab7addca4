"""The whole loop on a hostile folder, and what the pipeline promises about it."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from studies import CLASSES, fill, photo, small

import counterpoise
from counterpoise import Refusal, pipeline
from counterpoise.pipeline import NAMES, STAGES
from counterpoise.study import Study


def test_the_whole_loop_ends_in_a_verdict_and_a_report(finished):
    verdict = finished.verdict
    assert verdict["recommendation"]["action"] in ("generate", "use a cheap arm", "do not generate")
    page = (finished / "report.html").read_text()
    assert verdict["recommendation"]["arm"].replace("_", " ") in page.replace("_", " ")
    assert "<img src=x" not in page, "class names are data, never markup"
    assert "<script" not in page


def test_every_bad_image_is_in_quarantine_with_its_reason(finished):
    reasons = {row["uri"]: row["reason"] for row in finished.table("quarantine.parquet").to_pylist()}
    assert sorted(reasons) == ["con/half.jpg", "con/nothing.png", "con/text.png"]
    assert all(reasons.values())


def test_the_audit_counts_every_image_once(finished, hostile):
    audit = finished.json("audit.json")
    used = sum(finished.table(f"data/{role}/manifest.parquet").num_rows for role in ("train", "val", "test"))
    assert audit["images"] == used == sum(CLASSES.values()) + 2
    assert audit["listed"] == audit["images"] + audit["quarantined"] == used + 3
    assert [sorted(group) for group in audit["duplicates"]] == [["con/000.png", "con/again.png"]]
    assert audit["leaks"] == [], "our own split never parts doubles"
    assert any("nobody" in note for note in audit["notes"])
    rows = finished.table("classes.parquet").to_pylist()
    assert sorted(row["name"] for row in rows) == sorted([*CLASSES]) or len(rows) == 5
    named = [path for path in json.dumps(audit["actions"]).split('"') if "named .png but holds JPEG" in path]
    assert named


def test_pixels_in_the_cache_are_those_of_the_files(finished, hostile):
    pixels, manifest = finished.images("train")
    for row in range(0, len(pixels), 7):
        file = hostile / manifest["uri"][row].as_py()
        if file.name != "named.png":
            from PIL import Image

            assert np.array_equal(pixels[row], np.asarray(Image.open(file).convert("RGB")))


def test_budgets_are_met_exactly_and_nothing_vanishes(finished):
    study = Study.open(finished.path)
    counts = study.counts()
    for lot in study.lots():
        plan, selection = finished.table(lot.plan), finished.table(lot.selected)
        wanted = np.bincount(plan["label"].to_numpy(), minlength=len(counts))
        assert (counts + wanted)[counts > 0].tolist() == [counts.max()] * int((counts > 0).sum())
        assert selection["request_id"].to_pylist() == plan["request_id"].to_pylist()
        kept, _ = study.kept(lot)
        assert len(kept) == selection["drop"].null_count
        rows = [row for row in selection["row"].to_pylist() if row is not None]
        assert rows == list(range(len(kept)))
        funnel = finished.meta(lot.selected)["funnel"]
        assert funnel["asked"] == len(plan) == funnel["kept"] + sum(funnel["dropped"].values())


def test_the_prior_that_losses_were_given_is_what_the_loader_yields(finished):
    """Evidence rule 4: filled up to even classes, the prior is even; real counts would correct twice."""
    arms = finished.metrics["arms"]
    study = Study.open(finished.path)
    real = study.counts() / study.counts().sum()
    assert np.allclose(arms["ce"]["prior"], real, atol=1e-5)
    there = real > 0
    assert np.allclose(np.array(arms["copies"]["prior"])[there], 1 / there.sum(), atol=1e-5)
    assert np.allclose(np.array(arms["balanced_sampling"]["prior"])[there], 1 / there.sum(), atol=1e-5)


def test_validation_and_test_are_held_out_before_the_cut(hostile, tmp_path):
    """The cut thins train alone: val and test are the same with and without it."""
    runs = [
        counterpoise.run(small(hostile, cut=cut), tmp_path / cut[:3], until="audit")
        for cut in ("none", "few:3")
    ]
    for role in ("val", "test"):
        plain, thin = (run.table(f"data/{role}/manifest.parquet") for run in runs)
        assert plain.equals(thin)
    counts = [run.table("classes.parquet")["train"].to_pylist() for run in runs]
    assert max(counts[1]) <= 3 < max(counts[0])


def test_no_stage_but_evaluate_opens_test_images(hostile, tmp_path, monkeypatch):
    """A read audit: every file opened below data/test is written down with the stage that opened it."""
    opened: list[tuple[str, str]] = []
    now = [""]
    load, read, plain = np.load, pq.read_table, builtins.open

    def watch(original):
        def call(path, *args, **kwargs):
            if "data/test/" in str(path):
                opened.append((now[0], str(path).rsplit("/", 1)[1]))
            return original(path, *args, **kwargs)

        return call

    monkeypatch.setattr(np, "load", watch(load))
    monkeypatch.setattr(pq, "read_table", watch(read))
    monkeypatch.setattr(builtins, "open", watch(plain))
    counterpoise.run(
        small(hostile), tmp_path / "run", progress=lambda stage, done, total: now.__setitem__(0, stage)
    )
    assert {stage for stage, name in opened if name == "pixels.npy"} == {"evaluate"}
    assert {stage for stage, _ in opened} <= {"intake", "audit", "evaluate"}


def test_nothing_of_the_users_is_touched(hostile, finished):
    before = {path: path.stat().st_mtime_ns for path in hostile.rglob("*")}
    assert len(before) == sum(CLASSES.values()) + 5 + len(CLASSES) + 1
    assert not list(hostile.rglob("*.tmp"))


def test_a_second_call_does_nothing_more(finished, hostile):
    stamp = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.is_file()}
    counterpoise.run(small(hostile), finished.path)
    assert {path: path.stat().st_mtime_ns for path in finished.path.rglob("*") if path.is_file()} == stamp


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 7}, r"training.steps was 6, the recipe now says 7.*--redo teach"),
        ({"cut": "few:3"}, r"data.cut was null.*--redo intake"),
        ({"fill_to": 9}, r"synthesis\[copies\].budget.to was null, the recipe now says 9.*--redo plan"),
        ({"trials": 1}, r"trials.n was 2, the recipe now says 1|trials.draws was 2"),
    ],
)
def test_changed_settings_are_refused_by_name(finished, hostile, change, message):
    with pytest.raises(Refusal, match=message):
        counterpoise.run(small(hostile, **change), finished.path)


def test_changed_data_are_refused(tmp_path):
    root = fill(tmp_path / "photos", {"a": 12, "b": 8})
    counterpoise.run(small(root), tmp_path / "run", until="audit")
    photo(0, 99).save(root / "a" / "new.png")
    with pytest.raises(Refusal, match=r"changed since this run listed them.*--redo intake"):
        counterpoise.run(small(root), tmp_path / "run")


def test_redo_moves_aside_and_the_result_is_the_same(hostile, tmp_path):
    made = counterpoise.run(small(hostile), tmp_path / "run")
    verdict = made.verdict
    aside = pipeline.set_aside(made, "train")
    assert (aside / "verdict.json").exists()
    assert not made.has("train")
    assert counterpoise.run(small(hostile), tmp_path / "run").verdict == verdict
    with pytest.raises(Refusal, match="stages are intake, audit"):
        pipeline.set_aside(made, "bake")


def test_the_stage_table_is_whole():
    assert len(set(NAMES)) == len(NAMES)
    for stage in STAGES:
        assert all(callable(step.work) and callable(step.units) for step in pipeline.steps_of(stage.name))


@pytest.mark.parametrize(
    ("classes", "message"),
    [({"a": 9}, "at least two classes"), ({"a": 1, "b": 1}, "no (val|test) images")],
)
def test_too_little_data_is_refused_in_words(tmp_path, classes, message):
    root = fill(tmp_path / "photos", classes)
    with pytest.raises(Refusal, match=message):
        counterpoise.run(small(root), tmp_path / "run")


def test_a_class_that_is_only_in_test_and_a_one_image_class_survive(tmp_path):
    root = tmp_path / "photos"
    fill(root / "train", {"a": 20, "b": 10, "lonely": 1})
    fill(root / "test", {"a": 5, "b": 5, "stranger": 3})
    made = counterpoise.run(small(root), tmp_path / "run")
    rows = {row["name"]: row for row in made.table("classes.parquet").to_pylist()}
    assert (rows["stranger"]["train"], rows["stranger"]["test"]) == (0, 3)
    assert rows["lonely"]["train"] == 1
    notes = " ".join(made.json("audit.json")["notes"])
    assert "'stranger' has no training image" in notes
    assert "'lonely' has one training image" in notes
    failed = made.table("selected/round_0/smote/draw_0.parquet")["drop"].to_pylist()
    assert any(reason and "one training image" in reason for reason in failed)
