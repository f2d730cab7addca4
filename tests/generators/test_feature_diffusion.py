import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.denoisers import Eps
from counterpoise.diffusion.guides import CFG, AutoGuidance
from counterpoise.diffusion.losses import ClassBalancing, UniformTime
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.feature_diffusion import FeatureDiffusion
from counterpoise.generators.generator import Context, Failed, Lesson
from counterpoise.nets.mlp import MLP
from counterpoise.types import Refusal

SMALL = FeatureDiffusion(network=MLP(width=16, depth=1), schooling=Schooling(steps=4, batch=16))


def rings(n: int = 600) -> Lesson:
    """Class 0 lies on a ring around the origin, class 1 on two balls beside it: no Gaussian looks like either."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    angle, side = rng.uniform(0, 2 * np.pi, n), rng.integers(2, size=n) * 2 - 1
    ring = 3 * np.stack([np.cos(angle), np.sin(angle)], 1)
    balls = np.stack([20 + 3.0 * side, 0.0 * side], 1)
    x = np.where(labels[:, None] == 0, ring, balls) + rng.normal(0, 0.2, (n, 2))
    return Lesson(Rows.of(x.astype(np.float32)), labels, None, ["ring", "balls"])


LESSON = rings()
X = LESSON.rows.arrays[0]
CTX = Context(lambda ids: X[[int(name) for name in ids]])


def asked(n: int = 10, **more) -> list[dict]:
    return [
        {
            "label": i % 2,
            "seed": 10**12 + i,
            "strength": 1.0,
            "source_id": str(i % 600),
            "source_label": int(LESSON.labels[i % 600]),
        }
        | more
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    out = tmp_path_factory.mktemp("rings")
    model = FeatureDiffusion(
        network=MLP(width=32, depth=2),
        schooling=Schooling(steps=300, batch=128, ema=0.95, lr=8e-3),
        sampler="dpmpp_2m",
        steps=20,
    )
    model.fit(LESSON, out, seed=1)
    return model, out


def test_from_noise_come_the_shapes_of_the_classes_and_not_gaussians(learnt):
    model, out = learnt
    made, labels = np.stack(model.load(out, CTX)(asked(400))), np.arange(400) % 2
    radius = np.linalg.norm(made[labels == 0], axis=1)
    assert np.mean(np.abs(radius - 3) < 0.7) > 0.7  # a Gaussian of this spread: less than a third
    assert np.mean(np.abs(np.abs(made[labels == 1, 0] - 20) - 3) < 0.9) > 0.75
    assert made.dtype == np.float32


def test_untrained_it_is_a_gaussian_around_each_class_mean(tmp_path):
    """The network's first output is zero, and rows are whitened within their classes: training starts from there."""
    model = dataclasses.replace(SMALL, schooling=Schooling(steps=1, batch=4, lr=1e-9), steps=20)
    model.fit(LESSON, tmp_path, seed=1)
    made = np.stack(model.load(tmp_path, CTX)(asked(4000)))
    rest = X - np.stack([X[y == LESSON.labels].mean(0) for y in LESSON.labels])
    for label in (0, 1):
        mine = made[label::2]
        np.testing.assert_allclose(mine.mean(0), X[LESSON.labels == label].mean(0), atol=0.2)
        np.testing.assert_allclose(np.cov(mine.T), np.cov(rest.T), atol=0.5)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ancestral"])
def test_a_sample_depends_on_its_row_alone(learnt, sampler, strength):
    model, out = learnt
    sample = dataclasses.replace(model, sampler=sampler, steps=4).load(out, CTX)
    rows = asked(9, strength=strength)
    first = np.stack(sample(rows))
    order = [4, 0, 8, 2, 6, 1, 3, 5, 7]
    assert np.array_equal(np.stack(sample([rows[i] for i in order])), first[order])
    alone = np.concatenate([sample(rows[i : i + 1]) for i in range(9)])
    tolerance = 0.1 if model.schooling.bf16 is not False else 1e-4  # the network computes in bf16
    np.testing.assert_allclose(alone, first, atol=tolerance)


def test_strength_goes_from_the_translated_source_to_the_class(learnt):
    model, out = learnt
    sample = model.load(out, CTX)
    rows = asked(200)
    moved = [row | {"label": 1 - row["label"]} for row in rows]
    means = np.stack([X[LESSON.labels == label].mean(0) for label in (0, 1)])
    for wanted in (rows, moved):
        labels = np.array([row["label"] for row in wanted])
        start = X[:200] + means[labels] - means[LESSON.labels[:200]]
        gaps = []
        for strength in (0.0, 0.4, 1.0):
            made = np.stack(sample([row | {"strength": strength} for row in wanted]))
            gaps.append(np.abs(made - start).mean())
        assert gaps[0] < 1e-4  # a source of the class wanted stays as it is
        assert gaps[0] < gaps[1] < gaps[2]


def test_translation_keeps_the_directions_that_it_is_asked_for(learnt):
    model, out = learnt
    narrow = dataclasses.replace(model, energy=0.5).load(out, CTX)
    made = np.stack(narrow([row | {"label": 0, "strength": 0.0} for row in asked(40)]))
    rest = made - X[LESSON.labels == 0].mean(0)
    assert np.linalg.matrix_rank(rest, tol=1e-3) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": UniformTime(Eps()), "sampler": "ancestral", "steps": 8},
        {"balance": ClassBalancing()},
        {"guides": (AutoGuidance(scale=1.5), CFG(scale=1.5))},
        {"energy": 0.9},
        {"schooling": Schooling(steps=3, batch=4, bf16=True)},
    ],
    ids=lambda s: ",".join(s),
)
def test_every_setting_learns_and_samples(settings, tmp_path):
    model = dataclasses.replace(SMALL, steps=3)
    model = dataclasses.replace(model, **settings)
    model.fit(LESSON, tmp_path, seed=1)
    for strength in (0.4, 1.0):
        made = model.load(tmp_path, CTX)(asked(4, strength=strength))
        assert all(x.shape == (2,) for x in made)


def test_the_folder_holds_weights_with_what_the_space_has_learnt(tmp_path):
    SMALL.fit(LESSON, tmp_path, seed=1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "log.jsonl", "weights.safetensors"]
    weights = load_file(tmp_path / "weights.safetensors")
    assert weights["space.means"].shape == (2, 2)
    assert weights["space.within"].dtype == torch.float64
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["channels"], config["size"], config["classes"]) == (2, 1, ["ring", "balls"])


def test_settings_that_only_sample_may_change_and_others_may_not(tmp_path):
    SMALL.fit(LESSON, tmp_path, seed=1)
    before = (tmp_path / "weights.safetensors").read_bytes()
    dataclasses.replace(SMALL, steps=3, energy=0.9, guides=(CFG(scale=2.0),)).fit(LESSON, tmp_path, seed=1)
    assert (tmp_path / "weights.safetensors").read_bytes() == before
    with pytest.raises(Refusal, match="fitted with other settings or other data"):
        dataclasses.replace(SMALL, balance=ClassBalancing()).fit(LESSON, tmp_path, seed=1)


# --- bad input --------------------------------------------------------------------------------------------------


def of(x: np.ndarray, labels: np.ndarray, classes: int) -> tuple[Lesson, Context]:
    rows = x.astype(np.float32)
    lesson = Lesson(Rows.of(rows), labels, None, [str(c) for c in range(classes)])
    return lesson, Context(lambda ids: rows[[int(name) for name in ids]])


def test_constant_features_stay_constant(tmp_path):
    x = np.concatenate([X, np.full((len(X), 1), 0.1), np.zeros((len(X), 1))], 1)
    lesson, ctx = of(x, LESSON.labels, 2)
    SMALL.fit(lesson, tmp_path, seed=1)
    made = np.stack(SMALL.load(tmp_path, ctx)(asked(20)))
    np.testing.assert_allclose(made[:, 2:], x[:20, 2:], atol=1e-6)


def test_one_row_a_class_classes_without_rows_and_more_dimensions_than_rows(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 9))
    lesson, ctx = of(x, np.array([0, 0, 1, 3]), 5)
    SMALL.fit(lesson, tmp_path, seed=1)
    rows = [{"label": label, "seed": label, "strength": 1.0} for label in range(5)]
    made = np.stack(SMALL.load(tmp_path, ctx)(rows))
    assert np.isfinite(made).all()
    assert not any(isinstance(one, Failed) for one in made)


def test_features_that_are_no_numbers_and_pictures_are_refused(tmp_path):
    x = X.copy()
    x[3, 0] = np.nan
    with pytest.raises(Refusal, match="NaN or infinity"):
        SMALL.fit(of(x, LESSON.labels, 2)[0], tmp_path, seed=1)
    pictures = dataclasses.replace(LESSON, rows=Rows.of(np.zeros((600, 8, 8, 1), np.uint8)))
    with pytest.raises(Refusal, match="pictures of 8 x 8"):
        SMALL.fit(pictures, tmp_path, seed=1)
    assert not (tmp_path / "weights.safetensors").exists()


def test_rows_without_labels_cannot_be_learnt_from():
    with pytest.raises(Refusal, match="labelled rows only"):
        FeatureDiffusion(schooling=Schooling(pool_share=0.5))
