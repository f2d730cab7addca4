"""From class names alone: the twin of the recipe, end to end, and what becomes of names without any picture."""

import numpy as np
import pytest
from studies import fill

from counterpoise import Data, Holdout, Trials, open_source, run
from counterpoise.data.cuts import FewShot
from counterpoise.data.names import Names
from counterpoise.nets.clip import open_clip_pair
from counterpoise.proposals.prompts import Grammar
from counterpoise.recipes.prompted import prompted
from counterpoise.study import Study
from counterpoise.types import Refusal

pytest.importorskip("transformers", reason="the hf extra is not installed")
pytest.importorskip("diffusers", reason="the generative extra is not installed")

CLASSES = {"dolphin": 14, "rose": 12, "wolf": 10}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("named") / "photos", CLASSES, size=32)


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    data = Data(open_source(str(photos)), size=32, holdout=Holdout(val=2, test=3))
    recipe = prompted(data, Trials(2), base="miniature", accept="named", smoke=True)
    return run(recipe, tmp_path_factory.mktemp("prompted") / "run")


def test_no_training_image_is_there(made):
    study = Study.open(made.path)
    assert study.facts["sizes"]["train"] == 0
    assert study.counts().tolist() == [0, 0, 0]
    assert study.recipe.data.cut == FewShot(0)
    notes = " ".join(study.run.json("audit.json")["notes"])
    assert "names alone" in notes
    assert "no classifier can learn" not in notes


def test_every_sample_is_told_a_sentence_of_its_own_about_its_class(made):
    study = Study.open(made.path)
    plans = {lot.synthesis: study.run.table(lot.plan).to_pylist() for lot in study.first_lots()}
    assert {row["prompt"] for row in plans["plain"]} == {None}
    said = [row["prompt"] for row in plans["prompted"]]
    assert len(set(said)) == len(said) == 3 * 4
    assert all("{a}" in text or "{name}" in text for text in said)
    assert study.run.meta(study.first_lots()[1].plan)["prompts"]["unique"] == 12


def test_what_is_kept_shows_its_class_and_what_lacks_is_said(made):
    """The study's own CLIP takes every kept picture for its class; there are as many as wanted, or the report says how many."""
    study = Study.open(made.path)
    lot = study.first_lots()[1]
    assert lot.synthesis == "prompted"
    kept, selection = study.kept_of(lot)
    labels = selection["label"].to_numpy()
    pair = open_clip_pair("miniature")
    cosines = pair.pictures(kept) @ pair.classes(["a photo of {a}"], study.called).T
    np.testing.assert_array_equal(cosines.argmax(1).numpy(), labels)
    counts = np.bincount(labels, minlength=3)
    assert (counts <= 4).all()
    funnel = {row["arm"]: row for row in study.run.json("report.json")["funnel"]}
    assert funnel["prompted"]["kept"] == counts.sum()
    assert any("lack samples" in note for note in funnel["prompted"]["notes"]) == bool((counts < 4).any())


def test_the_names_alone_are_the_opponent(made):
    verdict = made.json("verdict.json")
    assert verdict["opponent"] == verdict["plain"] == "zero_shot"
    assert (made / "report.html").exists()


def test_of_names_alone_pictures_are_made_and_nothing_is_proven(tmp_path):
    recipe = prompted(Data(Names(("dolphin", "rose"))), Trials(1), base="miniature", smoke=True)
    assert recipe.data.size == 32  # as the model draws them
    made = run(recipe, tmp_path / "run")
    study = Study.open(made.path)
    kept, _ = study.kept_of(study.first_lots()[1])
    assert kept.shape[1:] == (32, 32, 3)
    assert len(kept)
    assert not made.has("verdict.json")
    from counterpoise import export_data

    assert export_data(made.path, "imagefolder", tmp_path / "out", "prompted") == len(kept)


def test_whoever_learns_from_pictures_says_that_there_are_none(tmp_path):
    from counterpoise.recipes.baselines import baselines

    with pytest.raises(Refusal, match="has class names alone: take the recipe prompted"):
        run(baselines(Data(Names(("dolphin", "rose"))), Trials(1)), tmp_path / "run")


def test_flags_that_contradict_each_other_are_refused(photos):
    data = Data(open_source(str(photos)), size=32)
    with pytest.raises(Refusal, match="--accept apart"):
        prompted(data, Trials(1), base="miniature", accept="apart")
    with pytest.raises(Refusal, match="--language"):
        prompted(data, Trials(1), base="miniature", prompts="template", language="miniature")
    assert prompted(data, Trials(1), base="miniature").synthesis[1].prompts == Grammar()
