"""The unlabelled pool: apart from all other roles, its labels nowhere, and arms that learn from it without them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from studies import fill, photo

from counterpoise import Data, Holdout, Refusal, Trials, open_source, parse_cut, run
from counterpoise.classifiers.losses import CE, BalancedSoftmax
from counterpoise.classifiers.mixing import Concatenate, Instance, Sqrt
from counterpoise.classifiers.pseudo import PseudoLabels
from counterpoise.classifiers.training import Training
from counterpoise.data.augment import Flip
from counterpoise.estimate import estimate
from counterpoise.generators.simple import Copies
from counterpoise.nets.resnet import SmallResNet
from counterpoise.proposals.budgets import FillUp
from counterpoise.proposals.pairings import SameClass
from counterpoise.pupils import Pupil
from counterpoise.recipe import Arm, Fit, Recipe, Synthesis
from counterpoise.rundir import Run
from counterpoise.scores.select import KeepAll
from counterpoise.study import Study
from counterpoise.trialfiles import file_of

CLASSES = {"a": 60, "b": 40, "c": 30}
FILLED = Synthesis("copies", Copies(), FillUp(), SameClass(), select=KeepAll())


def recipe(root: Path | str, pool: float = 0.3, holdout: Holdout | None = None, **changes) -> Recipe:
    """A teacher and three pupils: hard labels, soft ones, and both beside made rows."""
    holdout = holdout or Holdout(val=0.2, test=0.2, pool=pool)
    hard, soft = PseudoLabels("plain"), PseudoLabels("plain", soft=True)
    loss, look = BalancedSoftmax(), (Flip(),)
    fits = (
        Fit(
            "hard", loss, Instance(), look, pool=hard
        ),  # before its teacher: steps order them, not the recipe
        Fit("plain", loss, Instance(), look),
        Fit("soft", loss, Sqrt(), look, pool=soft),
        Fit("made", loss, Instance(), look, "copies", Concatenate(weight=0.5), pool=soft),
    )
    whole = Recipe(
        "pooled",
        Data(open_source(str(root)), cut=parse_cut("exp:4"), holdout=holdout),
        SmallResNet(width=4),
        Training(steps=4, batch=16),
        Trials(2, 2),
        fits,
        tuple(Arm(fit.name, fit.name) for fit in fits),
        (FILLED,),
    )
    return replace(whole, **changes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("pool") / "photos", CLASSES)


@pytest.fixture(scope="module")
def taught(photos, tmp_path_factory) -> Run:
    return run(recipe(photos), tmp_path_factory.mktemp("pool") / "run", until="evaluate")


def ids(made: Run, role: str) -> set[str]:
    return set(made.table(f"data/{role}/manifest.parquet")["id"].to_pylist())


# --- the role ------------------------------------------------------------------------------------------------


def test_the_pool_is_apart_and_says_nothing_of_its_labels(taught, photos):
    roles = {role: ids(taught, role) for role in ("train", "val", "test", "pool")}
    assert len(roles["pool"]) == 18 + 12 + 9 == len(Study.open(taught.path).pool())
    assert sum(map(len, roles.values())) == len(set.union(*roles.values())), "an image in two roles"
    assert sorted(path.name for path in (taught / "data/pool").iterdir()) == [
        "manifest.parquet",
        "pixels.npy",
    ]
    manifest = pq.read_table(taught / "data/pool/manifest.parquet", partitioning=None)
    for column in ("label", "uri", "group", "source_label"):
        assert manifest[column].null_count == len(manifest)
    assert set(manifest["split"].to_pylist()) == {"pool"}
    listed = {row["id"]: row["uri"] for row in Study.open(taught.path).seen().to_pylist()}
    pixels = np.load(taught / "data/pool/pixels.npy")
    for row in (0, 20, 38):
        label, name = listed[manifest["id"][row].as_py()].split("/")
        real = np.asarray(photo("abc".index(label), int(name.removesuffix(".png"))))
        assert np.array_equal(pixels[row], real)


def test_val_and_test_do_not_know_how_large_the_pool_is(photos, taught, tmp_path):
    for name, share, draws in (("same", 0.3, 2), ("less", 5, 2), ("none", 0, 2)):
        fits = recipe(photos).fits[1:2]
        one = recipe(photos, share, fits=fits, arms=(Arm("plain", "plain"),), trials=Trials(2, draws))
        made = run(one, tmp_path / name, until="audit")
        for role in ("val", "test"):
            assert ids(made, role) == ids(taught, role)
        if name == "same":
            assert ids(made, "pool") == ids(taught, "pool")
        if name == "none":
            assert not (made / "data/pool").exists()
            assert Study.open(made.path).pool() is None
            assert made.json("audit.json")["sizes"]["pool"] == 0


def test_classes_are_counted_without_the_pool(taught):
    rows = {row["name"]: row for row in taught.table("classes.parquet").to_pylist()}
    assert rows["a"]["train"] == 60 - 9 - 12 - 18  # val has as many of every class
    assert taught.json("audit.json")["sizes"]["pool"] == 39
    bins = taught.json("metrics.json")["counts"]
    assert bins == [row["train"] for row in rows.values()]


def test_a_given_pool_is_read_and_searched_for_leaks(tmp_path):
    root = tmp_path / "photos"
    fill(root / "train", {"a": 24, "b": 12})
    fill(root / "test", {"a": 1, "b": 1}, size=12)
    (root / "unlabelled").mkdir()
    for index in range(6):
        photo(3, index).save(root / "unlabelled" / f"{index}.png")
    shutil.copy(root / "train/a/000.png", root / "unlabelled/seen.png")
    shutil.copy(root / "test/b/000.png", root / "unlabelled/leak.png")
    one = recipe(root, holdout=Holdout(val=0.2, test=0))
    made = run(one, tmp_path / "run", until="teach")
    assert len(ids(made, "pool")) == 7  # what is known of a test picture is not learnt from
    found = made.json("audit.json")
    assert found["classes"] == 2
    assert found["conflicts"] == []
    assert found["leaks"] == []
    assert any("copies of validation or test pictures: 1" in note for note in found["notes"])
    assert estimate(one)["images"] == 24 + 12 + 2 + 8


# --- the arms ------------------------------------------------------------------------------------------------


def test_labels_are_those_of_the_teacher_in_the_same_trial(taught):
    study = Study.open(taught.path)
    for trial in (0, 1):
        plain, pupil = (Pupil.of(study, study.recipe.fit(name), trial) for name in ("plain", "hard"))
        real = len(plain.labels)
        assert np.array_equal(pupil.labels[:real], plain.labels)
        assert np.array_equal(pupil.rows.order[:real], plain.rows.order)
        file = file_of(study, "plain", trial)
        from counterpoise.classifiers.training import features_of

        logits = file.head(trial, "plain").logits(
            features_of(file.network(study, trial), study.pool()).numpy()
        )
        kept, guessed = PseudoLabels("plain")(logits)
        assert np.array_equal(pupil.labels[real:], guessed)
        assert np.array_equal(pupil.rows.raw(np.arange(real, len(pupil.labels))), study.pixels("pool")[kept])
        assert file_of(study, "hard", trial).notes["chosen"][f"{trial}/hard"] == {"pseudo_labels": len(kept)}


def test_real_rows_come_first_then_the_pool_then_made_ones(taught):
    study = Study.open(taught.path)
    pupil = Pupil.of(study, study.recipe.fit("made"), 1)
    real, made = len(study.draw_rows(1)), int(pupil.synthetic.sum())
    assert pupil.pseudo
    assert len(pupil.labels) == len(pupil.rows) == real + pupil.pseudo + made
    assert pupil.synthetic[real + pupil.pseudo :].all()
    assert pupil.weights.tolist() == [1.0] * (real + pupil.pseudo) + [0.5] * made
    kept, _ = study.kept(study.lots()[1])
    assert np.array_equal(pupil.rows.raw(np.arange(real + pupil.pseudo, len(pupil.rows))), kept)


@pytest.mark.parametrize("name", ["hard", "soft", "made"])
def test_the_prior_is_the_label_mass_that_the_loader_yields(taught, name):
    """Evidence rule 4, soft mass included: not the real counts, and not the largest labels."""
    study = Study.open(taught.path)
    pupil = Pupil.of(study, study.recipe.fit(name), 0)
    seen = pupil.targets[pupil.stream(400, 250, seed=5).ravel()].mean(0, dtype=np.float64)
    prior = pupil.prior()
    assert np.abs(seen - prior / prior.sum()).max() < 0.005
    notes = file_of(study, name, 0).notes["prior"]["0"]
    assert np.allclose(notes, prior / prior.sum(), atol=1e-5)


def test_killed_between_the_steps_the_result_is_the_same(photos, taught, tmp_path, monkeypatch):
    def die(study, unit):
        raise KeyboardInterrupt

    from counterpoise.stages import teach

    teach_plain, teach_pool = teach.STEPS[-2:]
    monkeypatch.setattr(teach, "STEPS", (*teach.STEPS[:-1], replace(teach_pool, work=die)))
    with pytest.raises(KeyboardInterrupt):
        run(recipe(photos), tmp_path / "run", until="teach")
    monkeypatch.undo()
    study = Study.open(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run/teach").iterdir()] == ["plain"]
    assert all(study.run.has(unit) for unit in teach_plain.units(study))
    assert {unit.split("/")[1] for unit in teach_pool.units(study)} == {"hard", "soft"}
    again = run(recipe(photos), tmp_path / "run", until="teach")
    for unit in teach_plain.units(study) + teach_pool.units(study):
        first, second = load_file(taught / unit), load_file(again / unit)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[key], second[key]) for key in first)


# --- what is refused -----------------------------------------------------------------------------------------


def test_pseudo_labels_without_a_pool_are_refused(photos, tmp_path):
    with pytest.raises(Refusal, match=r"hard, soft, made: .*none: put some aside with --pool"):
        run(recipe(photos, 0), tmp_path / "run", until="intake")
    assert not (tmp_path / "run/data").exists() or not list((tmp_path / "run/data").rglob("*.npy"))


@pytest.mark.parametrize("teacher", ["nobody", "hard", "copied"])
def test_a_teacher_is_an_arm_that_saw_neither_pool_nor_made_rows(photos, teacher):
    one = recipe(photos)
    fits = (*one.fits, Fit("copied", CE(), Instance(), (), "copies", Concatenate()))
    pupil = Fit("pupil", CE(), Instance(), pool=PseudoLabels(teacher))
    arms = (*one.arms, Arm("copied", "copied"), Arm("pupil", "pupil"))
    with pytest.raises(Refusal, match=rf"recipe.fits.pupil.pool.teacher.*found '{teacher}' .*plain"):
        replace(one, fits=(*fits, pupil), arms=arms)


# --- heads ---------------------------------------------------------------------------------------------------


def test_heads_on_a_frozen_backbone_learn_from_its_features(photos, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
    from counterpoise.spaces.features import Frozen

    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "tiny")
    one = recipe(photos, network=Frozen(str(tmp_path / "tiny"), size=24))
    one = replace(one, fits=tuple(replace(fit, augment=()) for fit in one.fits))
    made = run(one, tmp_path / "run", until="train")
    study = Study.open(made.path)
    assert study.pool().raw(np.arange(39)).shape == (39, 16)
    for name in ("hard", "soft", "made"):
        assert file_of(study, name, 1).notes["chosen"][f"1/{name}"]["pseudo_labels"] > 0
        assert not np.array_equal(*(file_of(study, name, trial).head(trial, name).weight for trial in (0, 1)))
