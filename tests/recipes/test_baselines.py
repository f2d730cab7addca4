"""CPU twins of the baselines: heads on a frozen backbone, the whole backbone trained, and data with groups."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from studies import photo, small

from counterpoise import Fit, Predictor, Refusal, Run, run
from counterpoise.classifiers.decoupling import balanced_accuracy, grid
from counterpoise.classifiers.losses import CE, LDAM
from counterpoise.classifiers.mixing import Instance
from counterpoise.stages.deliver import deliver
from counterpoise.study import Study
from counterpoise.trialfiles import TrialFile, file_of

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
SIZE = 24  # of the backbone; the photos have 16
ROWS = {"train": ((40, 6), (10, 4)), "val": ((6, 6), (6, 6)), "test": ((6, 6), (6, 6))}  # class x group


@pytest.fixture(scope="session")
def backbone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": SIZE, "width": SIZE}}))
    return folder


@pytest.fixture(scope="session")
def grouped(tmp_path_factory) -> Path:
    """A manifest of two classes in two groups, one cell of which is rare."""
    root = tmp_path_factory.mktemp("grouped")
    number = 0
    with open(root / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group", "split"])
        for split, counts in ROWS.items():
            for label, cells in enumerate(counts):
                for group, count in enumerate(cells):
                    for _ in range(count):
                        number += 1
                        photo(2 * label + group, number).save(root / f"{number}.png")
                        table.writerow([f"{number}.png", "ab"[label], ("field", "snow")[group], split])
    return root / "metadata.csv"


@pytest.fixture(scope="session", params=["frozen", "finetune"])
def done(request, backbone, grouped, tmp_path_factory) -> Run:
    """Every arm of a mode, to its end."""
    frozen = {"groups": True, "steps": 40}
    flags = frozen if request.param == "frozen" else {"finetune": True, "batch": 16}
    recipe = small(grouped, backbone=str(backbone), **flags)
    return run(recipe, tmp_path_factory.mktemp("runs") / request.param)


def delivered(run: Run, arm: str, to: Path) -> Path:
    """The classifier folder of a copy of the run whose verdict recommends this arm."""
    shutil.copytree(run.path, to)
    shutil.rmtree(to / "classifier")
    verdict = run.verdict | {"recommendation": run.verdict["recommendation"] | {"arm": arm}}
    (to / "verdict.json").write_text(json.dumps(verdict))
    deliver(Study.open(to), "classifier/counterpoise.json")
    return to / "classifier"


def test_every_arm_is_measured_and_groups_have_their_slice(done):
    verdict, arms = done.verdict, done.metrics["arms"]
    assert verdict["recommendation"]["arm"] in arms
    if Study.open(done.path).frozen:
        assert {"group_balanced", "group_dro", "dfr", "smote", "crt", "ldam_drw"} <= set(arms)
        assert {"C", "refits"} <= set(arms["dfr"]["chosen"][0])
        assert not {"wise_ft", "cutmix", "oversample"} & set(arms), "these need pixels"
    else:
        assert {"wise_ft", "cutmix", "oversample", "smote", "crt"} <= set(arms)
        assert {"alpha", "probe_views"} == set(arms["wise_ft"]["chosen"][0])
    for arm in arms.values():
        for trial in arm["trials"]:
            assert 0 <= trial["worst_group"] <= trial["balanced_accuracy"] <= 1
    assert max(arm["mean"]["balanced_accuracy"] for arm in arms.values()) > 0.7


def test_the_folder_needs_neither_run_nor_backbone_and_opens_in_transformers(done, tmp_path):
    study = Study.open(done.path)
    delivered(done, "crt", tmp_path / "run").rename(tmp_path / "taken")
    (tmp_path / "run").rename(tmp_path / "away")
    taken = Predictor.open(tmp_path / "taken")
    assert str(taken.network.backbone).startswith(str(tmp_path))
    pixels = np.asarray(study.pixels("val"))
    p, trial = taken.probabilities(pixels), taken.card["trial"]
    stored = file_of(study, "crt", trial).val_logits(trial, "crt") / taken.card["temperature"]
    expected = np.exp(stored - stored.max(1, keepdims=True))
    np.testing.assert_allclose(p, expected / expected.sum(1, keepdims=True), atol=1e-4)

    net = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "taken/transformers").eval()
    assert net.config.id2label == {0: "a", 1: "b"}
    x = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
    x = torch.nn.functional.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        logits = net(pixel_values=(x - mean) / std).logits.numpy() / taken.card["temperature"]
    np.testing.assert_allclose(logits, stored, atol=1e-3)


def test_a_head_that_is_not_affine_keeps_to_the_backbone(done, backbone, tmp_path):
    """LDAM's cosines have no form in transformers: the classifier says what it needs when that is gone."""
    study = Study.open(done.path)
    folder = delivered(done, "ldam_drw", tmp_path / "run")
    assert not (folder / "transformers").exists()
    taken = Predictor.open(folder)
    pixels, trial = np.asarray(study.pixels("val")), taken.card["trial"]
    stored = file_of(study, "ldam_drw", trial).val_logits(trial, "ldam_drw") / taken.card["temperature"]
    np.testing.assert_array_equal(taken.probabilities(pixels).argmax(1), stored.argmax(1))
    assert np.abs(stored * taken.card["temperature"]).max() > 1, (
        "cosines times the scale of the deferred loss"
    )
    card = json.loads((folder / "counterpoise.json").read_text())
    card["network"]["backbone"] = str(tmp_path / "gone")
    (folder / "counterpoise.json").write_text(json.dumps(card))
    with pytest.raises(Refusal, match=r"there is no backbone .*gone"):
        Predictor.open(folder)
    if study.frozen:
        other = tmp_path / "gone"
        shutil.copytree(backbone, other)
        body = bytearray((other / "model.safetensors").read_bytes())
        body[-3] ^= 1
        (other / "model.safetensors").write_bytes(bytes(body))
        with pytest.raises(Refusal, match="not those this classifier was fitted on"):
            Predictor.open(folder)


def wise(grouped: Path, backbone: Path, to: Path, lr: float) -> tuple[Study, TrialFile]:
    """A run of the WiSE-FT arm alone, at another learning rate."""
    recipe = small(grouped, backbone=str(backbone), finetune=True, trials=1, steps=12, batch=16)
    fits = tuple(fit for fit in recipe.fits if fit.name == "wise_ft")
    arms = tuple(arm for arm in recipe.arms if arm.name == "wise_ft")
    training = replace(recipe.training, lr=lr)
    made = run(replace(recipe, fits=fits, arms=arms, synthesis=(), training=training), to, until="train")
    study = Study.open(made.path)
    return study, file_of(study, "wise_ft", 0)


def test_wise_ft_goes_back_to_the_given_weights_where_training_does_not_help(grouped, backbone, tmp_path):
    scores = {}
    for lr in (1e-12, 0.02, 3.0):
        study, file = wise(grouped, backbone, tmp_path / str(lr), lr)
        labels, chosen = study.labels("val"), file.notes["chosen"]["0/wise_ft"]
        scores[lr] = balanced_accuracy(file.val_logits(0, "wise_ft"), labels)
        assert chosen["alpha"] in grid(1.0)
        assert chosen["probe_views"] == 300 * 16
        net = file.network(study, 0)
        given = study.recipe.network(3, 2, 16, seed=0)
        same = all(
            torch.equal(a, b)
            for a, b in zip(
                net.backbone.state_dict().values(), given.backbone.state_dict().values(), strict=True
            )
        )
        assert same == (chosen["alpha"] == 0)
        if lr == 1e-12:
            assert chosen["alpha"] == 0, "ties go to the given weights"
            assert scores[lr] > 0.6, "whose head is fitted, not random"
    assert scores[3.0] >= scores[1e-12] <= scores[0.02], "alpha 0 is always among the choices"


def test_what_cannot_be_fine_tuned_is_refused(backbone, hostile):
    with pytest.raises(Refusal, match=r"--finetune .* --backbone NAME"):
        small(hostile, finetune=True)
    frozen = small(hostile, backbone=str(backbone))
    fit = Fit("wise_ft", CE(), Instance(), wise=True)
    with pytest.raises(Refusal, match="WiSE-FT goes back towards given weights, and Frozen"):
        replace(frozen, fits=(*frozen.fits, fit))
    tuned = small(hostile, backbone=str(backbone), finetune=True)
    with pytest.raises(Refusal, match="not from the cosines of LDAM"):
        replace(tuned, fits=(*tuned.fits, Fit("other", LDAM(), Instance(), wise=True)))
