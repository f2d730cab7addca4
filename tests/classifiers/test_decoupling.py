"""Second stages on Gaussian long-tail features."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from counterpoise.classifiers.batched import HeadJob
from counterpoise.classifiers.decoupling import (
    CRT,
    LWS,
    NCM,
    PosthocLA,
    Rows,
    TauNorm,
    adjusted,
    balanced_accuracy,
    balanced_rows,
    choose_wise,
    probe,
    wise,
)
from counterpoise.classifiers.heads import LinearHead, train_heads
from counterpoise.classifiers.losses import CE, BalancedSoftmax
from counterpoise.types import describe, load

PARTS = [CRT(), LWS(), TauNorm(), NCM(), PosthocLA()]


@pytest.fixture(scope="module")
def study():
    """(head trained by plain CE, fit, val, test, counts): 5 classes, 400 to 8 rows."""
    rng = np.random.default_rng(0)
    counts = np.array([400, 150, 56, 21, 8])
    centres = rng.normal(size=(5, 16)) * 0.55

    def draw(counts):
        labels = np.repeat(np.arange(5), counts)
        return Rows(
            (2 + 3 * (centres[labels] + rng.normal(size=(len(labels), 16)))).astype(np.float32), labels
        )

    fit, val, test = draw(counts), draw([60] * 5), draw([300] * 5)
    rows = rng.integers(0, len(fit.labels), (400, 64))
    (head,) = train_heads(fit.features, [HeadJob(rows, fit.labels, CE(), counts, 0)])
    return head, fit, val, test, counts


def score(head: LinearHead, rows: Rows) -> float:
    return balanced_accuracy(head.logits(rows.features), rows.labels)


@pytest.mark.parametrize("after", PARTS, ids=lambda part: type(part).__name__)
def test_contract(after, study):
    head, fit, val, _, counts = study
    before = {name: array.copy() for name, array in head.save().items()}
    one, chosen = after(head, fit, val, counts, 3)
    other, again = after(head, fit, val, counts, 3)
    assert chosen == again
    assert all((a == other.save()[name]).all() for name, a in one.save().items()), "same seed, same head"
    assert all((a == head.save()[name]).all() for name, a in before.items()), (
        "the head that came in is untouched"
    )
    assert one.logits(val.features).shape == (len(val.labels), 5)
    assert all(array.dtype in (np.float32, np.uint8) for array in one.save().values())
    assert load(describe(after)) == after
    assert score(one, val) >= score(head, val) - 0.05


@pytest.mark.parametrize(
    "after", [CRT(), LWS(), TauNorm(), PosthocLA(), NCM()], ids=lambda part: type(part).__name__
)
def test_balanced_accuracy_improves_on_a_long_tail(after, study):
    head, fit, val, test, counts = study
    better, _ = after(head, fit, val, counts, 0)
    assert score(better, test) > score(head, test) + 0.02


def test_crt_raises_tail_recall(study):
    head, fit, val, test, counts = study
    tail = test.labels >= 3
    fresh, _ = CRT()(head, fit, val, counts, 0)
    recall = [(h.logits(test.features).argmax(1) == test.labels)[tail].mean() for h in (head, fresh)]
    assert recall[1] > recall[0] + 0.1
    other, _ = CRT()(head, fit, val, counts, 1)
    assert (other.weight != fresh.weight).any(), "the seed decides rows and initialisation"


def test_tau_norm_at_tau_0_keeps_directions_and_at_1_equals_lengths(study):
    head, fit, val, _, counts = study
    same, _ = TauNorm(top=0.04)(head, fit, val, counts, 0)
    np.testing.assert_array_equal(same.weight, head.weight)
    assert not same.bias.any()
    found, chosen = TauNorm()(head, fit, val, counts, 0)
    cosine = (
        (found.weight * head.weight).sum(1)
        / np.linalg.norm(found.weight, axis=1)
        / np.linalg.norm(head.weight, axis=1)
    )
    np.testing.assert_allclose(cosine, 1, atol=1e-5)
    expected = np.linalg.norm(head.weight, axis=1) ** (1 - chosen["tau"])
    np.testing.assert_allclose(np.linalg.norm(found.weight, axis=1), expected, rtol=1e-4)


def test_lws_only_scales(study):
    head, fit, val, _, counts = study
    scaled, chosen = LWS()(head, fit, val, counts, 0)
    ratio = scaled.logits(val.features) / head.logits(val.features)
    np.testing.assert_allclose(ratio, np.tile(chosen["factors"], (len(ratio), 1)), rtol=2e-2, atol=2e-3)


def test_ncm_is_the_nearest_class_mean_by_brute_force(study):
    head, fit, val, test, counts = study
    found, _ = NCM()(head, fit, val, counts, 0)

    def unit(f):
        moved = f - fit.features.mean(0)
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    means = np.stack([unit(fit.features)[fit.labels == label].mean(0) for label in range(5)])
    nearest = cdist(unit(test.features), means).argmin(1)
    assert (found.logits(test.features).argmax(1) == nearest).mean() > 0.999


def test_ncm_never_names_a_class_without_rows(study):
    head, fit, val, test, counts = study
    kept = fit.labels != 2
    found, _ = NCM()(head, Rows(fit.features[kept], fit.labels[kept]), val, counts, 0)
    assert 2 not in found.logits(test.features).argmax(1)


def test_posthoc_golden_of_the_card():
    plain = LinearHead(*(np.asarray(a, np.float32) for a in (np.zeros((3, 2)), [2, 1, 0.5], [0, 0], [1, 1])))
    logits = adjusted(plain, np.array([100, 10, 1]), 1.0).logits(np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(logits[0], [2.10436, 3.406945, 5.20953], atol=1e-5)


def test_ties_go_to_no_adjustment(study):
    head, fit, val, _, _ = study
    same, chosen = PosthocLA()(head, fit, val, np.ones(5), 0)  # a flat prior adjusts nothing
    assert chosen == {"tau": 0.0}
    assert (same.bias == head.bias).all()


def test_balanced_rows_draw_every_class_equally_often():
    labels = np.array([2] * 90 + [0] * 9 + [5])
    rows = balanced_rows(labels, (300, 10), np.random.default_rng(0))
    drawn = np.bincount(labels[rows].reshape(-1), minlength=6) / rows.size
    np.testing.assert_allclose(drawn, [1 / 3, 0, 1 / 3, 0, 0, 1 / 3], atol=0.04)
    assert len(np.unique(rows[labels[rows] == 2])) == 90, "every row of a class can be drawn"


def test_wise_ends_and_middle_and_choice():
    zero = {"w": torch.zeros(2), "count": torch.tensor(3)}
    one = {"w": torch.tensor([1.0, 2.0]), "count": torch.tensor(7)}
    assert wise(zero, one, 0.0)["w"].tolist() == [0, 0]
    assert wise(zero, one, 1.0)["w"].tolist() == [1, 2]
    assert wise(zero, one, 0.25)["w"].tolist() == [0.25, 0.5]
    assert wise(zero, one, 0.25)["count"] == 7
    found, chosen = choose_wise(zero, one, lambda theta: -abs(float(theta["w"][0]) - 0.42))
    assert chosen == {"alpha": 0.4}
    assert found["w"][0] == pytest.approx(0.4)
    assert choose_wise(zero, one, lambda theta: 1.0)[1] == {"alpha": 0.0}, "ties go to the start"


def test_a_probe_is_a_good_head_without_huge_weights(study):
    _, fit, val, _, counts = study
    rows = np.random.default_rng(1).integers(0, len(fit.labels), (300, 64))
    almost = np.full((len(fit.labels), 1), 0.3, np.float32)
    almost[0] += 1e-3  # nearly constant: standardised, it would get a weight in the hundreds
    features = np.concatenate([fit.features, almost], 1)
    weight, bias = probe(features, HeadJob(rows, fit.labels, BalancedSoftmax(), counts, 0))
    logits = np.concatenate([val.features, np.full((len(val.labels), 1), 0.3)], 1) @ weight.T + bias
    assert balanced_accuracy(logits, val.labels) > 0.6
    assert np.abs(weight).max() < 10
