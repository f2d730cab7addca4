import dataclasses
import json

import numpy as np
import pytest

from counterpoise.data.pixels import Rows
from counterpoise.generators.generator import Context, Lesson
from counterpoise.generators.transfer import ClassGaussian, Translation
from counterpoise.types import Refusal

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], [200, 90, 10])
SPREAD = RNG.normal(size=(5, 5)) * [3, 2, 1, 0.5, 0.1]
X = (RNG.normal(size=(300, 5)) @ SPREAD.T + 5 * LABELS[:, None]).astype(np.float32)
LESSON = Lesson(Rows.of(X), LABELS, None, ["a", "b", "c"])
CTX = Context(lambda ids: X[[int(name) for name in ids]])


def asked(n: int, label: int = 2) -> list[dict]:
    return [
        {
            "label": label,
            "seed": 10**12 + i,
            "strength": 0.0,
            "source_id": str(i),
            "source_label": int(LABELS[i]),
        }
        for i in range(n)
    ]


@pytest.mark.parametrize("generator", [ClassGaussian(), Translation(), Translation(energy=None)], ids=repr)
def test_a_sample_depends_on_its_row_alone(generator, tmp_path):
    generator.fit(LESSON, tmp_path, seed=1)
    sample, rows = generator.load(tmp_path, CTX), asked(9)
    first = np.stack(sample(rows))
    assert first.dtype == np.float32
    assert np.array_equal(np.stack(sample(rows[::-1])), first[::-1])
    np.testing.assert_allclose(sample(rows[3:4])[0], first[3], rtol=1e-5, atol=1e-5)
    assert len(np.unique(first, axis=0)) == 9


def test_gaussian_samples_have_the_class_mean_and_the_shared_covariance(tmp_path):
    ClassGaussian().fit(LESSON, tmp_path, seed=1)
    rows = [row | {"seed": i} for i, row in enumerate(asked(300) * 40)]
    made = np.stack(ClassGaussian().load(tmp_path, CTX)(rows))
    rest = X - np.stack([X[y == LABELS].mean(0) for y in LABELS])
    np.testing.assert_allclose(made.mean(0), X[LABELS == 2].mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(made.T), rest.T @ rest / 297, atol=0.5)


def test_translation_moves_to_the_class_and_full_rank_leaves_its_own_class_alone(tmp_path):
    generator = Translation(energy=None)
    generator.fit(LESSON, tmp_path, seed=1)
    sample = generator.load(tmp_path, CTX)
    assert np.array_equal(np.stack(sample(asked(20, label=0))), X[:20])
    moved = np.stack(sample(asked(200)))
    np.testing.assert_allclose(moved.mean(0), X[LABELS == 2].mean(0), atol=1e-4)
    np.testing.assert_allclose(np.cov(moved.T), np.cov(X[:200].T), rtol=1e-3, atol=1e-3)


def test_a_finished_fit_is_left_alone_and_other_data_are_refused(tmp_path):
    Translation().fit(LESSON, tmp_path, seed=1)
    before = (tmp_path / "weights.safetensors").read_bytes()
    Translation().fit(LESSON, tmp_path, seed=2)
    assert (tmp_path / "weights.safetensors").read_bytes() == before
    assert json.loads((tmp_path / "config.json").read_text())["classes"] == ["a", "b", "c"]
    with pytest.raises(Refusal, match="other settings or other data"):
        Translation().fit(dataclasses.replace(LESSON, rows=Rows.of(X + 1)), tmp_path, seed=1)


def test_pictures_are_refused(tmp_path):
    pictures = Rows.of(np.zeros((300, 8, 9, 1), np.uint8))
    with pytest.raises(Refusal, match="pictures of 8 x 9 pixels"):
        ClassGaussian().fit(dataclasses.replace(LESSON, rows=pictures), tmp_path, seed=1)
