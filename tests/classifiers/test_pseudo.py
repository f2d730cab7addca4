"""Pseudo-labels: of every class the surest share, never a class left out, the same in any order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.classifiers.pseudo import PseudoLabels
from counterpoise.types import Refusal, build, describe, load


def said(rows: int, classes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, classes)) * rng.gamma(2, 2, (rows, 1)) + rng.normal(size=classes)


def sureness(logits: np.ndarray) -> np.ndarray:
    return 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)


CASES = (st.integers(0, 80), st.integers(2, 5), st.integers(0, 99), st.floats(0.01, 1))


@given(*CASES)
def test_the_surest_share_of_every_class_is_kept(rows, classes, seed, keep):
    logits = said(rows, classes, seed)
    kept, labels = PseudoLabels("t", keep=keep)(logits)
    assert (np.diff(kept) > 0).all()
    assert np.array_equal(labels, logits[kept].argmax(1))
    for label in range(classes):
        mine = np.flatnonzero(logits.argmax(1) == label)
        inside = np.isin(mine, kept)
        assert inside.sum() == np.ceil(keep * len(mine))
        if 0 < inside.sum() < len(mine):
            assert sureness(logits)[mine[inside]].min() >= sureness(logits)[mine[~inside]].max()


@given(*CASES)
def test_order_and_a_shift_of_all_logits_do_not_matter(rows, classes, seed, keep):
    logits, order = said(rows, classes, seed), np.random.default_rng(seed).permutation(rows)
    part = PseudoLabels("t", keep=keep)
    kept, _ = part(logits)
    again, _ = part(logits[order] + 7)
    assert set(order[again].tolist()) == set(kept.tolist())
    less, _ = PseudoLabels("t", keep=keep / 2)(logits)
    assert set(less.tolist()) <= set(kept.tolist())


def test_soft_labels_are_the_teachers_probabilities():
    logits = said(50, 4, 1)
    hard_rows, labels = PseudoLabels("t", keep=0.5)(logits)
    rows, soft = PseudoLabels("t", keep=0.5, soft=True)(logits)
    assert np.array_equal(rows, hard_rows)
    assert np.array_equal(soft.argmax(1), labels)
    assert np.allclose(soft.sum(1), 1, atol=1e-6)
    assert np.allclose(np.log(soft[:, 0] / soft[:, 1]), logits[rows, 0] - logits[rows, 1], atol=1e-3)


def test_huge_logits_are_no_accident():
    rows, soft = PseudoLabels("t", keep=1, soft=True)(np.array([[1e30, -1e30], [0.0, 1e4]]))
    assert rows.tolist() == [0, 1]
    assert soft.tolist() == [[1, 0], [0, 1]]


def test_settings_are_checked_and_written_down():
    assert load(describe(PseudoLabels("bs", soft=True))) == PseudoLabels("bs", soft=True)
    for keep in (0, 1.5):
        with pytest.raises(Refusal, match=r"PseudoLabels.keep"):
            build(PseudoLabels, {"teacher": "bs", "keep": keep})
