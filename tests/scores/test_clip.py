"""The filter by a text-image model, on small random ones, and on the one of the package where it is there."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import ASSETS, saved_pair
from PIL import Image
from studies import fill, small

from counterpoise import run
from counterpoise.estimate import estimate
from counterpoise.gathering import samples_in
from counterpoise.lots import Lot
from counterpoise.nets import clip as towers
from counterpoise.scores import clip, looking
from counterpoise.scores.batch import Batch
from counterpoise.scores.clip import Clip, Contrast, Margin, some_of_each
from counterpoise.scores.select import AtLeast, BestShare, Every
from counterpoise.study import Study
from counterpoise.types import Refusal, build, describe, load

pytest.importorskip("transformers", reason="the hf extra is not installed")
RNG = np.random.default_rng(0)
PICTURES, LABELS = RNG.integers(0, 256, (12, 16, 16, 3), np.uint8), np.arange(12) % 4
NAMES = ("oak_tree", "rose", "pickup_truck", "x-ray")
CIFAR = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory) -> str:
    return str(saved_pair(tmp_path_factory.mktemp("pair") / "clip"))


@pytest.fixture(autouse=True)
def _exact_and_nothing_known(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(looking, "has_bf16", lambda device: False)


def batch(pictures=PICTURES, labels=LABELS, classes=NAMES):
    x = np.zeros((len(labels), 2), np.float32)
    return Batch(x, labels, x[:0], np.array([], str), labels[:0], pictures=pictures, classes=classes)


def value(score, **given):
    return score(batch(**given), score.calibrate(np.zeros((0, 2), np.float32)))[0]


def test_the_score_is_the_probability_of_the_own_class_in_units_of_chance(model):
    score = Clip(model)
    p = score.probabilities(PICTURES, NAMES)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(value(score), 4 * p[np.arange(12), LABELS], rtol=1e-6)
    pair = towers.open_clip_pair(model)
    said = pair.texts(
        ["a photo of an oak tree", "a photo of a rose", "a photo of a pickup truck", "a photo of a x-ray"]
    )
    logits = (pair.scale * pair.pictures(PICTURES) @ said.T).double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(p, expected, atol=1e-5)
    assert p.std(0).min() > 0.01
    assert load(json.loads(json.dumps(describe(score)))) == score


def test_at_least_one_is_the_published_rule(model):
    kept = [reason is None for reason in AtLeast("clip", 1.0)({"clip": value(Clip(model))}, LABELS)]
    p = Clip(model).probabilities(PICTURES, NAMES)[np.arange(12), LABELS]
    assert kept == list(p > 1 / 4)
    assert 0 < sum(kept) < 12


def test_what_is_kept_does_not_depend_on_the_order_of_class_folders(model):
    rule = Every((AtLeast("clip", 1.0), BestShare("margin", 0.5)))
    order = np.array([2, 0, 3, 1])
    kept = []
    for classes, labels in ((NAMES, LABELS), (tuple(NAMES[i] for i in order), np.argsort(order)[LABELS])):
        asked = {"classes": classes, "labels": labels}
        scores = {"clip": value(Clip(model), **asked), "margin": value(Margin(model), **asked)}
        kept.append([reason is None for reason in rule(scores, labels)])
    assert kept[0] == kept[1]
    assert 0 < sum(kept[0]) < 12


def test_the_margin_is_above_zero_where_the_class_is_the_likeliest(model):
    found, p = value(Margin(model)), Clip(model).probabilities(PICTURES, NAMES).astype(np.float64)
    own = p[np.arange(12), LABELS]
    others = np.where(np.eye(4, dtype=bool)[LABELS], 0, p).max(1)
    np.testing.assert_allclose(found, np.log(own) - np.log(others), atol=1e-3)
    kept = [reason is None for reason in AtLeast("margin", 0.0)({"margin": found}, LABELS)]
    assert kept == list(p.argmax(1) == LABELS)
    assert 0 < sum(kept) < 12
    assert np.isinf(value(Margin(model), labels=LABELS * 0, classes=NAMES[:1])).all()
    assert load(describe(Margin(model))) == Margin(model)


def test_a_contrast_is_of_two_prompts_and_of_no_other_class(model):
    pair = towers.open_clip_pair(model)
    score = Contrast(model, template="a photo of {a}", against="a drawing of {a}")
    found = value(score)
    seen = pair.pictures(PICTURES)
    photo, drawing = (pair.classes([f"a {kind} of {{a}}"], NAMES)[LABELS] for kind in ("photo", "drawing"))
    np.testing.assert_allclose(
        found, torch.sigmoid(pair.scale * (seen * (photo - drawing)).sum(1)), atol=1e-5
    )
    np.testing.assert_allclose(
        value(replace(score, template=score.against, against=score.template)), 1 - found, atol=1e-5
    )
    some = LABELS < 2
    alone = value(score, pictures=PICTURES[some], labels=LABELS[some], classes=NAMES[:2])
    np.testing.assert_allclose(alone, found[some], atol=1e-5)

    drawn = np.repeat(PICTURES[found.argmin()][None], 8, 0)
    with pytest.warns(UserWarning, match="Contrast.*prompts do not tell them apart"):
        told = score.of_real(drawn, np.repeat(LABELS[found.argmin()], 8), NAMES)
    assert set(told["real_kept"].values()) == {0.0}
    free = value(replace(score, against=("a drawing of {a}", "an empty background")))
    (nothing,) = pair.texts(["an empty background"])
    logits = pair.scale * torch.stack([(seen * photo).sum(1), (seen * drawing).sum(1), seen @ nothing], 1)
    np.testing.assert_allclose(free, logits.softmax(1)[:, 0], atol=1e-5)
    assert (free < found).all()
    score.ready(NAMES)
    assert load(describe(score)) == score


def test_neither_company_nor_the_order_of_classes_matters(model):
    score = Clip(model)
    whole = value(score)
    alone = [value(score, pictures=PICTURES[i : i + 1], labels=LABELS[i : i + 1])[0] for i in range(12)]
    np.testing.assert_allclose(whole, alone, rtol=1e-4)
    order = np.array([2, 0, 3, 1])
    moved = value(score, classes=tuple(NAMES[i] for i in order), labels=np.argsort(order)[LABELS])
    np.testing.assert_allclose(moved, whole, rtol=1e-4)
    _, nearest = score(batch(), 0.0)
    assert set(nearest) == {""}


def test_several_templates_are_one_classifier(model):
    one, other = "a photo of {a}", "{name}"
    both = value(Clip(model, template=(one, other)))
    np.testing.assert_allclose(both, value(Clip(model, template=(other, one))), rtol=1e-4)
    np.testing.assert_allclose(value(Clip(model, template=(one,))), value(Clip(model)), rtol=1e-6)
    assert np.abs(both - value(Clip(model))).max() > 0.01
    assert load(describe(Clip(model, template=(one, other)))) == Clip(model, template=(one, other))


def test_texts_are_read_once_and_the_model_anew_when_its_files_change(tmp_path, monkeypatch):
    folder = saved_pair(tmp_path / "clip")
    read = []
    texts = towers.ClipPair.texts
    monkeypatch.setattr(
        towers.ClipPair, "texts", lambda self, said: read.append(len(said)) or texts(self, said)
    )
    first = value(Clip(str(folder)))
    value(Clip(str(folder)), pictures=PICTURES[:3], labels=LABELS[:3])
    assert read == [4]
    value(Clip(str(folder)), classes=NAMES[::-1])
    assert read == [4, 4]
    saved_pair(folder, seed=1)
    assert np.abs(value(Clip(str(folder))) - first).max() > 0.01
    assert read == [4, 4, 4]


def test_what_it_cannot_do_is_refused(model):
    with pytest.raises(Refusal, match="features"):
        value(Clip(model), pictures=None)
    with pytest.raises(Refusal, match="'oak_tree' and 'oak tree' are said alike"):
        value(Clip(model), classes=("oak_tree", "oak tree", "rose", "fox"))
    for template in ("a photo", "a photo of {kind}", ("{a}", "photo")):
        for part in (Clip, Margin, Contrast):
            with pytest.raises(Refusal, match="a template says"):
                build(part, {"template": template})
    with pytest.raises(Refusal, match="a template says"):
        build(Contrast, {"against": "a drawing of {kind}"})
    with pytest.raises(Refusal, match="template"):
        build(Clip, {"template": ()})


def test_a_model_that_does_not_know_some_classes_is_told(model):
    score, (one, two) = Clip(model), PICTURES[:2]
    own = score.probabilities(PICTURES[:2], NAMES)
    best, worst = own.argmax(1), own.argmin(1)
    assert best[0] != worst[1], "else they say nothing apart"
    real = np.stack([one] * 8 + [two] * 8)
    known = score.of_real(real[:8], np.repeat(best[:1], 8), NAMES)
    assert known == {"real_top1": 1.0, "real_kept": {NAMES[best[0]]: 1.0}}
    with pytest.warns(UserWarning, match=rf"most real pictures of 1 of 4 classes.*\({NAMES[worst[1]]}\)"):
        told = score.of_real(real, np.repeat([best[0], worst[1]], 8), NAMES)
    assert told == {"real_top1": 0.5, "real_kept": {NAMES[best[0]]: 1.0, NAMES[worst[1]]: 0.0}}
    score.of_real(real[8:10], np.repeat(worst[1:2], 2), NAMES)  # two pictures are no evidence


def test_it_asks_as_many_of_each_class_and_takes_classes_without_pictures(model, monkeypatch):
    asked = []
    monkeypatch.setattr(clip, "MOST_ASKED", 8)
    monkeypatch.setattr(
        Clip,
        "logits",
        lambda self, x, classes: asked.append(x) or 9 * torch.eye(4)[x[:, 0, 0, 0].astype(int)],
    )
    labels = np.repeat([0, 1, 3], [50, 5, 1])
    x = np.broadcast_to(labels[:, None, None, None], (56, 4, 4, 3)).astype(np.uint8)
    told = Clip(model).of_real(x, labels, NAMES)
    assert told == {"real_top1": 1.0, "real_kept": {"oak_tree": 1.0, "rose": 1.0, "x-ray": 1.0}}
    assert np.bincount(asked[0][:, 0, 0, 0], minlength=4).tolist() == [2, 2, 0, 1]


@pytest.mark.parametrize("part", [Clip, Margin, Contrast])
def test_a_study_may_have_no_pictures_of_its_own(model, part):
    nothing = np.zeros((0, 16, 16, 3), np.uint8)
    assert part(model).of_real(nothing, np.zeros(0, np.int64), NAMES) == {}
    assert value(part(model), pictures=nothing, labels=np.zeros(0, np.int64)).shape == (0,)


def test_some_of_each_are_spread_over_all_that_there_are():
    labels = np.repeat([0, 1, 2], [100, 3, 1])
    found = some_of_each(labels, 4, most=20)
    assert np.bincount(labels[found], minlength=4).tolist() == [5, 3, 1, 0]
    assert found[[0, 4]].tolist() == [0, 99]


@pytest.mark.filterwarnings("ignore:Clip")
def test_a_study_filters_by_it(model, tmp_path, monkeypatch):
    recipe = small(fill(tmp_path / "photos", {"oak_tree": 60, "rose": 30, "x-ray": 12}), trials=1)
    (item,) = (item for item in recipe.synthesis if item.name == "smote")
    item = replace(item, scores=(("clip", Clip(model)),), select=AtLeast("clip"))
    recipe = replace(
        recipe,
        fits=tuple(fit for fit in recipe.fits if fit.name in ("ce", "smote")),
        arms=tuple(arm for arm in recipe.arms if arm.name in ("ce", "smote")),
        synthesis=(item,),
    )
    study, lot = Study.open(run(recipe, tmp_path / "run").path), Lot("smote", 0)
    assert set(study.run.json(lot.calibration("clip"))["real_kept"]) == {"oak_tree", "rose", "x-ray"}
    x, ids = samples_in(study.run, lot.samples(0))
    scored, chosen = (
        study.run.table(lot.scores("clip", 0)).to_pylist(),
        study.run.table(lot.selected).to_pylist(),
    )
    label_of = {row["request_id"]: row["label"] for row in chosen}
    labels = np.array([label_of[name] for name in ids])
    expected = 3 * Clip(model).probabilities(x, tuple(study.classes))[np.arange(len(x)), labels]
    np.testing.assert_allclose([row["score"] for row in scored], expected, rtol=1e-4)
    kept = {row["request_id"]: row["score"] >= 1 for row in scored}
    assert {row["request_id"]: row["drop"] for row in chosen} == {
        name: None if fine else "clip below 1" for name, fine in kept.items()
    }
    assert len(set(kept.values())) == 2
    monkeypatch.setattr(Clip, "ready", None)
    run(recipe, tmp_path / "run")  # is done: nothing from outside is asked for


@pytest.fixture(name="filtering")
def _filtering(tmp_path):
    """A study that filters by a model of its own, at its smallest, and where that model lies."""
    recipe = small(fill(tmp_path / "photos", {"oak_tree": 30, "rose": 12}), trials=1)
    (item,) = (item for item in recipe.synthesis if item.name == "smote")
    folder = saved_pair(tmp_path / "clip")
    item = replace(item, scores=(("clip", Clip(str(folder))),), select=AtLeast("clip"))
    named = ("ce", "smote")
    return replace(
        recipe,
        fits=tuple(fit for fit in recipe.fits if fit.name in named),
        arms=tuple(arm for arm in recipe.arms if arm.name in named),
        synthesis=(item,),
    ), folder


@pytest.mark.filterwarnings("ignore:Clip")
def test_scores_of_two_models_are_not_mixed(filtering, tmp_path):
    recipe, folder = filtering
    made, lot = run(recipe, tmp_path / "run", until="score"), Lot("smote", 0)
    (made / lot.scores("clip", 0)).unlink()
    saved_pair(folder, seed=1)
    with pytest.raises(
        Refusal, match=r"score 'clip' is not the one that it was calibrated with .*--redo score"
    ):
        run(recipe, tmp_path / "run", until="score")


def test_what_cannot_work_is_refused_before_anything_is_made(filtering, tmp_path, monkeypatch):
    recipe, folder = filtering
    monkeypatch.setattr(Clip, "seconds", None)
    shutil.rmtree(folder)
    for early in (lambda: run(recipe, tmp_path / "run"), lambda: estimate(recipe)):
        with pytest.raises(Refusal, match="no text-image pair"):
            early()
    assert not (tmp_path / "run" / "data").exists()


def test_classes_that_are_read_alike_are_refused_as_soon_as_they_are_known(filtering, tmp_path):
    recipe, _ = filtering
    (tmp_path / "photos" / "rose").rename(tmp_path / "photos" / "oak tree")
    with pytest.raises(Refusal, match="said alike"):
        estimate(recipe)
    with pytest.raises(Refusal, match="said alike"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "audit.json").exists()


def test_a_dry_run_counts_it(filtering):
    recipe, _ = filtering
    (item,) = recipe.synthesis
    plain = replace(recipe, synthesis=(replace(item, scores=(), select=None),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clip, "seconds", lambda *_: (1000.0, 0.0))
        assert estimate(recipe)["seconds"] > estimate(plain)["seconds"] + 200
    assert min(Clip(recipe.synthesis[0].scores[0][1].model).seconds(3, 16, NAMES)) > 0


def some(data: str, each: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """So many test pictures of every class: pixels, labels, class names."""
    import pyarrow.parquet as pq

    table = pq.read_table(CIFAR / data / "test.parquet")
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    labels = table["label"].to_numpy()
    rows = np.concatenate([np.flatnonzero(labels == label)[:each] for label in range(len(names))])
    shown = [
        np.array(Image.open(io.BytesIO(row["bytes"])).convert("RGB"))
        for row in table["image"].take(rows).to_pylist()
    ]
    return np.stack(shown), labels[rows], tuple(names)


MINIATURE = (ASSETS / "clip").is_dir() and (CIFAR / "cifar100").is_dir()
miniature = pytest.mark.skipif(
    not MINIATURE, reason="the miniature CLIP, or CIFAR beside the checkout, is not there"
)


@miniature
def test_the_miniature_knows_the_classes_it_learnt_from_pictures_it_has_not_seen():
    x, labels, names = some("cifar100", 3)
    assert Clip().of_real(x, labels, names)["real_top1"] > 0.3, "chance is 0.01"
    kept = {
        by: (value(Clip(), pictures=x, labels=(labels + by) % 100, classes=names) >= 1).mean()
        for by in (0, 7)
    }
    assert kept[0] > 0.8
    assert kept[7] < 0.25


@miniature
def test_rules_raise_the_share_of_right_labels():
    """Of pictures of which two in five are called something else: a rule that asks for more keeps fewer wrong ones."""
    x, truth, names = some("cifar100", 4)
    labels = np.where(np.arange(400) % 5 < 2, (truth + 7) % 100, truth)
    scores = {
        part: value(score, pictures=x, labels=labels, classes=names)
        for part, score in {"clip": Clip(), "margin": Margin()}.items()
    }
    rules = (AtLeast("clip", 1.0), BestShare("margin", 0.5), AtLeast("margin", 0.0))
    kept = [np.array([reason is None for reason in rule(scores, labels)]) for rule in rules]
    chance, half, likeliest = ((truth == labels)[some].mean() for some in kept)
    assert 0.8 < chance < likeliest
    assert half > 0.8
    assert likeliest > 0.95


@miniature
def test_the_miniature_has_read_a_hundred_names_and_says_so_of_others():
    """Of CIFAR-10's names its captions had "truck" (in pickup truck) alone."""
    x, labels, names = some("cifar10_lt100", 20)
    with pytest.warns(UserWarning, match="does not know these names"):
        told = Clip().of_real(x, labels, names)
    assert told["real_kept"]["truck"] > 0.8
    assert told["real_top1"] < 0.5


@miniature
def test_numbers_of_the_miniature_in_bf16_keep_the_same_pictures(monkeypatch):
    x, labels, names = some("cifar100", 2)
    found = []
    for wanted in (False, True):
        looking.opened.cache_clear()
        looking._place.cache_clear()
        monkeypatch.setattr(looking, "has_bf16", lambda device, wanted=wanted: wanted)
        found.append(
            {part: value(part(), pictures=x, labels=labels, classes=names) for part in (Clip, Margin)}
        )
    exact, fast = found
    assert ((exact[Clip] >= 1) == (fast[Clip] >= 1)).mean() > 0.99
    assert 0 < np.abs(exact[Margin] - fast[Margin]).max() < 0.2
    looking.opened.cache_clear()
