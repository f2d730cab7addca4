"""Real filtering: what is too close to a real row of another class."""

import json

import numpy as np
import pytest
from pairs import saved_pair

from counterpoise.scores.batch import Batch
from counterpoise.scores.real import A_COPY, Clearance, closest
from counterpoise.scores.select import AtLeast
from counterpoise.types import Refusal, build, describe, load

NAMES = ("oak_tree", "rose", "pickup_truck", "x-ray")
ROWS = Clearance(model="")


def around(seed, per_class, spread=0.3, dim=16):
    """Rows about a direction for each of four classes, and labels."""
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(4), per_class)
    centres = np.random.default_rng(9).normal(size=(4, dim))
    return (centres[labels] + spread * rng.normal(size=(len(labels), dim))).astype(np.float32), labels


def scored(score, x, labels, real, real_labels):
    """Values, and the ids of what is nearest."""
    told = json.loads(json.dumps(score.of_real(real, real_labels, NAMES)))
    shown = {"pictures": x, "real_pictures": real} if x.dtype == np.uint8 else {}
    ids = np.array([f"r{i}" for i in range(len(real))], str)
    vectors = [
        rows.reshape(len(rows), np.prod(rows.shape[1:], dtype=int)).astype(np.float32) for rows in (x, real)
    ]
    batch = Batch(vectors[0], labels, vectors[1], ids, real_labels, classes=NAMES, **shown)
    return score(batch, told["threshold"])


def test_it_is_the_rule_as_written():
    (x, labels), (real, real_labels) = around(1, 10, 2.0), around(0, 30, 2.0)
    tau, delta = 0.5, 0.1
    found, nearest = scored(Clearance("", tau=tau, delta=delta), x, labels, real, real_labels)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, real)]
    for i, row in enumerate(unit[0]):
        cosines = unit[1] @ row
        m_c, m_o = cosines[real_labels == labels[i]].max(), cosines[real_labels != labels[i]].max()
        assert (found[i] < 0) == (m_o > tau or m_o > m_c + delta)
        assert nearest[i] == f"r{np.where(real_labels == labels[i], -2, cosines).argmax()}"
    assert 0.1 < (found < 0).mean() < 0.9


def test_a_copy_from_another_class_is_dropped_and_samples_of_the_class_are_not():
    (x, labels), (real, real_labels) = around(1, 50), around(0, 50)
    planted = np.array([3, 77, 140])
    x[planted] = real[(planted + 60) % 200]
    found, nearest = scored(ROWS, x, labels, real, real_labels)
    dropped = np.array([reason is not None for reason in AtLeast("real", 0.0)({"real": found}, labels)])
    assert dropped[planted].all()
    assert nearest[planted].tolist() == [f"r{i}" for i in (planted + 60) % 200]
    assert np.delete(dropped, planted).mean() < 0.05


@pytest.mark.parametrize("per_class", [1, 2, 5])
def test_with_few_real_rows_only_what_is_near_a_copy_is_dropped(per_class):
    (x, labels), (real, real_labels) = around(1, 50, 1.0), around(0, per_class, 1.0)
    x[:4] = real[real_labels == 2][0]
    found, _ = scored(ROWS, x, labels, real, real_labels)
    assert (found[:4] < 0).all()
    assert (found[4:] < 0).mean() < 0.05


def test_calibration_holds_every_row_against_the_others():
    real, labels = around(0, 50, 1.5)
    told = ROWS.of_real(real, labels, NAMES)
    unit = real / np.linalg.norm(real, axis=1, keepdims=True)
    own, other, _ = closest(unit, labels, unit, labels, itself=np.arange(200))
    assert (other > told["threshold"]["tau"]).sum() == 2
    assert (other - own > told["threshold"]["delta"]).sum() == 2
    assert own.max() < 1
    assert told["real_own"] == (own > other).mean()
    assert Clearance("", tau=0.7).of_real(real, labels, NAMES)["threshold"]["tau"] == 0.7


def test_neither_company_nor_the_order_of_classes_nor_the_length_of_rows_matters():
    (x, labels), (real, real_labels) = around(1, 5), around(0, 30)
    found, _ = scored(ROWS, x, labels, real, real_labels)
    alone = [scored(ROWS, x[i : i + 1], labels[i : i + 1], real, real_labels)[0][0] for i in range(20)]
    np.testing.assert_allclose(found, alone, atol=1e-6)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(scored(ROWS, x, order[labels], real, order[real_labels])[0], found, atol=1e-6)
    np.testing.assert_allclose(scored(ROWS, 5 * x, labels, 0.1 * real, real_labels)[0], found, atol=1e-6)


def test_classes_without_real_rows_and_no_real_rows_at_all():
    (x, labels), (real, real_labels) = around(1, 5), around(0, 30)
    some = real_labels < 2
    found, _ = scored(ROWS, x, labels, real[some], real_labels[some])
    assert np.isfinite(found).all()
    found, nearest = scored(ROWS, x, labels, real[:0], real_labels[:0])
    assert (found > 0).all()
    assert set(nearest) == {""}
    only = scored(
        ROWS, x[labels == 0], labels[labels == 0], real[real_labels == 0], real_labels[real_labels == 0]
    )
    assert (only[0] > 0).all()
    assert ROWS.of_real(real[:0], real_labels[:0], NAMES) == {"threshold": {"tau": A_COPY, "delta": A_COPY}}
    assert scored(ROWS, x[:0], labels[:0], real, real_labels)[0].shape == (0,)


def test_pictures_are_compared_as_a_text_image_model_sees_them(tmp_path):
    pytest.importorskip("transformers", reason="the hf extra is not installed")
    score, rng = Clearance(str(saved_pair(tmp_path / "clip"))), np.random.default_rng(0)
    real, labels = rng.integers(0, 256, (40, 16, 16, 3), np.uint8), np.arange(40) % 4
    x = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
    x[5] = real[2]
    found, nearest = scored(score, x, np.arange(8) % 4, real, labels)
    assert found[5] < 0
    assert nearest[5] == "r2"
    assert scored(score, x, np.arange(8) % 4 + (np.arange(8) == 5), real, labels)[0][5] > found[5]
    assert score.content
    assert score.spaces == ("pixels",)
    score.ready(NAMES)
    with pytest.raises(Refusal, match="features"):
        score.of_real(around(0, 2)[0], np.zeros(8, np.int64), NAMES)


def test_without_a_model_pictures_are_refused_and_none_is_opened():
    assert (ROWS.content, ROWS.spaces, ROWS.seconds(128, 1, NAMES)) == ("", ("features",), (0.0, 0.0))
    ROWS.ready(NAMES)
    with pytest.raises(Refusal, match="name a model"):
        ROWS.of_real(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]), NAMES)
    assert load(json.loads(json.dumps(describe(ROWS)))) == ROWS
    with pytest.raises(Refusal, match=r"Clearance\.tau"):
        build(Clearance, {"tau": 1.5})
