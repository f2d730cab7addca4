import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from studies import fill, photo

from counterpoise import Predictor, Refusal, export_data
from counterpoise.study import Study
from counterpoise.trialfiles import file_of


def test_the_folder_needs_no_run_and_says_what_the_run_says(finished, tmp_path):
    shutil.copytree(finished / "classifier", tmp_path / "taken")
    taken = Predictor.open(tmp_path / "taken")
    study = Study.open(finished.path)
    pixels = np.asarray(study.pixels("val"))
    logits = file_of(study, taken.card["arm"], taken.card["trial"]).val_logits(
        taken.card["trial"], taken.card["arm"]
    )
    p = taken.probabilities(pixels)
    assert np.allclose(p.sum(1), 1, atol=1e-5)
    assert np.allclose(np.log(p), np.log(_softmax(logits / taken.card["temperature"])), atol=1e-3)


def _softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_predict_reads_what_it_can_and_says_why_not(finished, tmp_path):
    photo(1, 5).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no")
    rows = Predictor.open(finished.path)(
        [tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "absent.png"]
    )
    assert rows[0]["label"] in finished.json("data/facts.json")["classes"]
    assert 0 < rows[0]["confidence"] <= 1
    assert [row["label"] for row in rows[1:]] == [None, None]
    assert all(row["reason"] for row in rows[1:])


def test_no_classifier_no_prediction(tmp_path):
    with pytest.raises(Refusal, match="holds no classifier"):
        Predictor.open(tmp_path)


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_the_exported_data_set_is_balanced_and_marked(finished, tmp_path, kind):
    from counterpoise import open_source

    out = tmp_path / "balanced"
    written = export_data(finished.path, kind, out, arm="copies")
    study = Study.open(finished.path)
    counts = study.counts()
    assert written == counts.max() * (counts > 0).sum()
    listing = open_source(str(out if kind == "imagefolder" else out / "train.parquet")).listing()
    per_class = np.unique(listing["label"].to_pylist(), return_counts=True)[1]
    assert per_class.tolist() == [counts.max()] * int((counts > 0).sum())
    if kind == "parquet":
        table = pq.read_table(out / "train.parquet")
        assert sum(table["is_synthetic"].to_pylist()) == written - counts.sum()


def test_nothing_is_written_over(finished, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(Refusal, match="not an empty directory"):
        export_data(finished.path, "parquet", tmp_path)
    with pytest.raises(Refusal, match="imagefolder or parquet"):
        export_data(finished.path, "zip", tmp_path / "new")
    with pytest.raises(Refusal, match="there is no arm 'x'"):
        export_data(finished.path, "parquet", tmp_path / "new", arm="x")
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_what_a_text_to_image_model_has_learnt_is_taken_home(tmp_path, capsys, monkeypatch):
    """From a run on the command line to files that say which classes they know."""
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    from counterpoise import Data, Holdout, Trials, open_source
    from counterpoise.cli import app
    from counterpoise.pipeline import execute
    from counterpoise.recipes.interclass_mix import interclass_mix
    from counterpoise.spaces import latents
    from counterpoise.spaces.preview import SmallDecoder

    monkeypatch.setattr(latents, "PREVIEW", SmallDecoder(steps=5))
    photos = fill(tmp_path / "photos", {"apple": 12, "rose": 8})
    data = Data(open_source(str(photos)), size=16, holdout=Holdout(val=0.2, test=0.25))
    recipe = interclass_mix(data, Trials(2), base="miniature", smoke=True, fit_steps=2)
    made, out = execute(recipe, tmp_path / "run", 0, until="fit"), tmp_path / "taken"

    def export(arm):
        told = ["export", str(made.path), "--to", "lora", "--arm", arm, "--out", str(out)]
        app(told, standalone_mode=False)
        return " ".join(capsys.readouterr().out.split())

    assert "its README.md says how to sample" in export("diff-mix")
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "learned_embeds.safetensors",
        "pytorch_lora_weights.safetensors",
        "taken_kohya.safetensors",
    }
    assert "- rose: `" in (out / "README.md").read_text()
    with pytest.raises(Refusal, match="not an empty directory"):
        export("diff-mix")
    shutil.rmtree(out)
    with pytest.raises(Refusal, match="nothing of miniature is learnt by this generator"):
        export("real-mix")
